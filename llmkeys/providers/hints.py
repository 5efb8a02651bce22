"""When to try again: every way in which the providers say it, as seconds or as an aware instant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo

from llmkeys.lib.reading import finite

LONGEST = timedelta(days=31)
PACIFIC = ZoneInfo("America/Los_Angeles")  # the providers' own day: Google's daily quotas begin there

_NUMBER = re.compile(r"\d{1,20}(?:\.\d{1,20})?")
_DURATION = re.compile(
    r"(?:(?P<days>\d{1,9})d)?(?:(?P<hours>\d{1,9})h)?(?:(?P<minutes>\d{1,9})m(?!s))?"
    r"(?:(?P<seconds>\d{1,15}(?:\.\d{1,15})?)s)?(?:(?P<milliseconds>\d{1,15}(?:\.\d{1,15})?)ms)?"
)
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)(?:(?:T|,? at |\s)(\d\d:\d\d(?::\d\d)?))?")


def retry_after(headers: Mapping[str, str], *, at: datetime) -> float | None:
    """Return the seconds of `retry-after-ms` or `Retry-After` (a number or an HTTP date); names are in lower case."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return clamp(milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    return clamp(seconds) if seconds is not None else _seconds_to_http_date(value, at=at)


def duration(value: Any) -> float | None:
    """Return the seconds of `1h16m0.667s`, `8.64s`, `132ms` or Google's `57.238747106s`."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not match.group():
        return None
    return clamp(timedelta(**{unit: float(amount) for unit, amount in match.groupdict("0").items()}).total_seconds())


def instant(value: Any) -> datetime | None:
    """Return the instant of an RFC 3339 text, or of an epoch number: milliseconds, seconds below 10^11."""
    number = _number(value)
    if number is not None:
        return _plausible(number if number < 10**11 else number / 1000)
    try:
        moment = datetime.fromisoformat(value.strip()) if isinstance(value, str) else None
    except ValueError:
        return None
    return _in_reach(moment)


def instant_in_text(text: str) -> datetime | None:
    """Return the first date in a sentence such as "regain access on 2026-12-01 at 00:00 UTC"."""
    match = _DATE.search(text)
    return instant(f"{match[1]}T{match[2] or '00:00'}") if match else None


def seconds_until(moment: datetime | None, *, at: datetime) -> float | None:
    """Return the seconds from `at` to a later moment; one that has passed is no hint."""
    return clamp((moment - at).total_seconds()) if moment is not None and moment > at else None


def clamp(seconds: float) -> float:
    """Return the seconds, never negative and never above 31 days: a provider's slip must not park a key for years."""
    return min(max(seconds, 0.0), LONGEST.total_seconds())


def clamp_until(moment: datetime | None, *, at: datetime) -> datetime | None:
    """Return the moment in UTC, at most 31 days after `at`; None where it has passed."""
    return min(moment, at + LONGEST).astimezone(UTC) if moment is not None and moment > at else None


def next_midnight(at: datetime, zone: ZoneInfo | None = None) -> datetime:
    """Return the next midnight of `zone` (UTC where none is given)."""
    return _midnight(at, days=1, zone=zone)


def next_monday(at: datetime) -> datetime:
    """Return the next Monday 00:00 UTC."""
    return _midnight(at, days=7 - at.astimezone(UTC).weekday())


def next_month(at: datetime) -> datetime:
    """Return the first of the next month, 00:00 UTC."""
    today = at.astimezone(UTC).date()
    first = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return datetime.combine(first, time(), UTC)


def next_reset(interval: str, *, at: datetime) -> datetime | None:
    """Return when a daily, weekly or monthly limit begins anew (UTC); None for any other word."""
    resets = {"daily": next_midnight, "weekly": next_monday, "monthly": next_month}
    return resets[interval](at) if interval in resets else None


def _midnight(at: datetime, *, days: int, zone: ZoneInfo | None = None) -> datetime:
    day = at.astimezone(zone or UTC).date() + timedelta(days=days)
    return datetime.combine(day, time(), zone or UTC).astimezone(UTC)


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return float(value.strip()) if _NUMBER.fullmatch(value.strip()) else None
    number = finite(value)
    return float(number) if number is not None and 0 <= number < 10**20 else None


def _seconds_to_http_date(value: Any, *, at: datetime) -> float | None:
    try:
        moment = _in_reach(parsedate_to_datetime(value)) if isinstance(value, str) else None
    except (ValueError, TypeError, OverflowError):
        return None
    return clamp((moment - at).total_seconds()) if moment is not None else None


def _plausible(epoch_seconds: float) -> datetime | None:
    return datetime.fromtimestamp(epoch_seconds, UTC) if 10**9 <= epoch_seconds < 7 * 10**9 else None


def _in_reach(moment: datetime | None) -> datetime | None:
    """Return the moment as an aware one; far-off years are slips, and arithmetic on them overflows."""
    if moment is None or not 2000 <= moment.year <= 2200:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
