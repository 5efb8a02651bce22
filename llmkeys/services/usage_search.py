"""Usage rows, newest first, by any filters, without reading ten million of them to find that none fits.

A list in the order of numbers ends as soon as its page is full; where few rows fit it would read them all. So the
daily totals say first on which days such rows can be, and the times of these days say between which numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any

from django.conf import settings
from django.db.models import F, Func, Max, Min, Q, QuerySet
from django.db.models.expressions import RawSQL

from llmkeys.models import DailyUsage, DayTotal, UsageRecord
from llmkeys.services import totals
from llmkeys.services.totals import ONE_DAY
from llmkeys.windows import day_end, day_start

State = UsageRecord.State
Span = tuple[date, date]
_OF_WHAT = ("key_id", "provider", "model", "token_name")
_RARE_STATES = (State.HELD, State.RELEASED, State.LOST)
_CLOCKS = ONE_DAY  # so far the clocks of several machines, or one that was put back, may differ from the order of rows


class Plain(Func):
    """The same value, but SQLite uses no index of that column: it has no statistics and would choose the wrong one."""

    template = "%(expressions)s"
    arity = 1

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="+%(expressions)s", **context)


def newest_first(lookups: Mapping[str, Any], *, at: datetime) -> QuerySet[UsageRecord]:
    """Return the rows that fit, their keys along.

    `lookups`: key_id, provider, model, token_name, success, state, created_at__gte, created_at__lt; all optional.
    """
    rows = UsageRecord.objects.select_related("key").defer("key__secret").order_by("-id")
    rows = _filtered(rows, lookups)
    numbers = _numbers(lookups, at)
    return rows.none() if numbers is None else rows.filter(**numbers)


def _filtered(rows: QuerySet[UsageRecord], lookups: Mapping[str, Any]) -> QuerySet[UsageRecord]:
    """Apply the filters; rows of a rare state are found by that state."""
    if lookups.get("state") not in _RARE_STATES:
        return rows.filter(**lookups)
    of_what = {name: value for name, value in lookups.items() if name in ("provider", "model", "token_name")}
    rows = rows.alias(**{f"plain_{name}": Plain(F(name)) for name in of_what})
    rows = rows.filter(**{f"plain_{name}": value for name, value in of_what.items()})
    rows = rows.filter(**{name: value for name, value in lookups.items() if name not in of_what})
    return rows.filter(pk__in=_held()) if lookups["state"] == State.HELD else rows


def _held() -> QuerySet[UsageRecord]:
    """Return the open holds, the state written out, which makes SQLite use their index."""
    return UsageRecord.objects.order_by().filter(state=RawSQL("'HELD'", ()), lease_until__isnull=False).values("pk")


# --- between which numbers --------------------------------------------------------------------------------------------


def _numbers(lookups: Mapping[str, Any], at: datetime) -> dict[str, int] | None:
    """Return bounds of `id` that leave out no row that fits; None where there is none at all."""
    since, until = lookups.get("created_at__gte"), lookups.get("created_at__lt")
    uncounted: list[int] = []
    if "state" not in lookups and any(name in lookups for name in (*_OF_WHAT, "success")):
        days = _days(lookups, since, until, at)
        uncounted = _uncounted(lookups)
        if days is None:
            return _between(uncounted)
        first, end = (day_start(days[0], settings.TIME_ZONE), day_end(days[1], settings.TIME_ZONE))
        since = max(since or first, first - _CLOCKS)
        until = min(until or end, end + _CLOCKS)
    found = _first_and_last(since, until, at)
    if found is None:
        return _between(uncounted)
    numbers = {}
    if found[0] is not None:
        numbers["pk__gte"] = min([found[0], *uncounted])
    if found[1] is not None:
        numbers["pk__lte"] = max([found[1], *uncounted])
    return numbers


def _between(numbers: list[int]) -> dict[str, int] | None:
    return {"pk__gte": min(numbers), "pk__lte": max(numbers)} if numbers else None


def _days(lookups: Mapping[str, Any], since: datetime | None, until: datetime | None, at: datetime) -> Span | None:
    """Return the first and the last day of which the totals know such rows; None where there is no such day."""
    first = totals.first_day()
    if first is None:
        return None
    if since is not None:
        first = max(first, since.date() - 2 * ONE_DAY)
    last = until.date() + 2 * ONE_DAY if until is not None else None
    counted = {"successful__gt": 0} if lookups.get("success") else {"failed__gt": 0} if "success" in lookups else {}
    of_what = {name: lookups[name] for name in _OF_WHAT if name in lookups}
    spans = [_span(rows, of_what | counted) for rows in _totals(first, last, by_key="key_id" in of_what, at=at)]
    days = [day for span in spans for day in span if day is not None]
    return (min(days), max(days)) if days else None


def _totals(first: date, last: date | None, *, by_key: bool, at: datetime) -> Iterator[QuerySet]:
    """Yield the totals of these days: a key's own, or those of closed days and then the others."""
    every = DailyUsage.objects.filter(day__gte=first, **({"day__lte": last} if last else {}))
    closable = min(last or date.max, totals.last_closable(at))
    still_open = totals.open_days(first, closable, at=at) if not by_key else []
    if by_key or len(still_open) > totals.MANY_DAYS:
        yield every
        return
    yield DayTotal.objects.filter(day__range=(first, closable)).exclude(day__in=still_open)
    yield every.filter(day__in=still_open)
    yield every.filter(day__gt=closable)


def _span(rows: QuerySet, lookups: dict[str, Any]) -> tuple[date | None, date | None]:
    if rows.model is DailyUsage:
        lookups = {"key__provider" if name == "provider" else name: value for name, value in lookups.items()}
    return tuple(rows.filter(**lookups).aggregate(first=Min("day"), last=Max("day")).values())


def _uncounted(lookups: Mapping[str, Any]) -> list[int]:
    """Return the lowest and the highest number of such rows that no total has: open holds, and what was never sent."""
    fitting = {name: value for name, value in lookups.items() if name in _OF_WHAT or name == "success"}
    rows = UsageRecord.objects.order_by()
    numbers = (
        list(rows.filter(pk__in=_held(), **fitting).values_list("pk", flat=True)) if "success" not in lookups else []
    )
    unsent = _filtered(rows, fitting | {"state": State.RELEASED}).filter(http_status__isnull=True)
    numbers += unsent.aggregate(first=Min("pk"), last=Max("pk")).values()
    return sorted({number for number in numbers if number is not None})


def _first_and_last(
    since: datetime | None, until: datetime | None, at: datetime
) -> tuple[int | None, int | None] | None:
    """Return the lowest number since, and the highest until an instant; None where no row is so late, or so early.

    Numbers follow the clock but for what several machines, or a clock that was put back, differ by (`_CLOCKS`).
    """
    rows = UsageRecord.objects.order_by()
    lowest = highest = None
    if since is not None:
        earliest = rows.filter(created_at__gte=since).aggregate(at=Min("created_at"))["at"]
        if earliest is None:
            return None
        near = Q(created_at__range=(earliest, earliest + _CLOCKS)) | Q(created_at__gt=at + _CLOCKS)
        lowest = rows.filter(near).aggregate(found=Min(Plain(F("pk"))))["found"]
    if until is not None and until <= at:
        latest = rows.filter(created_at__lt=until).aggregate(at=Max("created_at"))["at"]
        if latest is None:
            return None
        near = Q(created_at__range=(latest - _CLOCKS, latest))
        highest = rows.filter(near).aggregate(found=Max(Plain(F("pk"))))["found"]
    return lowest, highest
