"""Helpers for hand-written SQL on both SQLite and PostgreSQL: a lean cursor, dates and times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, Protocol

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper


class Cursor(Protocol):
    """What a job of the writer or the reader may do with the database."""

    @property
    def rowcount(self) -> int: ...

    def execute(self, sql: str, params: Sequence[Any] = ()) -> Any: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class LeanCursor:
    """SQLite's own cursor, with Django's `%s` placeholders."""

    __slots__ = ("_cursor", "fetchall", "fetchone")

    def __init__(self, cursor: Any):
        self._cursor = cursor
        self.fetchone, self.fetchall = cursor.fetchone, cursor.fetchall

    def execute(self, sql: str, params: Sequence[Any] = ()) -> None:
        self._cursor.execute(_question_marks(sql), params)

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount


@lru_cache(maxsize=512)
def _question_marks(sql: str) -> str:
    return sql.replace("%s", "?")


@lru_cache(maxsize=1)
def is_sqlite() -> bool:
    """Return whether the database is SQLite; otherwise it is PostgreSQL."""
    return settings.DATABASES[DEFAULT_DB_ALIAS]["ENGINE"].endswith("sqlite3")


def vendor() -> str:
    """Return `sqlite` or `postgresql`."""
    return "sqlite" if is_sqlite() else "postgresql"


def database_name() -> str:
    """Return the path of the SQLite file, or the name of the database on the server."""
    return str(settings.DATABASES[DEFAULT_DB_ALIAS]["NAME"])


def connection_of_our_own() -> BaseDatabaseWrapper:
    """Return a new connection to the database, which belongs to no thread and no pool."""
    ours = connections.create_connection(DEFAULT_DB_ALIAS)
    options = {name: value for name, value in ours.settings_dict["OPTIONS"].items() if name != "pool"}
    ours.settings_dict = {**ours.settings_dict, "OPTIONS": options}
    return ours


def release() -> None:
    """Give this thread's connection back to the pool, if there is one, before a long wait.

    Does nothing inside a transaction. The next query takes a connection again.
    """
    ours = connections[DEFAULT_DB_ALIAS]
    if "pool" in ours.settings_dict["OPTIONS"] and not ours.in_atomic_block:
        ours.close()


@contextlib.contextmanager
def lean_cursor(on: BaseDatabaseWrapper | None = None) -> Iterator[Any]:
    """Yield the driver's own cursor of a connection (default: this thread's), or Django's if queries are logged.

    Django's wrapper costs some 12 µs per statement, ten times per request. The errors raised are still Django's.
    """
    if on is None:
        on = connections[DEFAULT_DB_ALIAS]  # the proxy `django.db.connection` looks it up at every attribute
    if on.queries_logged or on.execute_wrappers:
        with on.cursor() as cursor:
            yield cursor
        return
    on.ensure_connection()
    with on.wrap_database_errors:
        cursor = on.connection.cursor()
        yield LeanCursor(cursor) if is_sqlite() else cursor


def instant(at: datetime) -> Any:
    """Return the parameter for an aware datetime: SQLite stores it as text, naive, in UTC."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ") if is_sqlite() else at


def cast(expression: str, kind: str) -> str:
    """Return SQL for a value of a `VALUES` list with the type of its column: PostgreSQL would take it for text."""
    return expression if is_sqlite() else f"CAST({expression} AS {kind})"


def server_clock(cursor: Cursor) -> datetime | None:
    """Return the database server's clock, which all clients share; None on SQLite, where it is this machine's."""
    if is_sqlite():
        return None
    cursor.execute("SELECT clock_timestamp()")
    return as_instant(cursor.fetchone()[0])


def as_date(value: date | str) -> date:
    """Read a date column."""
    return date.fromisoformat(value) if isinstance(value, str) else value


def as_instant(value: datetime | str) -> datetime:
    """Read a datetime column: SQLite gives text or a naive datetime in UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value if value.tzinfo else value.replace(tzinfo=UTC)
