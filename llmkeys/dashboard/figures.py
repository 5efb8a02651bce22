"""The four figures on top of the dashboard, each with its change against the period before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from django.conf import settings

from llmkeys.dashboard.bars import Bar, budget_bar
from llmkeys.dashboard.overview import CHART_DAYS, Overview
from llmkeys.key_state import current_windows
from llmkeys.lib.windows import day_end, month_end
from llmkeys.templatetags.llmkeys_format import growth, percent, usd, usd_short
from llmkeys.usage.spend import DaySum


@dataclass(frozen=True, slots=True)
class Change:
    """Against the period before: `direction` is `up`, `down` or empty; `words` name what is compared."""

    direction: str
    share: str
    words: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the four cards."""

    title: str
    value: str
    beside: str
    bar: Bar
    change: Change | None = None
    lines: list[Any] = field(default_factory=list)
    resets_at: datetime | None = None
    held: int = 0
    open_requests: int = 0


def figures(view: Overview) -> list[Figure]:
    """Return the four cards: total cost, daily and monthly budget, requests."""
    return [
        _total(view),
        _window(view, "Daily Budget", 0, "today", _against_yesterday(view)),
        _window(view, "Monthly Budget", 1, "this month", _against_last_month(view)),
        _requests(view),
    ]


def _sums(view: Overview, index: int) -> tuple[int, int, int]:
    """Return what was spent, is held and is the limit over the keys that have this limit, in nano-dollars."""
    budgets = [card.facts[index] for card in view.cards if card.facts[index].limit]
    return sum(one.spent for one in budgets), sum(one.held for one in budgets), sum(one.limit for one in budgets)


def _cost(view: Overview, index: int) -> int:
    """Return what all keys cost in a window, deleted ones and those without a limit included."""
    return sum(card.facts[index].spent for card in view.everyone)


def _resets_at(view: Overview, index: int) -> datetime:
    windows = current_windows(view.at)
    ends = (day_end(windows.day, settings.TIME_ZONE), month_end(windows.month, settings.TIME_ZONE))
    return ends[index]


def _total(view: Overview) -> Figure:
    cost, (spent, held, limit) = _cost(view, 2), _sums(view, 2)
    beside = (
        f"of {usd_short(limit)}" if limit and cost == spent else f"limits {usd_short(limit)}" if limit else "no limit"
    )
    return Figure(
        title="Total Cost",
        value=usd(cost),
        beside=beside if view.cards else "",
        bar=budget_bar(f"Total cost: {usd(cost)}, {beside}", spent=spent, held=held, limit=limit),
        change=_against_last_days(view, lambda day: day.cost_nano),
        lines=[] if cost else ["Nothing spent yet"],
        held=view.held,
        open_requests=sum(card.open_requests for card in view.everyone),
    )


def _window(view: Overview, title: str, index: int, when: str, change: Change | None) -> Figure:
    cost, (spent, held, limit) = _cost(view, index), _sums(view, index)
    beside = f"{usd(spent)} of {usd_short(limit)}" if limit else f"{when}, no limit"
    outside = cost - spent if limit else 0
    return Figure(
        title=title,
        value=percent(100 * spent / limit) if limit else usd(cost),
        beside=beside,
        bar=budget_bar(f"{title}: {beside}, {usd(held)} held", spent=spent, held=held, limit=limit),
        change=change,
        lines=[f"and {usd(outside)} by keys outside these limits"] if outside > 0 else [],
        resets_at=_resets_at(view, index),
    )


def _requests(view: Overview) -> Figure:
    keys = [card.key for card in view.everyone]
    successful, failed = sum(key.successful_requests for key in keys), sum(key.failed_requests for key in keys)
    tried = successful + failed
    # Not a rounded rate: one failure in a million is no 100 %.
    rate = 100 * successful / tried if tried else 0.0
    beside = f"{percent(rate)} succeeded" if tried else ""
    return Figure(
        title="Total Requests",
        value=f"{sum(key.total_requests for key in keys):,}",
        beside=beside,
        bar=Bar(f"Success rate: {beside or 'nothing sent yet'}", spent=rate),
        change=_against_last_days(view, lambda day: day.requests),
        lines=[f"{failed:,} failed" if failed else "None failed" if tried else "No request yet"],
    )


# --- changes -------------------------------------------------------------------------------------------------------


def _between(view: Overview, first: date, last: date, take: Callable[[DaySum], int]) -> int:
    return sum(take(one) for day, one in view.days.items() if first <= day <= last)


def _against_last_days(view: Overview, take: Callable[[DaySum], int]) -> Change | None:
    middle = view.today - timedelta(days=CHART_DAYS)
    now = _between(view, middle + timedelta(days=1), view.today, take)
    before = _between(view, middle - timedelta(days=CHART_DAYS - 1), middle, take)
    return _change(now, before, f"last {CHART_DAYS} days vs the {CHART_DAYS} before")


def _against_yesterday(view: Overview) -> Change | None:
    yesterday = view.today - timedelta(days=1)
    before = _between(view, yesterday, yesterday, lambda day: day.cost_nano)
    now = _between(view, view.today, view.today, lambda day: day.cost_nano)
    return _change(now, before, f"vs all of yesterday, {usd(before)}")


def _against_last_month(view: Overview) -> Change | None:
    """Compare this month so far with the same days of the month before, or all of it where it was shorter."""
    first = view.today.replace(day=1)
    end = first - timedelta(days=1)
    last = end.replace(day=min(view.today.day, end.day))
    now = _between(view, first, view.today, lambda day: day.cost_nano)
    before = _between(view, end.replace(day=1), last, lambda day: day.cost_nano)
    return _change(now, before, f"vs {end:%B} by day {last.day}")


def _change(now: int, before: int, words: str) -> Change | None:
    """Return the change in per cent; None where there is nothing to compare with."""
    if before <= 0:
        return None
    share = 100 * abs(now - before) / before
    if now == before:
        return Change("", "Same", words)
    direction = "up" if now > before else "down"
    return Change(direction, growth(share), words)
