"""A database that is missing or empty although there was one: nobody starts with a new one by accident."""

from __future__ import annotations

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.db import connection

from llmkeys.backup.kept import archives, backups_directory, newest_good_backup
from llmkeys.database import sql

# A file without tables is a page or two; a larger one is not opened just to see that it holds something.
_SMALL_BYTES = 65_536


def lost_database() -> str:
    """Return what to do about a database that was here and is gone, "" where all is well or nothing was ever here.

    Raises DatabaseError if PostgreSQL cannot be asked.
    """
    evidence = _evidence()
    if not evidence or not _is_empty():
        return ""
    name = connection.settings_dict["NAME"]
    return (
        f"The database {name} is missing or empty, but {evidence} shows that there was one. "
        f"`./manage.py serve --new-database` starts with an empty one. {how_to_restore()}"
    )


def how_to_restore() -> str:
    """Return the command that brings the newest good backup back, or what to do where there is none."""
    newest = newest_good_backup()
    if newest is None:
        return (
            "There is no good backup of it in the data directory: put the database back, or restore a backup that "
            "you keep elsewhere with: ./manage.py restore FILE"
        )
    file, manifest = newest
    return (
        f"The newest good backup, of {manifest.created:%Y-%m-%d %H:%M} UTC, comes back with: "
        f"./manage.py restore {shlex.quote(str(file))}"
    )


def _evidence() -> str:
    """Return what shows that this data directory had a database of the kind that is in use, "" where nothing does."""
    key = settings.DATA_DIR / "encryption.key"
    backups = backups_directory()
    if sql.is_sqlite():
        log = Path(f"{connection.settings_dict['NAME']}-wal")
        if log.exists() and log.stat().st_size:
            return str(log)
        if backups.is_dir() and any(backups.iterdir()):
            return str(backups)
        return str(key) if key.exists() else ""
    if any(manifest.database == sql.vendor() for manifest in archives().values()):
        return str(backups)
    # A data directory that served SQLite until now says nothing about PostgreSQL.
    file = settings.DATA_DIR / "llmkeys.sqlite3"
    return str(key) if key.exists() and not (file.exists() and file.stat().st_size) else ""


def _is_empty() -> bool:
    if sql.is_sqlite():
        return _is_empty_file(Path(connection.settings_dict["NAME"]))
    with connection.cursor() as cursor:
        return "django_migrations" not in connection.introspection.table_names(cursor)


def _is_empty_file(file: Path) -> bool:
    if not file.is_absolute():  # a database in memory
        return False
    if not file.exists() or not file.stat().st_size:
        return True
    if file.stat().st_size > _SMALL_BYTES:
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
            return database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,)
    except sqlite3.Error:
        return False  # whatever it is, it is not empty; the first query says what is wrong with it
