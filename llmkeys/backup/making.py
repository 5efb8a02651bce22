"""Makes backups: copies the database, checks the copy and packs it; also the automatic ones in the data directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from llmkeys.backup import archive, kept, postgresql, sqlite
from llmkeys.backup.archive import Manifest
from llmkeys.backup.errors import BackupFailed
from llmkeys.database import outages, sql
from llmkeys.ledger.audit import Report, audit_through
from llmkeys.vault import keyring
from refactai_site import VERSION, settings_file

logger = logging.getLogger(__name__)

_STAMP = "%Y%m%d-%H%M%S"

# Stored secrets and usage rows: a backup with neither is one of an empty database.
_COUNTS = """SELECT (SELECT COUNT(*) FROM llmkeys_apikey WHERE deleted_at IS NULL AND length(secret) > 0),
   (SELECT COUNT(*) FROM llmkeys_usagerecord)"""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was written and checked."""

    path: Path
    manifest: Manifest
    bytes: int


def make_backup(
    target: Path, *, at: datetime, with_key: bool = True, audit: bool = True, progress: Progress | None = None
) -> Made:
    """Write an archive (mode 0600) of the database, encryption key and settings.env; the product may be serving.

    The copy is made from one snapshot and passes an integrity check; it is audited, and the manifest has the number of
    differences. An existing file is never overwritten. Raises BackupFailed.
    """
    target = target.absolute()
    if target.exists():
        raise BackupFailed(f"{target} already exists; choose another name, or move it away.")
    if not target.parent.is_dir():
        raise BackupFailed(f"The directory {target.parent} does not exist.")
    with _raising_backup_failed(target), archive.private_directory(target) as directory:
        database, report, counts = _copy(directory, audit=audit, progress=progress)
        members = {archive.DATABASES[sql.vendor()]: database}
        if with_key and keyring.key_file().exists() and not settings.REFACTAI_ENCRYPTION_KEYS:
            members[archive.KEY] = keyring.key_file()
        settings_env = settings.DATA_DIR / settings_file.NAME
        if with_key and settings_env.is_file():  # it may contain the encryption keys and other secrets
            members[archive.SETTINGS] = settings_env
        manifest = archive.write(target, _manifest(report, counts, at), members, directory=directory)
    return Made(target, manifest, target.stat().st_size)


@contextmanager
def _raising_backup_failed(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupFailed(f"The backup {target} could not be written: {error.strerror or error}.") from None
    except DatabaseError as error:
        raise BackupFailed(f"No backup was made. {outages.explain(error)}") from None


def _copy(directory: Path, *, audit: bool, progress: Progress | None) -> tuple[Path, Report | None, tuple[int, int]]:
    """Copy the database into `directory` and check the copy; return its file, audit and counts. Raises BackupFailed."""
    file = directory / archive.DATABASES[sql.vendor()]
    if sql.is_sqlite():
        sqlite.copy_out(file, progress=progress)
        problem = sqlite.integrity_problem(file)
        report = sqlite.audited(file) if audit and not problem else None
        counts = sqlite.rows_of(file, _COUNTS)[0] if _has_tables() and not problem else (0, 0)
    else:
        with postgresql.snapshot() as (cursor, shared):
            postgresql.dump(file, shared)
            report = audit_through(cursor) if audit else None
            cursor.execute(_COUNTS if _has_tables() else "SELECT 0, 0")
            counts = cursor.fetchone()
        problem = postgresql.unreadable(file)
    if problem:
        raise BackupFailed(f"The copy of the database is not intact, so no backup was written: {problem}")
    return file, report, counts


def _has_tables() -> bool:
    """Return whether our tables exist: a first start that was killed may not have created them."""
    return any(app == "llmkeys" for app, _ in MigrationRecorder(connection).applied_migrations())


def _manifest(report: Report | None, counts: tuple[int, int], at: datetime) -> Manifest:
    applied = MigrationRecorder(connection).applied_migrations()
    return Manifest(
        created_at=at.isoformat(timespec="seconds"),
        version=VERSION,
        database=sql.vendor(),
        migrations=sorted(name for app, name in applied if app == "llmkeys"),
        keys=counts[0],
        rows=counts[1],
        differences=len(report.differences) if report else None,
    )


# --- automatic backups ------------------------------------------------------------------------------------------------


def automatic_backup(*, at: datetime) -> Made:
    """Make the daily backup and delete old ones (`kept.prune`)."""
    archive.remove_abandoned(kept.backups_directory())
    made = make_backup(_automatic_target(kept.DAILY, at), at=at)
    kept.prune()
    if made.manifest.differences:
        logger.warning("The backup %s was made, but it does not add up: run `./manage.py audit`.", made.path.name)
    return made


def backup_before_migration(*, at: datetime) -> Made | None:
    """Make a backup if there are migrations to run on a database that is not new; return None if there are none.

    It is not audited, because the tables are those of the older version.
    """
    executor = MigrationExecutor(connection)
    if not executor.loader.applied_migrations or not executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return None
    made = make_backup(_automatic_target(kept.BEFORE_MIGRATION, at), at=at, audit=False)
    kept.prune()
    return made


def _automatic_target(kind: str, at: datetime) -> Path:
    directory = kept.backups_directory()
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise BackupFailed(f"The directory {directory} cannot be created: {error.strerror}.") from None
    return kept.free_path(directory, f"llmkeys-{at:{_STAMP}}-{kind}", ".tar.gz")
