"""What was spent, summed by day, month, model, key, provider, token or user, and over all keys, without usage rows.

Used by summaries, pages and figures. Closed days come from `closed_days.py`, so that a year is as quick as a week.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import chain
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models import F, QuerySet, Sum

from llmkeys.key_state import ACTIVE, current_windows
from llmkeys.lib.money import usd_json
from llmkeys.lib.windows import day_end, month_end
from llmkeys.models import AccessToken, ApiKey, DailyUsage, DayTotal, RunningTotal
from llmkeys.presentation import instant_json, success_rate
from llmkeys.usage import closed_days
from llmkeys.usage.closed_days import ONE_DAY, Plain

# What a summary can be grouped by, and the columns for it; months are added up from their days, which are few.
_COLUMNS = {
    "day": ("day",),
    "month": ("day",),
    "model": ("model",),
    "key": ("key_id",),
    "provider": ("provider",),
    "token": ("token_id", "token_name"),
    "user": ("token_id", "token_name"),
}
GROUPS = tuple(_COLUMNS)
_IN_TIME_ORDER = ("day", "month")
_SHORT = timedelta(days=4)  # shorter spans are summed directly


@dataclass(slots=True)
class Sums:
    """The sums of one group; cost in nano-dollars."""

    requests: int = 0
    successful: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0
    estimated_nano: int = 0  # the part of the cost that is estimated or at the fallback price
    lost_nano: int = 0  # the part of the cost that was charged for lost requests

    @classmethod
    def over(cls, many: Iterable[Sums]) -> Sums:
        """Return the sums over all groups."""
        total = cls()
        for one in many:
            for name in _NAMES:
                setattr(total, name, getattr(total, name) + getattr(one, name))
        return total

    def to_json(self) -> dict[str, Any]:
        return {
            "cost": usd_json(self.cost_nano),
            "requests": self.requests,
            "successful": self.successful,
            "failed": self.failed,
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "successRate": success_rate(self.successful, self.failed),
        }


_NAMES = Sums.__slots__
# The columns of a group and its sums in the order of `Sums`. Plain tuples: a thousand keys are four thousand rows.
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which daily totals to sum; empty values and None do not filter. Both days are included."""

    key: str = ""
    provider: str = ""
    model: str = ""
    token_name: str = ""
    token_id: int | None = None
    since: date | None = None
    until: date | None = None

    def rows(self) -> QuerySet[DailyUsage]:
        span = {"day__gte": self.since, "day__lte": self.until}
        return DailyUsage.objects.filter(
            **self.lookups(provider="key__provider"), **{name: day for name, day in span.items() if day is not None}
        )

    def lookups(self, *, provider: str) -> dict[str, Any]:
        wanted = {"key_id": self.key, provider: self.provider, "model": self.model, "token_name": self.token_name}
        of_token = {} if self.token_id is None else {"token_id": self.token_id}
        return {name: value for name, value in wanted.items() if value} | of_token


# --- by any columns ---------------------------------------------------------------------------------------------------


def daily_sums(wanted: Wanted, *columns: str, at: datetime) -> dict[Row, Sums]:
    """Return the sums of the wanted days, grouped by `columns` (day, model, provider, token_name, key_id)."""
    return _added(chain.from_iterable(_grouped(rows, *columns) for rows in _sources(wanted, columns, at)), len(columns))


def running_sums(until: date, *, at: datetime) -> tuple[date | None, Sums]:
    """Return the last day up to `until` with running totals, and the sums up to its end, however many days that is."""
    beginning = closed_days.first_day()
    day = closed_days.running_until(until, first=beginning, at=at) if beginning is not None else None
    if day is None:
        return None, Sums()
    return day, Sums.over(_added(_grouped(RunningTotal.objects.filter(day=day)), 0).values())


def dearest_keys(wanted: Wanted, *, at: datetime) -> list[str]:
    """Return the ids of all keys that cost something, the most expensive first; ties are ordered by id."""
    costs: Counter[str] = Counter()
    for key_id, cost in _by_key(wanted, at, of=("cost_nano",)):
        costs[key_id] += int(cost)
    return sorted((key_id for key_id, cost in costs.items() if cost > 0), key=lambda key_id: (-costs[key_id], key_id))


def dearest_keys_by_day(
    wanted: Wanted, all_keys: Mapping[date, int], *, most: int, at: datetime
) -> tuple[dict[str, dict[date, int]], int]:
    """Return the daily costs of the `most` most expensive keys, the others together under "", and how many those are.

    `all_keys` is what all keys together cost on the wanted days. Daily costs of every key would be too many figures.
    """
    ranked = dearest_keys(wanted, at=at)
    found: dict[str, dict[date, int]] = {key_id: {} for key_id in ranked[:most]}
    rows = wanted.rows().filter(key_id__in=ranked[:most]).order_by().values_list("key_id", "day")
    for key_id, day, cost in rows.annotate(cost=Sum("cost_nano")):
        found[key_id][day] = int(cost)
    others = len(ranked) - len(found)
    if others:
        rest = {day: cost - sum(by_day.get(day, 0) for by_day in found.values()) for day, cost in all_keys.items()}
        found[""] = rest
    return found, others


def _sources(wanted: Wanted, columns: Iterable[str], at: datetime) -> Iterator[QuerySet]:
    """Yield the totals that make up the wanted days, each once: those of closed days, then those of the others.

    Totals of closed days are not by key, so the daily totals are read for one key, or if grouped by key.
    """
    known = closed_days.known_days()
    if known is None:
        return
    first, last = max(known[0], wanted.since or known[0]), min(known[1], wanted.until or known[1])
    if wanted.key or "key_id" in columns or last - first < _SHORT:
        yield wanted.rows()
        return
    still_open = closed_days.open_days(first, last, at=at)
    if len(still_open) > closed_days.MANY_DAYS:
        yield wanted.rows()
        return
    closed = DayTotal.objects.filter(day__range=(first, last), **wanted.lookups(provider="provider"))
    yield closed.exclude(day__in=still_open)
    yield replace(wanted, since=None, until=None).rows().filter(day__in=still_open)


def _by_key(wanted: Wanted, at: datetime, *, of: Sequence[str] = _NAMES) -> Iterator[Row]:
    """Yield the sums by key as those until the end of the span minus those before it, both from running totals."""
    known = closed_days.known_days()
    if known is None or wanted.key:
        yield from _grouped(wanted.rows(), "key_id", of=of)
        return
    beginning, last = known
    since, until = max(beginning, wanted.since or beginning), min(last, wanted.until or last)
    if until - since < _SHORT:
        yield from _grouped(wanted.rows(), "key_id", of=of)
        return
    end = closed_days.running_until(wanted.until or date.max, first=beginning, at=at)
    before = closed_days.running_until(since - ONE_DAY, first=beginning, at=at)
    if end is None or end < since or (before is None and beginning < since):
        yield from _grouped(wanted.rows(), "key_id", of=of)
        return
    lookups = wanted.lookups(provider="key__provider")
    yield from _grouped(RunningTotal.objects.filter(day=end, **lookups), "key_id", of=of)
    yield from _grouped(replace(wanted, since=end + ONE_DAY).rows(), "key_id", of=of)
    if before is not None:
        less = replace(wanted, since=before + ONE_DAY, until=since - ONE_DAY).rows()
        for rows in (RunningTotal.objects.filter(day=before, **lookups), less):
            yield from ((group, *(-value for value in values)) for group, *values in _grouped(rows, "key_id", of=of))


def _grouped(rows: QuerySet, *columns: str, of: Sequence[str] = _NAMES) -> Iterable[Row]:
    """Return the columns of each group and the sums of the columns `of`."""
    sums = {f"sum_{name}": Sum(name) for name in of}
    if not columns:
        return [tuple(value or 0 for value in rows.order_by().aggregate(**sums).values())]
    of_keys = rows.model is not DayTotal
    names = ["key__provider" if of_keys and name == "provider" else name for name in columns]
    # Plain columns, because grouping in the order of an index would read all days instead of the wanted ones.
    groups = {f"group_{place}": Plain(F(name)) for place, name in enumerate(names)}
    return rows.order_by().values(**groups).annotate(**sums).values_list(*groups, *sums)


def _added(rows: Iterable[Row], width: int) -> dict[Row, Sums]:
    """Add up the rows of each group, which come from several sources; the first `width` columns are the group."""
    found: dict[Row, list[int]] = {}
    for row in rows:
        group, values = row[:width], row[width:]
        known = found.get(group)
        found[group] = (
            list(values) if known is None else [have + more for have, more in zip(known, values, strict=True)]
        )
    return {group: Sums(*map(int, values)) for group, values in found.items()}


# --- summaries --------------------------------------------------------------------------------------------------------


def summary_of(wanted: Wanted, *, group_by: str, at: datetime) -> dict[str, Any]:
    """Return the sums per group and overall: days and months in order, other groups the most expensive first."""
    if group_by == "key":
        return _summary(_by_key(wanted, at), group_by)
    columns = _COLUMNS[group_by]
    sources = _sources(wanted, columns, at)
    return _summary(chain.from_iterable(_grouped(rows, *columns) for rows in sources), group_by)


def summary(rows: QuerySet[DailyUsage], *, group_by: str) -> dict[str, Any]:
    """Return what `summary_of` does, directly from daily totals: the slow way, to check the quick one."""
    return _summary(_grouped(rows, *_COLUMNS[group_by]), group_by)


def _summary(rows: Iterable[Row], group_by: str) -> dict[str, Any]:
    width = len(_COLUMNS[group_by])
    heading = _headings(group_by)
    found = _added(((heading(*row[:width]), *row[width:]) for row in rows), 1)
    # A group of zeros was used only before the span.
    groups = {head: sums for (head,), sums in found.items() if sums != Sums()}
    results = [{**head.to_json(), **groups[head].to_json()} for head in _in_order(groups, group_by)]
    return {"groupBy": group_by, "results": results, "total": Sums.over(groups.values()).to_json()}


@dataclass(frozen=True, slots=True)
class Heading:
    """A group of a summary: its name, and what else is known about it, as pairs."""

    group: str
    more: tuple[tuple[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"group": self.group, **dict(self.more)}


def _headings(group_by: str) -> Callable[..., Heading]:
    """Return a function from a group's columns to its heading; the names that it needs are read once."""
    if group_by == "month":
        return lambda day: Heading(day.isoformat()[:7])
    if group_by == "key":
        keys = dict(ApiKey.objects.values_list("id", "name"))
        return lambda key_id: Heading(key_id, (("keyId", key_id), ("keyName", keys[key_id])))
    if group_by in ("token", "user"):
        return _token_headings(by_user=group_by == "user")
    return lambda group: Heading(str(group))


def _token_headings(*, by_user: bool) -> Callable[[int | None, str], Heading]:
    """Return the headings for tokens or users: tokens are told apart by id, so names may repeat or change.

    Usage without a token has a name too: the playground records the person's.
    """
    tokens = {pk: (name, user) for pk, name, user in AccessToken.objects.values_list("pk", "name", "user__username")}
    users = set(get_user_model().objects.values_list("username", flat=True)) if by_user else set()

    def heading(token_id: int | None, token_name: str) -> Heading:
        if token_id is None:
            name, user = token_name, token_name if token_name in users else ""
        else:
            name, user = tokens.get(token_id, (token_name, ""))
        return Heading(user) if by_user else Heading(name, (("tokenId", token_id), ("tokenName", name), ("user", user)))

    return heading


def _in_order(groups: Mapping[Heading, Sums], group_by: str) -> list[Heading]:
    if group_by in _IN_TIME_ORDER:
        return sorted(groups, key=lambda head: head.group)
    return sorted(groups, key=lambda head: (-groups[head].cost_nano, head.group, str(head.more)))


# --- all keys together, from their counters ---------------------------------------------------------------------------

# What the sums need of a key: the other thirty columns would cost more than the sums.
_COUNTERS = (
    "deleted_at", "day", "month", "spent_day_nano", "spent_month_nano", "spent_total_nano", "held_nano",
    "daily_limit_nano", "monthly_limit_nano", "total_limit_nano", "total_requests", "successful_requests",
    "failed_requests",
)  # fmt: skip


def statistics(*, at: datetime) -> dict[str, Any]:
    """Return the statistics that the API shows. Deleted keys still count in the sums of costs and requests."""
    every = list(ApiKey.objects.order_by().only(*_COUNTERS))
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
    """Return cost, limit and percentage of one window; the percentage is for the keys that have that limit."""
    limited = [budget for budget in budgets if budget.limit]
    limit = sum(budget.limit for budget in limited)
    used = sum(budget.spent for budget in limited)
    return {
        f"{word}Cost": usd_json(spent),
        f"{word}Limit": usd_json(limit),
        f"{word}BudgetUsed": round(100 * used / limit, 2) if limit else 0.0,
    }
