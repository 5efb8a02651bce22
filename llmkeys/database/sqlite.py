"""What SQLite needs: a check that the file is still the same, turns to write, and truncating the write-ahead log."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from django.conf import settings
from django.db import OperationalError

from llmkeys.database.sql import Cursor, database_name, is_sqlite

REPLACED = "was replaced or removed"
BLOCKED_SECONDS = 5.0  # how long other processes rely on one that found the database blocked
LOG_BYTES = 4 * 1024 * 1024  # `PRAGMA journal_size_limit` of the settings

_known_file: tuple[int, int] | None = None


def file() -> Path | None:
    """Return the database's file; None on PostgreSQL or for a database in memory."""
    name = database_name()
    return Path(name) if is_sqlite() and not _is_in_memory(name) else None


def _is_in_memory(name: str) -> bool:
    return name == ":memory:" or name.startswith("file:")


def remember_file() -> None:
    """Remember the identity of the database file, unless it is known; `serve` does so before it forks."""
    global _known_file
    if _known_file is None:
        with contextlib.suppress(OSError):  # not there yet: reported when it is opened
            _known_file = _file_now()


def require_same_file() -> None:
    """Raise OperationalError if the SQLite database file is missing or was replaced by another.

    Open connections continue to write to the file that has lost its name, so what they commit would be lost; and a
    process that opens the new file would write the old one's log into it. So nothing is done until the file is back
    or `serve` is started again.
    """
    if _known_file is None:
        return
    try:
        if _file_now() == _known_file:
            return
    except OSError:
        pass
    raise OperationalError(f"The database file {REPLACED}.")


def _file_now() -> tuple[int, int] | None:
    """Return the file's identity; None if there is none. Raises OSError."""
    name = database_name()
    if not is_sqlite() or _is_in_memory(name):
        return None
    found = os.stat(name)  # noqa: PTH116  (called for every request: a Path costs ten times as much)
    return found.st_dev, found.st_ino


class Turn:
    """A file lock by which processes that share an SQLite file take turns to write; does nothing on other databases.

    A process whose wait for SQLite's lock timed out marks the database as blocked, so that the others do not wait as
    long in turn. The mark is the modification time of the lock file, set to a time in the future.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._blocked_until = 0.0  # for this process only, if there is no file
        database = file()
        if database is not None:
            with contextlib.suppress(OSError):
                self._file = os.open(f"{database}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def block(self) -> None:
        self._set(time.time() + BLOCKED_SECONDS)

    def is_blocked(self) -> bool:
        until = self._blocked_until if self._file is None else os.fstat(self._file).st_mtime
        return 0 < until - time.time() <= BLOCKED_SECONDS

    def unblock(self) -> None:
        if self.is_blocked():
            self._set(time.time())

    def _set(self, until: float) -> None:
        self._blocked_until = until
        if self._file is not None:
            with contextlib.suppress(OSError):  # the file belongs to another user: each process finds out for itself
                os.utime(self._file, (until, until))


def begin(cursor: Cursor, wait_milliseconds: int | None) -> None:
    """Begin a write transaction; wait for other writers `wait_milliseconds`, or None for the time in the settings."""
    if wait_milliseconds is None:
        cursor.execute("BEGIN IMMEDIATE")
        return
    cursor.execute(f"PRAGMA busy_timeout = {wait_milliseconds}")
    try:
        cursor.execute("BEGIN IMMEDIATE")
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {settings.DATABASE_BUSY_SECONDS * 1000}")


def begin_snapshot(cursor: Cursor) -> None:
    """Begin a transaction that sees one state of the database; Django's own transactions begin as writers here."""
    cursor.execute("BEGIN DEFERRED")


def rows_written(cursor: Cursor) -> int:
    """Return how many rows this connection has written so far."""
    cursor.execute("SELECT total_changes()")
    row = cursor.fetchone()
    return int(row[0])


def log_is_long() -> bool:
    """Return whether the write-ahead log is above its limit, because of a long read while others wrote."""
    database = file()
    if database is None:
        return False
    try:
        return os.stat(f"{database}-wal").st_size > LOG_BYTES  # noqa: PTH116
    except OSError:
        return False


def shorten_log(cursor: Cursor) -> None:
    """Copy the write-ahead log into the database and empty it, unless it is still being read."""
    cursor.execute("PRAGMA busy_timeout = 0")
    try:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.fetchall()
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {settings.DATABASE_BUSY_SECONDS * 1000}")
