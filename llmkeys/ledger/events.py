"""Events and alerts, written in the transaction of their cause, each once."""

from __future__ import annotations

import math
from datetime import datetime

from django.conf import settings
from django.db.backends.utils import CursorWrapper

from llmkeys.database.sql import as_date, instant
from llmkeys.key_state import current_windows
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import DAY, MONTH, TOTAL, Windows

WORDS = {DAY: "daily", MONTH: "monthly", TOTAL: "total"}


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


def tell_limits(cursor: CursorWrapper, key_id: str, row: tuple, cost: int, charged: Windows, at: datetime) -> None:
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
            message = f"The {WORDS[window]} limit of {format_usd(limit)} is reached: {format_usd(amount)} spent."
            limit_event(cursor, key_id, window, charged, limit, message, at)


def limit_event(
    cursor: CursorWrapper, key_id: str, window: str, windows: Windows, limit: int, message: str, at: datetime
) -> None:
    once = _once("limit", cursor, key_id, window, windows, limit)
    add_event(cursor, "limit_reached", key_id, message, at, once=once)


def _warning_at(limit: int) -> float:
    """Return the spending in nano-dollars that is warned of: never where the threshold is 0, or 1, the limit itself."""
    share = settings.WARNING_THRESHOLD
    return math.ceil(share * limit) if 0 < share < 1 else math.inf


def _warning_event(
    cursor: CursorWrapper, key_id: str, window: str, windows: Windows, limit: int, spent: int, at: datetime
) -> None:
    message = (
        f"{spent * 100 // limit} % of the {WORDS[window]} limit of {format_usd(limit)} is spent: {format_usd(spent)}. "
        "Raise the limit or add another key if the rest is not enough."
    )
    add_event(cursor, "warned", key_id, message, at, once=_once("warning", cursor, key_id, window, windows, limit))


def _once(what: str, cursor: CursorWrapper, key_id: str, window: str, windows: Windows, limit: int) -> str:
    """Name what is told once per key and window, and once more after a person has set the costs back."""
    which = {DAY: str(windows.day), MONTH: str(windows.month), TOTAL: f"{limit}"}[window]
    cursor.execute("SELECT MAX(id) FROM llmkeys_adjustment WHERE key_id = %s AND kind = 'reset'", [key_id])
    reset = cursor.fetchone()[0]
    return f"{what} {key_id} {window} {which}" + (f" after {reset}" if reset else "")
