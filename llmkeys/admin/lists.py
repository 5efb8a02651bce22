"""What long lists share: a bounded count, and a CSV download of the selected rows."""

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

LISTED = 2_000  # rows that can be paged through; older ones are found by a filter or a search


class BoundedPaginator(Paginator):
    """Counts at most `LISTED` rows, so that the cost does not grow with the table."""

    @cached_property
    def count(self) -> int:
        return cast(QuerySet, self.object_list).order_by()[:LISTED].count()


# --- CSV -------------------------------------------------------------------------------------------------------------


class CsvMixin(admin.ModelAdmin):
    """Adds an action that downloads the selected rows as CSV; `csv_rows` returns their fields."""

    def csv_rows(self, rows: QuerySet) -> Iterable[Mapping[str, Any]]:
        raise NotImplementedError

    @admin.action(description="Download as CSV", permissions=["view"])
    def as_csv(self, request: HttpRequest, queryset: QuerySet) -> StreamingHttpResponse:
        return csv_file(str(self.opts.model_name), csv_lines(self.csv_rows(queryset[:LISTED])))
