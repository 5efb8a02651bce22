"""The archives in the data directory: which are good, which to delete, and which to restore a lost database from."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from llmkeys.backup import archive
from llmkeys.backup.archive import Manifest
from llmkeys.backup.errors import CannotRestore
from llmkeys.database import sql

KEPT = 7


def backups_directory() -> Path:
    return settings.DATA_DIR / "backups"


def automatic_backups() -> list[Path]:
    """Return the automatic backups, the newest first."""
    return sorted(backups_directory().glob("llmkeys-*.tar.gz"), key=lambda file: file.name, reverse=True)


def archives() -> dict[Path, Manifest]:
    """Return every archive in the data directory and its `backups/`, whatever its name, the most useful first.

    Those of a database with keys or usage come before those of an empty one, and newer ones before older ones.
    """
    found = {}
    for directory in (backups_directory(), settings.DATA_DIR):
        for file in sorted(directory.iterdir(), reverse=True) if directory.is_dir() else ():
            manifest = _manifest(file)
            if manifest is not None:
                found[file] = manifest
    return dict(sorted(found.items(), key=lambda item: (not item[1].is_empty, item[1].created), reverse=True))


def _manifest(file: Path) -> Manifest | None:
    """Return the manifest of an archive, or None if the file is not an archive of this product."""
    try:
        return archive.peek(file) if file.is_file() else None
    except CannotRestore:
        return None


def is_good(path: Path) -> bool:
    """Return whether an archive is marked as good and is complete."""
    try:
        return archive.verify(path).is_good
    except CannotRestore:
        return False


def newest_good_backup() -> tuple[Path, Manifest] | None:
    """Return the newest good archive of this kind of database, and its manifest; None if there is none."""
    for file, manifest in archives().items():
        if manifest.database == sql.vendor() and manifest.is_good and is_good(file):
            return file, manifest
    return None


def prune() -> None:
    """Delete the oldest automatic backups. The newest seven stay, and always the newest good one.

    Backups of an empty database are counted separately, so that they never push out others.
    """
    files = automatic_backups()
    empty = [file for file in files if (manifest := _manifest(file)) and manifest.is_empty]
    full = [file for file in files if file not in empty]
    newest_good = next((file for file in [*full, *empty] if is_good(file)), None)
    for file in [*full[KEPT:], *empty[KEPT:]]:
        if file != newest_good:
            file.unlink(missing_ok=True)
