"""What long lists have in common: no count of millions of rows, and the selected ones as a CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.functional import cached_property

from llmkeys.lib.spreadsheet import csv_lines
from llmkeys.presentation import csv_file

LISTED = 2_000  # rows that a list leads to; what lies behind them is found by a filter or a search


class BoundedPaginator(Paginator):
    """Counts as far as the list leads, so that its cost does not grow with the table."""

    @cached_property
    def count(self) -> int:
        return cast(QuerySet, self.object_list).order_by()[:LISTED].count()


# --- CSV -------------------------------------------------------------------------------------------------------------


class CsvMixin(admin.ModelAdmin):
    """Adds the action that hands out the selected rows; `csv_rows` says what is in them."""

    def csv_rows(self, rows: QuerySet) -> Iterable[Mapping[str, Any]]:
        raise NotImplementedError

    @admin.action(description="Download the selected as CSV", permissions=["view"])
    def as_csv(self, request: HttpRequest, queryset: QuerySet) -> StreamingHttpResponse:
        return csv_file(str(self.opts.model_name), csv_lines(self.csv_rows(queryset[:LISTED])))
