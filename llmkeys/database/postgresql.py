"""What PostgreSQL needs: lock timeouts, a fixed order of locks, and which failures are worth a retry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmkeys.database.sql import Cursor, is_sqlite

_TRY_AGAIN = {"40P01", "40001"}  # a deadlock, or a serialisation failure


def begin(cursor: Cursor, wait_milliseconds: int | None) -> None:
    """Begin a transaction; its lock timeout is `wait_milliseconds`, or None for the one in the settings."""
    cursor.execute("BEGIN")
    if wait_milliseconds is not None:
        cursor.execute(f"SET LOCAL lock_timeout = {wait_milliseconds}")


def is_worth_another_try(error: BaseException) -> bool:
    """Return whether the transaction was rolled back because of others and may succeed if it is repeated."""
    return getattr(error.__cause__, "sqlstate", None) in _TRY_AGAIN


def begin_snapshot(cursor: Cursor) -> None:
    """Begin a transaction that sees one state of the database."""
    cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def lock_rows(cursor: Cursor, rows: Iterable[tuple[str, Any]]) -> None:
    """Lock rows in a fixed order, by table and id, which prevents deadlocks; foreign keys may still refer to them."""
    if is_sqlite():
        return
    by_table: dict[str, set[Any]] = {}
    for table, row_id in rows:
        by_table.setdefault(table, set()).add(row_id)
    for table in sorted(by_table):
        ids = sorted(by_table[table])
        marks = ", ".join(["%s"] * len(ids))
        cursor.execute(f"SELECT id FROM {table} WHERE id IN ({marks}) ORDER BY id FOR NO KEY UPDATE", ids)  # noqa: S608


def lock_all_rows(cursor: Cursor, table: str) -> None:
    """Lock all rows of a table in the order of ids, for a transaction that does not know yet which it will change."""
    if not is_sqlite():
        cursor.execute(f"SELECT id FROM {table} ORDER BY id FOR NO KEY UPDATE")  # noqa: S608


def lock_table(cursor: Cursor, table: str, mode: str, *, wait_milliseconds: int | None = None) -> None:
    """Lock a table until this transaction ends; does nothing on SQLite, which has one writer at a time."""
    if is_sqlite():
        return
    if wait_milliseconds is not None:
        cursor.execute(f"SET LOCAL lock_timeout = {wait_milliseconds}")
    cursor.execute(f"LOCK TABLE {table} IN {mode} MODE")


def take_turn(cursor: Cursor, number: int) -> None:
    """Take an advisory lock until this transaction ends; does nothing on SQLite, which has one writer at a time."""
    if not is_sqlite():
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
