"""Usage rows as CSV, streamed: the same columns as the JSON, safe to open in a spreadsheet."""

from __future__ import annotations

from django.db.models import QuerySet
from django.http import StreamingHttpResponse

from llmkeys.models import UsageRecord
from llmkeys.usage.rows import csv_lines, in_chunks


def csv_response(rows: QuerySet[UsageRecord]) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        csv_lines(in_chunks(rows)),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="usage.csv"'},
    )
