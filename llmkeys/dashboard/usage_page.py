"""The usage page: the matching rows, their sums and chart, and all of them as CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_required, permission_required
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from llmkeys.dashboard.charts import MOST_SERIES, Chart, Series, days_until, stacked
from llmkeys.dashboard.usage_words import (
    COSTS,
    Badge,
    Known,
    Part,
    Skip,
    badge_of,
    cost_words,
    known_of,
    parts_of,
    seconds_words,
    short_number,
    skips_of,
    whole_words,
)
from llmkeys.key_state import current_windows
from llmkeys.models import AccessToken, Adjustment, ApiKey, ProviderName, UsageRecord
from llmkeys.presentation import csv_file
from llmkeys.templatetags.llmkeys_format import percent, usd
from llmkeys.usage import filters as readers
from llmkeys.usage.closed_days import first_day
from llmkeys.usage.rows import csv_lines, in_chunks, newest_first
from llmkeys.usage.sums import Row, Sums, Wanted, daily_sums, dearest_keys_by_day


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_usagerecord", raise_exception=True)
def usage(request: HttpRequest) -> HttpResponse:
    """Show figures and a chart from the daily totals, and the matching rows."""
    at = timezone.now()
    filters = read_filters(request.GET, at=at)
    keys = list(ApiKey.objects.order_by("deleted_at", "name", "id").values("id", "name", "deleted_at"))
    names = {key["id"]: key["name"] for key in keys}
    totals = totals_of(filters, names=names, at=at)
    page = page_of(
        filters, before=request.GET.get("before", ""), after=request.GET.get("after", ""), names=names, at=at
    )
    context = {
        "at": at,
        "filters": filters,
        "ranges": _links(filters, "range", RANGES, chosen=filters.range, since="", until=""),
        "stacks": _links(filters, "by", STACKS, chosen=filters.stack),
        "chips": _chips(filters, names),
        "form": _form(filters, keys, page, totals.models),
        "totals": totals,
        "page": page,
        "zone": settings.TIME_ZONE,
    }
    return render(request, "dashboard/usage.html", context)


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_usagerecord", raise_exception=True)
def csv(request: HttpRequest) -> StreamingHttpResponse:
    """Stream all matching rows, with the columns of the REST API."""
    at = timezone.now()
    rows = matching_rows(read_filters(request.GET, at=at), at)
    return csv_file("usage", csv_lines(in_chunks(rows)))


# --- the filters as links, chips and fields ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    word: str
    query: str
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Chip:
    """An active filter, with the query that removes it."""

    name: str
    value: str
    without: str


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the filter form: a select if `options` are given, otherwise text with suggestions."""

    name: str
    label: str
    value: str
    options: Iterable[tuple[str, str]] = ()
    suggestions: Iterable[tuple[str, str]] = ()  # values, and labels if they differ
    type: str = "text"


def _links(filters: UsageFilters, name: str, words: dict[str, str], *, chosen: str, **changes: str) -> list[Link]:
    return [Link(word, filters.query(**{name: value}, **changes), value == chosen) for value, word in words.items()]


def _chips(filters: UsageFilters, names: dict[str, str]) -> list[Chip]:
    token = filters.get("token")
    words = {
        "since": ("From", filters.get("since")),
        "until": ("Until", filters.get("until")),
        "key": ("Key", names.get(filters.get("key"), filters.get("key"))),
        "provider": ("Provider", dict(ProviderName.choices).get(filters.get("provider"), "")),
        "model": ("Model", filters.get("model")),
        "token": ("Token", token_names([token]).get(token, token)),
        "state": ("State", STATES.get(filters.get("state"), "")),
        "success": ("Result", RESULTS.get(filters.get("success"), "")),
        "cost": ("Cost", COSTS.get(filters.get("cost"), "")),
    }
    return [
        Chip(word, value, filters.query(**{name: ""})) for name, (word, value) in words.items() if filters.get(name)
    ]


def _form(filters: UsageFilters, keys: Sequence[Mapping[str, Any]], page: Page, models: list[str]) -> list[Field]:
    key_options = [(key["id"], key["name"] + (" (deleted)" if key["deleted_at"] else "")) for key in keys]
    in_sight = {line.row.model for line in page.lines} | set(models)
    return [
        Field("key", "Key", filters.get("key"), _with_given(key_options, filters.get("key"))),
        Field("provider", "Provider", filters.get("provider"), ProviderName.choices),
        Field("model", "Model", filters.get("model"), suggestions=[(model, "") for model in sorted(in_sight)]),
        Field("token", "Token", filters.get("token"), suggestions=_token_suggestions(page)),
        Field("state", "State", filters.get("state"), STATES.items()),
        Field("success", "Result", filters.get("success"), RESULTS.items()),
        Field("cost", "Cost", filters.get("cost"), COSTS.items()),
        Field("since", "From", filters.get("since"), type="date"),
        Field("until", "Until", filters.get("until"), type="date"),
    ]


def _with_given(options: list[tuple[str, str]], given: str) -> list[tuple[str, str]]:
    """Add an unknown key to the options, so that submitting the form does not drop the filter."""
    return options if not given or any(value == given for value, _ in options) else [*options, (given, given)]


def _token_suggestions(page: Page) -> list[tuple[str, str]]:
    """Return names of tokens, or labelled ids where tokens share a name, or where it would be read as an id."""
    tokens = list(AccessToken.objects.order_by("-id").values_list("pk", "name")[:200])
    often = Counter(name for _, name in tokens)
    unclear = {name for name in often if often[name] > 1 or readers.is_id(name)}
    names = {line.row.token_name for line in page.lines if not readers.is_id(line.row.token_name)} | often.keys()
    by_id = [(str(pk), f"{name} ({pk})") for pk, name in tokens if name in unclear]
    return [(name, "") for name in sorted(names - unclear - {""})] + by_id


# --- the filters in the address ---------------------------------------------------------------------------------------


RANGES = {"today": "Today", "7": "7 days", "30": "30 days", "90": "90 days", "month": "This month"}
DEFAULT_RANGE = "30"
STATES = {state: state.capitalize() for state in UsageRecord.State.values}
RESULTS = {"true": "Succeeded", "false": "Failed"}
STACKS = {"model": "Model", "key": "Key", "provider": "Provider", "token": "Token"}

_YEARS = range(2000, 2200)  # beyond these time zones are not defined
_LONGEST = 200


def _words(text: str) -> None:
    if len(text) > _LONGEST or not text.isprintable():
        raise ValueError(f"May have at most {_LONGEST} printable characters.")


def _day(text: str) -> None:
    if readers.day(text).year not in _YEARS:
        raise ValueError("Must be a day such as 2026-11-22.")


# The query parameters, and the functions that refuse bad values with a message.
_READ: dict[str, Callable[[str], Any]] = {
    "range": readers.one_of(RANGES),
    "since": _day,
    "until": _day,
    "key": _words,
    "provider": readers.one_of(ProviderName.values),
    "model": _words,
    "token": _words,
    "state": readers.one_of(STATES),
    "success": readers.one_of(RESULTS),
    "cost": readers.one_of(COSTS),
    "by": readers.one_of(STACKS),
}


@dataclass(frozen=True, slots=True)
class UsageFilters:
    """The valid filters; `errors` are messages about those that were not, and were ignored.

    `since` and `until` are days in the operator's time zone, both included; None: no bound on that side.
    """

    given: Mapping[str, str]
    since: date | None
    until: date | None
    today: date
    errors: list[str] = field(default_factory=list)

    def get(self, name: str) -> str:
        """Return the value given for a name, or an empty string. Not `[…]`, which templates would try first."""
        return self.given.get(name, "")

    @property
    def range(self) -> str:
        """The name of the quick range, or an empty string if days were given."""
        return "" if self.get("since") or self.get("until") else self.get("range") or DEFAULT_RANGE

    @property
    def stack(self) -> str:
        return self.get("by") or next(iter(STACKS))

    def query(self, **changes: str) -> str:
        """Return these filters as a query string, with changes; an empty value removes a filter."""
        wanted = {**self.given, **changes}
        return f"?{urlencode({name: value for name, value in wanted.items() if value})}"

    def row_lookups(self) -> dict[str, Any]:
        """Return the lookups of the matching usage rows."""
        days = {name: day.isoformat() if day else "" for name, day in (("since", self.since), ("until", self.until))}
        return readers.read(readers.ROWS, {**self.given, **days})

    def wanted(self, since: date, until: date) -> Wanted:
        """Return the matching daily totals of these days, which cannot be filtered by state, success and cost."""
        of_what = {name: self.get(name) for name in ("key", "provider", "model", "token")}
        return Wanted(**readers.read(readers.SUMS, of_what), since=since, until=until)

    @property
    def narrows_rows_only(self) -> bool:
        return bool(self.get("state") or self.get("success") or self.get("cost"))


def read_filters(query: Mapping[str, str], *, at: datetime) -> UsageFilters:
    """Read the page's query string as of `at`; invalid values are ignored and reported."""
    today = current_windows(at).day
    given, errors = _texts(query)
    days = {name: readers.day(given[name]) if name in given else None for name in ("since", "until")}
    if days["since"] and days["until"] and days["since"] > days["until"]:
        errors.append(f"The first day, {days['since']}, is after the last, {days['until']}: both were ignored.")
        days = {"since": None, "until": None}
    if not any(days.values()):
        given = {name: value for name, value in given.items() if name not in days}
        since = _range_start(given.get("range", DEFAULT_RANGE), today)
        return UsageFilters(given, since, None, today, errors)
    given.pop("range", None)
    return UsageFilters(given, days["since"], days["until"], today, errors)


def _texts(query: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    given: dict[str, str] = {}
    errors: list[str] = []
    for name, read in _READ.items():
        value = query.get(name, "").strip()
        try:
            if value:
                read(value)
                given[name] = value
        except ValueError as error:
            words = str(error)
            errors.append(f"“{name}” was ignored: {words[0].lower()}{words[1:]}")
    return given, errors


def _range_start(name: str, today: date) -> date:
    if name == "month":
        return today.replace(day=1)
    return today - timedelta(days=(1 if name == "today" else int(name)) - 1)


# --- the strip and the chart ------------------------------------------------------------------------------------------


_COLUMNS = {"model": ("model",), "key": ("key_id",), "provider": ("provider",), "token": ("token_id", "token_name")}


@dataclass(frozen=True, slots=True)
class Number:
    """A figure at the top: an arrow (`up`, `down` or none) and the comparison with the time before."""

    name: str
    value: str
    exact: str = ""
    arrow: str = ""
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Totals:
    numbers: list[Number]
    parts: list[Part]
    chart: Chart
    models: list[str]  # the models in this time, for the filter's suggestions, if it is stacked by model


def totals_of(filters: UsageFilters, *, names: Mapping[str, str], at: datetime) -> Totals:
    """Return the figures and chart of the filtered days; the number of queries does not grow with keys or days.

    `names` are the keys' names by id.
    """
    days = _days(filters)
    if not days:
        now, series, others = Sums(), list[Series](), 0
    elif filters.stack == "key" and not filters.get("key"):
        now, series, others = _by_key(filters, days, names, at)
    else:
        now, series, others = _by_group(filters, days, names, at)
    before = _before(filters, days, at) if filters.since and days else None
    what = STACKS[filters.stack].lower()
    return Totals(
        numbers=_numbers(now, before, f"in the {len(days)} days before" if len(days) > 1 else "on the day before"),
        parts=parts_of(now, filters.query),
        chart=stacked(days, series, title="Spend per day", what=what, today=filters.today, others=others),
        models=sorted(one.name for one in series) if filters.stack == "model" else [],
    )


def _days(filters: UsageFilters) -> list[date]:
    """Return the days of the chart: up to today, from the first usage on unless a filter sets the beginning."""
    last = min(filters.until or filters.today, filters.today)
    since = filters.since or first_day() or last
    return days_until(last, max(0, (last - since).days + 1))


def _before(filters: UsageFilters, days: list[date], at: datetime) -> Sums:
    """Return the sums of the same number of days before the first."""
    first = days[0] - timedelta(days=len(days))
    return Sums.over(daily_sums(filters.wanted(first, days[0] - timedelta(days=1)), at=at).values())


# --- the chart -----------------------------------------------------------------------------------------------------


def _by_group(
    filters: UsageFilters, days: list[date], names: Mapping[str, str], at: datetime
) -> tuple[Sums, list[Series], int]:
    """Return the sums, and the daily costs of each model, provider or token."""
    found = daily_sums(filters.wanted(days[0], days[-1]), *_COLUMNS[filters.stack], "day", at=at)
    groups: dict[Row, dict[date, int]] = {}
    for (first, *others, day), sums in found.items():
        # A token is its id, because its name may have changed; usage without a token has only a name, a person's.
        by_day = groups.setdefault((first,) if first is not None else (None, *others), {})
        by_day[day] = by_day.get(day, 0) + sums.cost_nano
    if filters.stack == "token":
        names = token_names(str(group[0]) for group in groups if group[0] is not None)
    elif filters.stack == "provider":
        names = dict(ProviderName.choices)
    series = [_series(filters, *_value_and_name(group, names), by_day) for group, by_day in groups.items()]
    return Sums.over(found.values()), series, 0


def _value_and_name(group: Row, names: Mapping[str, str]) -> tuple[str, str]:
    """Return the value that filters by a group, empty if there is none, and the group's name."""
    value = str(group[0])
    if group[0] is not None:
        return value, names.get(value, value)
    return "" if readers.is_id(group[1]) else group[1], group[1] or "no token"


def _by_key(
    filters: UsageFilters, days: list[date], names: Mapping[str, str], at: datetime
) -> tuple[Sums, list[Series], int]:
    """Return the sums, the daily costs of the most expensive keys and of the rest together, and how many those are."""
    wanted = filters.wanted(days[0], days[-1])
    sums = {day: one for (day,), one in daily_sums(wanted, "day", at=at).items()}
    all_keys = {day: one.cost_nano for day, one in sums.items()}
    found, others = dearest_keys_by_day(wanted, all_keys, most=MOST_SERIES, at=at)
    series = [_series(filters, key_id, names.get(key_id, key_id), by_day) for key_id, by_day in found.items()]
    return Sums.over(sums.values()), series, others


def _series(filters: UsageFilters, value: str, name: str, amounts: Mapping[date, int]) -> Series:
    """Return a group's amounts; the link in the legend filters by this group."""
    link = filters.query(**{filters.stack: value}) if value and not filters.get(filters.stack) else ""
    return Series(name, amounts, link=link)


def token_names(groups: Iterable[str]) -> dict[str, str]:
    """Return the names of the tokens among these ids; names that are not unique get their ids added."""
    ids = [int(group) for group in groups if readers.is_id(group)]
    found = {str(pk): name for pk, name in AccessToken.objects.filter(pk__in=ids).values_list("pk", "name")}
    often = Counter(found.values())
    return {pk: f"{name} ({pk})" if often[name] > 1 else name for pk, name in found.items()}


# --- the strip -----------------------------------------------------------------------------------------------------


def _numbers(now: Sums, before: Sums | None, when: str) -> list[Number]:
    rate, rate_before = _failed_share(now), _failed_share(before)
    mean = now.cost_nano // now.requests if now.requests else 0
    return [
        Number("Spend", usd(now.cost_nano), **_change(now, before, "cost_nano", when)),
        Number("Requests", f"{now.requests:,}", **_change(now, before, "requests", when)),
        _tokens("Tokens in", now, before, "input_tokens", when),
        _tokens("Tokens out", now, before, "output_tokens", when),
        Number("Failed", "–" if rate is None else percent(rate), **_points(rate, rate_before)),
        Number("Per request", usd(mean) if now.requests else "–", beside="mean cost"),
    ]


def _tokens(title: str, now: Sums, before: Sums | None, name: str, when: str) -> Number:
    number = getattr(now, name)
    return Number(title, short_number(number), exact=f"{number:,}", **_change(now, before, name, when))


def _failed_share(sums: Sums | None) -> float | None:
    tried = sums.successful + sums.failed if sums else 0
    return 100 * sums.failed / tried if sums and tried else None


def _change(now: Sums, before: Sums | None, name: str, when: str) -> dict[str, Any]:
    have, had = getattr(now, name), getattr(before, name) if before else 0
    if had <= 0:
        return {"beside": f"nothing {when}" if before and have else ""}
    words = usd(had) if name == "cost_nano" else short_number(had) if name.endswith("tokens") else whole_words(had)
    arrow = "up" if have > had else "down" if have < had else ""
    return {"arrow": arrow, "beside": f"against {words} {when}"}


def _points(rate: float | None, before: float | None) -> dict[str, Any]:
    if rate is None or before is None:
        return {}
    if abs(rate - before) < 0.05:
        return {"beside": "as before"}
    return {"arrow": "up" if rate > before else "down", "beside": f"against {percent(before)} before"}


# --- the table --------------------------------------------------------------------------------------------------------


PAGE = 50
_ID_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Line:
    """One attempt in the table; `of` is how many attempts its request took."""

    row: UsageRecord
    badge: Badge
    skips: list[Skip]
    of: int
    is_tried_again: bool  # the attempt before it had the same key
    known: Known | None
    corrected_nano: int

    @property
    def tokens_in(self) -> str:
        return whole_words(self.row.input_tokens)

    @property
    def tokens_out(self) -> str:
        return whole_words(self.row.output_tokens)

    @property
    def cached(self) -> str:
        return f"{self.row.cached_input_tokens:,} cached" if self.row.cached_input_tokens else ""

    @property
    def cost(self) -> str:
        return cost_words(self.row.hold_nano if self.row.state == "HELD" else self.row.cost_nano)

    @property
    def correction(self) -> str:
        if not self.corrected_nano:
            return ""
        return f"{'+' if self.corrected_nano > 0 else ''}{cost_words(self.corrected_nano)} corrected"

    @property
    def latency(self) -> str:
        return seconds_words(self.row.latency_ms)

    @property
    def beneath_latency(self) -> str:
        """The line below the latency: that the request is in progress, the status of a failure, or the first byte."""
        row = self.row
        if row.state == "HELD":
            return "in progress"
        if row.state != "SETTLED" and row.http_status:
            return f"status {row.http_status}"
        return f"first byte {seconds_words(row.first_byte_ms)}" if row.first_byte_ms is not None else ""


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, newest first; `newer` and `older` are the queries of the adjacent pages, empty at the ends."""

    lines: list[Line]
    newer: str = ""
    older: str = ""


def page_of(filters: UsageFilters, *, before: str, after: str, names: Mapping[str, str], at: datetime) -> Page:
    """Return the page of rows older than the id `before`, or newer than `after`, or the first page.

    Rows are never counted or skipped, so every page takes the same time. An invalid cursor shows the first page.
    """
    below, above = _cursor(before), _cursor(after)
    rows = for_lines(matching_rows(filters, at, first_page=not below and not above))
    if below:
        found = list(rows.filter(pk__lt=below)[: PAGE + 1])
        return _page(found[:PAGE], filters, names, newer=bool(found), older=len(found) > PAGE)
    if above:
        found = list(rows.filter(pk__gt=above).order_by("id")[: PAGE + 1])
        if len(found) > PAGE:
            return _page(found[:PAGE][::-1], filters, names, newer=True, older=True)
    found = list(rows[: PAGE + 1])
    return _page(found[:PAGE], filters, names, newer=False, older=len(found) > PAGE)


def matching_rows(filters: UsageFilters, at: datetime, *, first_page: bool = False) -> QuerySet[UsageRecord]:
    return newest_first(filters.row_lookups(), at=at, first_page=first_page)


def for_lines(rows: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
    """Read only what a line of the table shows, which takes half as long."""
    return rows.select_related(None).select_related("key").defer(None).only(*_SHOWN)


def _cursor(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS else None


def _page(
    rows: list[UsageRecord], filters: UsageFilters, names: Mapping[str, str], *, newer: bool, older: bool
) -> Page:
    return Page(
        lines=lines_of(rows, names),
        newer=filters.query(after=str(rows[0].pk)) if newer and rows else "",
        older=filters.query(before=str(rows[-1].pk)) if older else "",
    )


_SHOWN = (
    "request_id", "attempt", "created_at", "key__name", "model", "token_name", "state", "success", "http_status",
    "error", "input_tokens", "cached_input_tokens", "output_tokens", "hold_nano", "cost_nano", "cost_source",
    "overrun", "latency_ms", "first_byte_ms", "skipped",
)  # fmt: skip


def lines_of(rows: Iterable[UsageRecord], names: Mapping[str, str]) -> list[Line]:
    """Return the lines of the table for these rows, with two queries."""
    rows = list(rows)
    attempts, corrections = _attempts(rows), _corrections(rows)
    return [
        Line(
            row=row,
            badge=badge_of(row),
            skips=skips_of(row, names),
            of=max(row.attempt, *attempts[row.request_id]),
            is_tried_again=attempts[row.request_id].get(row.attempt - 1) == row.key_id,
            known=known_of(row, {kind: source for kind, source, _ in corrections.get(row.pk, ())}),
            corrected_nano=sum(amount for _, _, amount in corrections.get(row.pk, ())),
        )
        for row in rows
    ]


def _attempts(rows: list[UsageRecord]) -> dict[str, dict[int, str]]:
    """Return the keys of all attempts of these requests."""
    keys = {row.request_id: {row.attempt: row.key_id} for row in rows}
    found = UsageRecord.objects.filter(request_id__in=keys).order_by()
    for request_id, attempt, key_id in found.values_list("request_id", "attempt", "key_id"):
        keys[request_id][attempt] = key_id
    return keys


def _corrections(rows: list[UsageRecord]) -> dict[int, list[tuple[str, str, int]]]:
    """Return the corrections of each row's cost: kind, source and amount. Only the key's; the token's are the same."""
    found: dict[int, list[tuple[str, str, int]]] = {}
    of_rows = Adjustment.objects.filter(usage__in=[row.pk for row in rows], key__isnull=False).order_by()
    for usage, kind, source, cost in of_rows.values_list("usage", "kind", "cost_source", "cost_nano"):
        found.setdefault(usage, []).append((kind, source, cost))
    return found
