"""The models. They store only facts and deadlines; what is derived from them, such as the status, is in `key_state.py`.

Money is in integer nano-dollars (10^-9 USD), with `_nano` in the name; datetimes are aware and stored in UTC; `day` is
a budget day and `month` the first day of a budget month, in the operator's time zone.
"""

from __future__ import annotations

from llmkeys.models.accounts import (
    AccessToken,
    ApiKey,
    Budgeted,
    Cooling,
    FailedAuthentication,
    ProviderName,
    new_key_id,
)
from llmkeys.models.events import Alert, KeyEvent, ServingKey
from llmkeys.models.prices import AUTO, MOST_ALIASED, OPTIONAL_PRICES, PRICES, ModelAlias, ModelPrice
from llmkeys.models.usage import Adjustment, ClosedDay, DailyUsage, DayTotal, RunningTotal, SealedDay, UsageRecord

__all__ = [
    "AUTO",
    "MOST_ALIASED",
    "OPTIONAL_PRICES",
    "PRICES",
    "AccessToken",
    "Adjustment",
    "Alert",
    "ApiKey",
    "Budgeted",
    "ClosedDay",
    "Cooling",
    "DailyUsage",
    "DayTotal",
    "FailedAuthentication",
    "KeyEvent",
    "ModelAlias",
    "ModelPrice",
    "ProviderName",
    "RunningTotal",
    "SealedDay",
    "ServingKey",
    "UsageRecord",
    "new_key_id",
]
