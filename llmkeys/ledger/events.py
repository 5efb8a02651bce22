"""Events and alerts, each written once, in the transaction of its cause."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta

from django.conf import settings

from llmkeys.database.sql import Cursor, instant
from llmkeys.key_state import current_windows
from llmkeys.ledger.accounts import Account, Standing
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import WINDOWS, Window, Windows

# Events and alerts are deleted after this time, and their `once` with them, so nothing older may be reported again.
KEEP_EVENTS = timedelta(days=366)


def add_event(
    cursor: Cursor,
    kind: str,
    key_id: str | None,
    message: str,
    at: datetime,
    *,
    token_id: int | None = None,
    actor: str = "",
    once: str | None = None,
) -> bool:
    """Write an event, and an alert if its kind calls for one; return False if one with the same `once` exists."""
    cursor.execute(
        """INSERT INTO llmkeys_keyevent (kind, key_id, token_id, message, actor, created_at, once)
           VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        [kind, key_id, token_id, message[:1000], actor, instant(at), once],
    )
    written = cursor.rowcount == 1
    if written and kind in _ALERTS:
        if kind == "exhausted" and key_id:
            once = _once_per_exhaustion(cursor, key_id, at)
        add_alert(cursor, _ALERTS[kind], key_id, message, at, token_id=token_id, once=once)
    return written


# Events that the operator is notified of, and the kinds of their alerts.
_ALERTS = {
    "warned": "warning_threshold",
    "limit_reached": "limit_reached",
    "rejected": "key_rejected",
    "exhausted": "key_exhausted",
    "expiring": "key_expires",
    "expired": "key_expired",
}


def add_alert(
    cursor: Cursor,
    kind: str,
    key_id: str | None,
    message: str,
    at: datetime,
    *,
    token_id: int | None = None,
    once: str | None = None,
) -> bool:
    """Put an alert into the outbox, in the transaction of its cause; return False if one with the same `once` exists.

    Only the scheduler decides whether there are targets: they may be set on its machine and not on this one.
    """
    words = _with_the_name(cursor, key_id, token_id, message)
    cursor.execute(
        """INSERT INTO llmkeys_alert
             (kind, key_id, token_id, message, created_at, once, tries, delivery_error)
           VALUES (%s, %s, %s, %s, %s, %s, 0, '') ON CONFLICT DO NOTHING""",
        [kind, key_id, token_id, words[:1000], instant(at), once],
    )
    return cursor.rowcount == 1


def _with_the_name(cursor: Cursor, key_id: str | None, token_id: int | None, message: str) -> str:
    """Return the message with the key's or token's name in front unless it has it: alerts are read without context."""
    of, account_id = ("apikey", key_id) if token_id is None else ("accesstoken", token_id)
    cursor.execute(f"SELECT name FROM llmkeys_{of} WHERE id = %s", [account_id])
    row = cursor.fetchone()
    if row is None or f"“{row[0]}”" in message:
        return message
    return f"“{row[0]}”: {message}" if token_id is None else f"The access token “{row[0]}”: {message}"


def _once_per_exhaustion(cursor: Cursor, key_id: str, at: datetime) -> str:
    """Return the `once` of an exhaustion alert: every failed request leaves an event, but the alert comes once a day.

    It comes again on the same day if the key recovered in between.
    """
    cursor.execute(
        "SELECT MAX(id) FROM llmkeys_keyevent WHERE key_id = %s AND kind IN ('recovered', 'accepted')", [key_id]
    )
    return f"exhausted {key_id} {current_windows(at).day} {cursor.fetchone()[0] or 0}"


def note_serving_keys(cursor: Cursor, serving: Mapping[str, tuple[str, datetime]]) -> None:
    """Record which key serves each model, with an event if it changed."""
    if not serving:
        return
    marks = ", ".join(["%s"] * len(serving))
    cursor.execute(
        f"SELECT model, key_id FROM llmkeys_servingkey WHERE model IN ({marks})",
        list(serving),
    )
    before = dict(cursor.fetchall())
    for model, (key_id, at) in sorted(serving.items()):
        if before.get(model) != key_id:
            _note_serving_key(cursor, model, before.get(model), key_id, at)


def _note_serving_key(cursor: Cursor, model: str, before: str | None, key_id: str, at: datetime) -> None:
    cursor.execute(
        """INSERT INTO llmkeys_servingkey (model, key_id) VALUES (%s, %s)
           ON CONFLICT (model) DO UPDATE SET key_id = excluded.key_id""",
        [model, key_id],
    )
    if before is not None:
        cursor.execute("SELECT id, name FROM llmkeys_apikey WHERE id IN (%s, %s)", [before, key_id])
        names = dict(cursor.fetchall())
        message = f"Rotated from “{names.get(before, before)}” to “{names.get(key_id, key_id)}” for {model}."
        add_event(cursor, "rotated", key_id, message, at)


def note_limits(
    cursor: Cursor, account: Account, standing: Standing, cost: int, charged: Windows, at: datetime
) -> None:
    """Write an event for each limit, and each warning threshold, that this cost has just reached."""
    for window in WINDOWS:
        limit, amount = standing.limits[window.name], standing.spent[window.name]
        is_open = not window.ends or getattr(standing.windows, window.name) == getattr(charged, window.name)
        if not limit or not is_open:
            continue
        before = amount - cost
        if before < _warning_at(limit) <= amount:
            _warning_event(cursor, account, window, charged, limit, amount, at)
        if before < limit <= amount:
            message = f"The {window.adjective} limit of {format_usd(limit)} is reached: {format_usd(amount)} spent."
            limit_event(cursor, account, window.name, charged, limit, message, at)


def limit_event(
    cursor: Cursor, account: Account, window: str, windows: Windows, limit: int, message: str, at: datetime
) -> None:
    once = _once("limit", cursor, account, window, windows, limit)
    _add_event_of(cursor, "limit_reached", account, message, at, once)


def _add_event_of(cursor: Cursor, kind: str, account: Account, message: str, at: datetime, once: str) -> None:
    """Write an event about a key or a token; accounts of other tables have none yet."""
    if account.key_id or account.token_id:
        add_event(cursor, kind, account.key_id, message, at, token_id=account.token_id, once=once)


def _warning_at(limit: int) -> float:
    """Return the spending in nano-dollars that triggers a warning; infinity if the threshold is 0 or 1 (the limit)."""
    share = settings.WARNING_THRESHOLD
    return math.ceil(share * limit) if 0 < share < 1 else math.inf


def _warning_event(
    cursor: Cursor, account: Account, window: Window, windows: Windows, limit: int, spent: int, at: datetime
) -> None:
    remedy = "or add another key if" if account.key_id else "if"
    message = (
        f"{spent * 100 // limit} % of the {window.adjective} limit of {format_usd(limit)} is spent: "
        f"{format_usd(spent)}. Raise the limit {remedy} the rest is not enough."
    )
    _add_event_of(
        cursor, "warned", account, message, at, _once("warning", cursor, account, window.name, windows, limit)
    )


def _once(what: str, cursor: Cursor, account: Account, window: str, windows: Windows, limit: int) -> str:
    """Return the `once` of an event that is written once per account and window, and again after a reset."""
    which = str(getattr(windows, window, limit))  # the total window never ends: once for each limit
    cursor.execute(
        f"SELECT MAX(id) FROM llmkeys_adjustment WHERE {account.of.column} = %s AND kind = 'reset'",
        [account.id],
    )
    reset = cursor.fetchone()[0]
    whose = account.key_id or f"{account.of.column} {account.id}"
    return f"{what} {whose} {window} {which}" + (f" after {reset}" if reset else "")
