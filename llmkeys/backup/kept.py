"""The archives in the data directory: which are good, which to delete, and which to restore a lost database from."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from llmkeys.backup import archive
from llmkeys.backup.archive import Manifest
from llmkeys.backup.errors import CannotRestore
from llmkeys.database import sql, sqlite

DAILY, BEFORE_MIGRATION = "daily", "before-migration"  # the kinds of automatic backups, part of their names
NAME = "backups"
KEPT = 7
# Of those before migrations: a server that is restarted again and again while its migration fails makes one each time.
KEPT_OF_A_SCHEMA, KEPT_SCHEMAS = 2, 3


def backups_directory() -> Path:
    return settings.DATA_DIR / NAME


def free_path(directory: Path, stem: str, ending: str = "") -> Path:
    """Return a path in the directory that does not exist yet: with a number if the plain name is taken."""
    path, number = directory / f"{stem}{ending}", 1
    while path.exists():
        number += 1
        path = directory / f"{stem}-{number}{ending}"
    return path


def automatic_backups() -> list[Path]:
    """Return the automatic backups, the newest first."""
    return sorted(backups_directory().glob("llmkeys-*.tar.gz"), key=lambda file: file.name, reverse=True)


def archives() -> dict[Path, Manifest]:
    """Return every archive in the data directory and its `backups/`, whatever its name, the most useful first.

    Those of a database with keys come first, then those of one with usage alone (environment keys have no secrets in
    it), then those of an empty one; of each kind newer ones come before older ones.
    """
    found, in_use = {}, _files_in_use()
    for directory in (backups_directory(), settings.DATA_DIR):
        for file in sorted(directory.iterdir(), reverse=True) if directory.is_dir() else ():
            manifest = None if _identity(file) in in_use else _manifest(file)
            if manifest is not None:
                found[file] = manifest
    return dict(sorted(found.items(), key=lambda item: (item[1].worth, item[1].created), reverse=True))


def _files_in_use() -> set[tuple[int, int] | None]:
    """Return the identities of the SQLite database's files, which only SQLite may open, by whatever name.

    Whoever closes one of them gives up the locks of the whole process on it (POSIX), so that another program may take
    the database for unused and delete its log, with what is committed to it from then on.
    """
    database = sqlite.file()
    return {_identity(Path(f"{database.resolve()}{ending}")) for ending in ("", "-wal", "-shm")} if database else set()


def _identity(file: Path) -> tuple[int, int] | None:
    """Return which file this is, whether a link or not; None if there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


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


def newest_good_backup(*, worth: int) -> tuple[Path, Manifest] | None:
    """Return the newest good archive of this kind of database that has at least this worth; None if there is none."""
    fitting = [(file, found) for file, found in archives().items() if found.worth >= worth and found.is_good]
    for file, manifest in sorted(fitting, key=lambda item: item[1].created, reverse=True):
        if manifest.database == sql.vendor() and is_good(file):
            return file, manifest
    return None


def prune() -> None:
    """Delete the oldest automatic backups. The newest seven daily ones stay, and always the newest good one.

    Those before migrations are counted separately, for each schema, so that restarts during a migration that keeps
    failing push out neither the daily ones nor the one from before its first step. Backups of a database without keys,
    and of an empty one, are counted separately too.
    """
    manifests = {file: _manifest(file) for file in automatic_backups()}
    kinds: dict[int, list[Path]] = {2: [], 1: [], 0: []}
    for file, manifest in manifests.items():
        kinds[manifest.worth if manifest else 2].append(file)
    # Daily ones first, because only they are audited.
    by_worth = [file for files in kinds.values() for file in [*_daily(files), *files]]
    newest_good = next((file for file in by_worth if is_good(file)), None)
    for files in kinds.values():
        before = {file: manifests[file] for file in files if BEFORE_MIGRATION in file.name}
        for file in [*_daily(files)[KEPT:], *_surplus(before)]:
            if file != newest_good:
                file.unlink(missing_ok=True)


def _daily(files: list[Path]) -> list[Path]:
    return [file for file in files if BEFORE_MIGRATION not in file.name]


def _surplus(before_migration: dict[Path, Manifest | None]) -> list[Path]:
    """Return the archives that are not among the newest two of the newest three schemas, given the newest first."""
    schemas: dict[tuple[str, ...], list[Path]] = {}
    for file, manifest in before_migration.items():
        schemas.setdefault(tuple(manifest.migrations if manifest else ()), []).append(file)
    kept = [file for files in list(schemas.values())[:KEPT_SCHEMAS] for file in files[:KEPT_OF_A_SCHEMA]]
    return [file for file in before_migration if file not in kept]
