"""What PostgreSQL needs: short waits while it is blocked, and which failures are worth another try."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmkeys.database.sql import Cursor, is_sqlite

_TRY_AGAIN = {"40P01", "40001"}  # a deadlock, or a transaction that could not be ordered among others


def begin(cursor: Cursor, wait_milliseconds: int | None) -> None:
    """Begin a transaction; wait for locks so long, or as long as the settings say."""
    cursor.execute("BEGIN")
    if wait_milliseconds is not None:
        cursor.execute(f"SET LOCAL lock_timeout = {wait_milliseconds}")


def is_worth_another_try(error: BaseException) -> bool:
    """Return whether the same transaction may succeed at once: others were in its way, and it was rolled back."""
    return getattr(error.__cause__, "sqlstate", None) in _TRY_AGAIN


def begin_snapshot(cursor: Cursor) -> None:
    """Begin a transaction that reads one state of the database."""
    cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def lock_rows(cursor: Cursor, rows: Iterable[tuple[str, Any]]) -> None:
    """Lock rows of tables by id, in the one order in which all do: by table, then by id; keys of theirs stay free."""
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
    """Lock every row of a table by id, for a transaction that does not know yet which of them it will change."""
    if not is_sqlite():
        cursor.execute(f"SELECT id FROM {table} ORDER BY id FOR NO KEY UPDATE")  # noqa: S608


def lock_table(cursor: Cursor, table: str, mode: str, *, wait_milliseconds: int | None = None) -> None:
    """Keep others out of a table until this transaction ends; SQLite's only writer is alone anyway."""
    if is_sqlite():
        return
    if wait_milliseconds is not None:
        cursor.execute(f"SET LOCAL lock_timeout = {wait_milliseconds}")
    cursor.execute(f"LOCK TABLE {table} IN {mode} MODE")


def take_turn(cursor: Cursor, number: int) -> None:
    """Wait for everybody who takes the same turn, until this transaction ends; SQLite's writers take turns anyway."""
    if not is_sqlite():
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
