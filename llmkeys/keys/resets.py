"""Resets of costs by a person, and what happens automatically when a window ends or an expiry date passes.

Budgets are right without it: a window that has ended does not count and an expired key does not serve, from the very
instant on. These functions update the stored counters and write the events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.db import connection, transaction

from llmkeys import ledger
from llmkeys.database.sql import Cursor, instant
from llmkeys.key_state import current_windows
from llmkeys.keys.default import changing_keys, ensure_default, hand_default_on
from llmkeys.ledger import KEYS, TOKENS, Account, accounts
from llmkeys.ledger.accounts import Standing
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import DAY, MONTH, TOTAL, WINDOWS
from llmkeys.models import AccessToken, ApiKey


@dataclass(frozen=True, slots=True)
class Reset:
    """What a reset took out of each window of a key or token, in nano-dollars."""

    account: Account
    day_nano: int
    month_nano: int
    total_nano: int


# --- by a person ------------------------------------------------------------------------------------------------------


def reset_costs(
    keys: Iterable[ApiKey | AccessToken], *, daily: bool, monthly: bool, total: bool, at: datetime, actor: str = ""
) -> list[Reset]:
    """Set the chosen costs of each key or token to 0, with one `reset` adjustment and one event each.

    One transaction per account, which is locked, so that a cost recorded in the meantime is not lost. Open holds and
    the spending in charts stay. Returns what was taken out.
    """
    chosen = {DAY: daily, MONTH: monthly, TOTAL: total}
    done = []
    for key in keys:
        with transaction.atomic(), connection.cursor() as cursor:
            account = Account(KEYS if isinstance(key, ApiKey) else TOKENS, key.pk)
            reset = _reset(cursor, account, chosen, at, actor)
        if reset is not None:
            done.append(reset)
    return done


def _reset(cursor: Cursor, account: Account, chosen: dict[str, bool], at: datetime, actor: str) -> Reset | None:
    accounts.roll(cursor, account, current_windows(at))
    found = accounts.lock(cursor, account)
    if found is None:
        return None
    taken = {window: spent if chosen[window] else 0 for window, spent in found.spent.items()}
    if not any(taken.values()):
        return None
    adjectives = {window.name: window.adjective for window in WINDOWS}
    words = ", ".join(f"{adjectives[window]} {format_usd(amount)}" for window, amount in taken.items() if amount)
    given_back = {window: -amount for window, amount in taken.items()}
    ledger.adjust(cursor, "reset", account, found.windows, given_back, at, by=actor, reason=f"Reset: {words}.")
    by = f" by {actor}" if actor else ""
    message = f"The costs of “{found.name}” were reset{by}: {words}."
    ledger.add_event(cursor, "cost_reset", account.key_id, message, at, token_id=account.token_id, actor=actor)
    return Reset(account, taken[DAY], taken[MONTH], taken[TOTAL])


# --- the end of a window ----------------------------------------------------------------------------------------------


def close_windows(at: datetime) -> int:
    """Close every day and month that has ended: reset its counters and write an event; return the number of events.

    One short transaction per key or token. A window that a request has already closed still gets its event.
    """
    events = 0
    keys = ApiKey.objects.stored().order_by("id").values_list("id", flat=True)
    tokens = AccessToken.objects.filter(revoked_at__isnull=True).order_by("id").values_list("id", flat=True)
    for account in [*(Account(KEYS, one) for one in keys), *(Account(TOKENS, one) for one in tokens)]:
        with transaction.atomic(), connection.cursor() as cursor:
            events += _close(cursor, account, at)
    with changing_keys() as cursor:
        ensure_default(cursor, at)
    return events


def _close(cursor: Cursor, account: Account, at: datetime) -> int:
    now, found = current_windows(at), accounts.lock(cursor, account)
    if found is None:
        return 0
    accounts.roll(cursor, account, now)
    return sum(
        _add_window_event(cursor, account, found, ended, at)
        for ended in (_ended_day(found.windows.day, now.day), _ended_month(found.windows.month, now.month))
    )


@dataclass(frozen=True, slots=True)
class _Ended:
    """A window that ended, from `first` until before `end`; the current one began at `began`."""

    window: str
    first: date
    end: date
    began: date
    rolled_here: bool


def _ended_day(stored: date, now: date) -> _Ended:
    first = stored if stored < now else now - timedelta(days=1)
    return _Ended(DAY, first, first + timedelta(days=1), now, stored < now)


def _ended_month(stored: date, now: date) -> _Ended:
    first = stored if stored < now else (now - timedelta(days=1)).replace(day=1)
    return _Ended(MONTH, first, (first + timedelta(days=32)).replace(day=1), now, stored < now)


def _add_window_event(cursor: Cursor, account: Account, found: Standing, ended: _Ended, at: datetime) -> int:
    """Write the event of a window in which something was spent; return 0 if nothing was, or if it exists."""
    spent = found.spent[ended.window] if ended.rolled_here else _recorded(cursor, account, ended)
    if not spent:
        return 0
    when = f"in {ended.first:%Y-%m}" if ended.window == MONTH else f"on {ended.first}"
    message = f"A new {ended.window} began for “{found.name}”: {format_usd(spent)} had been spent {when}."
    once = f"window {account.key_id or f'token {account.token_id}'} {ended.window} {ended.began}"
    return int(
        ledger.add_event(cursor, "window_reset", account.key_id, message, at, token_id=account.token_id, once=once)
    )


def _recorded(cursor: Cursor, account: Account, ended: _Ended) -> int:
    """Return what was spent in a window that a request has already closed."""
    cursor.execute(
        f"""SELECT COALESCE(SUM(cost_nano), 0) FROM llmkeys_dailyusage
             WHERE {account.of.column} = %s AND day >= %s AND day < %s""",  # noqa: S608  (constants alone)
        [account.id, str(ended.first), str(ended.end)],
    )
    return int(cursor.fetchone()[0])


# --- the expiry date --------------------------------------------------------------------------------------------------


def expire_keys(at: datetime) -> int:
    """Write one event for each key whose expiry date has passed, and replace the default key; return how many.

    None if it expired so long ago that its event may have been deleted.
    """
    events = 0
    for key in ApiKey.objects.stored().defer("secret").filter(expires_at__lte=at):
        with changing_keys() as cursor:
            events += _expire(cursor, key, at)
    return events


def _expire(cursor: Cursor, key: ApiKey, at: datetime) -> int:
    cursor.execute(
        "SELECT 1 FROM llmkeys_apikey WHERE id = %s AND expires_at <= %s AND deleted_at IS NULL",
        [key.id, instant(at)],
    )
    if cursor.fetchone() is None:
        return 0  # the date was changed in the meantime
    hand_default_on(cursor, key.id, at)
    assert key.expires_at is not None
    if key.expires_at <= at - ledger.KEEP_EVENTS:
        return 0
    message = (
        f"“{key.name}” expired on {key.expires_at:%Y-%m-%d %H:%M} UTC and no longer serves. "
        "Change its expiry date or replace it."
    )
    once = f"expired {key.id} {key.expires_at.isoformat()}"
    return int(ledger.add_event(cursor, "expired", key.id, message, at, once=once))


WARN_BEFORE = (timedelta(days=1), timedelta(days=7))


def warn_of_expiry(at: datetime) -> int:
    """Warn 7 days and 1 day before a key that may serve expires, once for each key, date and threshold.

    Only the nearest threshold counts: a key that was added with twelve hours left is reported once. Returns how many.
    """
    soon = ApiKey.objects.stored().usable(at).defer("secret").filter(expires_at__lte=at + max(WARN_BEFORE))
    with transaction.atomic(), connection.cursor() as cursor:
        return sum(_warn(cursor, key, at) for key in soon)


def _warn(cursor: Cursor, key: ApiKey, at: datetime) -> int:
    assert key.expires_at is not None
    threshold = next(before for before in WARN_BEFORE if key.expires_at <= at + before)
    message = (
        f"“{key.name}” expires on {key.expires_at:%Y-%m-%d %H:%M} UTC, {_in_words(key.expires_at - at)}. "
        "Replace it in time, or change its expiry date."
    )
    once = f"expiring {key.id} {key.expires_at.isoformat()} {threshold.days}"
    return int(ledger.add_event(cursor, "expiring", key.id, message, at, once=once))


def _in_words(left: timedelta) -> str:
    hours = int(left.total_seconds() // 3600)
    if hours >= 48:
        return f"in {hours // 24} days"
    return f"in {hours} hours" if hours > 1 else "within two hours"
