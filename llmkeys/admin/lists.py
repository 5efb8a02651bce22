"""What long lists have in common: no count of millions of rows, and the selected ones as a CSV file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.functional import cached_property

LISTED = 2_000  # rows that a list leads to; what lies behind them is found by a filter or a search
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class BoundedPaginator(Paginator):
    """Counts as far as the list leads, so that its price does not grow with the table."""

    @cached_property
    def count(self) -> int:
        return self.object_list.order_by()[:LISTED].count()


# --- CSV -------------------------------------------------------------------------------------------------------------


class CsvMixin:
    """Adds the action that hands out the selected rows; `csv_rows` says what is in them."""

    def csv_rows(self, rows: QuerySet) -> Iterable[Mapping[str, Any]]:
        raise NotImplementedError

    @admin.action(description="Download the selected as CSV", permissions=["view"])
    def as_csv(self, request: HttpRequest, queryset: QuerySet) -> StreamingHttpResponse:
        return csv_file(self.opts.model_name, self.csv_rows(queryset[:LISTED]))


def csv_file(name: str, rows: Iterable[Mapping[str, Any]]) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        _lines(rows),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )


class _Echo:
    """A file for the csv module that hands back each line instead of keeping it."""

    def write(self, line: str) -> str:
        return line


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    for number, row in enumerate(rows):
        if number == 0:
            yield writer.writerow(row)
        yield writer.writerow([_cell(value) for value in row.values()])


def _cell(value: Any) -> str:
    """Return one value as text; what a spreadsheet would take for a formula gets a leading apostrophe."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return f"{Decimal(repr(value)):f}"
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA_STARTS) else text
