"""The fields of a key as people and programs give them, checked and turned into what is stored.

Names are the contract's (camelCase). One place for the REST API, the dashboard's forms, the commands and imports.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.utils.dateparse import parse_datetime
from django.utils.timezone import get_default_timezone, is_naive, make_aware

from llmkeys import providers
from llmkeys.exceptions import InvalidInput
from llmkeys.key_state import ACTIVE
from llmkeys.lib.money import parse_limit_usd
from llmkeys.lib.texts import name_problem
from llmkeys.models import ApiKey
from llmkeys.providers.pasted import read_secret, undress

# what may be written → the column
WRITABLE = {
    "name": "name",
    "description": "description",
    "dailyLimit": "daily_limit_nano",
    "monthlyLimit": "monthly_limit_nano",
    "totalLimit": "total_limit_nano",
    "expiresAt": "expires_at",
    "priority": "priority",
    "billingGroup": "billing_group",
    "workspaceId": "workspace_id",
    "enabled": "enabled",
    "budgetMode": "budget_mode",
}
LABELS = {column: name for name, column in WRITABLE.items()} | {"secret": "apiKey"}

# what a GET shows and a PUT ignores
READ_ONLY = frozenset(
    [
        "id",
        "maskedApiKey",
        "source",
        "isActive",
        "status",
        "currentDailyCost",
        "currentMonthlyCost",
        "totalCost",
        "reservedCost",
        "remainingDailyBudget",
        "remainingMonthlyBudget",
        "remainingTotalBudget",
        "totalRequests",
        "successfulRequests",
        "failedRequests",
        "successRate",
        "createdAt",
        "updatedAt",
        "lastUsed",
        "coolingUntil",
        "lastError",
        "projectedMonthlyCost",
    ]
)


def label_of(column: str) -> str:
    return LABELS.get(column, column)


def clean_new(values: Mapping[str, Any], *, at: datetime) -> dict[str, Any]:
    """Return columns, `secret` and `is_default` of a new key. Raises InvalidInput naming every fault."""
    check = _Checker(values, allowed={*WRITABLE, "provider", "apiKey", "isDefault"}, at=at, current_expiry=None)
    check.required("provider", "name", "apiKey")
    provider = check.take("provider", _provider)
    check.take_columns()
    if "isActive" in values and "enabled" not in values and values["isActive"] is not True:
        check.fault("isActive", "Is derived and cannot be set. Set “enabled” to switch a key on or off.")
    secret = check.take("apiKey", lambda value: _secret(value, provider))
    default = check.take("isDefault", _boolean, default=False)
    check.finish()
    return {**check.columns, "provider": provider, "secret": secret, "is_default": default}


def clean_change(values: Mapping[str, Any], *, key: ApiKey, at: datetime) -> dict[str, Any]:
    """Return the columns to change and, where a new secret was given, `secret`. Raises InvalidInput."""
    check = _Checker(
        values, allowed={*WRITABLE, "provider", "apiKey", "isDefault"}, at=at, current_expiry=key.expires_at
    )
    if values.get("provider", key.provider) != key.provider:
        check.fault("provider", "cannot be changed: add a new key instead.")
    check.take_columns()
    if not _leaves_the_secret(values.get("apiKey"), key):
        check.columns["secret"] = check.take("apiKey", lambda value: _secret(value, key.provider))
    _take_switch(check, values, key)
    check.finish()
    return check.columns


def _leaves_the_secret(value: Any, key: ApiKey) -> bool:
    """True for nothing, and for the key's own mask: a GET may be put back."""
    return value is None or (isinstance(value, str) and undress(value) in ("", undress(key.masked_secret)))


def _take_switch(check: _Checker, values: Mapping[str, Any], key: ApiKey) -> None:
    """`isActive` is derived: by itself it may only say what is so already."""
    if "enabled" in values or "isActive" not in values:
        return
    if values["isActive"] is not (key.status_at(check.at) == ACTIVE):
        check.fault("isActive", "Is derived and cannot be set. Set “enabled” to switch a key on or off.")


class _Checker:
    """Collect the faults of all fields, so that a person sees them at once."""

    def __init__(self, values: Mapping[str, Any], *, allowed: set[str], at: datetime, current_expiry: datetime | None):
        self.values, self.at, self.current_expiry = values, at, current_expiry
        self.columns: dict[str, Any] = {}
        self.errors: dict[str, list[str]] = {}
        for name in values:
            if name not in allowed and name not in READ_ONLY:
                self.fault(name, "There is no such field.")

    def fault(self, name: str, text: str) -> None:
        self.errors.setdefault(name, []).append(text)

    def required(self, *names: str) -> None:
        for name in names:
            if name not in self.values:
                self.fault(name, "This field is required.")

    def take(self, name: str, read: Callable[[Any], Any], default: Any = None) -> Any:
        if name not in self.values:
            return default
        try:
            return read(self.values[name])
        except ValueError as error:
            self.fault(name, str(error))
            return default

    def take_columns(self) -> None:
        readers: dict[str, Callable[[Any], Any]] = {
            "name": lambda value: _name(value, most=100),
            "description": lambda value: _text(value, most=500),
            "dailyLimit": parse_limit_usd,
            "monthlyLimit": parse_limit_usd,
            "totalLimit": parse_limit_usd,
            "expiresAt": self._expiry,
            "priority": _priority,
            "billingGroup": lambda value: _text(value, most=100),
            "workspaceId": lambda value: _header_text(value, most=100),
            "enabled": _boolean,
            "budgetMode": read_budget_mode,
        }
        for name, read in readers.items():
            if name in self.values:
                self.columns[WRITABLE[name]] = self.take(name, read)

    def _expiry(self, value: Any) -> datetime | None:
        if value in (None, ""):
            return None
        when = value if isinstance(value, datetime) else parse_instant(value)
        if when <= self.at and when != self.current_expiry:
            raise ValueError("The expiry is in the past. Disable the key instead, or give a later date.")
        return when

    def finish(self) -> None:
        if self.errors:
            raise InvalidInput(self.errors)


def _provider(value: Any) -> str:
    if not isinstance(value, str) or value not in providers.PROVIDERS:
        raise ValueError(f"Unknown provider. Choose from: {', '.join(providers.PROVIDERS)}.")
    return value


def _name(value: Any, *, most: int) -> str:
    text = _text(value, most=most)
    if problem := name_problem(text):
        raise ValueError(problem)
    return text


def _text(value: Any, *, most: int) -> str:
    if not isinstance(value, str):
        raise ValueError("Must be a text.")
    value = value.strip()
    if len(value) > most:
        raise ValueError(f"May have at most {most} characters; it has {len(value)}.")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError("May not hold control characters.")
    return value


def _header_text(value: Any, *, most: int) -> str:
    text = _text(value, most=most)
    if not text.isascii() or " " in text:
        raise ValueError("May hold only letters, digits and signs, without spaces.")
    return text


def _secret(value: Any, provider: str | None) -> str:
    if provider is None:
        return read_secret(value, None)
    return read_secret(value, providers.get(provider), base_url=settings.PROVIDER_BASE_URLS[provider])


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("Must be true or false.")
    return value


def read_budget_mode(value: Any) -> str | None:
    """Return how an account keeps its budgets; None: as REFACTAI_BUDGET_MODE says. Raises ValueError."""
    if value is not None and (not isinstance(value, str) or value not in ApiKey.BudgetMode.values):
        raise ValueError(f"Must be {' or '.join(ApiKey.BudgetMode.values)}, or null for the setting.")
    return value


def _priority(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -1_000_000 <= value <= 1_000_000:
        raise ValueError("Must be a whole number between -1000000 and 1000000.")
    return value


def parse_instant(value: Any) -> datetime:
    """Read a date, or date and time, as a person gives it: midnight and the operator's zone where not told.

    Raises ValueError with words for that person.
    """
    try:
        when = parse_datetime(value) if isinstance(value, str) else None
    except ValueError:
        when = None
    if when is None:
        raise ValueError("Must be a date and time, such as 2027-01-31T00:00:00Z.")
    try:
        # In UTC already here: the year 9999 has instants that other zones can name and UTC cannot.
        return (make_aware(when, get_default_timezone()) if is_naive(when) else when).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("This date and time does not exist.") from None
