"""Usage rows as people ask for them: the filters by name, lost rows, CSV that is safe in a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any

from django.conf import settings
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.expressions import RawSQL
from django.utils import timezone
from django.utils.dateparse import parse_date

from llmkeys.database import sql
from llmkeys.keys.fields import parse_instant
from llmkeys.lib import spreadsheet
from llmkeys.lib.windows import day_end, day_start
from llmkeys.models import Adjustment, UsageRecord
from llmkeys.presentation import USAGE_COLUMNS, usage_json
from llmkeys.usage.search import newest_first

_CHUNK_ROWS = 500

# What a list may be asked for, and the look-up behind it. Values are compared whole.
LOOKUPS = {
    "key": "key_id",
    "provider": "provider",
    "model": "model",
    "success": "success",
    "state": "state",
    "token": "token_name",
    "since": "created_at__gte",
    "until": "created_at__lt",
}


def usage_rows(given: Mapping[str, Any]) -> QuerySet[UsageRecord]:
    """Return the rows that all filters leave, newest first, their keys along; None does not filter."""
    wanted = {lookup: given[name] for name, lookup in LOOKUPS.items() if given.get(name) is not None}
    return newest_first(wanted, at=timezone.now())


def read_instant(text: str) -> datetime:
    """Read an instant; a date is its first instant in the operator's zone. Raises ValueError with words."""
    day = _day(text)
    return day_start(day, settings.TIME_ZONE) if day else parse_instant(text)


def read_end(text: str) -> datetime:
    """Read an exclusive end; a date is the end of that day, so that the day counts as a whole."""
    day = _day(text)
    return day_end(day, settings.TIME_ZONE) if day else parse_instant(text)


def _day(text: str) -> date | None:
    """Return a day that both its midnights can be told of; None lets the reading as an instant find the words."""
    try:
        day = parse_date(text)
    except ValueError:
        return None
    return day if day is not None and date(1970, 1, 1) <= day < date(9999, 1, 1) else None


def lost_rows() -> QuerySet[UsageRecord]:
    """Return the charged lost rows that nobody has voided and no provider has put right, oldest first.

    The state stands in the statement itself: only so does SQLite find them by their partial index.
    """
    corrected = Adjustment.objects.filter(usage=OuterRef("pk"), kind__in=["void", "late"])
    rows = UsageRecord.objects.select_related("key").defer("key__secret")
    return rows.filter(~Exists(corrected), state=RawSQL("'LOST'", ()), cost_nano__gt=0).order_by("id")


def in_chunks(rows: QuerySet[UsageRecord]) -> Iterator[UsageRecord]:
    """Read page by page, newest first: one long read would keep SQLite's log from being tidied meanwhile.

    Between two pages it has no connection, for whoever takes them may be slow.
    """
    chunk = list(rows[:_CHUNK_ROWS])
    while chunk:
        sql.release()
        yield from chunk
        chunk = list(rows.filter(pk__lt=chunk[-1].pk)[:_CHUNK_ROWS])


def csv_lines(rows: Iterable[UsageRecord]) -> Iterator[str]:
    """Yield the lines of a CSV file: the same columns as the JSON."""
    return spreadsheet.csv_lines(map(usage_json, rows), columns=USAGE_COLUMNS)
