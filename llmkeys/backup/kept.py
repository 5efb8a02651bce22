"""The archives in the data directory: which are good, which may go, and which brings a lost database back."""

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
    """Return every archive in the data directory and its `backups/`, whatever its name; the most useful first.

    One that holds keys or usage comes before one of an empty database; among equals, the newest first.
    """
    found = {}
    for directory in (backups_directory(), settings.DATA_DIR):
        for file in sorted(directory.iterdir(), reverse=True) if directory.is_dir() else ():
            manifest = _manifest(file)
            if manifest is not None:
                found[file] = manifest
    return dict(sorted(found.items(), key=lambda item: (not item[1].is_empty, item[1].created), reverse=True))


def _manifest(file: Path) -> Manifest | None:
    """Return what an archive says of itself; None for what is not an archive of this product."""
    try:
        return archive.peek(file) if file.is_file() else None
    except CannotRestore:
        return None


def is_good(path: Path) -> bool:
    """Return whether an archive is marked as good and is whole to its end."""
    try:
        return archive.verify(path).is_good
    except CannotRestore:
        return False


def newest_good_backup() -> tuple[Path, Manifest] | None:
    """Return the newest archive of this kind of database that is whole and was audited clean, and its manifest."""
    for file, manifest in archives().items():
        if manifest.database == sql.vendor() and manifest.is_good and is_good(file):
            return file, manifest
    return None


def prune() -> None:
    """Let the oldest automatic backups go. The newest seven stay, and the newest good one always.

    Backups of an empty database are counted by themselves: however many are made, they push out no others.
    """
    files = automatic_backups()
    empty = [file for file in files if (manifest := _manifest(file)) and manifest.is_empty]
    full = [file for file in files if file not in empty]
    newest_good = next((file for file in [*full, *empty] if is_good(file)), None)
    for file in [*full[KEPT:], *empty[KEPT:]]:
        if file != newest_good:
            file.unlink(missing_ok=True)
