"""Detects a database that is missing or empty although there was one, so that no new one is started by accident."""

from __future__ import annotations

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.db import connection

from llmkeys.backup import archive
from llmkeys.backup.kept import archives, backups_directory, newest_good_backup
from llmkeys.database import sql

# Larger files contain their tables in the file itself, not only in the log, and can be read without a lock.
_SMALL_BYTES = 65_536

MISSING, FOREIGN = "is missing or empty", "has no tables of this product"


def lost_database() -> str:
    """Return what to do about a database that is gone, or "" if it is there or there never was one.

    Raises DatabaseError if PostgreSQL cannot be reached.
    """
    evidence = _evidence()
    fault = evidence and _fault()
    if not fault:
        return ""
    name = connection.settings_dict["NAME"]
    return (
        f"The database {name} {fault}, but {evidence} shows that there was one. "
        f"`./manage.py serve --new-database` starts with an empty one. {how_to_restore()}"
    )


def how_to_restore() -> str:
    """Return the command that restores the newest good backup, or what to do if there is none.

    If it has no stored keys but an older one has, both are named: only the operator knows which was meant to be.
    """
    newest = newest_good_backup(worth=1) or newest_good_backup(worth=0)
    if newest is None:
        return (
            "There is no good backup of it in the data directory: put the database back, or restore a backup that "
            "you keep elsewhere with: ./manage.py restore FILE"
        )
    file, manifest = newest
    words = (
        f"To restore the newest good backup, of {manifest.created:%Y-%m-%d %H:%M} UTC, run: "
        f"./manage.py restore {shlex.quote(str(file))}"
    )
    with_keys = newest_good_backup(worth=2) if not manifest.keys else None
    if with_keys is None:
        return words
    file, manifest = with_keys
    keys = "1 stored key" if manifest.keys == 1 else f"{manifest.keys} stored keys"
    return (
        f"{words} (it contains no stored keys); or the newest that has some, of {manifest.created:%Y-%m-%d %H:%M} UTC "
        f"with {keys}: ./manage.py restore {shlex.quote(str(file))}"
    )


def _evidence() -> str:
    """Return what shows that this data directory had a database of the kind that is in use, or ""."""
    key = settings.DATA_DIR / archive.KEY
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
    # A data directory that was used with SQLite until now says nothing about PostgreSQL.
    file = settings.DATA_DIR / archive.DATABASES["sqlite"]
    return str(key) if key.exists() and not (file.exists() and file.stat().st_size) else ""


def _fault() -> str:
    """Return what is wrong with the database, or "" if it is ours."""
    if sql.is_sqlite():
        return _fault_of_file(Path(connection.settings_dict["NAME"]))
    with connection.cursor() as cursor:
        return "" if "django_migrations" in connection.introspection.table_names(cursor) else MISSING


def _fault_of_file(file: Path) -> str:
    if not file.is_absolute():  # a database in memory
        return ""
    if not file.exists() or not file.stat().st_size:
        return MISSING
    how = "immutable=1" if file.stat().st_size > _SMALL_BYTES else "mode=ro"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?{how}", uri=True)) as database:
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error:
        return ""  # it is not empty, at least; the first query will report what is wrong with it
    if not tables:
        return MISSING
    if any(name.startswith("llmkeys_") for name in tables):
        return ""
    # A first start that was killed during the migrations may have left only Django's tables: the next one continues.
    ours = {*connection.introspection.django_table_names(), "django_migrations", "sqlite_sequence"}
    return "" if tables <= ours else FOREIGN
