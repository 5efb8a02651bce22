"""What the pages of keys and access tokens share: both are accounts, with budgets and usage."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlencode

from django.conf import settings
from django.utils.html import format_html
from django.utils.safestring import SafeString

from llmkeys.dashboard.charts import Bar, Chart, Series, budget_bar, days_until, stacked
from llmkeys.dashboard.usage_page import for_lines, lines_of
from llmkeys.dashboard.usage_words import guessed_parts, skipped_ids
from llmkeys.key_state import ACTIVE, DISABLED, EXPIRED, LIMIT_REACHED, REVOKED, Budget, current_windows
from llmkeys.models import AccessToken, ApiKey, KeyEvent, UsageRecord
from llmkeys.templatetags.llmkeys_format import percent, usd, usd_short, when
from llmkeys.usage.rows import lost_rows
from llmkeys.usage.sums import Sums, Wanted, daily_sums

CHART_DAYS = 30
_REQUESTS, _EVENTS, _MODELS, _LOST = 12, 15, 10, 5
_LOST_COUNTED = 1_000  # the page polls, so no longer list is counted
_EVENTS_READ = 200  # repeated ones are merged
_OFTEN = {KeyEvent.Kind.ROTATED, KeyEvent.Kind.COOLED}  # shown once per day, with their number
_FIGURES = re.compile(r"[0-9][0-9.,:-]*")

# The regions that both pages have: name → template.
PARTS = {
    "lost": "_account_lost.html",
    "budgets": "_account_budgets.html",
    "spend": "_account_spend.html",
    "models": "_account_models.html",
    "requests": "_account_requests.html",
    "events": "_account_events.html",
}

Account = ApiKey | AccessToken
Column = Literal["key", "token"]  # the column by which rows, totals and events refer to the account


def account_parts(account: Account, column: Column, at: datetime) -> dict[str, Any]:
    """Return what the templates in `PARTS` need, except the card; the number of queries does not grow with usage."""
    sums = _last_days(account, at)
    recent = list(for_lines(UsageRecord.objects.filter(**{column: account}).order_by("-id"))[:_REQUESTS])
    names = dict(ApiKey.objects.filter(pk__in=skipped_ids(recent)).values_list("pk", "name"))
    # Lost requests whose charges were neither voided nor corrected, the newest first.
    every_lost = lost_rows(**{f"{column}_id": account.pk}).order_by("-id")
    lost = list(every_lost[:_LOST])
    lost_number = len(lost) if len(lost) < _LOST else every_lost[: _LOST_COUNTED + 1].count()
    return {
        "account": account,
        "column": column,
        "usage_query": f"{column}={account.pk}",
        "chart": _chart(account, sums, at),
        "parts": guessed_parts(Sums.over(sums.values()), lambda **cost: f"?{urlencode({column: account.pk, **cost})}"),
        "models": _models(sums),
        "lines": lines_of(recent, names),
        "lost": lost,
        "lost_words": _lost_words(lost_number),
        "lost_more": lost_number > len(lost),
        "events": event_lines(account.events.order_by("-id")[:_EVENTS_READ]),
    }


def _lost_words(number: int) -> str:
    if number > _LOST_COUNTED:
        return f"More than {_LOST_COUNTED:,} requests were lost"
    return "A request was lost" if number == 1 else f"{number:,} requests were lost"


DayAndModel = tuple[date, str]


def _last_days(account: Account, at: datetime) -> dict[DayAndModel, Sums]:
    """Return the sums of the last 30 days by day and model, from daily totals and not from usage rows."""
    today = current_windows(at).day
    wanted = Wanted(key=account.pk) if isinstance(account, ApiKey) else Wanted(token_id=account.pk)
    span = replace(wanted, since=today - timedelta(days=CHART_DAYS - 1), until=today)
    return {(day, model): sums for (day, model), sums in daily_sums(span, "day", "model", at=at).items()}


def _chart(account: Account, sums: Mapping[DayAndModel, Sums], at: datetime) -> Chart:
    """Return the chart of the days, with the account's daily limit and holds."""
    today, by_day = current_windows(at).day, Counter[date]()
    for (day, _), one in sums.items():
        by_day[day] += one.cost_nano
    return stacked(
        days_until(today, CHART_DAYS), [Series(account.name, by_day)], title="Spend per day", today=today,
        held=account.held_nano, limit=account.daily_limit_nano,
    )  # fmt: skip


# --- by model ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelLine:
    """What a model cost this account; `width` is relative to the most expensive one, for the bar behind its name."""

    name: str
    requests: int
    cost_nano: int
    share: str
    width: str
    is_one: bool = True


def _models(sums: Mapping[DayAndModel, Sums]) -> list[ModelLine]:
    by_model: dict[str, list[Sums]] = {}
    for (_, model), one in sums.items():
        by_model.setdefault(model, []).append(one)
    found = {model: Sums.over(days) for model, days in by_model.items()}
    rows = sorted(
        ((name, one.requests, one.cost_nano) for name, one in found.items()), key=lambda row: (-row[2], row[0])
    )
    if len(rows) > _MODELS + 1:
        rest = rows[_MODELS:]
        others = (f"{len(rest)} other models", sum(row[1] for row in rest), sum(row[2] for row in rest))
        rows = [*rows[:_MODELS], others]
    total = sum(row[2] for row in rows)
    most = max((row[2] for row in rows), default=0)
    return [_model(row, at, total, most) for at, row in enumerate(rows)]


def _model(row: tuple[str, int, int], at: int, total: int, most: int) -> ModelLine:
    name, requests, cost = row
    return ModelLine(name, requests, cost, share_of(cost, total), width_of(cost, most), is_one=at < _MODELS)


def share_of(cost: int, total: int) -> str:
    return percent(max(0, 100 * cost / total)) if total > 0 else "–"


def width_of(cost: int, most: int) -> str:
    """Return the width of the bar behind a name."""
    return f"{max(0, 100 * cost / most):.1f}%" if most > 0 else "0%"


# --- events -----------------------------------------------------------------------------------------------------------


_EVENT_LOOKS = {
    "limit_reached": ("full", "s-square"),
    "warned": ("full", "s-square"),
    "rejected": ("bad", "s-cross"),
    "exhausted": ("cool", "s-half"),
    "cooled": ("cool", "s-half"),
    "accepted": ("ok", "s-disc"),
    "recovered": ("ok", "s-disc"),
    "rotated": ("ok", "s-disc"),
    "expired": ("", "s-diamond"),
    "expiring": ("full", "s-diamond"),
}


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event with its colour and shape, and how often it occurred on that day."""

    event: KeyEvent
    times: int = 1

    @property
    def tone(self) -> str:
        return _EVENT_LOOKS.get(self.event.kind, ("", ""))[0]

    @property
    def shape(self) -> str:
        return _EVENT_LOOKS.get(self.event.kind, ("", "s-ring"))[1]


def event_lines(events: Iterable[KeyEvent]) -> list[EventLine]:
    """Return the newest events; automatic ones that were repeated on a day are merged into the newest of them."""
    found: dict[tuple[Any, ...], list[KeyEvent]] = {}
    for event in events:
        day = current_windows(event.created_at).day
        words = "" if event.kind in _OFTEN else _FIGURES.sub("0", event.message)
        by_itself = (event.kind, day, words) if not event.actor else (event.pk,)
        found.setdefault(by_itself, []).append(event)
    return [EventLine(alike[0], len(alike)) for alike in list(found.values())[:_EVENTS]]


# --- the card: status and budgets -------------------------------------------------------------------------------------


# status → colour and shape
BADGES = {
    ACTIVE: ("ok", "s-disc"),
    LIMIT_REACHED: ("full", "s-square"),
    EXPIRED: ("", "s-diamond"),
    DISABLED: ("", "s-cross"),
    REVOKED: ("", "s-cross"),
}
_WORDS = {"day": "Day", "month": "Month", "total": "Total"}


@dataclass(frozen=True, slots=True)
class BudgetLine:
    word: str
    spent: int
    limit: int
    bar: Bar
    left: int | None
    resets_at: datetime | None


class AccountCard:
    """The status and budgets of an account at a given time.

    What is only needed for rendering is computed lazily, because of a thousand keys only one page is shown.
    """

    at: datetime
    status: str
    projected: int | None  # nano-dollars: the month's cost at this pace, if it is to be shown

    @property
    def account(self) -> Account:
        raise NotImplementedError

    @property
    def tone(self) -> str:
        return BADGES[self.status][0]

    @property
    def shape(self) -> str:
        return BADGES[self.status][1]

    @property
    def is_dim(self) -> bool:
        return self.status in (DISABLED, EXPIRED, REVOKED)

    @cached_property
    def facts(self) -> tuple[Budget, ...]:
        return self.account.budgets(self.at)

    @cached_property
    def budgets(self) -> tuple[BudgetLine, ...]:
        return tuple(_line(budget, idle=self.is_dim) for budget in self.facts)

    @property
    def mode(self) -> str:
        return self.account.budget_mode or settings.BUDGET_MODE

    @property
    def success_rate(self) -> float | None:
        tried = self.account.successful_requests + self.account.failed_requests
        return 100 * self.account.successful_requests / tried if tried else None

    @property
    def pace_is_too_high(self) -> bool:
        """Return whether the month will exceed its limit at this pace."""
        limit = self.account.monthly_limit_nano
        return bool(limit and self.projected is not None and self.projected > limit and not self.is_dim)

    @property
    def room(self) -> Budget | None:
        """The budget with the least room, or None if the account has no limits."""
        limited = (budget for budget in self.facts if budget.limit)
        return min(limited, key=lambda budget: budget.remaining or 0, default=None)


def _line(budget: Budget, *, idle: bool) -> BudgetLine:
    word = _WORDS[budget.window]
    held = f", {usd(budget.held)} held" if budget.held else ""
    limit = f"of {usd_short(budget.limit)}" if budget.limit else "no limit"
    words = f"{word} budget: {usd(budget.spent)} spent{held}, {limit}"
    bar = budget_bar(words, spent=budget.spent, held=budget.held, limit=budget.limit, idle=idle)
    return BudgetLine(word, budget.spent, budget.limit, bar, budget.remaining, budget.resets_at)


# --- what a card says in words ----------------------------------------------------------------------------------------


MOVE, RAISE, REPLACE = "Change the date", "Raise the limit", "Then replace the secret"
_FIELDS = {MOVE: "expires", RAISE: "dailyLimit", REPLACE: "apiKey"}
_LEFT = {"day": "today", "month": "this month", "total": "in total"}
_SPENT = {"day": "Daily budget", "month": "Monthly budget", "total": "Total budget"}


@dataclass(frozen=True, slots=True)
class Note:
    """A line in a card. `remedy` is the text of a link to the account's form, shown to users who may change it."""

    tone: str
    icon: str
    title: str
    text: SafeString | str = ""
    remedy: str = ""

    @property
    def field(self) -> str:
        """The field of the form that the remedy is about."""
        return _FIELDS.get(self.remedy, "")


def room_words(room: Budget | None) -> str:
    return "no limit" if room is None else f"{usd(room.remaining)} left {_LEFT[room.window]}"


def expired_note(account: Account, at: datetime) -> Note | None:
    if account.expires_at is None or not account.is_expired(at):
        return None
    return Note("", "i-clock", "Expired", format_html("{}.", when(account.expires_at)), remedy=MOVE)


Again = Callable[[SafeString | str], SafeString | str]  # returns a sentence that says when requests are served again


def spent_note(account: Account, at: datetime, *, again: Again) -> Note | None:
    """Return a note about the budget that is spent, with figures; `again` says when that ends."""
    budget = account.reached_budget(at)
    if budget is None:
        return None
    figures = f"{usd(budget.spent)} of {usd_short(budget.limit)}."
    until = when(budget.resets_at) if budget.resets_at else "when its limit is raised or its cost is reset"
    text = format_html("{} {}", figures, again(until))
    return Note("full", "i-gauge", f"{_SPENT[budget.window]} spent.", text, remedy=RAISE)


def refused_note(account: Account, at: datetime, *, again: Again) -> Note | None:
    """Return a note if the last request found no room, with figures."""
    if not account.is_refused(at):
        return None
    budget = next(budget for budget in account.budgets(at) if budget.window == account.refused_window)
    later = format_html(" {}", again(when(budget.resets_at))) if budget.resets_at else ""
    text = format_html(
        "The last request needed up to {}; {} was left.{}",
        usd(account.refused_need_nano),
        usd(account.refused_room_nano),
        later,
    )
    return Note("full", "i-gauge", f"{_SPENT[budget.window]}: no room.", text, remedy=RAISE)
