"""The charts of the dashboard and of a key's page, from the daily totals."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from django.db.models import Sum
from django.urls import reverse

from llmkeys.dashboard.charts import MOST_SERIES, Chart, Series, days_until, stacked
from llmkeys.dashboard.overview import CHART_DAYS, Overview
from llmkeys.models import ApiKey, DailyUsage
from llmkeys.usage.spend import Spending, spend_by_key, spend_by_model


def spend_chart(view: Overview, by: str) -> Chart:
    """Return what was spent on each of the last 30 days, stacked by key or by model."""
    days = days_until(view.today, CHART_DAYS)
    series, others = _by_model(days) if by == "model" else _by_key(view, days)
    return stacked(days, series, title="Spend per day", what=by, today=view.today, held=view.held, others=others)


def _by_model(days: Sequence[date]) -> tuple[list[Series], int]:
    return [Series(spent.name, spent.by_day) for spent in spend_by_model(days[0], days[-1])], 0


def _by_key(view: Overview, days: Sequence[date]) -> tuple[list[Series], int]:
    """Return the dearest keys; deleted ones are in the sums too, and say so."""
    found, others = spend_by_key(days[0], days[-1], most=MOST_SERIES)
    stored = {card.key.id: card.key.name for card in view.cards}
    gone = [spent.name for spent in found if spent.name and spent.name not in stored]
    names = dict(ApiKey.objects.filter(pk__in=gone).values_list("pk", "name")) if gone else {}
    return [_series(spent, stored, names) for spent in found], others


def _series(spent: Spending, stored: dict[str, str], gone: dict[str, str]) -> Series:
    if not spent.name:
        return Series("", spent.by_day)
    if spent.name in stored:
        return Series(stored[spent.name], spent.by_day, reverse("key", args=[spent.name]))
    return Series(f"{gone.get(spent.name, spent.name)} (deleted)", spent.by_day)


def key_chart(key: ApiKey, today: date) -> Chart:
    """Return what one key cost on each of the last 30 days, with its daily limit and what it holds."""
    days = days_until(today, CHART_DAYS)
    rows = DailyUsage.objects.filter(key=key, day__gte=days[0], day__lte=today).order_by()
    by_day = {day: int(cost) for day, cost in rows.values_list("day").annotate(Sum("cost_nano"))}
    return stacked(
        days, [Series(key.name, by_day)], title="Spend per day", today=today, held=key.held_nano,
        limit=key.daily_limit_nano,
    )  # fmt: skip


def first_day(today: date) -> date:
    return today - timedelta(days=CHART_DAYS - 1)
