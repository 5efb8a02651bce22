"""The filters of usage rows and their sums, and how their values are read, for pages, API, CSV and commands.

An empty value does not filter. Values are compared exactly, so `%` and `_` have no special meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from django.conf import settings
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.timezone import get_default_timezone, is_naive, make_aware

from llmkeys.exceptions import InvalidInput
from llmkeys.lib.windows import day_end, day_start
from llmkeys.models import ProviderName, UsageRecord

# How the cost of a row is known: reported or computed, estimated (or at the fallback price), or lost.
COSTS = ("known", "estimated", "lost")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ID = re.compile(r"[0-9]{1,18}")  # an id column holds no more digits
_WANTED = "Must be a date and time in ISO 8601, such as 2026-11-22T09:55:00Z."


@dataclass(frozen=True, slots=True)
class Filter:
    """A lookup, and the function that reads its value, which raises ValueError with a message for the sender.

    `id_lookup` is the lookup for a value that is a whole number, if such values are ids.
    """

    lookup: str
    read: Callable[[str], Any] = str
    id_lookup: str = ""


def read(filters: Mapping[str, Filter], query: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the filters in the query, by lookup. Raises InvalidInput naming every bad one."""
    lookups: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for name, wanted in filters.items():
        if not query.get(name):
            continue
        try:
            if wanted.id_lookup and is_id(query[name]):
                lookups[wanted.id_lookup] = int(query[name])
            else:
                lookups[wanted.lookup] = wanted.read(query[name])
        except ValueError as error:
            errors[name] = [str(error)]
    if errors:
        raise InvalidInput(errors)
    return lookups


# --- values -----------------------------------------------------------------------------------------------------------


def instant(text: object) -> datetime:
    """Read a time, in the operator's time zone unless it has an offset. A date means the beginning of that day."""
    return _instant(text, day_start)


def end(text: object) -> datetime:
    """Read an exclusive end. A date means the end of that day, so that the whole day is included."""
    return _instant(text, day_end)


def _instant(text: object, of_day: Callable[[date, str], datetime]) -> datetime:
    if not isinstance(text, str):
        raise ValueError(_WANTED)
    try:
        if (day := parse_date(text)) is not None:
            return of_day(day, settings.TIME_ZONE)
    except (ValueError, OverflowError):
        pass  # not a date, or one that does not exist: the next attempt decides
    try:
        # In a query, the + of an offset arrives as a space unless it was escaped.
        when = parse_datetime(text.strip().replace(" ", "+") if "T" in text else text)
        if when is None:
            raise ValueError
        return (make_aware(when, get_default_timezone()) if is_naive(when) else when).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(_WANTED) from None


def day(text: str) -> date:
    """Read a day. Other formats that Python knows (20261122, 2026-W47-7) are refused."""
    try:
        found = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None:
        raise ValueError("Must be a day such as 2026-11-22.")
    return found


def month(text: str) -> date:
    """Read a month; return its first day."""
    try:
        return day(f"{text}-01")
    except ValueError:
        raise ValueError("Must be a month such as 2026-11.") from None


def is_id(text: str) -> bool:
    """Return whether the text is a number that an id column can hold."""
    return _ID.fullmatch(text) is not None


def truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("Must be true or false.")
    return text.lower() == "true"


def one_of(choices: Collection[str]) -> Callable[[str], str]:
    """Return a reader that accepts only these values."""

    def read_choice(text: str) -> str:
        if text not in choices:
            raise ValueError(f"Choose from: {', '.join(choices)}.")
        return text

    return read_choice


# --- the filters ------------------------------------------------------------------------------------------------------

PROVIDER = Filter("provider", one_of(ProviderName.values))
TOKEN = Filter("token_name", id_lookup="token_id")  # a name, or an id, which distinguishes tokens of the same name
TIMES = {"since": Filter("created_at__gte", instant), "until": Filter("created_at__lt", end)}
ROWS = {
    "key": Filter("key_id"),
    "provider": PROVIDER,
    "model": Filter("model"),
    "success": Filter("success", truth),
    "state": Filter("state", one_of(UsageRecord.State.values)),
    "cost": Filter("cost", one_of(COSTS)),
    "token": TOKEN,
    **TIMES,
}
# The fields of `sums.Wanted`: whole days only, and nothing about how a row ended.
SUMS = {
    "key": Filter("key"),
    "provider": PROVIDER,
    "model": Filter("model"),
    "token": TOKEN,
    "since": Filter("since", day),
    "until": Filter("until", day),
}
