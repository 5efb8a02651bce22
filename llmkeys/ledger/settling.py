"""The end of an attempt: settled, released or lost; and the leases that tell when nobody will end it any more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llmkeys.database.sql import Cursor, as_date, instant
from llmkeys.database.writer import Account
from llmkeys.ledger import coolings
from llmkeys.ledger.corrections import correct_cost
from llmkeys.ledger.events import note_serving_key, tell_limits
from llmkeys.ledger.records import Finished, Hold, Outcome
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


@dataclass(frozen=True, slots=True)
class End:
    """The job that ends an attempt: its row, its probe, and whether the key serves again or anew."""

    hold: Hold
    outcome: Outcome
    rested: tuple[str, ...] = ()  # the scopes of a key that rested before: its success forgives them
    model: str = ""  # the provider's own name of it
    serves: str = ""  # the model's common name, where the key is noted as the one that serves it
    keeps_probe: bool = False  # a verdict on the key follows, and nobody may ask it in between

    @property
    def accounts(self) -> list[Account]:
        return [("llmkeys_apikey", self.hold.key_id)]

    def __call__(self, cursor: Cursor) -> Finished | None:
        outcome = self.outcome
        if outcome.success and self.rested:
            coolings.forgive(cursor, self.hold.key_id, self.rested, self.model, outcome.at)
        elif not self.keeps_probe:
            coolings.give_back(cursor, self.hold.probe)
        finished = finish(cursor, self.hold.usage_id, outcome)
        if outcome.success and self.serves:
            note_serving_key(cursor, self.serves, self.hold.key_id, outcome.at)
        return finished

    def as_lost(self) -> End:
        """Return the end of an attempt whose own end cannot be written: charged at the hold."""
        error = f"The end of this request could not be recorded ({self.outcome.state}). Charged at the hold."
        outcome = Outcome(
            state="LOST", at=self.outcome.at, success=False, cost_nano=self.hold.amount_nano,
            cost_source="estimated" if self.hold.amount_nano else "", error=error,
        )  # fmt: skip
        return End(self.hold, outcome)


def finish(cursor: Cursor, usage_id: int, outcome: Outcome) -> Finished | None:
    """Settle, release or declare lost; None where the row was finished before.

    What comes after the row was declared lost writes the difference as one `late` adjustment: all of the charge
    where the attempt was released.
    """
    cursor.execute(_FINISH, [*_row_values(outcome), usage_id])
    row = cursor.fetchone()
    if row is None:
        if outcome.state != "LOST":
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


def _settle_late(cursor: Cursor, usage_id: int, outcome: Outcome) -> None:
    what = "true cost" if outcome.state == "SETTLED" else "release"
    reason = f"The {what} arrived after the hold was declared lost: {outcome.error or outcome.cost_source}"
    correct_cost(cursor, usage_id, outcome.cost_nano, outcome.at, reason=reason, only_lost=True)


def renew_leases(cursor: Cursor, owner: str, at: datetime, *, but: Collection[int] = ()) -> int:
    """Extend every open hold of one process by one statement; return how many there are."""
    others = f"AND id NOT IN ({', '.join(str(int(usage_id)) for usage_id in but)})" if but else ""
    cursor.execute(
        f"UPDATE llmkeys_usagerecord SET lease_until = %s WHERE state = 'HELD' AND lease_owner = %s {others}",  # noqa: S608
        [instant(at + LEASE), owner],
    )
    return cursor.rowcount


@dataclass(frozen=True, slots=True)
class DeadRow:
    """An open hold that no process renews any more."""

    usage_id: int
    key_id: str
    hold_nano: int

    @property
    def accounts(self) -> list[Account]:
        return [("llmkeys_apikey", self.key_id)]


def dead_rows(cursor: Cursor, leased_at: datetime, *, key_id: str | None = None) -> list[DeadRow]:
    """Return the open holds whose lease has ended by the database's clock, oldest first.

    A lease never ends more than 60 s after the present: after a clock step back it is shortened first.
    """
    latest = instant(leased_at + LEASE)
    cursor.execute(
        "UPDATE llmkeys_usagerecord SET lease_until = %s WHERE state = 'HELD' AND lease_until > %s", [latest, latest]
    )
    mine, params = ("AND key_id = %s", [key_id]) if key_id else ("", [])
    cursor.execute(
        f"""SELECT id, key_id, hold_nano FROM llmkeys_usagerecord
             WHERE state = 'HELD' AND lease_until <= %s {mine} ORDER BY id""",  # noqa: S608
        [instant(leased_at), *params],
    )
    return [DeadRow(*row) for row in cursor.fetchall()]


def lose(cursor: Cursor, row: DeadRow, at: datetime) -> bool:
    """Declare a dead row lost, charged at the hold; False where it was ended meanwhile."""
    error = (
        "The process that served this request died; the provider may have billed it. Charged at the hold; void it if "
        "the provider's own bill does not have it."
    )
    outcome = Outcome(state="LOST", at=at, success=False, cost_nano=row.hold_nano, cost_source="estimated", error=error)
    return finish(cursor, row.usage_id, outcome) is not None


def settle_dead_leases(
    cursor: Cursor, at: datetime, *, leased_at: datetime | None = None, key_id: str | None = None
) -> int:
    """Declare lost what no process renews any more; return how many. `leased_at`: the database's clock."""
    return sum(lose(cursor, row, at) for row in dead_rows(cursor, leased_at or at, key_id=key_id))
