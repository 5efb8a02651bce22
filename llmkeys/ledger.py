"""Hold → settle, release or lost: the only writer of a key's counters and of usage rows.

Hand-written SQL, because every relayed request passes here twice: through the ORM it cost about four times the CPU.
Each function takes a cursor and runs inside somebody's transaction (`writer.run`). The row count is the lock: a
conditional UPDATE that changes no row means that somebody was faster, or that there is no room.

Invariants, proved by `audit.py`: per key, the cost of a window is the sum of its settled and lost rows plus its
adjustments, and `held_nano` is the sum of its open holds.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.backends.utils import CursorWrapper

from llmkeys import probes
from llmkeys.key_state import current_windows
from llmkeys.money import format_usd
from llmkeys.sql import as_date, as_instant, instant
from llmkeys.windows import DAY, MONTH, TOTAL, Windows

LEASE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Bid:
    """A key that may serve, and what the request may cost there at most."""

    key_id: str
    provider: str
    model: str
    hold_nano: int
    passed_over: tuple[dict[str, str], ...] = ()  # the keys before it that cannot serve now, and why
    rested: tuple[str, ...] = ()  # the scopes of a key that rested before: one request asks first (`probes.py`)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is known of an attempt before it is sent."""

    request_id: str
    number: int
    at: datetime
    dialect: str
    requested_model: str
    token_name: str
    streamed: bool
    lease_owner: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Money set aside on a key for one attempt."""

    usage_id: int
    key_id: str
    amount_nano: int
    probe: probes.Probe | None = None  # set where this request asks a key that rested


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a key did not take a bid. `window` is set where room was lacking, with the figures in nano-dollars."""

    key_id: str
    reason: str
    need_nano: int = 0
    room_nano: int = 0
    limit_nano: int = 0
    window: str = ""
    held_nano: int = 0
    only_holds: bool = False  # it would fit if the open holds were not there
    never_fits: bool = False  # it is more than the whole limit
    rests_until: datetime | None = None  # the key cools
    is_asked: bool = False  # another request asks just now whether the key serves again


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: what is written on its usage row."""

    state: str  # SETTLED, RELEASED or LOST
    at: datetime
    success: bool | None = None  # None: no failure of the key, no success either (a client's own mistake)
    sent: bool = True
    cost_nano: int = 0
    cost_source: str = ""
    http_status: int | None = None
    error: str = ""
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    latency_ms: int | None = None
    first_byte_ms: int | None = None
    upstream_id: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """What came of a try to place a hold: a hold, or the refusals of every key asked."""

    hold: Hold | None
    refusals: list[Refusal] = field(default_factory=list)


# --- hold -----------------------------------------------------------------------------------------------------------

_USABLE = """id = %s AND enabled AND rejected_at IS NULL AND NOT secret_missing AND deleted_at IS NULL
   AND (expires_at IS NULL OR expires_at > %s) AND day <= %s AND month <= %s"""

# What is recorded for a window already: daily totals, which hold the rows and their corrections, and the adjustments
# that belong to no row. Nearly always 0 for a window that begins; not where a clock ran far ahead and came back.
_RECORDED = """(SELECT COALESCE(SUM(d.cost_nano), 0) FROM llmkeys_dailyusage d
                 WHERE d.key_id = llmkeys_apikey.id AND d.day >= %s AND d.day < %s)
             + (SELECT COALESCE(SUM(a.{window}_nano), 0) FROM llmkeys_adjustment a
                 WHERE a.key_id = llmkeys_apikey.id AND a.{window} = %s AND a.usage_id IS NULL)"""
_RECORDED_DAY, _RECORDED_MONTH = _RECORDED.format(window=DAY), _RECORDED.format(window=MONTH)

_ROLLED_DAY = f"CASE WHEN day = %s THEN spent_day_nano ELSE {_RECORDED_DAY} END"
_ROLLED_MONTH = f"CASE WHEN month = %s THEN spent_month_nano ELSE {_RECORDED_MONTH} END"

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


def place_hold(cursor: CursorWrapper, bids: list[Bid], attempt: Attempt, *, last_try: bool = True) -> Placed:
    """Hold the first bid for which there is room, and record the attempt, in one transaction.

    Dead leases are settled before a key is refused for holds that stand in its way. Unless this is the `last_try`,
    lower bids may follow where no key takes one: then no key is marked as full yet.
    """
    refusals: list[Refusal] = []
    for bid in bids:
        claim = probes.claim(cursor, bid.rested, bid.model, attempt.at)
        found = _resting(bid, claim) or _room_or_refusal(cursor, bid, attempt.at)
        if isinstance(found, Refusal):
            probes.give_back(cursor, claim.probe)
            refusals.append(found)
            continue
        _remember_refusals(cursor, refusals, attempt.at)
        usage_id = _insert_usage(cursor, bid, attempt, found, refusals)
        return Placed(Hold(usage_id, bid.key_id, bid.hold_nano, claim.probe), refusals)
    if last_try:
        _remember_refusals(cursor, refusals, attempt.at)
    return Placed(None, refusals)


def _resting(bid: Bid, claim: probes.Claim) -> Refusal | None:
    if claim.rests_until is None:
        return None
    reason = "cooling: another request asks it first" if claim.is_asked else "cooling"
    return Refusal(bid.key_id, reason, rests_until=claim.rests_until, is_asked=claim.is_asked)


def _room_or_refusal(cursor: CursorWrapper, bid: Bid, at: datetime) -> Windows | Refusal:
    windows = _take_room(cursor, bid, at)
    if windows is not None:
        return windows
    refusal = _refusal(cursor, bid, at)
    if refusal.only_holds and settle_dead_leases(cursor, at, key_id=bid.key_id):
        windows = _take_room(cursor, bid, at)
    return windows or refusal


def _take_room(cursor: CursorWrapper, bid: Bid, at: datetime) -> Windows | None:
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


def _update_hold(cursor: CursorWrapper, bid: Bid, at: datetime, windows: Windows) -> bool:
    day, month, now = str(windows.day), str(windows.month), instant(at)
    hold = bid.hold_nano
    in_day, in_month = _recorded_params(windows)
    params: list[Any] = [hold, day, *in_day, month, *in_month, day, month, now, bid.key_id, now, day, month]
    if not settings.COST_TRACKING:
        cursor.execute(_ROLL, params)
    elif settings.BUDGET_MODE == "soft":
        cursor.execute(_HOLD_SOFT, [*params, day, *in_day, month, *in_month])
    else:
        cursor.execute(_HOLD_STRICT, [*params, day, *in_day, hold, month, *in_month, hold, hold])
    return cursor.rowcount == 1


def _recorded_params(windows: Windows) -> tuple[list[str], list[str]]:
    """Return the parameters of `_RECORDED_DAY` and `_RECORDED_MONTH`: first day, end, window."""
    day, month = str(windows.day), str(windows.month)
    next_month = (windows.month + timedelta(days=32)).replace(day=1)
    return [day, str(windows.day + timedelta(days=1)), day], [month, str(next_month), month]


def _insert_usage(cursor: CursorWrapper, bid: Bid, attempt: Attempt, windows: Windows, refusals: list[Refusal]) -> int:
    skipped = [*bid.passed_over, *({"keyId": refusal.key_id, "reason": refusal.reason} for refusal in refusals)]
    cursor.execute(
        _INSERT_USAGE,
        [
            attempt.request_id, attempt.number, instant(attempt.at), bid.key_id, bid.provider, attempt.dialect,
            attempt.requested_model, bid.model, attempt.token_name, bid.hold_nano, False, attempt.streamed,
            json.dumps(skipped[:50]), str(windows.day), str(windows.month), attempt.lease_owner,
            instant(attempt.at + LEASE),
        ],
    )  # fmt: skip
    return cursor.fetchone()[0]


# --- why there was no room ------------------------------------------------------------------------------------------

_FACTS = """SELECT enabled, rejected_at, secret_missing, deleted_at, expires_at, day, month, spent_day_nano,
   spent_month_nano, spent_total_nano, held_nano, daily_limit_nano, monthly_limit_nano, total_limit_nano
   FROM llmkeys_apikey WHERE id = %s"""


def _refusal(cursor: CursorWrapper, bid: Bid, at: datetime) -> Refusal:
    """Tell in words and figures why the key did not take the bid."""
    cursor.execute(_FACTS, [bid.key_id])
    row = cursor.fetchone()
    if row is None or not row[0] or row[3] is not None or row[2]:
        return Refusal(bid.key_id, "disabled")
    if row[1] is not None:
        return Refusal(bid.key_id, "rejected by its provider")
    if row[4] is not None and as_instant(row[4]) <= at:
        return Refusal(bid.key_id, "expired")
    return _lack_of_room(bid, row, current_windows(at))


def _lack_of_room(bid: Bid, row: tuple, windows: Windows) -> Refusal:
    """Return the refusal for the lacking window that takes longest to come back."""
    held = row[10]
    spent = {
        DAY: row[7] if as_date(row[5]) >= windows.day else 0,
        MONTH: row[8] if as_date(row[6]) >= windows.month else 0,
        TOTAL: row[9],
    }
    limits = {DAY: row[11], MONTH: row[12], TOTAL: row[13]}
    lacking = [w for w in (TOTAL, MONTH, DAY) if limits[w] and spent[w] + held + bid.hold_nano > limits[w]]
    if not lacking:  # somebody gave room back a moment ago
        return Refusal(bid.key_id, "busy", need_nano=bid.hold_nano, window=DAY, held_nano=held, only_holds=True)
    full = [w for w in lacking if spent[w] + bid.hold_nano > limits[w]]
    window = (full or lacking)[0]
    room = max(0, limits[window] - spent[window] - held)
    word = {DAY: "daily", MONTH: "monthly", TOTAL: "total"}[window]
    return Refusal(
        bid.key_id,
        f"{word} budget: needs {format_usd(bid.hold_nano)}, {format_usd(room)} left",
        need_nano=bid.hold_nano,
        room_nano=room,
        limit_nano=limits[window],
        window=window,
        held_nano=held,
        only_holds=not full,
        never_fits=any(bid.hold_nano > limits[w] for w in full),
    )


def _remember_refusals(cursor: CursorWrapper, refusals: list[Refusal], at: datetime) -> None:
    for refusal in refusals:
        _remember_refusal(cursor, refusal, at)


def _remember_refusal(cursor: CursorWrapper, refusal: Refusal, at: datetime) -> None:
    """Store the refusal on the key (the status derives from it) where no open hold stood in the way."""
    if not refusal.window or refusal.held_nano or refusal.never_fits:
        return
    day = str(current_windows(at).day)
    cursor.execute(
        """UPDATE llmkeys_apikey SET refused_window = %s, refused_day = %s, refused_need_nano = %s,
             refused_room_nano = %s WHERE id = %s AND (refused_window <> %s OR refused_day <> %s)""",
        [refusal.window, day, refusal.need_nano, refusal.room_nano, refusal.key_id, refusal.window, day],
    )
    if cursor.rowcount:
        message = (
            f"The {_WORDS[refusal.window]} limit of {format_usd(refusal.limit_nano)} is reached: the next request may "
            f"cost {format_usd(refusal.need_nano)} and {format_usd(refusal.room_nano)} is left."
        )
        _limit_event(cursor, refusal.key_id, refusal.window, current_windows(at), refusal.limit_nano, message, at)


_WORDS = {DAY: "daily", MONTH: "monthly", TOTAL: "total"}


# --- the end of an attempt ------------------------------------------------------------------------------------------

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
class Finished:
    """What a key has left after an attempt ended; None where it has no daily limit."""

    remaining_day_nano: int | None


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
        _tell_limits(cursor, key_id, after, cost, Windows(as_date(day), as_date(month)), outcome.at)
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


def _tell_limits(cursor: CursorWrapper, key_id: str, row: tuple, cost: int, charged: Windows, at: datetime) -> None:
    """Leave an event for each limit, and each warning threshold of one, that this cost has just reached."""
    spent = {TOTAL: row[4]}
    if as_date(row[0]) == charged.day:
        spent[DAY] = row[2]
    if as_date(row[1]) == charged.month:
        spent[MONTH] = row[3]
    limits = {DAY: row[5], MONTH: row[6], TOTAL: row[7]}
    for window, amount in spent.items():
        limit = limits[window]
        if not limit:
            continue
        before = amount - cost
        if before < _warning_at(limit) <= amount:
            _warning_event(cursor, key_id, window, charged, limit, amount, at)
        if before < limit <= amount:
            message = f"The {_WORDS[window]} limit of {format_usd(limit)} is reached: {format_usd(amount)} spent."
            _limit_event(cursor, key_id, window, charged, limit, message, at)


def _warning_at(limit: int) -> float:
    """Return the spending in nano-dollars that is warned of: never where the threshold is 0, or 1, the limit itself."""
    share = settings.WARNING_THRESHOLD
    return math.ceil(share * limit) if 0 < share < 1 else math.inf


def _warning_event(
    cursor: CursorWrapper, key_id: str, window: str, windows: Windows, limit: int, spent: int, at: datetime
) -> None:
    message = (
        f"{spent * 100 // limit} % of the {_WORDS[window]} limit of {format_usd(limit)} is spent: {format_usd(spent)}. "
        "Raise the limit or add another key if the rest is not enough."
    )
    add_event(cursor, "warned", key_id, message, at, once=_once("warning", cursor, key_id, window, windows, limit))


def _limit_event(
    cursor: CursorWrapper, key_id: str, window: str, windows: Windows, limit: int, message: str, at: datetime
) -> None:
    once = _once("limit", cursor, key_id, window, windows, limit)
    add_event(cursor, "limit_reached", key_id, message, at, once=once)


def _once(what: str, cursor: CursorWrapper, key_id: str, window: str, windows: Windows, limit: int) -> str:
    """Name what is told once per key and window, and once more after a person has set the costs back."""
    which = {DAY: str(windows.day), MONTH: str(windows.month), TOTAL: f"{limit}"}[window]
    cursor.execute("SELECT MAX(id) FROM llmkeys_adjustment WHERE key_id = %s AND kind = 'reset'", [key_id])
    reset = cursor.fetchone()[0]
    return f"{what} {key_id} {window} {which}" + (f" after {reset}" if reset else "")


def _settle_late(cursor: CursorWrapper, usage_id: int, outcome: Outcome) -> None:
    reason = f"The true cost arrived after the hold was declared lost: {outcome.error or outcome.cost_source}"
    correct_cost(cursor, usage_id, outcome.cost_nano, outcome.at, reason=reason, only_lost=True)


def _correct_daily(cursor: CursorWrapper, usage_id: int, amount: int) -> None:
    """Move the daily total of a row's group, for charts show the corrected spending."""
    cursor.execute(
        """UPDATE llmkeys_dailyusage SET cost_nano = cost_nano + %s
            WHERE EXISTS (SELECT 1 FROM llmkeys_usagerecord u WHERE u.id = %s AND u.key_id = llmkeys_dailyusage.key_id
              AND u.day = llmkeys_dailyusage.day AND u.model = llmkeys_dailyusage.model
              AND u.token_name = llmkeys_dailyusage.token_name)""",
        [amount, usage_id],
    )


# --- corrections ----------------------------------------------------------------------------------------------------


_TOLD_LATER = ("late", "reconcile")  # what a provider charges afterwards; it moves all three windows alike


def adjust(
    cursor: CursorWrapper,
    kind: str,
    key_id: str,
    windows: Windows,
    amounts: tuple[int, int, int],
    at: datetime,
    *,
    usage_id: int | None = None,
    by: str = "",
    reason: str = "",
) -> bool:
    """Write a signed adjustment (day, month, total) and move the counters alike; False where it was written before."""
    day, month = str(windows.day), str(windows.month)
    cursor.execute(
        """INSERT INTO llmkeys_adjustment
             (kind, key_id, usage_id, day_nano, month_nano, total_nano, day, month, created_at, created_by, reason)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        [kind, key_id, usage_id, *amounts, day, month, instant(at), by, reason[:500]],
    )
    if cursor.rowcount != 1:
        return False
    cursor.execute(
        """UPDATE llmkeys_apikey
              SET spent_day_nano = CASE WHEN day = %s THEN spent_day_nano + %s ELSE spent_day_nano END,
                  spent_month_nano = CASE WHEN month = %s THEN spent_month_nano + %s ELSE spent_month_nano END,
                  spent_total_nano = spent_total_nano + %s, refused_window = ''
            WHERE id = %s
        RETURNING day, month, spent_day_nano, spent_month_nano, spent_total_nano,
                  daily_limit_nano, monthly_limit_nano, total_limit_nano""",
        [day, amounts[0], month, amounts[1], amounts[2], key_id],
    )
    if kind in _TOLD_LATER and amounts[2] > 0:
        _tell_limits(cursor, key_id, cursor.fetchone(), amounts[2], windows, at)
    return True


@dataclass(frozen=True, slots=True)
class _Charged:
    """A finished row and what it costs with all its adjustments."""

    state: str
    key_id: str
    windows: Windows
    nano: int


def _charged(cursor: CursorWrapper, usage_id: int) -> _Charged | None:
    """Read what a settled or lost row costs by now, and keep others from correcting it until this transaction ends.

    The lock is an UPDATE that changes nothing: two corrections at once must see each other.
    """
    cursor.execute(
        """UPDATE llmkeys_usagerecord SET state = state WHERE id = %s AND state IN ('SETTLED', 'LOST')
           RETURNING state, key_id, day, month, cost_nano""",
        [usage_id],
    )
    row = cursor.fetchone()
    if row is None:
        return None
    cursor.execute("SELECT COALESCE(SUM(total_nano), 0) FROM llmkeys_adjustment WHERE usage_id = %s", [usage_id])
    return _Charged(row[0], row[1], Windows(as_date(row[2]), as_date(row[3])), row[4] + int(cursor.fetchone()[0]))


def correct_cost(
    cursor: CursorWrapper, usage_id: int, true_nano: int, at: datetime, *, reason: str, only_lost: bool = False
) -> int | None:
    """Charge what a row truly cost, whatever was charged so far; return the difference, None where it was done before.

    A lost row gets a `late` adjustment, a settled one `reconcile`; also of 0, so that nobody asks again.
    """
    row = _charged(cursor, usage_id)
    if row is None or (only_lost and row.state != "LOST"):
        return None
    kind, amount = "late" if row.state == "LOST" else "reconcile", true_nano - row.nano
    if not adjust(cursor, kind, row.key_id, row.windows, (amount,) * 3, at, usage_id=usage_id, reason=reason):
        return None
    _correct_daily(cursor, usage_id, amount)
    return amount


def void_lost(cursor: CursorWrapper, usage_id: int, at: datetime, *, by: str, reason: str) -> int | None:
    """Take back the charge of a lost row; return the amount, None where it is no lost row or was voided before."""
    row = _charged(cursor, usage_id)
    if row is None or row.state != "LOST":
        return None
    amount = row.nano
    if not adjust(cursor, "void", row.key_id, row.windows, (-amount,) * 3, at, usage_id=usage_id, by=by, reason=reason):
        return None
    _correct_daily(cursor, usage_id, -amount)
    return amount


def rebase(cursor: CursorWrapper, key_id: str, windows: Windows) -> None:
    """Put a key whose stored windows lie in the future back to `windows`, with the costs recorded for those."""
    in_day, in_month = _recorded_params(windows)
    cursor.execute(
        f"""UPDATE llmkeys_apikey SET day = %s, month = %s, spent_day_nano = {_RECORDED_DAY},
              spent_month_nano = {_RECORDED_MONTH} WHERE id = %s""",  # noqa: S608
        [str(windows.day), str(windows.month), *in_day, *in_month, key_id],
    )


def roll(cursor: CursorWrapper, key_id: str, windows: Windows) -> None:
    """Open `windows` where the stored ones have ended, as a hold does; nothing where a request was faster."""
    day, month = str(windows.day), str(windows.month)
    in_day, in_month = _recorded_params(windows)
    cursor.execute(
        f"UPDATE llmkeys_apikey SET day = %s, spent_day_nano = {_RECORDED_DAY} WHERE id = %s AND day < %s",  # noqa: S608
        [day, *in_day, key_id, day],
    )
    cursor.execute(
        f"UPDATE llmkeys_apikey SET month = %s, spent_month_nano = {_RECORDED_MONTH} WHERE id = %s AND month < %s",  # noqa: S608
        [month, *in_month, key_id, month],
    )


# --- leases ---------------------------------------------------------------------------------------------------------


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


# --- small things ---------------------------------------------------------------------------------------------------


def add_event(
    cursor: CursorWrapper,
    kind: str,
    key_id: str | None,
    message: str,
    at: datetime,
    *,
    actor: str = "",
    once: str | None = None,
) -> bool:
    """Write an event, and the alert that its kind calls for; False where one with the same `once` exists."""
    cursor.execute(
        """INSERT INTO llmkeys_keyevent (kind, key_id, message, actor, created_at, once)
           VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        [kind, key_id, message[:1000], actor, instant(at), once],
    )
    written = cursor.rowcount == 1
    if written and kind in _ALERTS:
        if kind == "exhausted" and key_id:
            once = _once_per_exhaustion(cursor, key_id, at)
        add_alert(cursor, _ALERTS[kind], key_id, message, at, once=once)
    return written


# Events that the operator must hear of, and the kinds of their alerts.
_ALERTS = {
    "warned": "warning_threshold",
    "limit_reached": "limit_reached",
    "rejected": "key_rejected",
    "exhausted": "key_exhausted",
    "expiring": "key_expires",
    "expired": "key_expired",
}


def add_alert(
    cursor: CursorWrapper, kind: str, key_id: str | None, message: str, at: datetime, *, once: str | None = None
) -> bool:
    """Put an alert into the outbox, in the transaction of its cause; False where one with the same `once` exists.

    Where there is no target it is for the dashboard alone, and counts as delivered.
    """
    delivered = None if settings.ALERT_URLS else instant(at)
    cursor.execute(
        """INSERT INTO llmkeys_alert (kind, key_id, message, created_at, once, sent_at, tries, delivery_error)
           VALUES (%s, %s, %s, %s, %s, %s, 0, '') ON CONFLICT DO NOTHING""",
        [kind, key_id, _naming_the_key(cursor, key_id, message)[:1000], instant(at), once, delivered],
    )
    return cursor.rowcount == 1


def _naming_the_key(cursor: CursorWrapper, key_id: str | None, message: str) -> str:
    """An alert is read far from the key's page: it begins with the key's name unless the words have it."""
    cursor.execute("SELECT name FROM llmkeys_apikey WHERE id = %s", [key_id])
    row = cursor.fetchone()
    return message if row is None or f"“{row[0]}”" in message else f"“{row[0]}”: {message}"


def _once_per_exhaustion(cursor: CursorWrapper, key_id: str, at: datetime) -> str:
    """Each request that meets an exhausted key leaves an event; the operator hears once a day and recovery."""
    cursor.execute(
        "SELECT MAX(id) FROM llmkeys_keyevent WHERE key_id = %s AND kind IN ('recovered', 'accepted')", [key_id]
    )
    return f"exhausted {key_id} {current_windows(at).day} {cursor.fetchone()[0] or 0}"


def note_serving_key(cursor: CursorWrapper, model: str, key_id: str, at: datetime) -> None:
    """Remember which key serves a model; where that changed, leave one event."""
    cursor.execute("SELECT key_id FROM llmkeys_servingkey WHERE model = %s", [model])
    row = cursor.fetchone()
    if row is not None and row[0] == key_id:
        return
    cursor.execute(
        """INSERT INTO llmkeys_servingkey (model, key_id) VALUES (%s, %s)
           ON CONFLICT (model) DO UPDATE SET key_id = excluded.key_id""",
        [model, key_id],
    )
    if row is not None:
        cursor.execute("SELECT id, name FROM llmkeys_apikey WHERE id IN (%s, %s)", [row[0], key_id])
        names = dict(cursor.fetchall())
        message = f"Rotated from “{names.get(row[0], row[0])}” to “{names.get(key_id, key_id)}” for {model}."
        add_event(cursor, "rotated", key_id, message, at)
