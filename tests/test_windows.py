"""Budget days and months in the operator's zone: no gap, no overlap, whatever the clocks there do."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkeys.windows import Windows, day_end, day_start, month_end, windows_at

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Pacific/Kiritimati",
    "America/Santiago",
    "Africa/Cairo",
]


@pytest.mark.parametrize(
    ("at", "zone", "day", "month"),
    [
        (datetime(2026, 11, 23, 20, 30, tzinfo=UTC), "UTC", date(2026, 11, 23), date(2026, 11, 1)),
        (datetime(2026, 11, 30, 22, 59, 59, tzinfo=UTC), "Europe/Berlin", date(2026, 11, 30), date(2026, 11, 1)),
        (datetime(2026, 11, 30, 23, 0, 0, tzinfo=UTC), "Europe/Berlin", date(2026, 12, 1), date(2026, 12, 1)),
        (datetime(2027, 1, 1, 4, 59, 59, tzinfo=UTC), "America/New_York", date(2026, 12, 31), date(2026, 12, 1)),
    ],
)
def test_an_instant_belongs_to_a_day_and_a_month(at, zone, day, month):
    assert windows_at(at, zone) == Windows(day, month)


@pytest.mark.parametrize(
    ("day", "zone", "start", "hours"),
    [
        (date(2026, 11, 23), "UTC", datetime(2026, 11, 23, tzinfo=UTC), 24),
        (date(2026, 3, 29), "Europe/Berlin", datetime(2026, 3, 28, 23, tzinfo=UTC), 23),  # an hour is skipped
        (date(2026, 10, 25), "Europe/Berlin", datetime(2026, 10, 24, 22, tzinfo=UTC), 25),  # an hour comes twice
        (date(2026, 9, 6), "America/Santiago", datetime(2026, 9, 6, 4, tzinfo=UTC), 23),  # midnight does not exist
        (date(2026, 4, 24), "Africa/Cairo", datetime(2026, 4, 23, 22, tzinfo=UTC), 23),
    ],
)
def test_a_day_begins_at_midnight_and_has_its_own_length(day, zone, start, hours):
    assert day_start(day, zone) == start
    assert day_end(day, zone) - start == timedelta(hours=hours)


def test_a_day_that_a_zone_left_out_is_empty():
    skipped = date(2011, 12, 30)  # Samoa went to the other side of the date line
    assert day_start(skipped, "Pacific/Apia") == day_end(skipped, "Pacific/Apia")


@pytest.mark.parametrize(
    ("month", "end"),
    [
        (date(2026, 11, 1), date(2026, 12, 1)),
        (date(2026, 12, 1), date(2027, 1, 1)),
        (date(2028, 2, 1), date(2028, 3, 1)),
    ],
)
def test_a_month_ends_on_the_first(month, end):
    assert month_end(month, "UTC") == datetime(end.year, end.month, 1, tzinfo=UTC)
    assert month_end(month.replace(day=20), "UTC") == month_end(month, "UTC")


@given(at=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)), zone=st.sampled_from(ZONES))
def test_every_instant_lies_in_its_day_and_month(at, zone):
    windows = windows_at(at, zone)
    assert day_start(windows.day, zone) <= at < day_end(windows.day, zone)
    assert at < month_end(windows.month, zone)
    assert windows.month == windows.day.replace(day=1)


@given(day=st.dates(date(2020, 1, 1), date(2035, 1, 1)), zone=st.sampled_from(ZONES))
def test_days_follow_each_other_to_the_microsecond(day, zone):
    start = day_start(day, zone)
    assert windows_at(start, zone).day == day
    assert windows_at(start - timedelta(microseconds=1), zone).day == day - timedelta(days=1)
    assert day_end(day, zone) == day_start(day + timedelta(days=1), zone)
