"""Usage rows, newest first, with any filters, without reading ten million rows to find that none matches; also as CSV.

A list in the order of ids ends as soon as its page is full, but if few rows match it would read them all. So the
daily totals are used to find the days that can have such rows, and the times of these days give bounds for the ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.db.models import Exists, F, Max, Min, OuterRef, Q, QuerySet
from django.db.models.expressions import RawSQL

from llmkeys.database import sql
from llmkeys.ledger import GUESSES, REPORTED_LATER
from llmkeys.lib import spreadsheet
from llmkeys.lib.windows import day_end, day_start
from llmkeys.models import Adjustment, DailyUsage, DayTotal, UsageRecord
from llmkeys.presentation import USAGE_COLUMNS, usage_json
from llmkeys.usage import closed_days
from llmkeys.usage.closed_days import ONE_DAY, Plain

State = UsageRecord.State
Span = tuple[date, date]
_OF_WHAT = ("key_id", "provider", "model", "token_name", "token_id")
_INDEXED = ("key_id", "token_id", "token_name", "model")  # each with the ids of its rows; the rarest first
_RARE_STATES = (State.HELD, State.RELEASED, State.LOST)
_PAGE = 51  # rows that a page reads
_NEAR = 200  # the newest rows of a key, token or model, which perhaps fill a page
_CHUNK_ROWS = 500
_FEW = 20_000  # rows that are quicker to read than to narrow down
_HIGHEST = 2**63 - 1
_UNDER_WAY = timedelta(hours=1)  # far longer than a row takes from its id to its commit
_CLOCKS = ONE_DAY  # how far timestamps may differ from the order of ids: several machines, or a clock that was set back


def newest_first(lookups: Mapping[str, Any], *, at: datetime, first_page: bool = False) -> QuerySet[UsageRecord]:
    """Return the rows that match, with their keys; with `first_page` only the newest of them will be read.

    `lookups`, all optional: key_id, provider, model, token_name, token_id, success, state, cost (`filters.COSTS`),
    created_at__gte, created_at__lt.
    """
    rows = UsageRecord.objects.select_related("key", "token__user").order_by("-id")
    rows = rows.defer("key__secret", "key__fingerprint", "key__last_test")
    rows = _filtered(rows, lookups)
    numbers = _numbers(rows, lookups, at, first_page=first_page)
    return rows.none() if numbers is None else rows.filter(**numbers)


def _filtered(rows: QuerySet[UsageRecord], lookups: Mapping[str, Any]) -> QuerySet[UsageRecord]:
    """Apply the filters; times must not choose the index, and for a rare state no other column may either."""
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
    """Keep the rows whose cost is known in this way.

    A late or reconciled cost counts as its own source says; a voided charge counts as known. States and sources are
    literals in the statement, as in the partial indexes.
    """
    corrected = Adjustment.objects.filter(usage=OuterRef("pk"), key__isnull=False)
    reported = corrected.filter(kind__in=REPORTED_LATER)
    is_lost = Q(state=in_state(State.LOST))
    is_estimated = (
        Q(cost_source__in=[RawSQL(f"'{source}'", ()) for source in GUESSES])  # noqa: S611  (constants)
        & ~Exists(reported.exclude(cost_source__in=GUESSES))
        & ~(is_lost & ~Exists(reported))
    )
    match known:
        case "lost":
            return rows.filter(is_lost, ~Exists(corrected))
        case "estimated":
            return rows.filter(is_estimated)
    return rows.exclude(cost_source="").exclude(is_lost & ~Exists(corrected)).exclude(is_estimated)


def in_state(state: str) -> RawSQL:
    """Return a state as an SQL literal; with a parameter SQLite would not use the partial index."""
    return RawSQL(f"'{state}'", ())  # noqa: S611  (constants only)


def _held() -> QuerySet[UsageRecord, Any]:
    """Return the open holds, with the state as a literal, so that SQLite uses their index."""
    return UsageRecord.objects.order_by().filter(state=in_state(State.HELD), lease_until__isnull=False).values("pk")


# --- open and lost requests -------------------------------------------------------------------------------------------


def open_requests(column: str = "key_id") -> Counter[Any]:
    """Return the number of open requests of each key that has any (or, by another `column`, of each token).

    Not grouped in the database: the planner would walk the index by key, ten million rows, to avoid sorting a few.
    """
    return Counter(_held().values_list(column, flat=True))


def lost_rows(**account: Any) -> QuerySet[UsageRecord]:
    """Return the charged lost rows that were neither voided nor corrected by a provider, oldest first.

    `account` is `key_id` or `token_id`, to get only its rows. The state is a literal in the statement, so that SQLite
    uses the partial index instead of reading all rows of the account.
    """
    corrected = Adjustment.objects.filter(usage=OuterRef("pk"))
    rows = UsageRecord.objects.select_related("key", "token__user").defer("key__secret")
    rows = rows.alias(**{f"plain_{name}": Plain(F(name)) for name in account})
    rows = rows.filter(**{f"plain_{name}": value for name, value in account.items()})
    return rows.filter(~Exists(corrected), state=in_state(State.LOST), cost_nano__gt=0).order_by("id")


# --- all of them, as CSV ----------------------------------------------------------------------------------------------


def csv_lines(rows: Iterable[UsageRecord]) -> Iterator[str]:
    """Yield the lines of a CSV file: the same columns as the JSON, safe to open in a spreadsheet."""
    return spreadsheet.csv_lines(map(usage_json, rows), columns=USAGE_COLUMNS)


def in_chunks(rows: QuerySet[UsageRecord]) -> Iterator[UsageRecord]:
    """Read page by page, newest first, because one long read would keep SQLite's log from being truncated.

    Between two pages it holds no connection, because the consumer of the rows may be slow.
    """
    chunk = list(rows[:_CHUNK_ROWS])
    while chunk:
        sql.release()
        yield from chunk
        chunk = list(rows.filter(pk__lt=chunk[-1].pk)[:_CHUNK_ROWS])


# --- bounds of ids ----------------------------------------------------------------------------------------------------


def _numbers(
    rows: QuerySet[UsageRecord], lookups: Mapping[str, Any], at: datetime, *, first_page: bool
) -> dict[str, int] | None:
    """Return bounds of `id` that exclude no row that is wanted; None if no row matches."""
    since, until = lookups.get("created_at__gte"), lookups.get("created_at__lt")
    numbers = _at_that_time(None, until, at)
    is_counted = _is_counted(lookups)
    if numbers is None or _has_its_own_index(lookups) or not (is_counted or since):
        return numbers
    newest = numbers.get("pk__lte") or _newest()
    if newest < _FEW or (first_page and _fills_a_page(rows, lookups, newest)):
        return numbers  # a lower bound would cost more than it saves
    after = _at_that_time(since, None, at)
    if after is None:
        return None
    numbers |= after
    is_short = newest - numbers.get("pk__gte", 0) < _FEW
    if not is_counted or is_short or (not first_page and _fills_a_page(rows, lookups, newest)):
        return numbers
    low, high = numbers.get("pk__gte", 0), numbers.get("pk__lte", _HIGHEST)
    uncounted = [number for number in _uncounted(lookups) if low <= number <= high]
    days = _days(lookups, since, until, at)
    if days is None:
        return _between(uncounted)
    first, end = day_start(days[0], settings.TIME_ZONE) - _CLOCKS, day_end(days[1], settings.TIME_ZONE) + _CLOCKS
    # Bounds that the given times have set already are not looked up again.
    closer = _at_that_time(
        first if since is None or first > since else None, end if until is None or end < until else None, at
    )
    return _between(uncounted) if closer is None else numbers | _widened(closer, uncounted)


def _is_rare(lookups: Mapping[str, Any]) -> bool:
    return lookups.get("state") in _RARE_STATES or lookups.get("cost") in ("estimated", "lost")


def _has_its_own_index(lookups: Mapping[str, Any]) -> bool:
    """Return whether an index has only such rows, which are few however old they are."""
    return lookups.get("state") in (State.HELD, State.LOST) or lookups.get("cost") == "lost"


def _is_counted(lookups: Mapping[str, Any]) -> bool:
    """Return whether the totals show on which days there are such rows; rows of a rare state are few anyway."""
    return lookups.get("state") not in _RARE_STATES and any(name in lookups for name in (*_OF_WHAT, "success"))


def _fills_a_page(rows: QuerySet[UsageRecord], lookups: Mapping[str, Any], newest: int) -> bool:
    """Return whether the newest rows, or the newest of a key, token or model, fill a page: a list need not look far."""
    of_what = next((name for name in _INDEXED if name in lookups), None)
    if of_what is None:
        near = rows.filter(pk__gt=newest - _FEW // 4, pk__lte=newest)
    else:
        its_own = UsageRecord.objects.order_by("-id").filter(**{of_what: lookups[of_what]}, pk__lte=newest)
        near = rows.filter(pk__in=its_own.values("pk")[:_NEAR])
    return len(near.values_list("pk", flat=True)[:_PAGE]) == _PAGE


def _newest() -> int:
    return UsageRecord.objects.order_by().aggregate(last=Max("pk"))["last"] or 0


def _widened(numbers: dict[str, int], uncounted: list[int]) -> dict[str, int]:
    wider = {"pk__gte": min, "pk__lte": max}
    return {bound: wider[bound]([number, *uncounted]) for bound, number in numbers.items()}


def _between(numbers: list[int]) -> dict[str, int] | None:
    return {"pk__gte": min(numbers), "pk__lte": max(numbers)} if numbers else None


def _days(lookups: Mapping[str, Any], since: datetime | None, until: datetime | None, at: datetime) -> Span | None:
    """Return the first and the last day that have such rows according to the totals; None if there is none."""
    known = closed_days.known_days()
    if known is None:
        return None
    first, last = known
    # Two days of margin, added to our own days, because the given times may lie at the end of the calendar.
    if since is not None:
        first = max(first + 2 * ONE_DAY, since.date()) - 2 * ONE_DAY
    if until is not None:
        last = min(last - 2 * ONE_DAY, until.date()) + 2 * ONE_DAY
    counted = {"successful__gt": 0} if lookups.get("success") else {"failed__gt": 0} if "success" in lookups else {}
    of_what = {name: lookups[name] for name in _OF_WHAT if name in lookups}
    spans = [_span(rows, of_what | counted) for rows in _totals(first, last, by_key="key_id" in of_what, at=at)]
    days = [day for span in spans for day in span if day is not None]
    return (min(days), max(days)) if days else None


def _totals(first: date, last: date, *, by_key: bool, at: datetime) -> Iterator[QuerySet]:
    """Yield the totals of these days: a key's own, or those of closed days and then those of the others."""
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
    """Return the ids of open holds, and the bounds of those of unsent attempts, which no total contains."""
    fitting = {name: value for name, value in lookups.items() if name in _OF_WHAT or name == "success"}
    rows = UsageRecord.objects.order_by()
    numbers: list[int | None] = (
        list(rows.filter(pk__in=_held(), **fitting).values_list("pk", flat=True)) if "success" not in lookups else []
    )
    unsent = UsageRecord.objects.order_by().filter(state=in_state(State.RELEASED), http_status__isnull=True)
    # Found first, by their own index: SQLite would rather walk that of the filters, which may contain every row.
    numbers += rows.filter(pk__in=unsent.values("pk"), **fitting).aggregate(first=Min("pk"), last=Max("pk")).values()
    return sorted({number for number in numbers if number is not None})


def _at_that_time(since: datetime | None, until: datetime | None, at: datetime) -> dict[str, int] | None:
    """Return bounds of `id` for the rows between two times; None if there are no such rows.

    Ids follow the clock, apart from the differences of several machines or a clock that was set back (`_CLOCKS`).
    """
    numbers = {}
    if since is not None:
        lowest = _lowest_since(since, at)
        if lowest is None:
            return None
        numbers["pk__gte"] = lowest
    if until is not None and until <= at:
        highest = _highest_before(until, at)
        if highest is None:
            return None
        numbers["pk__lte"] = highest
    return numbers


def _lowest_since(since: datetime, at: datetime) -> int | None:
    """Return the lowest id of the rows since that time; None if there are none."""
    rows = UsageRecord.objects.order_by()

    def read() -> tuple[int | None, bool]:
        earliest = rows.filter(created_at__gte=since).aggregate(at=Min("created_at"))["at"]
        if earliest is None:
            return None, False
        # Of the rows that are under way, one with a lower id may be committed later.
        return _lowest(rows.filter(created_at__range=(earliest, earliest + _CLOCKS))), earliest < at - _UNDER_WAY

    # Those soon after that time, and those that a clock has dated far ahead: separately, which is quicker on SQLite.
    soon = _read_once(f"lowest-id-since:{since.timestamp()}", read)
    if soon is None:
        return None
    ahead = _lowest(rows.filter(created_at__gt=at + _CLOCKS))
    return min(number for number in (soon, ahead) if number is not None)


def _highest_before(until: datetime, at: datetime) -> int | None:
    """Return the highest id of the rows before that time; None if there are none."""
    rows = UsageRecord.objects.order_by()

    def read() -> tuple[int | None, bool]:
        latest = rows.filter(created_at__lt=until).aggregate(at=Max("created_at"))["at"]
        if latest is None:
            return None, False
        near = rows.filter(created_at__range=(latest - _CLOCKS, latest))
        # A machine whose clock is behind still adds rows before a time that has only just passed.
        return near.aggregate(found=Max(Plain(F("pk"))))["found"], until < at - _CLOCKS - _UNDER_WAY

    return _read_once(f"highest-id-before:{until.timestamp()}", read)


def _read_once(name: str, read: Callable[[], tuple[int | None, bool]]) -> int | None:
    """Return the bound that this process has kept, or read it; `read` also tells whether it is kept.

    What was found for a time that has passed stays right, for later rows have higher ids; and when the rows at the
    bound are pruned, it only bounds less closely. To find it reads the times of a whole day's rows.
    """
    found = cache.get(name)
    if found is None:
        found, is_kept = read()
        if is_kept:
            cache.set(name, found, timeout=None)
    return found


def _lowest(rows: QuerySet[UsageRecord]) -> int | None:
    return rows.aggregate(found=Min(Plain(F("pk"))))["found"]
