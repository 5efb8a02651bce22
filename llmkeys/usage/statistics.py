"""The sums over all keys, from their counters; no usage row is read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings

from llmkeys.key_state import ACTIVE, current_windows
from llmkeys.lib.money import usd_json
from llmkeys.lib.windows import day_end, month_end
from llmkeys.models import ApiKey
from llmkeys.presentation import instant_json, success_rate

# What the sums need of a key: the other thirty columns would cost more than the sums.
_COLUMNS = (
    "deleted_at", "day", "month", "spent_day_nano", "spent_month_nano", "spent_total_nano", "held_nano",
    "daily_limit_nano", "monthly_limit_nano", "total_limit_nano", "total_requests", "successful_requests",
    "failed_requests",
)  # fmt: skip


def statistics(*, at: datetime) -> dict[str, Any]:
    """Return contract 5's statistics. Deleted keys keep their place in the sums of cost and requests."""
    every = list(ApiKey.objects.order_by().only(*_COLUMNS))
    budgets = [key.budgets(at) for key in every]
    stored = [of_key for key, of_key in zip(every, budgets, strict=True) if key.deleted_at is None]
    windows, zone = current_windows(at), settings.TIME_ZONE
    successful = sum(key.successful_requests for key in every)
    failed = sum(key.failed_requests for key in every)
    return {
        "totalKeys": len(stored),
        "activeKeys": ApiKey.objects.with_status(at).filter(status=ACTIVE).count(),
        "totalCost": usd_json(sum(total.spent for _, _, total in budgets)),
        "totalRequests": sum(key.total_requests for key in every),
        "successfulRequests": successful,
        "failedRequests": failed,
        "successRate": success_rate(successful, failed),
        **_window("daily", [day for day, _, _ in stored], sum(day.spent for day, _, _ in budgets)),
        **_window("monthly", [month for _, month, _ in stored], sum(month.spent for _, month, _ in budgets)),
        "reservedCost": usd_json(sum(key.held_nano for key in every)),
        "dailyResetsAt": instant_json(day_end(windows.day, zone)),
        "monthlyResetsAt": instant_json(month_end(windows.month, zone)),
    }


def _window(word: str, budgets: list, spent: int) -> dict[str, Any]:
    """Return cost, limit and per cent of one window; the per cent is over the keys that have that limit."""
    limited = [budget for budget in budgets if budget.limit]
    limit = sum(budget.limit for budget in limited)
    used = sum(budget.spent for budget in limited)
    return {
        f"{word}Cost": usd_json(spent),
        f"{word}Limit": usd_json(limit),
        f"{word}BudgetUsed": round(100 * used / limit, 2) if limit else 0.0,
    }
