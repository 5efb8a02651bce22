"""Hand-written SQL on SQLite and PostgreSQL alike: a lean cursor, and instants and dates on their way in and out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper


class LeanCursor:
    """SQLite's own cursor behind the `%s` of Django, whose wrapper costs some 12 µs a statement, ten times a request.

    No query log and no execute wrappers; errors are turned into Django's by `lean_cursor`.
    """

    __slots__ = ("_cursor", "fetchall", "fetchone")

    def __init__(self, cursor: Any):
        self._cursor = cursor
        self.fetchone, self.fetchall = cursor.fetchone, cursor.fetchall

    def execute(self, sql: str, params: Sequence[Any] = ()) -> None:
        self._cursor.execute(_question_marks(sql), params)

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount


@lru_cache(maxsize=256)
def _question_marks(sql: str) -> str:
    return sql.replace("%s", "?")


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
    """Give a cursor of the connection (this thread's); on other databases, or with a query log, Django's own."""
    if on is None:
        on = connections[DEFAULT_DB_ALIAS]  # the proxy `django.db.connection` looks it up at every attribute
    if on.vendor != "sqlite" or on.queries_logged or on.execute_wrappers:
        with on.cursor() as cursor:
            yield cursor
        return
    on.ensure_connection()
    with on.wrap_database_errors:
        yield LeanCursor(on.connection.cursor())


def instant(at: datetime) -> Any:
    """Return the parameter for an aware instant: SQLite stores the text of a naive one in UTC."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ") if _is_sqlite() else at


@lru_cache(maxsize=1)
def _is_sqlite() -> bool:
    return connection.vendor == "sqlite"


def as_date(value: date | str) -> date:
    """Read a date column."""
    return date.fromisoformat(value) if isinstance(value, str) else value


def as_instant(value: datetime | str) -> datetime:
    """Read an instant column: SQLite gives text or a naive datetime in UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value if value.tzinfo else value.replace(tzinfo=UTC)
