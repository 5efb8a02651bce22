"""The audit: compares the counters of keys and tokens with what their rows and adjustments add up to.

Days whose rows were pruned are sealed: their daily totals, checked before pruning, replace the rows and their
corrections.

The same queries are run in two ways: `audit` reads everything from one snapshot on a connection of its own, so that
no writer waits for it; `fix` reads one account inside the transaction that corrects it. Money is in nano-dollars.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, NamedTuple

from django.db import connection, transaction

from llmkeys.database import postgresql, sqlite
from llmkeys.database.sql import Cursor, as_date, connection_of_our_own, is_sqlite
from llmkeys.ledger import accounts
from llmkeys.ledger.accounts import KEYS, TOKENS, Account, AccountTable
from llmkeys.ledger.corrections import (
    COST_OF_ROW,
    ESTIMATED_OF_ROW,
    FIRST_ESTIMATED,
    FIRST_LOST,
    LOST_OF_ROW,
    adjust,
)
from llmkeys.ledger.events import add_event
from llmkeys.ledger.records import SENT
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import DAY, MONTH, TOTAL, Windows

DAILY_COST, MONTHLY_COST, TOTAL_COST = "daily cost", "monthly cost", "total cost"
HELD = "held amount"
REQUESTS = ("total requests", "successful requests", "failed requests")
DAY_TOTAL = "daily usage"
ESTIMATED, LOST = "estimated part of the daily usage", "lost part of the daily usage"
_OF_DAYS = (DAY_TOTAL, ESTIMATED, LOST)


@dataclass(frozen=True, slots=True)
class Difference:
    """A stored figure that differs from what its history says."""

    key_id: str
    key_name: str
    what: str
    stored: int
    expected: int
    day: date | None = None
    account: Account | None = None

    def __str__(self) -> str:
        show = str if self.what in REQUESTS else format_usd
        where = f" of {self.day}" if self.day else ""
        noun = "The access token " if self.account is not None and self.account.of is TOKENS else ""
        return (
            f"{noun}“{self.key_name}” ({self.key_id}): the {self.what}{where} is stored as {show(self.stored)}, "
            f"its rows and adjustments say {show(self.expected)} (difference {show(self.stored - self.expected)})"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit read and found. `uncounted` are the keys whose request counters cannot be derived from rows."""

    keys: int
    rows: int
    differences: list[Difference]
    uncounted: list[str]


def audit() -> Report:
    """Read the whole history from one snapshot and return what does not add up."""
    with _snapshot() as cursor:
        return _compare(cursor)


def audit_through(cursor: Cursor) -> Report:
    """Audit what another connection sees: a copy of the database, or a snapshot that is already open."""
    return _compare(cursor)


@contextmanager
def _snapshot() -> Iterator[Cursor]:
    """Open a transaction that sees one state of the database and blocks no writer.

    It needs a connection of its own, because Django's begins every transaction as a writer on SQLite.
    """
    own = connection_of_our_own()
    try:
        with own.cursor() as cursor:
            (sqlite if is_sqlite() else postgresql).begin_snapshot(cursor)
            yield cursor
            cursor.execute("ROLLBACK")
    finally:
        own.close()


# --- what is stored, and what the history says ------------------------------------------------------------------------


@dataclass(slots=True)
class _History:
    """What an account's rows and adjustments add up to."""

    rows: int = 0
    held: int = 0
    requests: list[int] = field(default_factory=lambda: [0, 0, 0])
    total: int = 0
    by_day: dict[date, int] = field(default_factory=lambda: defaultdict(int))
    by_month: dict[date, int] = field(default_factory=lambda: defaultdict(int))
    # What charts show, without resets: the cost, and its estimated and lost parts.
    spending: dict[date, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    imported: bool = False


class _Stored(NamedTuple):
    id: Any
    name: str
    day: Any
    month: Any
    spent_day: int
    spent_month: int
    spent_total: int
    held: int
    total_requests: int
    successful_requests: int
    failed_requests: int


class _RowSum(NamedTuple):
    account_id: Any
    day: Any
    month: Any
    rows: int
    cost: int
    held: int
    sent: int
    good: int
    bad: int
    estimated: int
    lost: int


class _AdjustmentSum(NamedTuple):
    account_id: Any
    day: Any
    month: Any
    day_nano: int
    month_nano: int
    total_nano: int
    of_rows: int
    openings: int


class _DaySum(NamedTuple):
    account_id: Any
    day: Any
    cost: int
    sent: int
    good: int
    bad: int
    estimated: int
    lost: int


_STORED = """SELECT id, name, day, month, spent_day_nano, spent_month_nano, spent_total_nano, held_nano,
   total_requests, successful_requests, failed_requests FROM {table} {where}"""

_ROWS = f"""SELECT {{column}}, day, month, COUNT(*),
   SUM(CASE WHEN state IN ('SETTLED', 'LOST') THEN cost_nano ELSE 0 END),
   SUM(CASE WHEN state = 'HELD' THEN hold_nano ELSE 0 END),
   SUM(CASE WHEN {SENT} THEN 1 ELSE 0 END),
   SUM(CASE WHEN success AND {SENT} THEN 1 ELSE 0 END),
   SUM(CASE WHEN NOT success AND {SENT} THEN 1 ELSE 0 END), SUM({FIRST_ESTIMATED}), SUM({FIRST_LOST})
   FROM llmkeys_usagerecord u {{where}} GROUP BY {{column}}, day, month"""

_ADJUSTMENTS = """SELECT {column}, day, month, SUM(day_nano), SUM(month_nano), SUM(total_nano), SUM(cost_nano),
   SUM(CASE WHEN kind = 'opening' THEN 1 ELSE 0 END)
   FROM llmkeys_adjustment {where} GROUP BY {column}, day, month"""

# How much the corrections of rows change the estimated and the lost part.
_MOVED_PARTS = f"""SELECT {{column}}, day,
   SUM({ESTIMATED_OF_ROW} - {FIRST_ESTIMATED}), SUM({LOST_OF_ROW} - {FIRST_LOST})
   FROM llmkeys_usagerecord u {{where}}
    AND id IN (SELECT usage_id FROM llmkeys_adjustment WHERE usage_id IS NOT NULL) GROUP BY {{column}}, day"""

_DAILY = """SELECT {column}, day, SUM(cost_nano), SUM(requests), SUM(successful), SUM(failed), SUM(estimated_nano),
   SUM(lost_nano)
   FROM llmkeys_dailyusage {where} GROUP BY {column}, day"""


def _sealed_days(cursor: Cursor) -> frozenset[date]:
    cursor.execute("SELECT day FROM llmkeys_sealedday")
    return frozenset(as_date(day) for (day,) in cursor.fetchall())


def _read(cursor: Cursor, query: str, of: AccountTable, account: Account | None, column: str) -> list[Any]:
    """Run one of the queries above for all accounts of a table, or for one account."""
    where = f"WHERE {column} = %s" if account else f"WHERE {column} IS NOT NULL"
    cursor.execute(query.format(table=of.table, column=of.column, where=where), [account.id] if account else [])
    return cursor.fetchall()


def _histories(
    cursor: Cursor, of: AccountTable, account: Account | None, sealed: frozenset[date]
) -> dict[Any, _History]:
    found: dict[Any, _History] = defaultdict(_History)
    for row in map(_RowSum._make, _read(cursor, _ROWS, of, account, of.column)):
        history = found[row.account_id]
        history.rows += row.rows
        history.held += int(row.held)
        if as_date(row.day) not in sealed:  # the remaining rows of a sealed day are in its totals
            _add_spending(history, row, as_date(row.month))
    for adjusted in map(_AdjustmentSum._make, _read(cursor, _ADJUSTMENTS, of, account, of.column)):
        _add_adjustments(found[adjusted.account_id], adjusted, sealed)
    for account_id, day, *moved in _read(cursor, _MOVED_PARTS, of, account, of.column):
        if as_date(day) not in sealed:
            _add_to_day(found[account_id], as_date(day), 0, *moved)
    return found


def _add_spending(history: _History, row: _RowSum | _DaySum, month: date) -> None:
    day, cost, requests = as_date(row.day), int(row.cost), (row.sent, row.good, row.bad)
    history.requests = [before + int(now) for before, now in zip(history.requests, requests, strict=True)]
    history.total += cost
    history.by_day[day] += cost
    history.by_month[month] += cost
    _add_to_day(history, day, cost, row.estimated, row.lost)


def _add_to_day(history: _History, day: date, *amounts: int) -> None:
    history.spending[day] = [have + int(more) for have, more in zip(history.spending[day], amounts, strict=True)]


def _add_adjustments(history: _History, row: _AdjustmentSum, sealed: frozenset[date]) -> None:
    day, of_rows = as_date(row.day), int(row.of_rows)
    in_totals = of_rows if day in sealed else 0  # a row's correction is in its day's totals
    history.total += int(row.total_nano) - in_totals
    history.by_day[day] += int(row.day_nano) - in_totals
    history.by_month[as_date(row.month)] += int(row.month_nano) - in_totals
    _add_to_day(history, day, of_rows - in_totals, 0, 0)
    history.imported |= bool(row.openings)


def _compare(cursor: Cursor, account: Account | None = None) -> Report:
    """Compare all accounts of all tables, or one account."""
    sealed, report = _sealed_days(cursor), Report(0, 0, [], [])
    for of in accounts.TABLES:
        if account is None or account.of is of:
            report = _with_table(cursor, report, of, account, sealed)
    return report


def _with_table(
    cursor: Cursor, report: Report, of: AccountTable, account: Account | None, sealed: frozenset[date]
) -> Report:
    stored = [_Stored._make(row) for row in _read(cursor, _STORED, of, account, "id")]
    histories = _histories(cursor, of, account, sealed)
    days: dict[Any, dict[date, list[int]]] = defaultdict(dict)
    for row in map(_DaySum._make, _read(cursor, _DAILY, of, account, of.column)):
        day = as_date(row.day)
        days[row.account_id][day] = [int(row.cost), int(row.estimated), int(row.lost)]
        if day in sealed:
            _add_spending(histories[row.account_id], row, day.replace(day=1))
    differences = []
    for one in stored:
        history, who = histories[one.id], Account(of, one.id)
        differences += _counter_differences(who, one, history)
        if of is KEYS:  # a daily total belongs to a key and a token: checking it once is enough
            differences += _day_differences(who, one, history, days[one.id])
    is_keys = of is KEYS
    return Report(
        keys=report.keys + (len(stored) if is_keys else 0),
        rows=report.rows + (sum(history.rows for history in histories.values()) if is_keys else 0),
        differences=[*report.differences, *differences],
        uncounted=[*report.uncounted, *(one.name for one in stored if histories[one.id].imported)],
    )


def _counter_differences(who: Account, stored: _Stored, history: _History) -> list[Difference]:
    day, month = as_date(stored.day), as_date(stored.month)
    figures = [
        (DAILY_COST, stored.spent_day, history.by_day[day], day),
        (MONTHLY_COST, stored.spent_month, history.by_month[month], None),
        (TOTAL_COST, stored.spent_total, history.total, None),
        (HELD, stored.held, history.held, None),
    ]
    if not history.imported:
        have = (stored.total_requests, stored.successful_requests, stored.failed_requests)
        figures += [(what, one, want, None) for what, one, want in zip(REQUESTS, have, history.requests, strict=True)]
    return [
        Difference(str(who.id), stored.name, what, have_it, want, of_day, who)
        for what, have_it, want, of_day in figures
        if have_it != want
    ]


def _day_differences(who: Account, one: _Stored, history: _History, stored: dict[date, list[int]]) -> list[Difference]:
    return [
        Difference(str(who.id), one.name, what, have, want, day, who)
        for day in sorted({*stored, *history.spending})
        for what, have, want in zip(_OF_DAYS, stored.get(day, (0, 0, 0)), history.spending[day], strict=True)
        if have != want
    ]


# --- correcting -------------------------------------------------------------------------------------------------------


def fix(report: Report, *, at: datetime, actor: str) -> list[Difference]:
    """Correct what a report found and return what was corrected; one transaction and one event per account.

    The budget counters stay as they are, and an `audit` adjustment of the difference is added to the history, so that
    no budget changes unnoticed. The held amount, the request counters and the daily totals are derived figures, which
    are set to what the rows say. Everything is read again inside the transaction.
    """
    corrected = []
    for account in dict.fromkeys(difference.account for difference in report.differences):
        if account is not None:
            with transaction.atomic(), connection.cursor() as cursor:
                corrected += _fix(cursor, account, at, actor)
    return corrected


def _fix(cursor: Cursor, account: Account, at: datetime, actor: str) -> list[Difference]:
    postgresql.lock_table(cursor, "llmkeys_sealedday", "SHARE")  # no day may be sealed while it is recomputed
    stored = accounts.lock(cursor, account)  # keeps every other writer of this account out until we are done
    if stored is None:
        return []
    found = _compare(cursor, account).differences
    off = {difference.what: difference for difference in found}
    _fix_costs(cursor, account, stored.windows, off, at, actor)
    _fix_counters(cursor, account, off)
    for day in {difference.day for difference in found if difference.what in _OF_DAYS}:
        if day is not None:
            _rebuild_day(cursor, account.id, day)
    if found:
        words = f"The audit corrected “{stored.name}”: " + "; ".join(_short(one) for one in found)
        add_event(cursor, "changed", account.key_id, words, at, token_id=account.token_id, actor=actor)
    return found


def _short(difference: Difference) -> str:
    return str(difference).split(": the ", 1)[1]


def _fix_costs(
    cursor: Cursor, account: Account, windows: Windows, off: dict[str, Difference], at: datetime, actor: str
) -> None:
    """Explain the counters by an adjustment: set them to what the history says, and let the adjustment restore them."""
    whats = {DAY: DAILY_COST, MONTH: MONTHLY_COST, TOTAL: TOTAL_COST}
    amounts = {window: off[what].stored - off[what].expected if what in off else 0 for window, what in whats.items()}
    if any(amounts.values()):
        accounts.move(cursor, account, windows, {window: -amount for window, amount in amounts.items()})
        reason = "Audit: the stored costs differed from their rows and adjustments by this amount."
        adjust(cursor, "audit", account, windows, amounts, at, by=actor, reason=reason)


_COLUMNS = dict(
    zip((HELD, *REQUESTS), ("held_nano", "total_requests", "successful_requests", "failed_requests"), strict=True)
)


def _fix_counters(cursor: Cursor, account: Account, off: dict[str, Difference]) -> None:
    for what, column in _COLUMNS.items():
        if what in off:
            cursor.execute(
                f"UPDATE {account.of.table} SET {column} = %s WHERE id = %s",
                [off[what].expected, account.id],
            )


_REBUILD = f"""INSERT INTO llmkeys_dailyusage
  (day, key_id, model, token_name, token_id, requests, successful, failed, input_tokens, output_tokens, cost_nano,
   estimated_nano, lost_nano)
  SELECT day, key_id, model, token_name, token_id, COUNT(*),
         SUM(CASE WHEN success THEN 1 ELSE 0 END), SUM(CASE WHEN NOT success THEN 1 ELSE 0 END),
         COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0),
         SUM({COST_OF_ROW}), SUM({ESTIMATED_OF_ROW}), SUM({LOST_OF_ROW})
    FROM llmkeys_usagerecord u WHERE key_id = %s AND day = %s AND {SENT}
   GROUP BY day, key_id, model, token_name, token_id"""


def _rebuild_day(cursor: Cursor, key_id: str, day: date) -> None:
    """Recompute the daily totals of a key from its rows, unless the rows of that day were pruned."""
    if day in _sealed_days(cursor):
        return
    cursor.execute("DELETE FROM llmkeys_dailyusage WHERE key_id = %s AND day = %s", [key_id, str(day)])
    cursor.execute(_REBUILD, [key_id, str(day)])
