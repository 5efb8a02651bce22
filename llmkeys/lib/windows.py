"""Budget windows: which day and month a time belongs to in the operator's time zone, and when they end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

DAY, MONTH, TOTAL = "day", "month", "total"


@dataclass(frozen=True)
class Window:
    """A span of time that has a budget, and the names of its columns in an account."""

    name: str  # also the column with its first day, if it ends
    adjective: str
    ends: bool

    @cached_property
    def limit(self) -> str:
        return f"{self.adjective}_limit_nano"

    @cached_property
    def spent(self) -> str:
        return f"spent_{self.name}_nano"

    @cached_property
    def amount(self) -> str:
        """The column in an adjustment."""
        return f"{self.name}_nano"


WINDOWS = (Window(DAY, "daily", True), Window(MONTH, "monthly", True), Window(TOTAL, "total", False))


@dataclass(frozen=True, slots=True)
class Windows:
    """The budget day and month of a time; `month` is the first day of the month."""

    day: date
    month: date


@lru_cache(maxsize=256)  # for a page asks for each of a thousand keys
def windows_at(at: datetime, zone: str) -> Windows:
    """Return the budget day and month that the aware datetime `at` belongs to in `zone`.

    If clocks go back across midnight, the day that had begun continues: a window never opens twice.
    """
    local = local_time(at, zone)
    day = local.date()
    if local.fold and day_end(day, zone) <= at:
        day += timedelta(days=1)
    return Windows(day=day, month=day.replace(day=1))


def local_time(at: datetime, zone: str) -> datetime:
    """Return the aware datetime `at` in `zone`, or unchanged if the calendar ends before it there.

    In the first and the last hours of the calendar (years 1 to 9999) some zones have no time for `at`.
    """
    try:
        return at.astimezone(_zone(zone))
    except OverflowError:
        return at


@lru_cache(maxsize=1024)
def day_start(day: date, zone: str) -> datetime:
    """Return the time (UTC) at which `day` begins.

    Midnight may not exist (a gap at 00:00, or a whole day skipped) or occur twice; then the day begins at the first
    time whose local date is `day` or later, so that days follow each other without gap or overlap.
    """
    naive = datetime(day.year, day.month, day.day)
    first = naive.replace(tzinfo=_zone(zone), fold=0).astimezone(UTC)
    if first.astimezone(_zone(zone)).replace(tzinfo=None) == naive:
        return first
    return _first_instant_of(day, zone, first)


def _first_instant_of(day: date, zone: str, near: datetime) -> datetime:
    """Find by bisection the time around `near` at which the local date becomes `day` or later."""
    low, high = near - timedelta(days=2), near + timedelta(days=2)
    while high - low > timedelta(microseconds=1):
        middle = low + (high - low) / 2
        if middle.astimezone(_zone(zone)).date() >= day:
            high = middle
        else:
            low = middle
    return high.replace(microsecond=0) if high.microsecond < 2 else high


def day_end(day: date, zone: str) -> datetime:
    """Return the time (UTC) at which the next day begins."""
    return day_start(day + timedelta(days=1), zone)


def month_end(month: date, zone: str) -> datetime:
    """Return the time (UTC) at which the month after `month` begins."""
    return day_start((month.replace(day=1) + timedelta(days=32)).replace(day=1), zone)


@lru_cache(maxsize=256)
def window_end(window: Window, first_day: date, zone: str) -> datetime:
    """Return the time (UTC) at which the window that began on `first_day` ends."""
    return {DAY: day_end, MONTH: month_end}[window.name](first_day, zone)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
