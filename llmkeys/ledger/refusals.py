"""Why a key did not take a bid, in words and figures."""

from __future__ import annotations

from datetime import datetime

from django.db.backends.utils import CursorWrapper

from llmkeys.database.sql import as_date, as_instant
from llmkeys.key_state import current_windows
from llmkeys.ledger.events import WORDS, limit_event
from llmkeys.ledger.records import Bid, Refusal
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import DAY, MONTH, TOTAL, Windows

_FACTS = """SELECT enabled, rejected_at, secret_missing, deleted_at, expires_at, day, month, spent_day_nano,
   spent_month_nano, spent_total_nano, held_nano, daily_limit_nano, monthly_limit_nano, total_limit_nano
   FROM llmkeys_apikey WHERE id = %s"""


def refusal_of(cursor: CursorWrapper, bid: Bid, at: datetime) -> Refusal:
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


def remember_refusals(cursor: CursorWrapper, refusals: list[Refusal], at: datetime) -> None:
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
            f"The {WORDS[refusal.window]} limit of {format_usd(refusal.limit_nano)} is reached: the next request may "
            f"cost {format_usd(refusal.need_nano)} and {format_usd(refusal.room_nano)} is left."
        )
        limit_event(cursor, refusal.key_id, refusal.window, current_windows(at), refusal.limit_nano, message, at)
