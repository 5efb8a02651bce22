"""Usage rows, newest first, by any filters, without reading ten million of them to find that none fits; as CSV too.

A list in the order of numbers ends as soon as its page is full; where few rows fit it would read them all. So the
daily totals say first on which days such rows can be, and the times of these days say between which numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any

from django.conf import settings
from django.db.models import Exists, F, Max, Min, OuterRef, Q, QuerySet
from django.db.models.expressions import RawSQL

from llmkeys.database import sql
from llmkeys.ledger import GUESSES
from llmkeys.lib import spreadsheet
from llmkeys.lib.windows import day_end, day_start
from llmkeys.models import Adjustment, DailyUsage, DayTotal, UsageRecord
from llmkeys.presentation import USAGE_COLUMNS, usage_json
from llmkeys.usage import closed_days
from llmkeys.usage.closed_days import ONE_DAY, Plain

State = UsageRecord.State
Span = tuple[date, date]
_OF_WHAT = ("key_id", "provider", "model", "token_name", "token_id")
_RARE_STATES = (State.HELD, State.RELEASED, State.LOST)
_PAGE = 51  # what a page reads
_CHUNK_ROWS = 500
_FEW = 20_000  # rows that are read sooner than looked up
_HIGHEST = 2**63 - 1
_CLOCKS = ONE_DAY  # so far the clocks of several machines, or one that was put back, may differ from the order of rows


def newest_first(lookups: Mapping[str, Any], *, at: datetime) -> QuerySet[UsageRecord]:
    """Return the rows that fit, their keys along.

    `lookups`, all optional: key_id, provider, model, token_name, token_id, success, state, cost (`filters.COSTS`),
    created_at__gte, created_at__lt.
    """
    rows = UsageRecord.objects.select_related("key", "token__user").defer("key__secret").order_by("-id")
    rows = _filtered(rows, lookups)
    numbers = _numbers(rows, lookups, at)
    return rows.none() if numbers is None else rows.filter(**numbers)


def _filtered(rows: QuerySet[UsageRecord], lookups: Mapping[str, Any]) -> QuerySet[UsageRecord]:
    """Apply the filters. Times are found by numbers, and rows of a rare state by that state, not by another index."""
    rare = _is_rare(lookups)
    plain = {"created_at", *(_OF_WHAT[1:] if rare else ())}
    rows = rows.alias(**{f"plain_{name}": Plain(F(name)) for name in plain})
    rows = rows.filter(
        **{
            f"plain_{name}" if name.partition("__")[0] in plain else name: value
            for name, value in lookups.items()
            if name != "cost"
        }
    )
    rows = _with_cost(rows, lookups["cost"]) if "cost" in lookups else rows
    return rows.filter(pk__in=_held()) if lookups.get("state") == State.HELD else rows


def _with_cost(rows: QuerySet[UsageRecord], known: str) -> QuerySet[UsageRecord]:
    """Leave the rows whose cost is known so by now.

    What came late, or was reconciled, is known as it was told then; a charge that was taken back is known too. States
    and sources stand in the statement itself, as in the partial indexes.
    """
    corrected = Adjustment.objects.filter(usage=OuterRef("pk"), key__isnull=False)
    told = corrected.filter(kind__in=("late", "reconcile"))
    is_lost = Q(state=RawSQL("'LOST'", ()))
    is_estimated = (
        Q(cost_source__in=[RawSQL(f"'{source}'", ()) for source in GUESSES])  # noqa: S611  (constants)
        & ~Exists(told.exclude(cost_source__in=GUESSES))
        & ~(is_lost & ~Exists(told))
    )
    match known:
        case "lost":
            return rows.filter(is_lost, ~Exists(corrected))
        case "estimated":
            return rows.filter(is_estimated)
    return rows.exclude(cost_source="").exclude(is_lost & ~Exists(corrected)).exclude(is_estimated)


def _held() -> QuerySet[UsageRecord, Any]:
    """Return the open holds, the state written out, which makes SQLite use their index."""
    return UsageRecord.objects.order_by().filter(state=RawSQL("'HELD'", ()), lease_until__isnull=False).values("pk")


# --- the few that are not finished business ---------------------------------------------------------------------------


def open_requests(column: str = "key_id") -> Counter[Any]:
    """Return how many requests are open on each key (or by another `column`, each token) that has any.

    Not grouped in the database: the planner would walk the index by key, ten million rows, to be spared sorting a few.
    """
    return Counter(_held().values_list(column, flat=True))


def lost_rows(**account: Any) -> QuerySet[UsageRecord]:
    """Return the charged lost rows that nobody has voided and no provider has put right, oldest first.

    `account`: `key_id` or `token_id`, where only its rows are wanted. The state stands in the statement itself: only
    so does SQLite find them by their partial index, and not all rows of the account by another.
    """
    corrected = Adjustment.objects.filter(usage=OuterRef("pk"))
    rows = UsageRecord.objects.select_related("key", "token__user").defer("key__secret")
    rows = rows.alias(**{f"plain_{name}": Plain(F(name)) for name in account})
    rows = rows.filter(**{f"plain_{name}": value for name, value in account.items()})
    return rows.filter(~Exists(corrected), state=RawSQL("'LOST'", ()), cost_nano__gt=0).order_by("id")


# --- all of them, as CSV ----------------------------------------------------------------------------------------------


def csv_lines(rows: Iterable[UsageRecord]) -> Iterator[str]:
    """Yield the lines of a CSV file: the same columns as the JSON, safe to open in a spreadsheet."""
    return spreadsheet.csv_lines(map(usage_json, rows), columns=USAGE_COLUMNS)


def in_chunks(rows: QuerySet[UsageRecord]) -> Iterator[UsageRecord]:
    """Read page by page, newest first: one long read would keep SQLite's log from being tidied meanwhile.

    Between two pages it has no connection, because the reader of the rows may be slow.
    """
    chunk = list(rows[:_CHUNK_ROWS])
    while chunk:
        sql.release()
        yield from chunk
        chunk = list(rows.filter(pk__lt=chunk[-1].pk)[:_CHUNK_ROWS])


# --- between which numbers --------------------------------------------------------------------------------------------


def _numbers(rows: QuerySet[UsageRecord], lookups: Mapping[str, Any], at: datetime) -> dict[str, int] | None:
    """Return bounds of `id` that leave out no row that fits; None if there is none at all."""
    since, until = lookups.get("created_at__gte"), lookups.get("created_at__lt")
    numbers = _at_that_time(since, until, at)
    if numbers is None or not _is_counted(lookups) or _ends_soon(rows, numbers):
        return numbers
    low, high = numbers.get("pk__gte", 0), numbers.get("pk__lte", _HIGHEST)
    uncounted = [number for number in _uncounted(lookups) if low <= number <= high]
    days = _days(lookups, since, until, at)
    if days is None:
        return _between(uncounted)
    first, end = day_start(days[0], settings.TIME_ZONE) - _CLOCKS, day_end(days[1], settings.TIME_ZONE) + _CLOCKS
    # What is told by the clock already is not looked up again.
    closer = _at_that_time(
        first if since is None or first > since else None, end if until is None or end < until else None, at
    )
    return _between(uncounted) if closer is None else numbers | _widened(closer, uncounted)


def _is_rare(lookups: Mapping[str, Any]) -> bool:
    return lookups.get("state") in _RARE_STATES or lookups.get("cost") in ("estimated", "lost")


def _is_counted(lookups: Mapping[str, Any]) -> bool:
    """True if the totals can tell whether there are such rows: those of a rare state are few anyway."""
    is_few = lookups.get("state") in _RARE_STATES or lookups.get("cost") == "lost"
    return not is_few and any(name in lookups for name in (*_OF_WHAT, "success"))


def _ends_soon(rows: QuerySet[UsageRecord], numbers: Mapping[str, int]) -> bool:
    """True if there are few rows between the bounds, or the newest of them fill a page."""
    every = UsageRecord.objects.order_by()
    newest = numbers.get("pk__lte") or every.aggregate(last=Max("pk"))["last"] or 0
    oldest = numbers.get("pk__gte") or every.aggregate(first=Min("pk"))["first"] or 0
    if newest - oldest < _FEW:
        return True
    fitting = rows.filter(pk__gt=newest - _FEW // 10, pk__lte=newest).values_list("pk", flat=True)
    return len(fitting[:_PAGE]) == _PAGE


def _widened(numbers: dict[str, int], uncounted: list[int]) -> dict[str, int]:
    wider = {"pk__gte": min, "pk__lte": max}
    return {bound: wider[bound]([number, *uncounted]) for bound, number in numbers.items()}


def _between(numbers: list[int]) -> dict[str, int] | None:
    return {"pk__gte": min(numbers), "pk__lte": max(numbers)} if numbers else None


def _days(lookups: Mapping[str, Any], since: datetime | None, until: datetime | None, at: datetime) -> Span | None:
    """Return the first and the last day of which the totals know such rows; None if there is no such day."""
    known = closed_days.known_days()
    if known is None:
        return None
    first, last = known
    if since is not None:
        first = max(first, since.date() - 2 * ONE_DAY)
    if until is not None:
        last = min(last, until.date() + 2 * ONE_DAY)
    counted = {"successful__gt": 0} if lookups.get("success") else {"failed__gt": 0} if "success" in lookups else {}
    of_what = {name: lookups[name] for name in _OF_WHAT if name in lookups}
    spans = [_span(rows, of_what | counted) for rows in _totals(first, last, by_key="key_id" in of_what, at=at)]
    days = [day for span in spans for day in span if day is not None]
    return (min(days), max(days)) if days else None


def _totals(first: date, last: date, *, by_key: bool, at: datetime) -> Iterator[QuerySet]:
    """Yield the totals of these days: a key's own, or those of closed days and then the others."""
    still_open = [] if by_key else closed_days.open_days(first, last, at=at)
    if by_key or len(still_open) > closed_days.MANY_DAYS:
        yield DailyUsage.objects.filter(day__range=(first, last))
        return
    yield DayTotal.objects.filter(day__range=(first, last)).exclude(day__in=still_open)
    yield DailyUsage.objects.filter(day__in=still_open)


def _span(rows: QuerySet, lookups: dict[str, Any]) -> tuple[date | None, date | None]:
    if rows.model is DailyUsage:
        lookups = {"key__provider" if name == "provider" else name: value for name, value in lookups.items()}
    return tuple(rows.filter(**lookups).aggregate(first=Min("day"), last=Max("day")).values())


def _uncounted(lookups: Mapping[str, Any]) -> list[int]:
    """Return the lowest and the highest number of such rows that no total has: open holds, and what was never sent."""
    fitting = {name: value for name, value in lookups.items() if name in _OF_WHAT or name == "success"}
    rows = UsageRecord.objects.order_by()
    numbers: list[int | None] = (
        list(rows.filter(pk__in=_held(), **fitting).values_list("pk", flat=True)) if "success" not in lookups else []
    )
    unsent = _filtered(rows, fitting | {"state": State.RELEASED}).filter(http_status__isnull=True)
    numbers += unsent.aggregate(first=Min("pk"), last=Max("pk")).values()
    return sorted({number for number in numbers if number is not None})


def _at_that_time(since: datetime | None, until: datetime | None, at: datetime) -> dict[str, int] | None:
    """Return bounds of `id` of the rows since and until an instant; None if no row is so late, or so early.

    Numbers follow the clock but for what several machines, or a clock that was put back, differ by (`_CLOCKS`).
    """
    rows, numbers = UsageRecord.objects.order_by(), {}
    if since is not None:
        earliest = rows.filter(created_at__gte=since).aggregate(at=Min("created_at"))["at"]
        if earliest is None:
            return None
        near = Q(created_at__range=(earliest, earliest + _CLOCKS)) | Q(created_at__gt=at + _CLOCKS)
        numbers["pk__gte"] = rows.filter(near).aggregate(found=Min(Plain(F("pk"))))["found"]
    if until is not None and until <= at:
        latest = rows.filter(created_at__lt=until).aggregate(at=Max("created_at"))["at"]
        if latest is None:
            return None
        near = Q(created_at__range=(latest - _CLOCKS, latest))
        numbers["pk__lte"] = rows.filter(near).aggregate(found=Max(Plain(F("pk"))))["found"]
    return numbers
