"""The usage table: a page of rows by a cursor, and each row prepared for its line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from django.db.models import Max, QuerySet, Sum

from llmkeys.dashboard.usage_filters import UsageFilters
from llmkeys.dashboard.usage_words import (
    SOURCES,
    Badge,
    Skip,
    badge_of,
    cost_words,
    seconds_words,
    skips_of,
    whole_words,
)
from llmkeys.models import Adjustment, UsageRecord
from llmkeys.usage.rows import usage_rows

PAGE = 50
_ID_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Line:
    """One attempt in the table; `of` is how many attempts its request took."""

    row: UsageRecord
    badge: Badge
    skips: list[Skip]
    of: int
    corrected_nano: int

    @property
    def attempt_words(self) -> str:
        return f"{self.row.attempt} of {self.of}" if self.of > 1 else "1"

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
    def source_words(self) -> str:
        return SOURCES.get(self.row.cost_source, "")

    @property
    def latency(self) -> str:
        return seconds_words(self.row.latency_ms)

    @property
    def beneath_latency(self) -> str:
        """What matters more than the first byte: the status of a failure, or that the answer still comes."""
        row = self.row
        if row.state == "HELD":
            return "under way"
        if row.state != "SETTLED" and row.http_status:
            return f"status {row.http_status}"
        return f"first byte {seconds_words(row.first_byte_ms)}" if row.first_byte_ms is not None else ""

    @property
    def skip_words(self) -> str:
        """The first key that was passed over; the reason stands first, since a long name is cut."""
        if not self.skips:
            return ""
        more = f" +{len(self.skips) - 1}" if len(self.skips) > 1 else ""
        return f"{self.skips[0].reason.partition(':')[0]}: {self.skips[0].name}{more}"


@dataclass(frozen=True, slots=True)
class Page:
    """Rows newest first; `newer` and `older` are the queries of the neighbouring pages, empty at the ends."""

    lines: list[Line]
    newer: str = ""
    older: str = ""


def page_of(filters: UsageFilters, *, before: str, after: str, names: Mapping[str, str]) -> Page:
    """Return the page of rows older than the id `before`, or newer than `after`, or the first.

    Rows are never counted and never skipped over: a page costs the same wherever it lies. A cursor that is none
    shows the first page.
    """
    rows = matching_rows(filters)
    below, above = _cursor(before), _cursor(after)
    if below:
        found = list(rows.filter(pk__lt=below)[: PAGE + 1])
        return _page(found[:PAGE], filters, names, newer=bool(found), older=len(found) > PAGE)
    if above:
        found = list(rows.filter(pk__gt=above).order_by("id")[: PAGE + 1])
        if len(found) > PAGE:
            return _page(found[:PAGE][::-1], filters, names, newer=True, older=True)
    found = list(rows[: PAGE + 1])
    return _page(found[:PAGE], filters, names, newer=False, older=len(found) > PAGE)


def matching_rows(filters: UsageFilters) -> QuerySet[UsageRecord]:
    return usage_rows(filters.row_values()).defer("key__secret", "key__fingerprint", "key__last_test")


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


def lines_of(rows: Iterable[UsageRecord], names: Mapping[str, str]) -> list[Line]:
    """Prepare rows for the table; two queries, however many rows."""
    rows = list(rows)
    attempts, corrections = _attempts(rows), _corrections(rows)
    return [
        Line(
            row=row,
            badge=badge_of(row),
            skips=skips_of(row, names),
            of=max(row.attempt, attempts.get(row.request_id, 1)),
            corrected_nano=corrections.get(row.pk, 0),
        )
        for row in rows
    ]


def _attempts(rows: list[UsageRecord]) -> dict[str, int]:
    found = UsageRecord.objects.filter(request_id__in={row.request_id for row in rows}).order_by()
    return dict(found.values_list("request_id").annotate(last=Max("attempt")))


def _corrections(rows: list[UsageRecord]) -> dict[int, int]:
    found = Adjustment.objects.filter(usage__in=[row.pk for row in rows]).order_by()
    return {usage: int(amount) for usage, amount in found.values_list("usage").annotate(amount=Sum("total_nano"))}
