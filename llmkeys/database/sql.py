"""Hand-written SQL on SQLite and PostgreSQL alike: which of the two it is, a lean cursor, instants and dates."""

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
    """SQLite's own cursor behind the `%s` of Django."""

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
    """Return whether the product runs on SQLite; else on PostgreSQL."""
    return settings.DATABASES[DEFAULT_DB_ALIAS]["ENGINE"].endswith("sqlite3")


def vendor() -> str:
    """Return `sqlite` or `postgresql`, for those who write it down."""
    return "sqlite" if is_sqlite() else "postgresql"


def database_name() -> str:
    """Return the path of the SQLite file, or the name of the database on the server."""
    return str(settings.DATABASES[DEFAULT_DB_ALIAS]["NAME"])


def connection_of_our_own() -> BaseDatabaseWrapper:
    """Return a further connection to the database: none of the thread's, and none of a pool's."""
    ours = connections.create_connection(DEFAULT_DB_ALIAS)
    options = {name: value for name, value in ours.settings_dict["OPTIONS"].items() if name != "pool"}
    ours.settings_dict = {**ours.settings_dict, "OPTIONS": options}
    return ours


def release() -> None:
    """Give this thread's connection back to the pool, where there is one, before a long wait for somebody else.

    Nothing inside a transaction. What is asked for next takes one again.
    """
    ours = connections[DEFAULT_DB_ALIAS]
    if "pool" in ours.settings_dict["OPTIONS"] and not ours.in_atomic_block:
        ours.close()


@contextlib.contextmanager
def lean_cursor(on: BaseDatabaseWrapper | None = None) -> Iterator[Any]:
    """Give the driver's own cursor of the connection (this thread's); with a query log, Django's.

    Django's wrapper costs some 12 µs a statement, ten times a request. Errors are Django's all the same.
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
    """Return the parameter for an aware instant: SQLite stores the text of a naive one in UTC."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ") if is_sqlite() else at


def cast(expression: str, kind: str) -> str:
    """Return SQL for a value of a list `VALUES` as what a column holds: PostgreSQL would take it for a text."""
    return expression if is_sqlite() else f"CAST({expression} AS {kind})"


def server_clock(cursor: Cursor) -> datetime | None:
    """Return the clock of the database's server, which all its clients share; None on SQLite: it is ours."""
    if is_sqlite():
        return None
    cursor.execute("SELECT clock_timestamp()")
    return as_instant(cursor.fetchone()[0])


def as_date(value: date | str) -> date:
    """Read a date column."""
    return date.fromisoformat(value) if isinstance(value, str) else value


def as_instant(value: datetime | str) -> datetime:
    """Read an instant column: SQLite gives text or a naive datetime in UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value if value.tzinfo else value.replace(tzinfo=UTC)
