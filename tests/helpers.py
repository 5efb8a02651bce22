"""What the tests share: a present, rows with sensible defaults, and a client that speaks JSON."""

from __future__ import annotations

import itertools
import secrets
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client

from llmkeys.key_state import current_windows
from llmkeys.keys.adding import add_key
from llmkeys.lib.money import NANO
from llmkeys.models import ApiKey, UsageRecord
from llmkeys.providers import get as get_provider
from llmkeys.tokens.making import create_token

NOW = datetime(2026, 11, 23, 20, 30, tzinfo=UTC)  # a Monday
JSON = "application/json"

_numbers = itertools.count(1)


def new_secret(provider: str = "openrouter") -> str:
    """Return a secret of the provider's look that no other call returns."""
    known = get_provider(provider)
    candidates = (prefix + secrets.token_hex(24) for prefix in (*known.secret_prefixes, ""))
    return next(secret for secret in candidates if not known.secret_problem(secret))


def make_key(
    *, provider: str = "openrouter", name: str = "", secret: str = "", at: datetime = NOW, **columns: Any
) -> ApiKey:
    """Store a key through the service, then set `columns` as they are (`spent_day_nano=…`, `enabled=False`, …)."""
    values = {
        "provider": provider,
        "name": name or f"Key {next(_numbers)}",
        "apiKey": secret or new_secret(provider),
    }
    key = add_key(values=values, at=at)
    if columns:
        ApiKey.objects.filter(pk=key.pk).update(**columns)
        key.refresh_from_db()
    return key


def make_usage(key: ApiKey, *, at: datetime = NOW, **columns: Any) -> UsageRecord:
    """Write a settled usage row of 0.25 USD beside the ledger: the key's counters stay as they are."""
    windows = current_windows(at)
    defaults = {
        "request_id": f"req-{next(_numbers)}",
        "attempt": 1,
        "created_at": at,
        "finished_at": at,
        "provider": key.provider,
        "dialect": "openai_chat",
        "requested_model": "openai/gpt-6.1-terra",
        "model": "openai/gpt-6.1-terra",
        "token_name": "worker",
        "state": "SETTLED",
        "success": True,
        "http_status": 200,
        "input_tokens": 100,
        "output_tokens": 20,
        "hold_nano": NANO // 2,
        "cost_nano": NANO // 4,
        "cost_source": "provider",
        "day": windows.day,
        "month": windows.month,
    }
    return UsageRecord.objects.create(key=key, **defaults | columns)


def parts_of(row: UsageRecord) -> dict[str, int]:
    """Return what a row's cost adds to the parts of its day's total, by their columns."""
    is_lost = row.state == "LOST"
    is_guess = row.cost_source in ("estimated", "fallback")
    return {
        "estimated_nano": row.cost_nano if is_guess and not is_lost else 0,
        "lost_nano": row.cost_nano if is_lost else 0,
    }


def make_user(name: str, *permissions: str, **fields: Any) -> Any:
    """Make a user with permissions of this app, such as `view_apikey`."""
    user = get_user_model().objects.create_user(name, password="correct horse", **fields)
    found = list(Permission.objects.filter(content_type__app_label="llmkeys", codename__in=permissions))
    assert len(found) == len(permissions), permissions
    user.user_permissions.set(found)
    return user


def make_token(user: Any, *scopes: str, at: datetime | None = None, **fields: Any) -> str:
    """Return the text of a new access token; without a scope it has `gateway`. Fields are named as in the API."""
    return make_account(user, *scopes, at=at, **fields)[1]


def make_account(user: Any, *scopes: str, at: datetime | None = None, **fields: Any) -> tuple[Any, str]:
    """Return a new access token and its text."""
    values = {"name": f"token {next(_numbers)}", "scopes": list(scopes or ("gateway",)), **fields}
    return create_token(user=user, values=values, at=at or NOW)


class JsonClient(Client):
    """Django's test client with an access token, sending JSON. A `str` or `bytes` goes out as it is."""

    def __init__(self, token: str = "", **options: Any):
        super().__init__(headers={"Authorization": f"Bearer {token}"} if token else None, **options)

    def post(self, path: str, data: Any = b"", content_type: str = JSON, **extra: Any) -> Any:
        return super().post(path, data, content_type, **extra)

    def put(self, path: str, data: Any = b"", content_type: str = JSON, **extra: Any) -> Any:
        return super().put(path, data, content_type, **extra)

    def patch(self, path: str, data: Any = b"", content_type: str = JSON, **extra: Any) -> Any:
        return super().patch(path, data, content_type, **extra)
