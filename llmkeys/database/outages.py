"""Database outages: which errors mean that the database is at fault, and what is logged for the operator.

It is logged at the first failure, then every half minute while the outage lasts, and when it is over.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from django.db import DatabaseError, Error, InterfaceError, InternalError, OperationalError, connection

from llmkeys.database import sqlite
from llmkeys.database.sql import database_name, is_sqlite
from llmkeys.exceptions import RecordingUnavailable
from refactai_site.data_dir import why_not

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0
RETRY_SECONDS = 10  # what clients are told to wait
UNAVAILABLE = (
    "The database cannot be written now, so nothing can be recorded and nothing is sent. "
    f"Try again in {RETRY_SECONDS} seconds; "
    "if this persists, check the disk space, and whether another program has locked the database."
)


def is_outage(error: BaseException) -> bool:
    """Return whether the database is at fault, rather than the query.

    For a file that is not a database SQLite raises nothing more precise than `DatabaseError`; for a read-only server
    PostgreSQL raises `InternalError`.
    """
    return isinstance(error, OperationalError | InterfaceError | InternalError) or type(error) is DatabaseError


def is_locked(error: BaseException) -> bool:
    """Return whether waiting for a lock timed out."""
    return any(words in str(error).lower() for words in ("locked", "lock timeout"))


def is_damaged(error: BaseException) -> bool:
    text = str(error).lower()
    return "not a database" in text or "malformed" in text


def first_line(error: BaseException) -> str:
    """Return the first line of a database error, without its full stop."""
    return (str(error).splitlines() or [""])[0].rstrip(". ")


def explain(error: BaseException) -> str:
    """Return what is wrong with the database and what to do, in one or two sentences without the database URL."""
    if not is_sqlite():
        words = first_line(error).removeprefix("connection failed: ").removeprefix("connection is bad: ")
        remedy = "Check that it is running and accepts connections."
        if "connection option" in words or " value: " in words:  # libpq's words for an option that it cannot use
            remedy = "Correct that option in DATABASE_URL, or leave it out."
        return f"The database that DATABASE_URL names cannot be used: {words}. {remedy}"
    text, file = str(error).lower(), database_name()
    if is_damaged(error):
        return f"The file {file} is not a readable database."
    if sqlite.REPLACED in text:
        remedy = "put that file back, or start the server again"
        return f"The database {file} {sqlite.REPLACED} while the server was running; {remedy}."
    if "locked" in text:
        return f"The database {file} is locked by another program; stop that program."
    if "readonly" in text or "unable to open" in text:
        return f"The database {file} cannot be opened or written by this user{_culprit(file)}."
    if "disk is full" in text:
        return f"The database {file} cannot be written: the disk is full. Free some space."
    if "disk i/o" in text:
        return f"The database {file} cannot be read or written: its disk is failing or full."
    return f"The database {file} cannot be used: {error}"


def _culprit(name: str) -> str:
    """Return which of the database's files this user may not write and why, or what to check."""
    beside = (Path(f"{name}{ending}") for ending in ("", "-wal", "-shm", "-prepare"))
    for file in (Path(name).parent, *beside):
        if file.exists() and not os.access(file, os.R_OK | os.W_OK):
            whose = why_not(file) or ": it belongs to another user"
            return f" because of {file}{whose}. The directory and its files must belong to the user that runs `serve`"
    return "; check the permissions of its directory"


@dataclass
class _Outage:
    """What this process has logged about an outage."""

    began: float | None = None
    logged: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


_current = _Outage()


def note(error: BaseException) -> None:
    """Log the outage for the operator, unless it was logged a moment ago."""
    now = time.monotonic()
    with _current.lock:
        is_new = _current.began is None
        if not is_new and now - _current.logged < LOG_SECONDS:
            return
        _current.began = now if is_new else _current.began
        _current.logged = now
    remedy = " Stop the server, then restore a backup: `serve` names the newest good one." if is_damaged(error) else ""
    logger.error("No request can be recorded, so none is sent. %s%s", explain(error), remedy)


def lasts() -> bool:
    """Return whether an outage was logged that has not ended yet."""
    return _current.began is not None


def is_over() -> None:
    """Log the end of the outage, if one was logged."""
    if not lasts():
        return
    with _current.lock:
        began, _current.began = _current.began, None
    if began is not None:
        logger.warning("The database can be written again, after %.0f seconds.", time.monotonic() - began)


@contextlib.contextmanager
def recording_errors() -> Iterator[None]:
    """Raise RecordingUnavailable if the database is at fault, for reads that decide whether a request is sent."""
    try:
        sqlite.require_same_file()
        yield
    except Error as error:
        if not is_outage(error):
            raise
        note(error)
        with contextlib.suppress(Error):
            connection.close()
        raise RecordingUnavailable(UNAVAILABLE) from error
