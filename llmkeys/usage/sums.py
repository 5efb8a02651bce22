"""What was spent, summed by day, month, model, key, provider or token, from the daily totals; no usage row is read.

`summary_of` is the quick way: what lies in closed days comes from `services/totals.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from operator import attrgetter
from typing import Any

from django.db.models import F, QuerySet, Sum

from llmkeys.lib.money import usd_json
from llmkeys.models import ApiKey, DailyUsage, DayTotal, RunningTotal
from llmkeys.presentation import success_rate
from llmkeys.usage import closed_days
from llmkeys.usage.closed_days import ONE_DAY, Plain

# The column that the database groups by. Months and providers are folded here from their days and keys, which are
# few: so no date function and no join has to touch every daily total.
_COLUMNS = {
    "day": "day",
    "month": "day",
    "model": "model",
    "key": "key_id",
    "provider": "key_id",
    "token": "token_name",
}
GROUPS = tuple(_COLUMNS)
_IN_TIME_ORDER = ("day", "month")
_SHORT = timedelta(days=4)  # so few days are summed as they are


@dataclass(slots=True)
class Sums:
    """The sums of one group; cost in nano-dollars."""

    requests: int = 0
    successful: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0

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


_BY_NAME = {f"sum_{name}": Sum(name) for name in Sums.__slots__}
# A group and its sums in the order of `Sums`. Plain tuples: a thousand keys are four thousand rows.
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which daily totals are summed; empty and None do not filter. Both days are included."""

    key: str = ""
    provider: str = ""
    model: str = ""
    token: str = ""
    since: date | None = None
    until: date | None = None

    def rows(self) -> QuerySet[DailyUsage]:
        span = {"day__gte": self.since, "day__lte": self.until}
        return DailyUsage.objects.filter(
            **self.lookups(provider="key__provider"), **{name: day for name, day in span.items() if day is not None}
        )

    def lookups(self, *, provider: str) -> dict[str, str]:
        wanted = {"key_id": self.key, provider: self.provider, "model": self.model, "token_name": self.token}
        return {name: value for name, value in wanted.items() if value}


def summary(rows: QuerySet[DailyUsage], *, group_by: str) -> dict[str, Any]:
    """Return the sums of the daily totals per group and over all: days and months in order, else the dearest first."""
    return _sum_up(_grouped(rows, _COLUMNS[group_by]), group_by=group_by)


def summary_of(wanted: Wanted, *, group_by: str, at: datetime) -> dict[str, Any]:
    """Return the same as `summary`, reading the sums of closed days: a year costs as little as a week."""
    return _sum_up(_quickly(wanted, group_by, at), group_by=group_by)


def dearest_keys(wanted: Wanted, *, at: datetime) -> list[str]:
    """Return the ids of all keys that cost something, the dearest first; keys of equal cost in the order of ids."""
    costs: dict[str, int] = {}
    place = 1 + Sums.__slots__.index("cost_nano")
    for row in _quickly(wanted, "key", at):
        costs[row[0]] = costs.get(row[0], 0) + int(row[place])
    return sorted((key_id for key_id, cost in costs.items() if cost > 0), key=lambda key_id: (-costs[key_id], key_id))


def _quickly(wanted: Wanted, group_by: str, at: datetime) -> Iterable[Row]:
    known = closed_days.known_days()
    if known is None or wanted.key:  # a key's own totals are few
        return _grouped(wanted.rows(), _COLUMNS[group_by])
    first, last = max(known[0], wanted.since or known[0]), min(known[1], wanted.until or known[1])
    if last - first < _SHORT:
        return _grouped(wanted.rows(), _COLUMNS[group_by])
    if group_by == "key":
        return _by_key(wanted, known[0], at)
    return _by_day(wanted, group_by, first, last, at)


def _grouped(rows: QuerySet, column: str) -> Iterable[Row]:
    # Grouped in the order of an index, all days would be read instead of those wanted.
    return rows.order_by().values(group=Plain(F(column))).annotate(**_BY_NAME).values_list("group", *_BY_NAME)


def _by_day(wanted: Wanted, group_by: str, first: date, last: date, at: datetime) -> Iterator[Row]:
    """Yield the closed days, which know no keys, then the other days."""
    still_open = closed_days.open_days(first, last, at=at)
    column = _COLUMNS[group_by]
    if len(still_open) > closed_days.MANY_DAYS:
        yield from _grouped(wanted.rows(), column)
        return
    closed = DayTotal.objects.filter(day__range=(first, last), **wanted.lookups(provider="provider"))
    yield from _grouped(closed.exclude(day__in=still_open), "provider" if group_by == "provider" else column)
    yield from _grouped(replace(wanted, since=None, until=None).rows().filter(day__in=still_open), column)


def _by_key(wanted: Wanted, beginning: date, at: datetime) -> Iterator[Row]:
    """Yield all until the end of the span, less all before it: each from a running total and the few days after it."""
    since = max(beginning, wanted.since or beginning)
    end = closed_days.running_until(wanted.until or date.max, first=beginning, at=at)
    before = closed_days.running_until(since - ONE_DAY, first=beginning, at=at)
    if end is None or end < since or (before is None and beginning < since):
        yield from _grouped(wanted.rows(), "key_id")
        return
    lookups = wanted.lookups(provider="key__provider")
    yield from _grouped(RunningTotal.objects.filter(day=end, **lookups), "key_id")
    yield from _grouped(replace(wanted, since=end + ONE_DAY).rows(), "key_id")
    if before is not None:
        less = replace(wanted, since=before + ONE_DAY, until=since - ONE_DAY).rows()
        for rows in (RunningTotal.objects.filter(day=before, **lookups), less):
            yield from ((group, *(-value for value in values)) for group, *values in _grouped(rows, "key_id"))


def _sum_up(rows: Iterable[Row], *, group_by: str) -> dict[str, Any]:
    by_key = _COLUMNS[group_by] == "key_id"
    keys = {key["id"]: key for key in ApiKey.objects.values("id", "name", "provider")} if by_key else {}
    group_of = _reader(group_by, keys)
    sums: dict[str, list[int]] = {}
    for group, *values in rows:
        name = group_of(group)
        known = sums.get(name)
        sums[name] = values if known is None else [have + more for have, more in zip(known, values, strict=True)]
    # A group of zeros is one that was used before the span alone.
    groups = {name: Sums(*map(int, values)) for name, values in sums.items() if any(values)}
    total = Sums(*(sum(map(attrgetter(name), groups.values())) for name in Sums.__slots__))
    results = [
        {"group": name, **_key_words(group_by, name, keys), **groups[name].to_json()}
        for name in _in_order(groups, group_by)
    ]
    return {"groupBy": group_by, "results": results, "total": total.to_json()}


def _reader(group_by: str, keys: Mapping[str, Mapping[str, Any]]) -> Callable[[Any], str]:
    """Return what turns a value of the column into the group's name."""
    match group_by:
        case "month":
            return lambda day: day.isoformat()[:7]
        case "provider":  # closed days name it, others the key
            return lambda value: keys[value]["provider"] if value in keys else value
    return str


def _in_order(groups: Mapping[str, Sums], group_by: str) -> list[str]:
    if group_by in _IN_TIME_ORDER:
        return sorted(groups)
    return sorted(groups, key=lambda name: (-groups[name].cost_nano, name))


def _key_words(group_by: str, name: str, keys: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {"keyId": name, "keyName": keys[name]["name"]} if group_by == "key" else {}
