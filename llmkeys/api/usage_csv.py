"""Usage rows as CSV, streamed: the same columns as the JSON, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from django.db.models import QuerySet
from django.http import StreamingHttpResponse

from llmkeys.models import UsageRecord
from llmkeys.presentation import USAGE_COLUMNS, usage_json

_CHUNK_ROWS = 500
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class _Echo:
    """A file for the csv module that hands back each line instead of keeping it."""

    def write(self, line: str) -> str:
        return line


def csv_response(rows: QuerySet[UsageRecord]) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        _lines(rows),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="usage.csv"'},
    )


def _lines(rows: QuerySet[UsageRecord]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(USAGE_COLUMNS)
    for row in _in_chunks(rows):
        values = usage_json(row)
        yield writer.writerow([cell(values[column]) for column in USAGE_COLUMNS])


def _in_chunks(rows: QuerySet[UsageRecord]) -> Iterable[UsageRecord]:
    """Read page by page: one long read would keep SQLite's log from being tidied while a client is slow."""
    chunk = list(rows[:_CHUNK_ROWS])
    while chunk:
        yield from chunk
        chunk = list(rows.filter(pk__lt=chunk[-1].pk)[:_CHUNK_ROWS])


def cell(value: Any) -> str:
    """Return one value as text; what a spreadsheet would take for a formula gets a leading apostrophe."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return f"{Decimal(repr(value)):f}"
        case list():
            return json.dumps(value, ensure_ascii=False)
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA_STARTS) else text
