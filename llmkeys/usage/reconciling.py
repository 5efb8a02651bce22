"""Reconciling: OpenRouter reports the true cost of a request later, and the estimate is corrected by an adjustment.

Nothing waits for it. The cost of a row is requested every quarter of an hour until OpenRouter knows it, for a day.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

from django.db import connection
from django.db.backends.utils import CursorWrapper

from llmkeys import ledger, providers
from llmkeys.database import writer
from llmkeys.database.sql import as_date, instant
from llmkeys.exceptions import LLMKeysError
from llmkeys.key_state import current_windows
from llmkeys.lib.money import format_usd, usd_to_nano
from llmkeys.models import ApiKey
from llmkeys.upstream import asked

ASK_FOR = timedelta(hours=24)
LOOK_BACK = timedelta(days=31)  # estimates that stand are reported even if nothing has run for this long
AT_MOST_SECONDS = 60
AT_MOST_ROWS = 500


@dataclass(slots=True)
class Reconciled:
    """What one run did. Of the `asked` rows, `corrected` had a different cost; `pending` are not known yet."""

    asked: int = 0
    corrected: int = 0
    confirmed: int = 0
    pending: int = 0
    failed: int = 0
    given_up: int = 0
    faults: list[str] = field(default_factory=list)  # the first error of each key, as a sentence

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def reconcile_costs(at: datetime) -> Reconciled:
    """Fetch the true cost of estimated rows with each key's own secret, newest rows first, and correct them.

    Each row is corrected once, in its own transaction. A key whose provider fails is left for the next run.
    """
    done = Reconciled(given_up=_give_up(at))
    deadline, broken = time.monotonic() + AT_MOST_SECONDS, set()
    rows = _rows_to_ask(at)
    keys = ApiKey.objects.in_bulk({row.key_id for row in rows})
    for row in rows:
        if time.monotonic() > deadline:
            break
        if row.key_id in broken:
            continue
        fault = _ask(keys[row.key_id], row, at, done)
        if fault:
            broken.add(row.key_id)
            done.faults.append(f"“{keys[row.key_id].name}”: {fault}")
    return done


@dataclass(frozen=True, slots=True)
class _Row:
    id: int
    key_id: str
    request_id: str
    upstream_id: str
    lost: bool


# Providers that report costs later: equalities with literals, because SQLite does not use the index
# `usage_to_reconcile` for `IN`.
_REPORTS_COSTS = " OR ".join(f"u.provider = '{one.name}'" for one in providers.PROVIDERS.values() if one.reports_costs)
# Only OpenRouter's own ids begin with `gen-`.
_ESTIMATED = f"""FROM llmkeys_usagerecord u JOIN llmkeys_apikey k ON k.id = u.key_id
   WHERE ({_REPORTS_COSTS}) AND u.cost_source = 'estimated' AND u.created_at >= %s AND u.created_at <= %s
     AND u.state IN ('SETTLED', 'LOST') AND u.upstream_id LIKE 'gen-%%'
     AND k.deleted_at IS NULL AND NOT k.secret_missing
     AND NOT EXISTS (SELECT 1 FROM llmkeys_adjustment a
                      WHERE a.usage_id = u.id AND a.kind IN {ledger.REPORTED_LATER})"""  # noqa: S608


def _rows_to_ask(at: datetime) -> list[_Row]:
    columns = "u.id, u.key_id, u.request_id, u.upstream_id, u.state = 'LOST'"
    newest = "ORDER BY u.created_at DESC, u.id DESC"  # the same order on every database, even for rows of the same time
    query = f"SELECT {columns} {_ESTIMATED} AND k.rejected_at IS NULL {newest} LIMIT {AT_MOST_ROWS}"
    with connection.cursor() as cursor:
        cursor.execute(query, [instant(at - ASK_FOR), instant(at)])
        return [
            _Row(number, key_id, request_id, upstream_id, lost=bool(lost))
            for number, key_id, request_id, upstream_id, lost in cursor.fetchall()
        ]


def _ask(key: ApiKey, row: _Row, at: datetime, done: Reconciled) -> str:
    """Fetch the cost of one row and correct it; return an error that also affects the key's other rows, or ""."""
    done.asked += 1
    try:
        answer = asked.fetch_generation(key, row.upstream_id)
    except (asked.TransportError, LLMKeysError) as error:
        done.failed += 1
        return str(error)
    provider = providers.get(key.provider)
    if answer.status == 404:
        done.pending += 1
        return ""
    if answer.status != 200:
        done.failed += 1
        failure = provider.classify(status=answer.status, headers=answer.headers, body=answer.body, at=at)
        return f"{failure.message} (status {answer.status})"
    cost = provider.generation_cost(answer.body)
    if cost is None:
        done.pending += 1
        return ""
    difference = writer.run_now(
        lambda cursor: _correct(cursor, key, row, usd_to_nano(cost), at),
        accounts=[account.lock for account in ledger.payers_of(row.id)],
    )
    if difference is not None:
        done.corrected += difference != 0
        done.confirmed += difference == 0
    return ""


def _correct(cursor: CursorWrapper, key: ApiKey, row: _Row, true_nano: int, at: datetime) -> int | None:
    reason = f"OpenRouter's own record says {format_usd(true_nano)}."
    difference = ledger.correct_cost(cursor, row.id, true_nano, at, reason=reason)
    if difference:
        what = "lost request" if row.lost else "request"
        moved = "charged in addition" if difference > 0 else "taken back"
        message = (
            f"The true cost of the {what} {row.request_id} of “{key.name}” is {format_usd(true_nano)}, by OpenRouter's "
            f"own record: {format_usd(abs(difference))} was {moved}."
        )
        ledger.add_event(cursor, "reconciled", key.id, message, at)
    return difference


# --- what never became known ------------------------------------------------------------------------------------------


def _give_up(at: datetime) -> int:
    """Report, once for each key and budget day, the estimates that will stay; return the number of their rows."""
    reported = 0
    for key_id, name, day, count, cost in _never_reported(at):
        requests, estimates, stand = (
            ("request", "estimate", "stands") if count == 1 else ("requests", "estimates", "stand")
        )
        message = (
            f"OpenRouter did not report within {ASK_FOR.total_seconds() / 3600:.0f} hours what {count} estimated "
            f"{requests} of “{name}” on {day} really cost: the {estimates}, {format_usd(int(cost))}, {stand}."
        )
        once = f"unreconciled {key_id} {day}"
        if _add_event(key_id, message, at, once):
            reported += count
    return reported


def _add_event(key_id: str, message: str, at: datetime, once: str) -> bool:
    return writer.run_now(lambda cursor: ledger.add_event(cursor, "reconciled", key_id, message, at, once=once))


def _never_reported(at: datetime) -> list[tuple]:
    """Return key, name, day, number and cost of the rows that are too old to be reported, for complete days only."""
    query = f"SELECT u.key_id, k.name, u.day, COUNT(*), SUM(u.cost_nano) {_ESTIMATED} GROUP BY u.key_id, k.name, u.day"
    span = [instant(at - LOOK_BACK), instant(at - ASK_FOR)]
    with connection.cursor() as cursor:
        cursor.execute(query, span)
        rows = cursor.fetchall()
    day_of_youngest = current_windows(at - ASK_FOR).day
    return [row for row in rows if as_date(row[2]) < day_of_youngest]
