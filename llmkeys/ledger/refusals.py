"""Why an account refused a bid, in words and figures."""

from __future__ import annotations

from datetime import datetime

from llmkeys.database.sql import Cursor
from llmkeys.key_state import current_windows
from llmkeys.ledger import accounts
from llmkeys.ledger.accounts import Account, Standing
from llmkeys.ledger.events import limit_event
from llmkeys.ledger.records import Attempt, Bid, Refusal
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import DAY, WINDOWS


def refusal_of(cursor: Cursor, account: Account, bid: Bid, attempt: Attempt) -> Refusal:
    """Return why the account refused the bid, in words and figures; of several reasons the one that lasts longest."""
    reason, found = accounts.why_unusable(cursor, account, attempt.at), accounts.standing(cursor, account)
    if reason or found is None:
        return Refusal(bid.key_id, reason or "disabled", account)
    refusal = _lack_of_room(account, bid, found, attempt.at)
    if refusal.only_holds and account.of.is_paced and attempt.is_first:
        pace = accounts.used_up_pace(cursor, account)
        if pace is not None:
            return Refusal(bid.key_id, f"{pace.requests_per_minute} requests per minute", account, pace=pace)
    return refusal


def _lack_of_room(account: Account, bid: Bid, found: Standing, at: datetime) -> Refusal:
    """Return the refusal for the full window that ends last."""
    # What the statement that holds asks for: in soft mode any room is enough, and open holds do not count.
    need, held = (min(1, bid.hold_nano), 0) if found.is_soft else (bid.hold_nano, found.held)
    spent = found.spent_in(current_windows(at))
    limited = [window for window in reversed(WINDOWS) if found.limits[window.name]]
    lacking = [window for window in limited if spent[window.name] + held + need > found.limits[window.name]]
    if not lacking:  # a hold was given back a moment ago
        return Refusal(
            bid.key_id, "busy", account, need_nano=bid.hold_nano, window=DAY, held_nano=held, only_holds=True
        )
    full = [window for window in lacking if spent[window.name] + need > found.limits[window.name]]
    window = (full or lacking)[0]
    limit = found.limits[window.name]
    room = max(0, limit - spent[window.name] - held)
    fits = min(found.limits[window.name] - spent[window.name] - held for window in limited)
    whose = "" if account.of is accounts.KEYS else "the access token's "
    return Refusal(
        bid.key_id,
        f"{whose}{window.adjective} budget: needs {format_usd(bid.hold_nano)}, {format_usd(room)} left",
        account,
        need_nano=bid.hold_nano,
        room_nano=room,
        limit_nano=limit,
        window=window.name,
        held_nano=held,
        fits_nano=max(0, fits),
        only_holds=not full,
        never_fits=any(need > found.limits[window.name] for window in full),
    )


def remember_refusals(cursor: Cursor, refusals: list[Refusal], at: datetime) -> None:
    """Record each refusal on its account, which the status depends on, unless open holds were the reason."""
    windows = current_windows(at)
    for refusal in refusals:
        if not refusal.window or refusal.held_nano or refusal.never_fits:
            continue
        is_new = accounts.remember_refusal(
            cursor,
            refusal.account,
            refusal.window,
            windows.day,
            need_nano=refusal.need_nano,
            room_nano=refusal.room_nano,
        )
        if is_new:
            adjective = next(window.adjective for window in WINDOWS if window.name == refusal.window)
            message = (
                f"The {adjective} limit of {format_usd(refusal.limit_nano)} is reached: the next request may cost "
                f"{format_usd(refusal.need_nano)} and {format_usd(refusal.room_nano)} is left."
            )
            limit_event(cursor, refusal.account, refusal.window, windows, refusal.limit_nano, message, at)
