"""Instants and dates on their way into and out of hand-written SQL, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from django.db import connection


def instant(at: datetime) -> Any:
    """Return the parameter for an aware instant."""
    return connection.ops.adapt_datetimefield_value(at)


def as_date(value: date | str) -> date:
    """Read a date column."""
    return date.fromisoformat(value) if isinstance(value, str) else value


def as_instant(value: datetime | str) -> datetime:
    """Read an instant column: SQLite gives text or a naive datetime in UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value if value.tzinfo else value.replace(tzinfo=UTC)
