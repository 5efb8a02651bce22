"""Whose access token came with a request, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings

from llmkeys.database.sql import as_instant, lean_cursor
from llmkeys.lib.texts import TOKEN_PREFIX
from llmkeys.vault.crypto import token_digest

_NOTED_EVERY = timedelta(seconds=60)

_ACCESS = """SELECT t.id, t.name, t.scope_gateway OR t.scope_manage, t.limited_to_keys, t.expires_at, t.last_used_at,
     t.budget_mode, t.daily_limit_nano > 0 OR t.monthly_limit_nano > 0 OR t.total_limit_nano > 0
   FROM llmkeys_accesstoken t JOIN auth_user u ON u.id = t.user_id
   WHERE t.digest = %s AND t.revoked_at IS NULL AND u.is_active"""
_KEYS = "SELECT apikey_id FROM llmkeys_accesstoken_keys WHERE accesstoken_id = %s"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: an access token's rights, or a person or command of ours (no token)."""

    name: str = ""
    token_id: int | None = None
    may_gateway: bool = True
    key_ids: frozenset[str] | None = None  # None: every key
    is_strict: bool = False  # the token has budgets of its own that are never exceeded
    notes_use: bool = False  # the hold is to note the token's last use: for people, so that once a minute will do


def read_caller(cursor: Any, token: str, at: datetime) -> Caller | None:
    """Return whose access token this is; None where it is unknown, revoked, expired, or its user is disabled."""
    if not token.startswith(TOKEN_PREFIX):
        return None
    cursor.execute(_ACCESS, [token_digest(token)])
    row = cursor.fetchone()
    if row is None:
        return None
    token_id, name, may_gateway, is_limited, expires_at, last_used_at, mode, has_budgets = row
    if expires_at is not None and as_instant(expires_at) <= at:
        return None
    allowed = None
    if is_limited:
        cursor.execute(_KEYS, [token_id])
        allowed = frozenset(key_id for (key_id,) in cursor.fetchall())
    notes_use = last_used_at is None or abs(at - as_instant(last_used_at)) > _NOTED_EVERY
    is_strict = bool(has_budgets) and (mode or settings.BUDGET_MODE) == "strict"
    return Caller(name, token_id, bool(may_gateway), allowed, is_strict, notes_use)


def caller_of(token: str, at: datetime) -> Caller | None:
    """Do the same on this thread's connection."""
    with lean_cursor() as cursor:
        return read_caller(cursor, token, at)
