"""SQLite: a copy of one snapshot for which no writer waits, and swapping a restored file in."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from django.db import connection

from llmkeys.backup.archive import private_file, sync_directory
from llmkeys.backup.errors import BackupFailed, CannotRestore
from llmkeys.ledger.audit import Report, audit_through

_PAGES = 4_096  # a step of the copy: 16 MB
_CHUNK = 1_048_576
_WAIT_SECONDS = 8
_BESIDE = ("", "-wal", "-shm")

Progress = Callable[[int, int], None]


def database_file() -> Path:
    return Path(connection.settings_dict["NAME"])


def draft_file() -> Path:
    """Where a restored database waits beside the present one, on the same disk, to be renamed into place."""
    file = database_file()
    return file.with_name(f".{file.name}.restoring")


def copy_out(target: Path, *, progress: Progress | None = None) -> None:
    """Copy a consistent snapshot of the live database to `target`. Raises BackupFailed."""
    source = database_file()
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def step(_status: int, remaining: int, total: int) -> None:
        if progress:
            progress(total - remaining, total)

    try:
        with closing(sqlite3.connect(source, timeout=_WAIT_SECONDS)) as live, closing(sqlite3.connect(target)) as copy:
            # One read transaction around all steps, so that the copy need not start again when others write.
            live.execute("BEGIN")
            live.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            live.backup(copy, pages=_PAGES, progress=step)
            live.rollback()
            copy.execute("PRAGMA journal_mode=DELETE")  # a single file, without a separate log
    except sqlite3.Error as error:
        words = str(error)
        if "is full" in words:
            words = f"the disk of {target.parent} is full. Free some space, or name a directory on another one"
        raise BackupFailed(f"The database {source} could not be copied: {words}.") from None


def integrity_problem(file: Path) -> str:
    """Return what SQLite finds wrong with the file, or ""."""
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as copy:
            broken = [row[0] for row in copy.execute("PRAGMA integrity_check(3)")]
            strays = copy.execute("PRAGMA foreign_key_check").fetchmany(3)
    except sqlite3.Error as error:
        return str(error)
    found = [] if broken == ["ok"] else broken
    missing = (f"a row of {table} refers to a missing row of {parent}" for table, _, parent, _ in strays)
    return "; ".join([*found, *missing])


def audited(file: Path) -> Report:
    """Audit a copy."""
    own = connection.copy()
    own.settings_dict["NAME"] = str(file)
    own.settings_dict["OPTIONS"] = {}
    try:
        with own.cursor() as cursor:
            return audit_through(cursor)
    finally:
        own.close()


def rows_of(file: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as copy:
        return copy.execute(query).fetchall()


def swap_in(new: Path, keep: Path) -> None:
    """Replace the database by `new` and keep the old one in `keep`, on any disks. Raises CannotRestore.

    There is a database under its name at every moment: the old one until the rename, then the new one.
    """
    file, draft = database_file(), draft_file()
    is_kept = False
    try:
        _fold_log(file)
        draft.unlink(missing_ok=True)
        _put(os.replace, new, draft)
        for ending in _BESIDE:
            old = file.with_name(file.name + ending)
            if old.exists() and old.stat().st_size:
                _put(os.link, old, keep / old.name)
        is_kept = True
        for ending in _BESIDE[1:]:  # the old database's log would be applied to the new one
            file.with_name(file.name + ending).unlink(missing_ok=True)
        draft.replace(file)
        sync_directory(file.parent)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        if not is_kept:
            for ending in _BESIDE:
                (keep / f"{file.name}{ending}").unlink(missing_ok=True)
        where = f"The old data is in {keep}." if is_kept else "Nothing was changed."
        raise CannotRestore(f"{file} could not be replaced: {error.strerror}. {where}") from None


def _put(link_or_move: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    """Link or move a file, or copy it if `target` is on another disk."""
    try:
        link_or_move(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as old, private_file(target) as new:
            shutil.copyfileobj(old, new, _CHUNK)
    except OSError as error:
        size = f"{source.stat().st_size / 1_000_000:,.1f} MB"
        raise OSError(error.errno, f"{error.strerror}, copying {size} to {target.parent}") from None


def _fold_log(file: Path) -> None:
    """Write the old database's log into it, if it is readable, so that one file contains everything."""
    try:
        with closing(sqlite3.connect(file, timeout=1)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise CannotRestore(
                f"Another program uses {file}. Stop it (`serve`, a shell, a backup tool) and restore again."
            ) from None
    except sqlite3.Error:
        pass  # an unreadable file is kept as it is
