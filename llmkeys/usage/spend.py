"""What was spent and asked day by day, from the daily totals, for pages that are read every few seconds.

Today and yesterday are read each time; the days before, which hardly ever change, once an hour or after a correction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from django.core.cache import cache
from django.db.models import Max, QuerySet, Sum

from llmkeys.models import Adjustment, DailyUsage

_REMEMBERED_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class DaySum:
    """What all keys together cost and were asked on a day; cost in nano-dollars."""

    cost_nano: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Spending:
    """What one key or model cost by day, in nano-dollars; `name` is the key's id or the model, empty for the rest."""

    name: str
    by_day: dict[date, int]

    @property
    def total(self) -> int:
        return sum(self.by_day.values())


def day_sums(first: date, last: date) -> dict[date, DaySum]:
    """Return cost and requests of each day from `first` to `last` (`last` being today) on which there were any."""
    rows = _remembered(
        "day", first, last, lambda rows: rows.values_list("day").annotate(Sum("cost_nano"), Sum("requests"))
    )
    return {day: DaySum(int(cost), int(requests)) for day, cost, requests in rows}


def spend_by_key(first: date, last: date, *, most: int) -> tuple[list[Spending], int]:
    """Return the `most` dearest keys day by day, then all others as one; and how many those others are."""
    totals: dict[str, int] = {}
    for key_id, cost in _remembered(
        "key", first, last, lambda rows: rows.values_list("key_id").annotate(Sum("cost_nano"))
    ):
        totals[key_id] = totals.get(key_id, 0) + int(cost)
    ranked = sorted((key_id for key_id in totals if totals[key_id]), key=lambda key_id: (-totals[key_id], key_id))
    kept: dict[str, dict[date, int]] = {key_id: {} for key_id in ranked[:most]}
    days = DailyUsage.objects.filter(key_id__in=kept, day__gte=first, day__lte=last).order_by()
    for key_id, day, cost in days.values_list("key_id", "day").annotate(Sum("cost_nano")):
        kept[key_id][day] = int(cost)
    found = [Spending(key_id, by_day) for key_id, by_day in kept.items()]
    number = len(ranked) - len(kept)
    return ([*found, _rest(found, day_sums(first, last))], number) if number else (found, 0)


def _rest(found: list[Spending], sums: dict[date, DaySum]) -> Spending:
    left = {day: one.cost_nano - sum(spent.by_day.get(day, 0) for spent in found) for day, one in sums.items()}
    return Spending("", {day: nano for day, nano in left.items() if nano})


def spend_by_model(first: date, last: date) -> list[Spending]:
    """Return what each model cost day by day."""
    by_model: dict[str, dict[date, int]] = {}
    rows = _remembered("model", first, last, lambda rows: rows.values_list("model", "day").annotate(Sum("cost_nano")))
    for model, day, cost in rows:
        by_model.setdefault(model, {})[day] = int(cost)
    return [Spending(model, by_day) for model, by_day in by_model.items()]


def _remembered(
    name: str, first: date, last: date, read: Callable[[QuerySet[DailyUsage]], QuerySet[Any]]
) -> list[tuple[Any, ...]]:
    """Return what `read` makes of the days: closed ones from memory, unless a correction came in since."""
    closed = last - timedelta(days=2)
    corrections = Adjustment.objects.aggregate(newest=Max("id"))["newest"]
    token = f"spend-{name}-{first}-{closed}-{corrections}"
    return [
        *(cache.get_or_set(token, lambda: _rows(read, first, closed), _REMEMBERED_SECONDS) or ()),
        *_rows(read, max(first, closed + timedelta(days=1)), last),
    ]


def _rows(read: Callable[[QuerySet[DailyUsage]], QuerySet[Any]], first: date, last: date) -> list[tuple[Any, ...]]:
    return list(read(DailyUsage.objects.filter(day__gte=first, day__lte=last).order_by()))
