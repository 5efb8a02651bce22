"""What SQLite needs: the file that must stay the same, the processes' turns to write, and a log that shrinks again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from django.conf import settings
from django.db import OperationalError

from llmkeys.database.sql import Cursor, database_name, is_sqlite

REPLACED = "was replaced or taken away"
BLOCKED_SECONDS = 5.0  # how long the word of one process that the database is blocked holds for the others
LOG_BYTES = 4 * 1024 * 1024  # `PRAGMA journal_size_limit` of the settings

_known_file: tuple[int, int] | None = None


def file() -> Path | None:
    """Return the database's file; None on PostgreSQL, and for a database in memory."""
    name = database_name()
    return Path(name) if is_sqlite() and "memory" not in name else None


def know_the_file() -> None:
    """Remember which file the database is, unless that is known: `serve` does before it forks."""
    global _known_file
    if _known_file is None:
        with contextlib.suppress(OSError):  # not there yet: reported when it is opened
            _known_file = _file_now()


def require_the_file() -> None:
    """Raise OperationalError if another file lies in place of the SQLite database, or none.

    Connections go on in a file that has lost its name: what they acknowledge would be lost with them. And anyone who
    opens the new one writes the old one's log into it. So nothing is done until the file is back, or `serve` new.
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
    if not is_sqlite() or "memory" in name:
        return None
    found = os.stat(name)  # noqa: PTH116  (asked for at every request: a Path costs ten times as much)
    return found.st_dev, found.st_ino


class Turn:
    """Processes that share an SQLite file take turns to write; nothing on other databases.

    A process that has waited for a lock in vain marks the database as blocked: else each would wait in its turn, and a
    request for all. The mark is the time of the file's last change, which then lies ahead.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._blocked_until = 0.0  # of this process alone, where there is no file
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
            with contextlib.suppress(OSError):  # of another user: then each finds out for itself
                os.utime(self._file, (until, until))


def begin(cursor: Cursor, wait_milliseconds: int | None) -> None:
    """Begin a transaction that writes; wait for another writer so long, or as long as the settings say."""
    if wait_milliseconds is None:
        cursor.execute("BEGIN IMMEDIATE")
        return
    cursor.execute(f"PRAGMA busy_timeout = {wait_milliseconds}")
    try:
        cursor.execute("BEGIN IMMEDIATE")
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {settings.DATABASE_BUSY_SECONDS * 1000}")


def begin_snapshot(cursor: Cursor) -> None:
    """Begin a transaction that reads one state of the database: Django's own begin as writers here."""
    cursor.execute("BEGIN DEFERRED")


def rows_written(cursor: Cursor) -> int:
    """Return how many rows this connection has written so far."""
    cursor.execute("SELECT total_changes()")
    row = cursor.fetchone()
    return int(row[0])


def log_is_long() -> bool:
    """Return whether the write-ahead log outgrew its limit: somebody read for long while others wrote."""
    database = file()
    if database is None:
        return False
    try:
        return os.stat(f"{database}-wal").st_size > LOG_BYTES  # noqa: PTH116
    except OSError:
        return False


def shorten_log(cursor: Cursor) -> None:
    """Copy the write-ahead log into the database and empty it, unless somebody still reads from it."""
    cursor.execute("PRAGMA busy_timeout = 0")
    try:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.fetchall()
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {settings.DATABASE_BUSY_SECONDS * 1000}")
