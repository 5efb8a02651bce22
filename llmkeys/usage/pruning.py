"""Retention: usage rows are deleted by whole days, after their day's totals were verified and sealed; totals stay.

A day is sealed if nothing has corrected it since it was verified, and from then on the audit trusts its totals: a prune
that is killed halfway continues the next night. Rows that a correction refers to stay. Rows are deleted a thousand at a
time, in short transactions, so that requests are served in between.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import IntegrityError, connection
from django.db.backends.utils import CursorWrapper
from django_q.models import Failure

from llmkeys import ledger
from llmkeys.database import writer
from llmkeys.database.sql import as_date, as_instant, instant
from llmkeys.key_state import current_windows
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import day_end, day_start

CHUNK_ROWS = 1000
AT_MOST_SECONDS = 120  # the worker has other schedules to run; the rest is done the next night
KEEP_FAILED_AUTHENTICATION = timedelta(hours=1)
KEEP_TASK_FAILURES = timedelta(days=31)
_MOST_TRIES = 3


@dataclass(slots=True)
class Pruned:
    """What one run did. `refused` says which days were left alone because their totals differ from their rows."""

    rows: int = 0
    days: list[str] = field(default_factory=list)
    events: int = 0
    alerts: int = 0
    waiting: list[str] = field(default_factory=list)  # days with an open hold or new corrections: the next night
    refused: list[str] = field(default_factory=list)
    complete: bool = True

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def prune_usage(at: datetime) -> Pruned:
    """Delete what is past its retention period; return what was deleted and what had to stay."""
    done, deadline = Pruned(), time.monotonic() + AT_MOST_SECONDS
    long_ago = at - ledger.KEEP_EVENTS
    done.events = _prune_old("llmkeys_keyevent", "created_at", long_ago, keeping=_WHO_CHOSE_THE_DEFAULT)
    done.alerts = _prune_old("llmkeys_alert", "created_at", long_ago)
    _prune_old("llmkeys_failedauthentication", "at", at - KEEP_FAILED_AUTHENTICATION)
    Failure.objects.filter(stopped__lt=at - KEEP_TASK_FAILURES).delete()
    Session.objects.filter(expire_date__lt=at).delete()
    for day in _days_with_rows(_first_kept(at)):
        if time.monotonic() > deadline:
            done.complete = False
            break
        _prune_day(day, at, done, deadline)
    if done.rows:
        _add_event(done, at)
    return done


def _first_kept(at: datetime) -> date:
    """Return the first day whose rows stay, by the retention period; rows of the current month always stay."""
    now = current_windows(at)
    return min(now.day - timedelta(days=settings.USAGE_RETENTION_DAYS), now.month)


def _days_with_rows(before: date) -> Iterator[date]:
    """Yield the days before `before` that have rows, oldest first, with one look at the index by time for each.

    A row's budget day may be the day after its timestamp's (if a machine's clock was slow), so both are considered.
    """
    seen: set[date] = set()
    since = datetime.min.replace(tzinfo=UTC)
    while True:
        row = _first_row(since)
        if row is None:
            return
        charged, made = row
        of_clock = current_windows(made).day
        for day in sorted({charged, of_clock} - seen):
            seen.add(day)
            if day < before:
                yield day
        if of_clock >= before:
            return
        since = day_end(of_clock, settings.TIME_ZONE)


def _first_row(since: datetime) -> tuple[date, datetime] | None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT day, created_at FROM llmkeys_usagerecord WHERE created_at >= %s ORDER BY created_at LIMIT 1",
            [instant(since)],
        )
        row = cursor.fetchone()
    return (as_date(row[0]), as_instant(row[1])) if row else None


# --- one day ----------------------------------------------------------------------------------------------------------

# A row's timestamp is at most a day or two away from its budget day, even after a change of the time zone.
_AROUND = timedelta(days=3)
_OF_DAY = "day = %s AND created_at >= %s AND created_at < %s"


def _span(day: date) -> list[Any]:
    """Return the parameters of `_OF_DAY`."""
    first = day_start(day, settings.TIME_ZONE)
    return [str(day), instant(first - _AROUND), instant(first + timedelta(days=1) + _AROUND)]


def _prune_day(day: date, at: datetime, done: Pruned, deadline: float) -> None:
    if not _is_sealed(day):
        if _has_open_hold(day):
            done.waiting.append(str(day))
            return
        differences = _verify_and_seal(day, at)
        if differences is None:
            done.waiting.append(str(day))
            return
        if differences:
            done.refused.append(writer.run_now(lambda cursor: _refuse(cursor, day, differences, at)))
            return
    gone = 0
    for chunk in _deleted_chunks(day):
        gone += chunk
        if time.monotonic() > deadline:
            done.complete = False
            break
    if gone:
        done.rows += gone
        done.days.append(str(day))


def _is_sealed(day: date) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM llmkeys_sealedday WHERE day = %s", [str(day)])
        return cursor.fetchone() is not None


_OPEN_HOLD = "SELECT 1 FROM llmkeys_usagerecord WHERE state = 'HELD' AND day = %s LIMIT 1"


def _has_open_hold(day: date) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_OPEN_HOLD, [str(day)])
        return cursor.fetchone() is not None


_DIFFERENCES = f"""SELECT key_id, SUM(cost), SUM(row_cost), SUM(requests), SUM(row_requests) FROM (
    SELECT key_id, model, token_name, COALESCE(token_id, 0) AS token, cost_nano AS cost, 0 AS row_cost,
           requests, 0 AS row_requests, successful, failed, input_tokens, output_tokens, estimated_nano AS estimated,
           lost_nano AS lost
      FROM llmkeys_dailyusage WHERE day = %s
    UNION ALL
    SELECT key_id, model, token_name, COALESCE(token_id, 0), 0, {ledger.COST_OF_ROW}, 0, 1,
           CASE WHEN success THEN -1 ELSE 0 END, CASE WHEN NOT success THEN -1 ELSE 0 END,
           -COALESCE(input_tokens, 0), -COALESCE(output_tokens, 0), -{ledger.ESTIMATED_OF_ROW}, -{ledger.LOST_OF_ROW}
      FROM llmkeys_usagerecord u
     WHERE {_OF_DAY} AND {ledger.SENT}
  ) AS both_sides GROUP BY key_id, model, token_name, token
  HAVING SUM(cost) <> SUM(row_cost) OR SUM(requests) <> SUM(row_requests) OR SUM(successful) <> 0 OR SUM(failed) <> 0
      OR SUM(input_tokens) <> 0 OR SUM(output_tokens) <> 0 OR SUM(estimated) <> 0 OR SUM(lost) <> 0
  ORDER BY key_id"""  # noqa: S608  (constants of this module, here and below)


_LAST_CORRECTION = "SELECT COALESCE(MAX(id), 0) FROM llmkeys_adjustment"


def _verify_and_seal(day: date, at: datetime) -> list[tuple] | None:
    """Seal a day if its totals equal the sum of its rows and their corrections; otherwise return what differs.

    A day may have a hundred thousand rows, so they are added up outside the writer, for which requests wait; in it the
    day is sealed only if nothing has been corrected since. Returns None if something was, each time.
    """
    for _ in range(_MOST_TRIES):
        with connection.cursor() as cursor:
            cursor.execute(_LAST_CORRECTION)
            last = cursor.fetchone()[0]
            cursor.execute(_DIFFERENCES, [str(day), *_span(day)])
            differences = cursor.fetchall()
        if differences or writer.run_now(partial(_seal, day=day, at=at, last_correction=last)):
            return differences
    return None


def _seal(cursor: CursorWrapper, day: date, at: datetime, last_correction: int) -> bool:
    """Seal a verified day; return False if there is a later correction, or a hold that is still to be settled."""
    cursor.execute(_LAST_CORRECTION)
    if cursor.fetchone()[0] != last_correction:
        return False
    cursor.execute(_OPEN_HOLD, [str(day)])
    if cursor.fetchone():
        return False
    cursor.execute(
        """INSERT INTO llmkeys_sealedday (day, rows, cost_nano, sealed_at)
           SELECT %s, 0, COALESCE(SUM(cost_nano), 0), %s FROM llmkeys_dailyusage WHERE day = %s
           ON CONFLICT (day) DO NOTHING""",
        [str(day), instant(at), str(day)],
    )
    return True


def _refuse(cursor: CursorWrapper, day: date, differences: list[tuple], at: datetime) -> str:
    key_id, cost, row_cost, requests, row_requests = differences[0]
    cursor.execute("SELECT name FROM llmkeys_apikey WHERE id = %s", [key_id])
    others = f", and {len(differences) - 1} more differ" if len(differences) > 1 else ""
    words = (
        f"The usage rows of {day} were kept: the day's totals of “{cursor.fetchone()[0]}” say {format_usd(int(cost))} "
        f"for {int(requests)} request{'' if requests == 1 else 's'}, its rows {format_usd(int(row_cost))} "
        f"for {int(row_requests)}{others}. "
        "`./manage.py audit` names what differs, `audit --fix` corrects it."
    )
    ledger.add_event(cursor, "pruned", key_id, words, at, once=f"prune refused {day}")
    return words


_DELETE = f"""DELETE FROM llmkeys_usagerecord WHERE id IN (
    SELECT id FROM llmkeys_usagerecord
     WHERE {_OF_DAY} AND state <> 'HELD'
       AND NOT EXISTS (SELECT 1 FROM llmkeys_adjustment a WHERE a.usage_id = llmkeys_usagerecord.id)
     LIMIT {CHUNK_ROWS})"""  # noqa: S608


def _deleted_chunks(day: date) -> Iterator[int]:
    """Delete the rows of a sealed day except those that a correction refers to; yield the size of each chunk."""
    gone, tries = CHUNK_ROWS, 0
    while gone == CHUNK_ROWS:
        try:
            gone = writer.run_now(lambda cursor: _delete_chunk(cursor, day))
        except IntegrityError:  # PostgreSQL: one of them has just been corrected, so it stays
            tries += 1
            if tries == _MOST_TRIES:
                raise
            continue
        yield gone


def _delete_chunk(cursor: CursorWrapper, day: date) -> int:
    cursor.execute(_DELETE, _span(day))
    gone = cursor.rowcount
    cursor.execute("UPDATE llmkeys_sealedday SET rows = rows + %s WHERE day = %s", [gone, str(day)])
    return gone


def _add_event(done: Pruned, at: datetime) -> None:
    days = done.days[0] if len(done.days) == 1 else f"{len(done.days)} days, {done.days[0]} to {done.days[-1]}"
    rows, were, their = ("row", "was", "Its") if done.rows == 1 else ("rows", "were", "Their")
    message = (
        f"{done.rows:,} usage {rows} of {days} {were} older than {settings.USAGE_RETENTION_DAYS} days and {were} "
        f"deleted. {their} daily totals were verified before and stay."
    )
    writer.run_now(lambda cursor: ledger.add_event(cursor, "pruned", None, message, at))


# --- events and the like ----------------------------------------------------------------------------------------------


# The event by which the present default key became the default: an environment key keeps the mark only if a person gave
# it (`keys.default`).
_WHO_CHOSE_THE_DEFAULT = """SELECT e.id FROM llmkeys_keyevent e JOIN llmkeys_apikey k ON k.id = e.key_id
 WHERE k.is_default AND e.kind = 'default_changed'"""


def _prune_old(table: str, column: str, before: datetime, *, keeping: str = "SELECT 0") -> int:
    """Delete the rows of a table that are older than `before`, except those `keeping` selects; return how many."""
    old = f"SELECT id FROM {table} WHERE {column} < %s AND id NOT IN ({keeping}) LIMIT {CHUNK_ROWS}"  # noqa: S608
    statement = f"DELETE FROM {table} WHERE id IN ({old})"  # noqa: S608
    total, gone = 0, CHUNK_ROWS
    while gone == CHUNK_ROWS:
        gone = writer.run_now(lambda cursor: _rows_of(cursor, statement, before))
        total += gone
    return total


def _rows_of(cursor: CursorWrapper, statement: str, before: datetime) -> int:
    cursor.execute(statement, [instant(before)])
    return cursor.rowcount
