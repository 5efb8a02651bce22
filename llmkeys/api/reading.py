"""Single values of a query or a body, read strictly. Each reader raises ValueError with words for the sender."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import UTC, date, datetime

from django.conf import settings
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.timezone import get_default_timezone, is_naive, make_aware

from llmkeys.lib.windows import day_end, day_start

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WANTED = "Must be a date and time in ISO 8601, such as 2026-11-22T09:55:00Z."


def instant(text: object) -> datetime:
    """Read an instant; without an offset it is in the operator's zone. A date is its first instant."""
    return _instant(text, day_start)


def end(text: object) -> datetime:
    """Read an exclusive end; a date is the end of that day, so that the day counts as a whole."""
    return _instant(text, day_end)


def _instant(text: object, of_day: Callable[[date, str], datetime]) -> datetime:
    if not isinstance(text, str):
        raise ValueError(_WANTED)
    try:
        if (day := parse_date(text)) is not None:
            return of_day(day, settings.TIME_ZONE)
    except (ValueError, OverflowError):
        pass  # no date, or one that does not exist: the next reading tells
    try:
        # In a query, the + of an offset arrives as a space unless it was escaped.
        when = parse_datetime(text.strip().replace(" ", "+") if "T" in text else text)
        if when is None:
            raise ValueError
        return (make_aware(when, get_default_timezone()) if is_naive(when) else when).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(_WANTED) from None


def day(text: str) -> date:
    """Read a whole day. Other spellings that Python knows (20261122, 2026-W47-7) are no days here."""
    try:
        found = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None:
        raise ValueError("Must be a day such as 2026-11-22.")
    return found


def one_of(text: str, choices: Collection[str]) -> str:
    if text not in choices:
        raise ValueError(f"Choose from: {', '.join(choices)}.")
    return text


def truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("Must be true or false.")
    return text.lower() == "true"


def texts(value: object, *, most: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("Must be an array of texts.")
    if len(value) > most:
        raise ValueError(f"May have at most {most} entries.")
    return value


def short_text(value: object, *, most: int) -> str:
    if not isinstance(value, str):
        raise ValueError("Must be a text.")
    if len(value) > most or not value.isprintable():
        raise ValueError(f"May have at most {most} characters, none of them a control character.")
    return value
