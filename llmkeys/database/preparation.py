"""What `serve` checks before it prepares the database: that it is writable, and that no other `serve` is at it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from django.db import OperationalError, connection, transaction

from llmkeys.database.sql import connection_of_our_own, database_name, is_sqlite

_LOCK = 0x5265666163744149  # the number of the advisory lock on PostgreSQL, which nothing else uses
_RETRY_SECONDS = 0.3


def require_writable() -> None:
    """Check that the database can be written, without changing anything. Raises DatabaseError.

    Opening a read-only file succeeds on SQLite, and so does `BEGIN IMMEDIATE`; only writing fails.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        if is_sqlite():
            cursor.execute("PRAGMA user_version")
            cursor.execute(f"PRAGMA user_version = {int(cursor.fetchone()[0])}")
        else:
            cursor.execute("SELECT current_setting('transaction_read_only')")
            if cursor.fetchone() == ("on",):
                raise OperationalError("the server accepts no writes: it is a standby or read-only")


@contextlib.contextmanager
def one_at_a_time(on_wait: Callable[[], None]) -> Iterator[None]:
    """Let only one `serve` at a time prepare the database, on all machines; the others wait.

    `on_wait` is called once if another one holds the lock, which ends with its process. Raises DatabaseError.
    """
    with contextlib.ExitStack() as held:
        try_lock = (_file_lock if is_sqlite() else _advisory_lock)(held)
        if not try_lock():
            on_wait()
            while not try_lock():
                time.sleep(_RETRY_SECONDS)
        yield


def _file_lock(held: contextlib.ExitStack) -> Callable[[], bool]:
    try:
        file = os.open(f"{database_name()}-prepare", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperationalError(f"unable to open its lock: {error.strerror}") from error
    held.callback(os.close, file)

    def try_lock() -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    return try_lock


def _advisory_lock(held: contextlib.ExitStack) -> Callable[[], bool]:
    ours = connection_of_our_own()
    held.callback(ours.close)

    def try_lock() -> bool:
        with ours.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
            return bool(cursor.fetchone()[0])

    return try_lock
