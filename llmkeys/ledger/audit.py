"""The proof of the books: what the keys' counters say against what the rows and adjustments add up to.

Days whose rows were pruned are sealed: their daily totals, verified before, stand for the rows and what corrects them.

Two readings of one set of queries: `audit` reads everything from one snapshot on a connection of its own, so that
no writer waits for it; `fix` reads one key inside the transaction that corrects it. Money is nano-dollars.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from llmkeys import ledger
from llmkeys.database import postgresql, sqlite
from llmkeys.database.sql import as_date, connection_of_our_own, is_sqlite
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import Windows

DAILY_COST, MONTHLY_COST, TOTAL_COST = "daily cost", "monthly cost", "total cost"
HELD = "held amount"
REQUESTS = ("total requests", "successful requests", "failed requests")
DAY_TOTAL = "daily usage"


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure that is stored otherwise than its history says."""

    key_id: str
    key_name: str
    what: str
    stored: int
    expected: int
    day: date | None = None

    def __str__(self) -> str:
        show = str if self.what in REQUESTS else format_usd
        where = f" of {self.day}" if self.day else ""
        return (
            f"“{self.key_name}” ({self.key_id}): the {self.what}{where} is stored as {show(self.stored)}, "
            f"its rows and adjustments say {show(self.expected)} (difference {show(self.stored - self.expected)})"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit read and found. `uncounted`: keys whose request counters cannot be derived from rows."""

    keys: int
    rows: int
    differences: list[Difference]
    uncounted: list[str]


def audit() -> Report:
    """Read the whole history from one snapshot and return what does not add up."""
    with _snapshot() as cursor:
        return _compare(cursor)


def audit_through(cursor: CursorWrapper) -> Report:
    """Audit what another connection sees: a copy of the database, or a snapshot that is open already."""
    return _compare(cursor)


@contextmanager
def _snapshot() -> Iterator[CursorWrapper]:
    """Open a transaction that reads one state of the database and holds nobody up.

    A connection of its own, because ours begins its transactions as a writer on SQLite.
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
    """What a key's rows and adjustments add up to."""

    rows: int = 0
    held: int = 0
    requests: list[int] = field(default_factory=lambda: [0, 0, 0])
    total: int = 0
    by_day: dict[date, int] = field(default_factory=lambda: defaultdict(int))
    by_month: dict[date, int] = field(default_factory=lambda: defaultdict(int))
    spending: dict[date, int] = field(default_factory=lambda: defaultdict(int))  # what charts show: no resets
    imported: bool = False


_KEYS = """SELECT id, name, day, month, spent_day_nano, spent_month_nano, spent_total_nano, held_nano,
   total_requests, successful_requests, failed_requests FROM llmkeys_apikey {where}"""

# A released attempt that was never sent has no status; it is counted nowhere.
_SENT = "(state IN ('SETTLED', 'LOST') OR (state = 'RELEASED' AND http_status IS NOT NULL))"

_ROWS = f"""SELECT key_id, day, month, COUNT(*),
   SUM(CASE WHEN state IN ('SETTLED', 'LOST') THEN cost_nano ELSE 0 END),
   SUM(CASE WHEN state = 'HELD' THEN hold_nano ELSE 0 END),
   SUM(CASE WHEN {_SENT} THEN 1 ELSE 0 END),
   SUM(CASE WHEN success AND {_SENT} THEN 1 ELSE 0 END),
   SUM(CASE WHEN NOT success AND {_SENT} THEN 1 ELSE 0 END)
   FROM llmkeys_usagerecord {{where}} GROUP BY key_id, day, month"""  # noqa: S608  (constants of this module)

_ADJUSTMENTS = """SELECT key_id, day, month, SUM(day_nano), SUM(month_nano), SUM(total_nano),
   SUM(CASE WHEN usage_id IS NOT NULL THEN total_nano ELSE 0 END),
   SUM(CASE WHEN kind = 'opening' THEN 1 ELSE 0 END)
   FROM llmkeys_adjustment {where} GROUP BY key_id, day, month"""

_DAILY = """SELECT key_id, day, SUM(cost_nano), SUM(requests), SUM(successful), SUM(failed)
   FROM llmkeys_dailyusage {where} GROUP BY key_id, day"""


def _sealed_days(cursor: CursorWrapper) -> frozenset[date]:
    cursor.execute("SELECT day FROM llmkeys_sealedday")
    return frozenset(as_date(row[0]) for row in cursor.fetchall())


def _read(cursor: CursorWrapper, query: str, column: str, key_id: str | None) -> list[tuple]:
    """Run one of the queries above for all keys, or for one."""
    cursor.execute(query.format(where=f"WHERE {column} = %s" if key_id else ""), [key_id] if key_id else [])
    return cursor.fetchall()


def _histories(cursor: CursorWrapper, key_id: str | None, sealed: frozenset[date]) -> dict[str, _History]:
    found: dict[str, _History] = defaultdict(_History)
    for row in _read(cursor, _ROWS, "key_id", key_id):
        _add_rows(found[row[0]], row, sealed)
    for row in _read(cursor, _ADJUSTMENTS, "key_id", key_id):
        _add_adjustments(found[row[0]], row, sealed)
    return found


def _add_rows(history: _History, row: tuple, sealed: frozenset[date]) -> None:
    _, day, month, count, cost, held, *requests = row
    day, month = as_date(day), as_date(month)
    history.rows += count
    history.held += int(held)
    if day not in sealed:  # what is left of a sealed day is in its totals
        _add_spending(history, day, month, int(cost), requests)


def _add_spending(history: _History, day: date, month: date, cost: int, requests: Iterable[int]) -> None:
    history.requests = [before + int(now) for before, now in zip(history.requests, requests, strict=True)]
    history.total += cost
    history.by_day[day] += cost
    history.by_month[month] += cost
    history.spending[day] += cost


def _add_adjustments(history: _History, row: tuple, sealed: frozenset[date]) -> None:
    _, day, month, *amounts, of_rows, openings = row
    day, month, of_rows = as_date(day), as_date(month), int(of_rows)
    in_totals = of_rows if day in sealed else 0  # a row's correction moves all three windows, and the day's totals
    day_nano, month_nano, total_nano = (int(amount) - in_totals for amount in amounts)
    history.total += total_nano
    history.by_day[day] += day_nano
    history.by_month[month] += month_nano
    history.spending[day] += of_rows - in_totals
    history.imported |= bool(openings)


def _compare(cursor: CursorWrapper, key_id: str | None = None) -> Report:
    keys = _read(cursor, _KEYS, "id", key_id)
    sealed = _sealed_days(cursor)
    histories = _histories(cursor, key_id, sealed)
    stored_days: dict[str, dict[date, int]] = defaultdict(dict)
    for owner, day, cost, *requests in _read(cursor, _DAILY, "key_id", key_id):
        day = as_date(day)
        stored_days[owner][day] = int(cost)
        if day in sealed:
            _add_spending(histories[owner], day, day.replace(day=1), int(cost), requests)
    differences = []
    for key in keys:
        history = histories[key[0]]
        differences += _counter_differences(key, history)
        differences += _day_differences(key, history, stored_days[key[0]])
    return Report(
        keys=len(keys),
        rows=sum(history.rows for history in histories.values()),
        differences=differences,
        uncounted=[key[1] for key in keys if histories[key[0]].imported],
    )


def _counter_differences(key: tuple, history: _History) -> list[Difference]:
    key_id, name, day, month, *stored = key
    expected = [history.by_day[as_date(day)], history.by_month[as_date(month)], history.total, history.held]
    whats = [DAILY_COST, MONTHLY_COST, TOTAL_COST, HELD]
    days = [as_date(day), None, None, None]
    if not history.imported:
        expected, whats, days = [*expected, *history.requests], [*whats, *REQUESTS], [*days, None, None, None]
    return [
        Difference(key_id, name, what, have, want, of_day)
        for what, have, want, of_day in zip(whats, stored, expected, days, strict=False)
        if have != want
    ]


def _day_differences(key: tuple, history: _History, stored: dict[date, int]) -> list[Difference]:
    days = sorted({*stored, *history.spending})
    return [
        Difference(key[0], key[1], DAY_TOTAL, stored.get(day, 0), history.spending[day], day)
        for day in days
        if stored.get(day, 0) != history.spending[day]
    ]


# --- correcting -------------------------------------------------------------------------------------------------------


def fix(report: Report, *, at: datetime, actor: str) -> list[Difference]:
    """Correct what a report named and return what was corrected; one transaction and one event for each key.

    Costs: the budget counters stay as they are, and an `audit` adjustment of the difference joins the history, so
    that no budget moves unseen. The held amount, the request counters and the daily totals are derived figures:
    they are set to what the rows say. Everything is read anew inside the transaction.
    """
    corrected = []
    for key_id in dict.fromkeys(difference.key_id for difference in report.differences):
        with transaction.atomic(), connection.cursor() as cursor:
            corrected += _fix_key(cursor, key_id, at, actor)
    return corrected


def _fix_key(cursor: CursorWrapper, key_id: str, at: datetime, actor: str) -> list[Difference]:
    postgresql.lock_table(cursor, "llmkeys_sealedday", "SHARE")  # no day may be sealed while it is added up anew
    # An UPDATE that changes nothing keeps every other writer of this key out until we are done.
    cursor.execute("UPDATE llmkeys_apikey SET held_nano = held_nano WHERE id = %s RETURNING name, day, month", [key_id])
    name, day, month = cursor.fetchone()
    found = _compare(cursor, key_id).differences
    off = {difference.what: difference for difference in found}
    windows = Windows(as_date(day), as_date(month))
    _fix_costs(cursor, key_id, windows, off, at, actor)
    _fix_counters(cursor, key_id, off)
    for difference in found:
        if difference.what == DAY_TOTAL:
            _rebuild_day(cursor, key_id, difference.day)
    if found:
        words = f"The audit corrected “{name}”: " + "; ".join(_short(one) for one in found)
        ledger.add_event(cursor, "changed", key_id, words, at, actor=actor)
    return found


def _short(difference: Difference) -> str:
    return str(difference).split(": the ", 1)[1]


def _fix_costs(
    cursor: CursorWrapper, key_id: str, windows: Windows, off: dict[str, Difference], at: datetime, actor: str
) -> None:
    """Explain the counters by an adjustment: they go back to their history first, and the adjustment moves them."""
    amounts = tuple(
        off[what].stored - off[what].expected if what in off else 0 for what in (DAILY_COST, MONTHLY_COST, TOTAL_COST)
    )
    if not any(amounts):
        return
    cursor.execute(
        """UPDATE llmkeys_apikey SET spent_day_nano = spent_day_nano - %s, spent_month_nano = spent_month_nano - %s,
             spent_total_nano = spent_total_nano - %s WHERE id = %s""",
        [*amounts, key_id],
    )
    reason = "Audit: the stored costs differed from their rows and adjustments by this amount."
    ledger.adjust(cursor, "audit", key_id, windows, amounts, at, by=actor, reason=reason)


_COLUMNS = dict(
    zip((HELD, *REQUESTS), ("held_nano", "total_requests", "successful_requests", "failed_requests"), strict=True)
)


def _fix_counters(cursor: CursorWrapper, key_id: str, off: dict[str, Difference]) -> None:
    for what, column in _COLUMNS.items():
        if what in off:
            cursor.execute(
                f"UPDATE llmkeys_apikey SET {column} = %s WHERE id = %s",  # noqa: S608  (one of four names)
                [off[what].expected, key_id],
            )


_REBUILD = f"""INSERT INTO llmkeys_dailyusage
  (day, key_id, model, token_name, requests, successful, failed, input_tokens, output_tokens, cost_nano)
  SELECT day, key_id, model, token_name, COUNT(*),
         SUM(CASE WHEN success THEN 1 ELSE 0 END), SUM(CASE WHEN NOT success THEN 1 ELSE 0 END),
         COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0),
         SUM(cost_nano + COALESCE(
           (SELECT SUM(a.total_nano) FROM llmkeys_adjustment a WHERE a.usage_id = llmkeys_usagerecord.id), 0))
    FROM llmkeys_usagerecord WHERE key_id = %s AND day = %s AND {_SENT}
   GROUP BY day, key_id, model, token_name"""  # noqa: S608  (constants of this module)


def _rebuild_day(cursor: CursorWrapper, key_id: str, day: date) -> None:
    """Add a key's day up anew from its rows; never one whose rows were pruned."""
    if day in _sealed_days(cursor):
        return
    cursor.execute("DELETE FROM llmkeys_dailyusage WHERE key_id = %s AND day = %s", [key_id, str(day)])
    cursor.execute(_REBUILD, [key_id, str(day)])
