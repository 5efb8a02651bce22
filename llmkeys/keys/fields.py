"""The fields of a key as people and programs send them, checked and converted to columns.

Names are the API's (camelCase). Shared by the REST API, the dashboard's forms, the commands and imports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from django.conf import settings

from llmkeys import account_fields, providers
from llmkeys.account_fields import (
    BUDGET_READERS,
    BUDGETS,
    Checker,
    expiry_reader,
    read_boolean,
    read_name,
    read_text,
    read_whole,
)
from llmkeys.key_state import ACTIVE
from llmkeys.lib.money import usd_to_nano
from llmkeys.models import ApiKey
from llmkeys.providers.pasted import read_secret, stripped

# fields that may be written → columns
WRITABLE = {
    "name": "name",
    "description": "description",
    **BUDGETS,
    "expiresAt": "expires_at",
    "priority": "priority",
    "billingGroup": "billing_group",
    "workspaceId": "workspace_id",
    "enabled": "enabled",
}
LABELS = {column: name for name, column in WRITABLE.items()} | {"secret": "apiKey"}

# fields that a GET shows and a PUT ignores
READ_ONLY = account_fields.READ_ONLY | {
    "maskedApiKey", "source", "isActive", "updatedAt", "coolingUntil", "lastError",
}  # fmt: skip
_ALLOWED = {*WRITABLE, *READ_ONLY, "provider", "apiKey", "isDefault"}
_INSTEAD = "Disable the key instead, or give a later date."


def label_of(column: str) -> str:
    return LABELS.get(column, column)


def default_limits() -> dict[str, int]:
    """Return the limits of a new key, from the settings, by column."""
    return {
        "daily_limit_nano": usd_to_nano(settings.DAILY_LIMIT_USD),
        "monthly_limit_nano": usd_to_nano(settings.MONTHLY_LIMIT_USD),
        "total_limit_nano": usd_to_nano(settings.TOTAL_LIMIT_USD),
    }


def clean_new(values: Mapping[str, Any], *, at: datetime) -> dict[str, Any]:
    """Return the columns, `secret` and `is_default` of a new key. Raises InvalidInput naming every error."""
    check = Checker(values, allowed=_ALLOWED)
    check.required("provider", "name", "apiKey")
    provider = check.take("provider", _provider)
    check.take_columns(WRITABLE, _READERS | {"expiresAt": expiry_reader(at, None, instead=_INSTEAD)})
    if "isActive" in values and "enabled" not in values and values["isActive"] is not True:
        check.fault("isActive", "Is derived and cannot be set. Set “enabled” to switch a key on or off.")
    secret = check.take("apiKey", lambda value: _secret(value, provider))
    default = check.take("isDefault", read_boolean, default=False)
    check.finish()
    return {**check.columns, "provider": provider, "secret": secret, "is_default": default}


def clean_change(values: Mapping[str, Any], *, key: ApiKey, at: datetime) -> dict[str, Any]:
    """Return the columns to change, and `secret` if a new one was given. Raises InvalidInput."""
    check = Checker(values, allowed=_ALLOWED)
    if values.get("provider", key.provider) != key.provider:
        check.fault("provider", "cannot be changed: add a new key instead.")
    check.take_columns(WRITABLE, _READERS | {"expiresAt": expiry_reader(at, key.expires_at, instead=_INSTEAD)})
    if not _leaves_the_secret(values.get("apiKey"), key):
        check.columns["secret"] = check.take("apiKey", lambda value: _secret(value, key.provider))
    _take_switch(check, values, key, at)
    check.finish()
    return check.columns


def _leaves_the_secret(value: Any, key: ApiKey) -> bool:
    """Return whether `apiKey` is missing, empty or the key's own mask, as in a GET that is sent back."""
    return value is None or (isinstance(value, str) and stripped(value) in ("", stripped(key.masked_secret)))


def _take_switch(check: Checker, values: Mapping[str, Any], key: ApiKey, at: datetime) -> None:
    """Check `isActive`, which is derived: without `enabled` it must equal the present state."""
    if "enabled" in values or "isActive" not in values:
        return
    if values["isActive"] is not (key.status_at(at) == ACTIVE):
        check.fault("isActive", "Is derived and cannot be set. Set “enabled” to switch a key on or off.")


def _provider(value: Any) -> str:
    if not isinstance(value, str) or value not in providers.PROVIDERS:
        raise ValueError(f"Unknown provider. Choose from: {', '.join(providers.PROVIDERS)}.")
    return value


def _header_text(value: Any, *, most: int) -> str:
    text = read_text(value, most=most)
    if not text.isascii() or " " in text:
        raise ValueError("May contain only letters, digits and punctuation, no spaces.")
    return text


def _secret(value: Any, provider: str | None) -> str:
    if provider is None:
        return read_secret(value, None)
    return read_secret(value, providers.get(provider), base_url=settings.PROVIDER_BASE_URLS[provider])


def _priority(value: Any) -> int:
    words = "Must be a whole number between -1000000 and 1000000."
    return read_whole(value, least=-1_000_000, most=1_000_000, words=words)


_READERS: dict[str, Callable[[Any], Any]] = {
    "name": read_name,
    "description": lambda value: read_text(value, most=500),
    **BUDGET_READERS,
    "priority": _priority,
    "billingGroup": lambda value: read_text(value, most=100),
    "workspaceId": lambda value: _header_text(value, most=100),
    "enabled": read_boolean,
}
