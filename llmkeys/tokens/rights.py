"""Who sent a request, by its access token, and what the token may do."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models import Q

from llmkeys.database.sql import as_instant, instant, lean_cursor
from llmkeys.lib.texts import TOKEN_PREFIX
from llmkeys.providers.names import VENDORS, at_vendor, common_name
from llmkeys.vault.crypto import token_digest

_NOTED_EVERY = timedelta(seconds=60)

_ACCESS = """SELECT t.id, t.name, t.scope_gateway OR t.scope_manage, u.id, u.is_superuser, t.limited_to_keys,
     t.allowed_models, t.expires_at, t.last_used_at, t.budget_mode,
     t.daily_limit_nano > 0 OR t.monthly_limit_nano > 0 OR t.total_limit_nano > 0
   FROM llmkeys_accesstoken t JOIN auth_user u ON u.id = t.user_id
   WHERE t.revoked_at IS NULL AND u.is_active"""
# The permission to send requests: a user's own, or a group's.
_MAY_SEND = """SELECT 1 FROM auth_permission p
   JOIN django_content_type c ON c.id = p.content_type_id AND c.app_label = 'llmkeys'
   WHERE p.codename = 'use_gateway' AND (
     EXISTS (SELECT 1 FROM auth_user_user_permissions up WHERE up.user_id = %s AND up.permission_id = p.id)
     OR EXISTS (SELECT 1 FROM auth_user_groups ug JOIN auth_group_permissions gp ON gp.group_id = ug.group_id
                 WHERE ug.user_id = %s AND gp.permission_id = p.id))"""
_KEYS = "SELECT apikey_id FROM llmkeys_accesstoken_keys WHERE accesstoken_id = %s"


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request: an access token with its rights, or a person or command of ours (no token)."""

    name: str = ""
    token_id: int | None = None
    has_gateway_scope: bool = True
    user_id: int | None = None
    is_administrator: bool = False  # its user is an administrator
    key_ids: frozenset[str] | None = None  # None: every key
    models: tuple[str, ...] | None = None  # names and patterns; None: every model
    is_strict: bool = False  # the token has budgets that must never be exceeded
    notes_use: bool = False  # the last use is to be recorded, at most once a minute

    def may_use(self, model: str) -> bool:
        """Return whether the token allows the model, under any of its names."""
        return self.models is None or allows(self.models, model)


def read_caller(cursor: Any, token: str, at: datetime) -> Caller | None:
    """Return the caller with this access token; None if it is unknown, revoked or expired, or its user is disabled."""
    if not token.startswith(TOKEN_PREFIX):
        return None
    digest = token_digest(token)
    cursor.execute(f"{_ACCESS} AND t.digest = %s", [digest])
    row = cursor.fetchone()
    if row is None:  # the old secret stays valid for a while after a rotation
        cursor.execute(f"{_ACCESS} AND t.previous_digest = %s AND t.previous_until > %s", [digest, instant(at)])
        row = cursor.fetchone()
    if row is None:
        return None
    token_id, name, has_scope, user_id, is_root, is_limited, models, expires_at, last_used_at, mode, has_budgets = row
    if expires_at is not None and as_instant(expires_at) <= at:
        return None
    allowed = None
    if is_limited:
        cursor.execute(_KEYS, [token_id])
        allowed = frozenset(key_id for (key_id,) in cursor.fetchall())
    if isinstance(models, str):
        models = json.loads(models)
    return Caller(
        name,
        token_id,
        has_gateway_scope=bool(has_scope),
        user_id=user_id,
        is_administrator=bool(is_root),
        key_ids=allowed,
        models=None if models is None else tuple(models),
        is_strict=bool(has_budgets) and (mode or settings.BUDGET_MODE) == "strict",
        notes_use=last_used_at is None or abs(at - as_instant(last_used_at)) > _NOTED_EVERY,
    )


def may_send(cursor: Any, caller: Caller) -> bool:
    """Return whether the token's user may send requests; for administrators without a query."""
    if caller.is_administrator:
        return True
    cursor.execute(_MAY_SEND, [caller.user_id, caller.user_id])
    return cursor.fetchone() is not None


def senders(user_ids: Collection[int]) -> set[int]:
    """Return which of these users may send requests through the gateway, with one query for all of them."""
    of_user = Q(user_permissions__codename="use_gateway", user_permissions__content_type__app_label="llmkeys")
    of_group = Q(groups__permissions__codename="use_gateway", groups__permissions__content_type__app_label="llmkeys")
    users = get_user_model().objects.filter(Q(is_superuser=True) | of_user | of_group, pk__in=user_ids)
    return set(users.values_list("pk", flat=True))


def caller_of(token: str, at: datetime) -> Caller | None:
    """Do what `read_caller` does, on this thread's connection."""
    with lean_cursor() as cursor:
        return read_caller(cursor, token, at)


# --- models -----------------------------------------------------------------------------------------------------------


def allows(patterns: Iterable[str], model: str) -> bool:
    """Return whether a name or pattern (in which `*` matches any text) matches one of the model's names."""
    names = spellings(model)
    return any(_matches(pattern, name) for pattern in patterns for name in names) or any(
        "*" not in pattern and common_name(pattern) in names for pattern in patterns
    )


def is_within(inner: Iterable[str] | None, outer: Iterable[str]) -> bool:
    """Return whether everything that the `inner` patterns allow is also allowed by the `outer` ones."""
    return inner is not None and all(allows(outer, pattern) for pattern in inner)


@lru_cache(maxsize=1024)
def spellings(model: str) -> frozenset[str]:
    """Return the names of a model: the given one, its vendor's, and the vendor's with the vendor as a prefix."""
    names = {model, common_name(model)}
    for vendor in VENDORS:
        if name := at_vendor(model, vendor):
            names |= {name, f"{vendor}/{name}"}
    return frozenset(names)


def _matches(pattern: str, name: str) -> bool:
    """Return whether the whole name matches; in linear time, because a regular expression would try every split."""
    first, *pieces = pattern.split("*")
    if not pieces:
        return name == pattern
    last = pieces.pop()
    at, end = len(first), len(name) - len(last)
    if at > end or not name.startswith(first) or not name.endswith(last):
        return False
    for piece in pieces:
        found = name.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True
