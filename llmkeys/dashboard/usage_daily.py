"""Sums of the daily totals by any columns; what lies in closed days comes from `services/totals.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime

from django.db.models import QuerySet, Sum

from llmkeys.models import DailyUsage, DayTotal
from llmkeys.usage import closed_days
from llmkeys.usage.sums import Wanted

SUMS = ("requests", "successful", "failed", "input_tokens", "output_tokens", "cost_nano")
_ANNOTATIONS = {f"sum_{name}": Sum(name) for name in SUMS}

Grouped = list[tuple[tuple, dict[str, int]]]


def daily_sums(wanted: Wanted, *columns: str, at: datetime) -> Grouped:
    """Return the sums of the wanted days grouped by `columns` (day, model, provider, token_name, key_id).

    Both days must be given. Closed days know no keys: with a key or by key the daily totals themselves are read.
    """
    found: dict[tuple, dict[str, int]] = {}
    for rows in _sources(wanted, columns, at):
        for group, sums in _read(rows, columns):
            known = found.setdefault(group, dict.fromkeys(SUMS, 0))
            for name in SUMS:
                known[name] += sums[name]
    return list(found.items())


def added(groups: Grouped) -> dict[str, int]:
    """Return the sums over all groups."""
    return {name: sum(sums[name] for _, sums in groups) for name in SUMS}


def _sources(wanted: Wanted, columns: Iterable[str], at: datetime) -> Iterator[QuerySet]:
    """Yield the rows that make up the wanted days, none of them twice."""
    first = closed_days.first_day()
    if first is None:
        return
    since, last = max(first, wanted.since or first), closed_days.last_closable(at)
    wanted = replace(wanted, since=since)
    if wanted.until is not None:
        last = min(wanted.until, last)
    if wanted.key or "key_id" in columns or last < since:
        yield wanted.rows()
        return
    still_open = closed_days.open_days(since, last, at=at)
    if len(still_open) > closed_days.MANY_DAYS:
        yield wanted.rows()
        return
    closed = DayTotal.objects.filter(day__range=(since, last), **wanted.lookups(provider="provider"))
    yield closed.exclude(day__in=still_open)
    if still_open:
        yield wanted.rows().filter(day__in=still_open)
    yield replace(wanted, since=last + closed_days.ONE_DAY).rows()


def _read(rows: QuerySet, columns: tuple[str, ...]) -> Grouped:
    if not columns:
        sums = rows.aggregate(**_ANNOTATIONS)
        return [((), {name: int(sums[f"sum_{name}"] or 0) for name in SUMS})]
    names = ["key__provider" if rows.model is DailyUsage and name == "provider" else name for name in columns]
    found = rows.order_by().values(*names).annotate(**_ANNOTATIONS).values_list(*names, *_ANNOTATIONS)
    width = len(columns)
    return [(row[:width], dict(zip(SUMS, map(int, row[width:]), strict=True))) for row in found]
