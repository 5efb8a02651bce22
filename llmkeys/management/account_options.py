"""The options that `keys` and `tokens` share: name, budgets and expiry."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from llmkeys.models import Budgeted

# option → field of the API
_FIELDS = {
    "name": "name",
    "daily_limit": "dailyLimit",
    "monthly_limit": "monthlyLimit",
    "total_limit": "totalLimit",
    "budget_mode": "budgetMode",
    "expires": "expiresAt",
}
_NEVER = {"never", "none", ""}


def add_account_options(verb: argparse.ArgumentParser) -> None:
    """Add all of them but the name, which is not optional everywhere."""
    for window in ("daily", "monthly", "total"):
        verb.add_argument(f"--{window}-limit", metavar="USD", help="0 means no limit")
    verb.add_argument("--budget-mode", metavar="MODE", help="strict, soft, or default (as REFACTAI_BUDGET_MODE)")
    verb.add_argument("--expires", metavar="DATE", help="such as 2027-01-31, 2027-01-31T12:00:00Z, or never")


def given_fields(options: Mapping[str, Any], others: Mapping[str, str]) -> dict[str, Any]:
    """Return the given fields by the API's names; `others` are the command's own options (option → field)."""
    fields = {**_FIELDS, **others}
    values = {field: options[option] for option, field in fields.items() if options.get(option) is not None}
    if str(values.get("expiresAt", "-")).strip().lower() in _NEVER:
        values["expiresAt"] = None
    if values.get("budgetMode") == "default":
        values["budgetMode"] = None
    return values


def budget_mode_words(account: Budgeted) -> str:
    return account.budget_mode or "default (REFACTAI_BUDGET_MODE)"
