"""Closes past days by writing `DayTotal` and `RunningTotal`: a few at a time, when a summary needs them.

No scheduled job does this. A day is closed two days later at the earliest; a later change reopens it (by a trigger),
and the next summary closes it again. Nothing depends on it: days that are not closed are read from the daily totals
themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Func, Max, Min

from llmkeys.database import postgresql
from llmkeys.database.sql import is_sqlite
from llmkeys.key_state import current_windows
from llmkeys.models import ClosedDay, DailyUsage

ONE_DAY = timedelta(days=1)
MANY_DAYS = 500  # more than one statement should list
STEP_DAYS = 4  # from one running total to the next
_AT_ONCE_DAYS = 16  # that one transaction adds to a running total, while writers wait
PATIENCE_SECONDS = 0.2  # how long one summary may spend on closing days
_RETRY_SECONDS = 60.0  # after the database could not be written

_retry_at = 0.0

_SUMS = "requests, successful, failed, input_tokens, output_tokens, cost_nano, estimated_nano, lost_nano"
_SUMMED = ", ".join(f"SUM({name})" for name in _SUMS.split(", "))

_CLOSE = f"""INSERT INTO llmkeys_daytotal (day, provider, model, token_name, token_id, {_SUMS})
  SELECT d.day, k.provider, d.model, d.token_name, d.token_id, {_SUMMED.replace("SUM(", "SUM(d.")}
    FROM llmkeys_dailyusage d JOIN llmkeys_apikey k ON k.id = d.key_id WHERE d.day = %s
   GROUP BY d.day, k.provider, d.model, d.token_name, d.token_id"""  # noqa: S608  (constants of this module, here and below)

_RUN_ON = f"""INSERT INTO llmkeys_runningtotal (day, key_id, model, token_name, token_id, {_SUMS})
  SELECT {{day}}, key_id, model, token_name, token_id, {_SUMMED}
    FROM (SELECT key_id, model, token_name, token_id, {_SUMS} FROM llmkeys_runningtotal WHERE day = %s
          UNION ALL
          SELECT key_id, model, token_name, token_id, {_SUMS} FROM llmkeys_dailyusage WHERE day > %s AND day <= %s) t
   GROUP BY key_id, model, token_name, token_id"""  # noqa: S608


class Plain(Func):
    """The same value, but hidden from SQLite's indexes: without statistics it would choose the wrong one."""

    template = "%(expressions)s"
    arity = 1

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="+%(expressions)s", **context)


def first_day() -> date | None:
    """Return the first day that has totals."""
    return DailyUsage.objects.aggregate(first=Min("day"))["first"]


def known_days() -> tuple[date, date] | None:
    """Return the first and the last day that have totals."""
    # Two queries are one step each in the index; a single one would read all of it.
    first = first_day()
    return None if first is None else (first, DailyUsage.objects.aggregate(last=Max("day"))["last"])


def last_closable(at: datetime) -> date:
    return current_windows(at).day - 2 * ONE_DAY


def days_between(first: date, last: date) -> Iterator[date]:
    while first <= last:
        yield first
        first += ONE_DAY


def open_days(first: date, last: date, *, at: datetime) -> list[date]:
    """Return the days of a span that are still not closed, after closing those that can be closed quickly."""
    closed = set(ClosedDay.objects.filter(day__range=(first, last)).values_list("day", flat=True))
    left = [day for day in days_between(first, last) if day not in closed]
    until, closable = time.monotonic() + PATIENCE_SECONDS, last_closable(at)
    for day in [day for day in reversed(left) if day <= closable]:
        if time.monotonic() > until or not _written(_close, day):
            break
        left.remove(day)
    return left


def running_until(day: date, *, first: date, at: datetime) -> date | None:
    """Return the last day up to `day` that has valid running totals, after adding those that can be added quickly."""
    day = min(day, last_closable(at))
    wanted = day - (day.toordinal() % STEP_DAYS) * ONE_DAY
    until = time.monotonic() + PATIENCE_SECONDS
    found = _last_running(wanted)
    while wanted >= first and found != wanted and time.monotonic() < until:
        following = min(wanted, (found or first - ONE_DAY) + _AT_ONCE_DAYS * ONE_DAY)
        following -= (following.toordinal() % STEP_DAYS) * ONE_DAY
        if not _written(_run_on, following, first):
            break
        found = following
    return found


def _last_running(day: date) -> date | None:
    return ClosedDay.objects.filter(running=True, day__lte=day).aggregate(last=Max("day"))["last"]


def _written(work: Callable[..., None], *arguments: date) -> bool:
    """Do the work in its own transaction; return False if the database cannot be written: summaries do not need it."""
    global _retry_at
    if time.monotonic() < _retry_at:
        return False
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            _keep_writers_out(cursor)
            work(cursor, *arguments)
    except DatabaseError:
        _retry_at = time.monotonic() + _RETRY_SECONDS
        return False
    return True


def _keep_writers_out(cursor: CursorWrapper) -> None:
    """Let no daily total change between our reading and our commit; on SQLite the transaction ensures that."""
    postgresql.lock_table(cursor, "llmkeys_dailyusage", "SHARE ROW EXCLUSIVE", wait_milliseconds=500)


def _close(cursor: CursorWrapper, day: date) -> None:
    cursor.execute("DELETE FROM llmkeys_daytotal WHERE day = %s", [str(day)])
    cursor.execute(_CLOSE, [str(day)])
    cursor.execute("INSERT INTO llmkeys_closedday (day, running) VALUES (%s, %s) ON CONFLICT DO NOTHING", [day, False])


def _run_on(cursor: CursorWrapper, day: date, first: date) -> None:
    """Write the running totals of `day`: those of the last day that has some, plus the days since."""
    before = _last_running(day - ONE_DAY)
    since = before or first - ONE_DAY
    cursor.execute("DELETE FROM llmkeys_runningtotal WHERE day = %s", [str(day)])
    literal = f"'{day}'" if is_sqlite() else f"CAST('{day}' AS DATE)"
    cursor.execute(_RUN_ON.format(day=literal), [str(before or date.min), str(since), str(day)])
    _close(cursor, day)
    cursor.execute("UPDATE llmkeys_closedday SET running = %s WHERE day = %s", [True, str(day)])
