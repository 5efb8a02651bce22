"""The end of an attempt: settled, released or lost; and the leases that tell when nobody will end it any more."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.backends.utils import CursorWrapper

from llmkeys.database.sql import as_date, instant
from llmkeys.ledger.corrections import correct_cost
from llmkeys.ledger.events import tell_limits
from llmkeys.ledger.records import Finished, Outcome
from llmkeys.lib.windows import Windows

LEASE = timedelta(seconds=60)

_FINISH = """UPDATE llmkeys_usagerecord
   SET state = %s, finished_at = %s, success = %s, http_status = %s, error = %s, input_tokens = %s,
       cached_input_tokens = %s, cache_write_tokens = %s, output_tokens = %s, reasoning_tokens = %s,
       cost_nano = %s, cost_source = %s, overrun = (hold_nano < %s), latency_ms = %s, first_byte_ms = %s,
       upstream_id = %s, lease_until = NULL
 WHERE id = %s AND state = 'HELD'
RETURNING key_id, model, token_name, hold_nano, day, month"""

_CHARGE = """UPDATE llmkeys_apikey
   SET held_nano = held_nano - %s,
       spent_day_nano = CASE WHEN day = %s THEN spent_day_nano + %s ELSE spent_day_nano END,
       spent_month_nano = CASE WHEN month = %s THEN spent_month_nano + %s ELSE spent_month_nano END,
       spent_total_nano = spent_total_nano + %s,
       total_requests = total_requests + %s, successful_requests = successful_requests + %s,
       failed_requests = failed_requests + %s
 WHERE id = %s
RETURNING day, month, spent_day_nano, spent_month_nano, spent_total_nano,
          daily_limit_nano, monthly_limit_nano, total_limit_nano, held_nano"""

_DAILY = """INSERT INTO llmkeys_dailyusage
  (day, key_id, model, token_name, requests, successful, failed, input_tokens, output_tokens, cost_nano)
  VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
  ON CONFLICT (key_id, day, model, token_name) DO UPDATE SET
    requests = llmkeys_dailyusage.requests + excluded.requests,
    successful = llmkeys_dailyusage.successful + excluded.successful,
    failed = llmkeys_dailyusage.failed + excluded.failed,
    input_tokens = llmkeys_dailyusage.input_tokens + excluded.input_tokens,
    output_tokens = llmkeys_dailyusage.output_tokens + excluded.output_tokens,
    cost_nano = llmkeys_dailyusage.cost_nano + excluded.cost_nano"""


def finish(cursor: CursorWrapper, usage_id: int, outcome: Outcome) -> Finished | None:
    """Settle, release or declare lost; None where the row was finished before.

    A settle that comes after the row was declared lost writes the difference as one `late` adjustment.
    """
    cursor.execute(_FINISH, [*_row_values(outcome), usage_id])
    row = cursor.fetchone()
    if row is None:
        if outcome.state == "SETTLED":
            _settle_late(cursor, usage_id, outcome)
        return None
    key_id, model, token_name, hold, day, month = row
    sent, good, bad = int(outcome.sent), int(outcome.success is True), int(outcome.success is False and outcome.sent)
    cost, day, month = outcome.cost_nano, str(day), str(month)
    cursor.execute(_CHARGE, [hold, day, cost, month, cost, cost, sent, good, bad, key_id])
    after = cursor.fetchone()
    if cost:
        tell_limits(cursor, key_id, after, cost, Windows(as_date(day), as_date(month)), outcome.at)
    if sent:
        tokens = [outcome.input_tokens or 0, outcome.output_tokens or 0]
        cursor.execute(_DAILY, [day, key_id, model, token_name, sent, good, bad, *tokens, cost])
    return Finished(max(0, after[5] - after[2] - after[8]) if after[5] else None)


def _row_values(outcome: Outcome) -> list[Any]:
    return [
        outcome.state, instant(outcome.at), outcome.success, outcome.http_status, outcome.error[:1000],
        outcome.input_tokens, outcome.cached_input_tokens, outcome.cache_write_tokens, outcome.output_tokens,
        outcome.reasoning_tokens, outcome.cost_nano, outcome.cost_source, outcome.cost_nano, outcome.latency_ms,
        outcome.first_byte_ms, outcome.upstream_id[:100],
    ]  # fmt: skip


def _settle_late(cursor: CursorWrapper, usage_id: int, outcome: Outcome) -> None:
    reason = f"The true cost arrived after the hold was declared lost: {outcome.error or outcome.cost_source}"
    correct_cost(cursor, usage_id, outcome.cost_nano, outcome.at, reason=reason, only_lost=True)


def renew_leases(cursor: CursorWrapper, owner: str, at: datetime) -> int:
    """Extend every open hold of one process by one statement; return how many there are."""
    cursor.execute(
        "UPDATE llmkeys_usagerecord SET lease_until = %s WHERE state = 'HELD' AND lease_owner = %s",
        [instant(at + LEASE), owner],
    )
    return cursor.rowcount


def settle_dead_leases(cursor: CursorWrapper, at: datetime, *, key_id: str | None = None) -> int:
    """Declare lost, charged at the hold, what no process renews any more; return how many.

    A lease never ends more than 60 s after the present: after a clock step back it is shortened first.
    """
    latest = instant(at + LEASE)
    cursor.execute(
        "UPDATE llmkeys_usagerecord SET lease_until = %s WHERE state = 'HELD' AND lease_until > %s", [latest, latest]
    )
    mine, params = ("AND key_id = %s", [key_id]) if key_id else ("", [])
    cursor.execute(
        f"SELECT id, hold_nano FROM llmkeys_usagerecord WHERE state = 'HELD' AND lease_until <= %s {mine}",  # noqa: S608
        [instant(at), *params],
    )
    dead = cursor.fetchall()
    for usage_id, hold in dead:
        finish(
            cursor,
            usage_id,
            Outcome(
                state="LOST",
                at=at,
                success=False,
                cost_nano=hold,
                cost_source="estimated",
                error="The process that served this request died; the provider may have billed it. Charged at the "
                "hold; void it if the provider's own bill does not have it.",
            ),
        )
    return len(dead)
