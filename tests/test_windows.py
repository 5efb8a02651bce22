"""Budget days and months in the operator's zone: no gap, no overlap, whatever the clocks there do."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkeys.lib.windows import Windows, day_end, day_start, month_end, windows_at
from tests.flows.scale import size

MICROSECOND = timedelta(microseconds=1)
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "America/Sao_Paulo", "America/Havana",
    "America/St_Johns", "America/Nuuk", "Africa/Cairo", "Africa/Casablanca", "Asia/Beirut", "Asia/Tehran",
    "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Chatham", "Pacific/Apia", "Pacific/Kwajalein",
    "Pacific/Kiritimati", "Antarctica/Troll",
]  # fmt: skip


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


# --- every instant in exactly one window ----------------------------------------------------------------------------

EDGES_FROM, EDGES_TO = datetime(1990, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=1)
def edges() -> list[datetime]:
    """The instants of these fifty years at which a zone's clocks jump, and the leap days' midnights."""
    found = [datetime(year, 2, 29, tzinfo=UTC) for year in range(1992, 2040, 4)]
    for zone in map(ZoneInfo, ZONES):
        at, offset = EDGES_FROM, EDGES_FROM.astimezone(zone).utcoffset()
        while at < EDGES_TO:
            later = at + timedelta(days=9)
            if (offset_then := later.astimezone(zone).utcoffset()) != offset:
                found.append(_jump(zone, at, later))
            at, offset = later, offset_then
    return found


def _jump(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    before = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        low, high = (middle, high) if middle.astimezone(zone).utcoffset() == before else (low, middle)
    return high.replace(microsecond=0)


@st.composite
def instants(draw: st.DrawFn) -> datetime:
    """Any instant, and as often one within a day and a half of a jump of some zone's clocks."""
    if draw(st.booleans()):
        return draw(st.datetimes(datetime(1990, 1, 2), datetime(2090, 1, 1), timezones=st.just(UTC)))
    near = draw(st.integers(-36 * 3600, 36 * 3600)) + draw(st.sampled_from([0, 0.000001, 0.5]))
    return draw(st.sampled_from(edges())) + timedelta(seconds=near)


@pytest.mark.proof
@settings(
    max_examples=size("INSTANTS", short=1_000, long=10_000),
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(at=instants())
def test_every_instant_lies_in_exactly_one_day_and_one_month(at):
    for zone in ZONES:
        now = windows_at(at, zone)
        start, end = day_start(now.day, zone), day_end(now.day, zone)
        assert start <= at < end, zone
        assert windows_at(start, zone) == windows_at(end - MICROSECOND, zone) == now, zone
        following = windows_at(end, zone)
        assert following.day > now.day and day_start(following.day, zone) == end, zone
        assert following.month == (now.month if end < month_end(now.month, zone) else following.day), zone
        assert now.month == now.day.replace(day=1), zone
        assert day_start(now.month, zone) <= at < month_end(now.month, zone), zone


@pytest.mark.parametrize("zone", ZONES)
def test_months_follow_each_other_to_the_microsecond(zone):
    month = date(1990, 2, 1)
    while month.year < 2040:
        end = month_end(month, zone)
        following = windows_at(end, zone)
        assert windows_at(end - MICROSECOND, zone).month == month
        assert following.month > month and following.day == following.month
        month = following.month


def test_a_day_that_began_goes_on_when_the_clocks_go_back_over_midnight():
    """St. John's put its clocks back a minute after midnight: that Sunday had begun, and went on."""
    zone, sunday = "America/St_Johns", date(2010, 11, 7)
    start = day_start(sunday, zone)
    assert day_end(sunday, zone) - start == timedelta(hours=25)
    assert {windows_at(start + timedelta(minutes=minute), zone).day for minute in range(0, 180)} == {sunday}
    assert windows_at(start - MICROSECOND, zone).day == date(2010, 11, 6)
