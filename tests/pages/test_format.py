"""How amounts, shares and instants look."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from llmkeys.dashboard.usage_words import seconds_words
from llmkeys.lib.money import NANO
from llmkeys.templatetags.llmkeys_format import codes, moment, percent, relative, span, usd, usd_short, when
from tests.helpers import NOW


@pytest.mark.parametrize(
    ("nano", "shown"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (123_456, "$0.00012"),
        (9_994_000, "$0.0100"),
        (10_000_000, "$0.01"),
        (3_820_000_000, "$3.82"),
        (1_481_130 * NANO, "$1,481,130.00"),
        (-5 * NANO // 2, "-$2.50"),
        (None, "–"),
    ],
)
def test_it_shows_cents_and_of_less_two_digits(nano, shown):
    assert usd(nano) == shown


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(None, "–"), (0, "0 ms"), (9, "9 ms"), (10, "0.01 s"), (384, "0.38 s"), (11_820, "11.8 s"), (120_400, "120 s")],
)
def test_it_shows_times_with_three_telling_digits_at_most(milliseconds, shown):
    assert seconds_words(milliseconds) == shown


def test_it_shows_round_limits_short():
    assert [usd_short(nano) for nano in (10 * NANO, 1000 * NANO, 1000 * NANO + NANO // 2)] == [
        "$10.00",
        "$1,000",
        "$1,000.50",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 %"), (0.01, "< 0.1 %"), (47.75, "47.8 %"), (99.99, "99.9 %"), (100, "100 %"), (123.4, "123.4 %")],
)
def test_it_never_rounds_a_share_to_all_or_nothing(value, shown):
    assert percent(value) == shown


@pytest.mark.parametrize(
    ("delta", "shown"),
    [
        (timedelta(seconds=4), "4 s"), (timedelta(minutes=35), "35 min"),
        (timedelta(hours=9, minutes=54), "9 h 54 min"),
        (timedelta(hours=2), "2 h"), (timedelta(days=1, hours=3), "1 day"), (timedelta(days=7), "7 days"),
    ],
)  # fmt: skip
def test_it_shows_a_stretch_of_time(delta, shown):
    assert span(delta) == shown


def test_it_shows_instants_by_their_distance(frozen):
    assert "2 h ago</time>" in relative(NOW - timedelta(hours=2, minutes=40))
    assert "in 2 h 40 min</time>" in relative(NOW + timedelta(hours=2, minutes=40))
    assert relative(None) == "never"
    assert ">20:31 UTC<" in moment(NOW + timedelta(minutes=1))
    assert ">30 November, 20:30 UTC<" in moment(NOW + timedelta(days=7))
    assert ">1 December<" in moment(NOW.replace(month=12, day=1, hour=0, minute=0))
    assert ">1 January 2027<" in moment(NOW.replace(year=2027, month=1, day=1, hour=0, minute=0))
    assert 'title="2026-11-23 20:30:00 UTC"' in moment(NOW)


@pytest.mark.parametrize(
    ("hours", "shown"),
    [
        (-45, "on 21 November, 23:30 UTC"), (-35, "yesterday at 09:30 UTC"), (-21, "yesterday at 23:30 UTC"),
        (-20, "at 00:30 UTC"), (3, "at 23:30 UTC"), (4, "tomorrow at 00:30 UTC"), (27, "tomorrow at 23:30 UTC"),
        (28, "on 25 November, 00:30 UTC"), (35, "on 25 November, 07:30 UTC"),
    ],
)  # fmt: skip
def test_it_names_the_day_of_an_instant_that_is_not_today(frozen, hours, shown):
    assert re.sub(r"<[^>]+>", "", when(NOW + timedelta(hours=hours))) == shown


def test_it_goes_by_the_days_of_the_operators_time_zone(frozen, settings):
    settings.TIME_ZONE = "Asia/Tokyo"  # where it is half past five in the morning of the 24th
    assert ">yesterday at 23:30 JST<" in moment(NOW - timedelta(hours=6))
    assert ">23:30 JST<" in moment(NOW + timedelta(hours=18))


def test_it_shows_what_stands_between_backticks_as_code():
    assert codes("`serve` makes one; <b> stays, a lone ` too") == (
        "<code>serve</code> makes one; &lt;b&gt; stays, a lone ` too"
    )


@pytest.mark.parametrize(
    ("zone", "at", "shown"),
    [
        ("Asia/Tokyo", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), "31 December 9999, 23:59 UTC"),
        ("America/New_York", datetime(1, 1, 1, 0, 0, 1, tzinfo=UTC), "1 January 1"),
    ],
)
def test_it_shows_in_utc_what_has_no_local_time(frozen, settings, zone, at, shown):
    settings.TIME_ZONE = zone
    assert f">{shown}<" in moment(at) and "UTC" in relative(at)
