"""The strip of numbers and the chart above the usage table, from the daily totals; no usage row is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import Sum

from llmkeys.dashboard.charts import MOST_SERIES, Chart, Series, days_until, stacked
from llmkeys.dashboard.usage_daily import SUMS, added, daily_sums
from llmkeys.dashboard.usage_filters import STACKS, UsageFilters
from llmkeys.dashboard.usage_words import short_number
from llmkeys.models import ProviderName
from llmkeys.templatetags.llmkeys_format import growth, percent, usd
from llmkeys.usage.closed_days import first_day
from llmkeys.usage.sums import Wanted, dearest_keys

_COLUMNS = {"model": "model", "key": "key_id", "provider": "provider", "token": "token_name"}


@dataclass(frozen=True, slots=True)
class Number:
    """One number of the strip: its change against the time before as an arrow (`up`, `down`, none) and words."""

    name: str
    value: str
    exact: str = ""
    arrow: str = ""
    change: str = ""
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Totals:
    numbers: list[Number]
    chart: Chart
    models: list[str]  # the models of this time, for the filter's suggestions; none where the stacks are others


def totals_of(filters: UsageFilters, *, names: Mapping[str, str], at: datetime) -> Totals:
    """Return strip and chart of the filtered days; the number of queries does not grow with keys or days.

    `names` are the keys' names by id.
    """
    days = _days(filters)
    if not days:
        now, series, others = dict.fromkeys(SUMS, 0), list[Series](), 0
    elif filters.stack == "key" and not filters.get("key"):
        now, series, others = _by_key(filters, days, names, at)
    else:
        now, series, others = _by_group(filters, days, names, at)
    before = _before(filters, days, at) if filters.since and days else {}
    what = STACKS[filters.stack].lower()
    return Totals(
        numbers=_numbers(now, before, f"{len(days)} days before" if len(days) > 1 else "the day before"),
        chart=stacked(days, series, title="Spend per day", what=what, today=filters.today, others=others),
        models=sorted(one.name for one in series) if filters.stack == "model" else [],
    )


def _days(filters: UsageFilters) -> list[date]:
    """Return the days of the chart: none after today, none before the first usage where no day bounds them."""
    last = min(filters.until or filters.today, filters.today)
    since = filters.since or first_day() or last
    return days_until(last, max(0, (last - since).days + 1))


def _before(filters: UsageFilters, days: list[date], at: datetime) -> dict[str, int]:
    """Return the sums of as many days before the first."""
    first = days[0] - timedelta(days=len(days))
    return added(daily_sums(filters.wanted(first, days[0] - timedelta(days=1)), at=at))


# --- the chart -----------------------------------------------------------------------------------------------------


def _by_group(
    filters: UsageFilters, days: list[date], names: Mapping[str, str], at: datetime
) -> tuple[dict[str, int], list[Series], int]:
    """Return the sums, and what each model, provider or token cost by day."""
    column = _COLUMNS[filters.stack]
    found = daily_sums(filters.wanted(days[0], days[-1]), column, "day", at=at)
    groups: dict[str, dict[date, int]] = {}
    for (group, day), sums in found:
        groups.setdefault(group, {})[day] = sums["cost_nano"]
    return added(found), [_series(filters, group, amounts, names) for group, amounts in groups.items()], 0


def _by_key(
    filters: UsageFilters, days: list[date], names: Mapping[str, str], at: datetime
) -> tuple[dict[str, int], list[Series], int]:
    """Return the sums, the dearest keys by day and the rest as one, and how many those are.

    Not every key by day: that would be as many figures as there are keys times days.
    """
    wanted = filters.wanted(days[0], days[-1])
    by_day = daily_sums(wanted, "day", at=at)
    ranked = dearest_keys(wanted, at=at)
    kept = _keys_by_day(wanted, ranked[:MOST_SERIES])
    series = [_series(filters, key_id, amounts, names) for key_id, amounts in kept.items()]
    others = len(ranked) - len(kept)
    if others:
        rest = {day: sums["cost_nano"] for (day,), sums in by_day}
        for amounts in kept.values():
            for day, nano in amounts.items():
                rest[day] = rest.get(day, 0) - nano
        series.append(Series("", rest))
    return added(by_day), series, others


def _keys_by_day(wanted: Wanted, key_ids: list[str]) -> dict[str, dict[date, int]]:
    """Return what each of a few keys cost by day, in the order given."""
    found: dict[str, dict[date, int]] = {key_id: {} for key_id in key_ids}
    rows = wanted.rows().filter(key_id__in=key_ids).order_by().values_list("key_id", "day")
    for key_id, day, cost in rows.annotate(cost=Sum("cost_nano")):
        found[key_id][day] = int(cost)
    return found


def _series(filters: UsageFilters, group: str, amounts: Mapping[date, int], names: Mapping[str, str]) -> Series:
    """Return a group's amounts; the link in the legend leaves this group alone."""
    link = filters.query(**{filters.stack: group}) if group and not filters.get(filters.stack) else ""
    return Series(_group_name(filters.stack, group, names), amounts, link=link)


def _group_name(stack: str, group: str, names: Mapping[str, str]) -> str:
    if stack == "key":
        return names.get(group, group)
    if stack == "provider":
        return dict(ProviderName.choices).get(group, group)
    return group or "no token"


# --- the strip -----------------------------------------------------------------------------------------------------


def _numbers(now: Mapping[str, int], before: Mapping[str, int], when: str) -> list[Number]:
    rate, rate_before = _failed_share(now), _failed_share(before)
    mean = now["cost_nano"] // now["requests"] if now["requests"] else 0
    return [
        Number("Spend", usd(now["cost_nano"]), **_change(now, before, "cost_nano", when)),
        Number("Requests", f"{now['requests']:,}", **_change(now, before, "requests", when)),
        _tokens("Tokens in", now, before, "input_tokens", when),
        _tokens("Tokens out", now, before, "output_tokens", when),
        Number("Failed", "–" if rate is None else percent(rate), **_points(rate, rate_before)),
        Number("Per request", usd(mean) if now["requests"] else "–", beside="mean cost"),
    ]


def _tokens(title: str, now: Mapping[str, int], before: Mapping[str, int], name: str, when: str) -> Number:
    return Number(title, short_number(now[name]), exact=f"{now[name]:,}", **_change(now, before, name, when))


def _failed_share(sums: Mapping[str, int]) -> float | None:
    tried = sums["successful"] + sums["failed"] if sums else 0
    return 100 * sums["failed"] / tried if tried else None


def _change(now: Mapping[str, int], before: Mapping[str, int], name: str, when: str) -> dict[str, Any]:
    if not before or before[name] <= 0:
        return {"beside": f"nothing {when}" if before and now[name] else ""}
    share = 100 * (now[name] - before[name]) / before[name]
    if abs(share) < 0.05:
        return {"beside": f"as {when}"}
    return {"arrow": "up" if share > 0 else "down", "change": growth(abs(share)), "beside": f"vs {when}"}


def _points(rate: float | None, before: float | None) -> dict[str, Any]:
    if rate is None or before is None:
        return {}
    if abs(rate - before) < 0.05:
        return {"beside": "as before"}
    return {
        "arrow": "up" if rate > before else "down",
        "change": f"{abs(rate - before):.1f} points",
        "beside": "vs before",
    }
