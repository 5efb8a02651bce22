"""The hold: room is taken on a key and the attempt recorded, in one transaction, before anything is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings

from llmkeys.database.sql import Cursor, as_date, instant
from llmkeys.database.writer import Account
from llmkeys.key_state import current_windows
from llmkeys.ledger import coolings
from llmkeys.ledger.records import Attempt, Bid, Hold, Outcome, Placed, Refusal
from llmkeys.ledger.refusals import refusal_of, remember_refusals
from llmkeys.ledger.settling import LEASE, finish, settle_dead_leases
from llmkeys.ledger.windows_in_sql import RECORDED_DAY, RECORDED_MONTH, rebase, recorded_params
from llmkeys.lib.windows import Windows

_USABLE = """id = %s AND enabled AND rejected_at IS NULL AND NOT secret_missing AND deleted_at IS NULL
   AND (expires_at IS NULL OR expires_at > %s) AND day <= %s AND month <= %s"""

_ROLLED_DAY = f"CASE WHEN day = %s THEN spent_day_nano ELSE {RECORDED_DAY} END"

_ROLLED_MONTH = f"CASE WHEN month = %s THEN spent_month_nano ELSE {RECORDED_MONTH} END"

_ROLL = f"""UPDATE llmkeys_apikey
   SET held_nano = held_nano + %s, spent_day_nano = {_ROLLED_DAY}, spent_month_nano = {_ROLLED_MONTH},
       day = %s, month = %s, refused_window = '', last_used_at = %s
 WHERE {_USABLE}"""  # noqa: S608  (constants of this module, here and below)

_HOLD_STRICT = f"""{_ROLL}
   AND (daily_limit_nano = 0 OR {_ROLLED_DAY} + held_nano + %s <= daily_limit_nano)
   AND (monthly_limit_nano = 0 OR {_ROLLED_MONTH} + held_nano + %s <= monthly_limit_nano)
   AND (total_limit_nano = 0 OR spent_total_nano + held_nano + %s <= total_limit_nano)"""

_HOLD_SOFT = f"""{_ROLL}
   AND (daily_limit_nano = 0 OR {_ROLLED_DAY} < daily_limit_nano)
   AND (monthly_limit_nano = 0 OR {_ROLLED_MONTH} < monthly_limit_nano)
   AND (total_limit_nano = 0 OR spent_total_nano < total_limit_nano)"""

_INSERT_USAGE = """INSERT INTO llmkeys_usagerecord
  (request_id, attempt, created_at, key_id, provider, dialect, requested_model, model, token_name, state, error,
   hold_nano, cost_nano, cost_source, overrun, streamed, skipped, upstream_id, day, month, lease_owner, lease_until)
  VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 'HELD', '', %s, 0, '', %s, %s, %s, '', %s, %s, %s, %s) RETURNING id"""


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """The job that places a hold."""

    bids: list[Bid]
    attempt: Attempt
    last_try: bool = True

    @property
    def accounts(self) -> list[Account]:
        return [("llmkeys_apikey", bid.key_id) for bid in self.bids]

    def __call__(self, cursor: Cursor) -> Placed:
        return place_hold(cursor, self.bids, self.attempt, last_try=self.last_try)

    def undo(self, cursor: Cursor, placed: Placed) -> None:
        """Release a hold of which its caller does not know: committed after it had given up, or not at all."""
        hold = placed.hold
        if hold is None:
            return
        # By the request too: the id of a row that was never committed is given to another one.
        cursor.execute(
            "SELECT 1 FROM llmkeys_usagerecord WHERE id = %s AND request_id = %s", [hold.usage_id, hold.request_id]
        )
        if cursor.fetchone() is not None:
            coolings.give_back(cursor, hold.probe)
            error = "The database was too slow; nothing was sent."
            finish(cursor, hold.usage_id, Outcome(state="RELEASED", at=self.attempt.at, sent=False, error=error))


def place_hold(cursor: Cursor, bids: list[Bid], attempt: Attempt, *, last_try: bool = True) -> Placed:
    """Hold the first bid for which there is room, and record the attempt, in one transaction.

    Dead leases are settled before a key is refused for holds that stand in its way. Unless this is the `last_try`,
    lower bids may follow where no key takes one: then no key is marked as full yet.
    """
    refusals: list[Refusal] = []
    for bid in bids:
        claim = coolings.claim(cursor, bid.rested, bid.model, attempt.at)
        found = _resting(bid, claim) or _room_or_refusal(cursor, bid, attempt)
        if isinstance(found, Refusal):
            coolings.give_back(cursor, claim.probe)
            refusals.append(found)
            continue
        remember_refusals(cursor, refusals, attempt.at)
        usage_id = _insert_usage(cursor, bid, attempt, found, refusals)
        hold = Hold(usage_id, bid.key_id, bid.hold_nano, claim.probe, attempt.request_id)
        return Placed(hold, refusals)
    if last_try:
        remember_refusals(cursor, refusals, attempt.at)
    return Placed(None, refusals)


def _resting(bid: Bid, claim: coolings.Claim) -> Refusal | None:
    if claim.rests_until is None:
        return None
    reason = "cooling: another request asks it first" if claim.is_asked else "cooling"
    return Refusal(bid.key_id, reason, rests_until=claim.rests_until, is_asked=claim.is_asked)


def _room_or_refusal(cursor: Cursor, bid: Bid, attempt: Attempt) -> Windows | Refusal:
    at = attempt.at
    windows = _take_room(cursor, bid, at)
    if windows is not None:
        return windows
    refusal = refusal_of(cursor, bid, at)
    if refusal.only_holds and settle_dead_leases(cursor, at, leased_at=attempt.leased_at, key_id=bid.key_id):
        windows = _take_room(cursor, bid, at)
    return windows or refusal


def _take_room(cursor: Cursor, bid: Bid, at: datetime) -> Windows | None:
    """Raise the key's held amount where it is usable and has room; return the windows that are charged."""
    windows = current_windows(at)
    if _update_hold(cursor, bid, at, windows):
        return windows
    cursor.execute("SELECT day, month FROM llmkeys_apikey WHERE id = %s", [bid.key_id])
    row = cursor.fetchone()
    if row is None:
        return None
    stored = Windows(as_date(row[0]), as_date(row[1]))
    if stored.day <= windows.day and stored.month <= windows.month:
        return None
    # Our clock is behind the one that opened the stored window. A little: that window is charged. A lot: the other
    # clock was wrong, and the key would be stuck in the future.
    if stored.day - windows.day > timedelta(days=1):
        rebase(cursor, bid.key_id, windows)
        return windows if _update_hold(cursor, bid, at, windows) else None
    return stored if _update_hold(cursor, bid, at, stored) else None


def _update_hold(cursor: Cursor, bid: Bid, at: datetime, windows: Windows) -> bool:
    day, month, now = str(windows.day), str(windows.month), instant(at)
    hold = bid.hold_nano
    in_day, in_month = recorded_params(windows)
    params: list[Any] = [hold, day, *in_day, month, *in_month, day, month, now, bid.key_id, now, day, month]
    if not settings.COST_TRACKING:
        cursor.execute(_ROLL, params)
    elif settings.BUDGET_MODE == "soft":
        cursor.execute(_HOLD_SOFT, [*params, day, *in_day, month, *in_month])
    else:
        cursor.execute(_HOLD_STRICT, [*params, day, *in_day, hold, month, *in_month, hold, hold])
    return cursor.rowcount == 1


def _insert_usage(cursor: Cursor, bid: Bid, attempt: Attempt, windows: Windows, refusals: list[Refusal]) -> int:
    skipped = [*bid.passed_over, *({"keyId": refusal.key_id, "reason": refusal.reason} for refusal in refusals)]
    cursor.execute(
        _INSERT_USAGE,
        [
            attempt.request_id, attempt.number, instant(attempt.at), bid.key_id, bid.provider, attempt.dialect,
            attempt.requested_model, bid.model, attempt.token_name, bid.hold_nano, False, attempt.streamed,
            json.dumps(skipped[:50]), str(windows.day), str(windows.month), attempt.lease_owner,
            instant((attempt.leased_at or attempt.at) + LEASE),
        ],
    )  # fmt: skip
    usage_id: int = cursor.fetchone()[0]
    if attempt.notes_use and attempt.token_id is not None:
        note_token_use(cursor, attempt.token_id, attempt.at)
    return usage_id


def note_token_use(cursor: Cursor, token_id: int, at: datetime) -> None:
    """Note when a token was last used: for people, so that once a minute will do."""
    cursor.execute("UPDATE llmkeys_accesstoken SET last_used_at = %s WHERE id = %s", [instant(at), token_id])
