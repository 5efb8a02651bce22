"""A key's status and room at an instant: what the row says, what SQL says, and that both say the same."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llmkeys.key_state import ACTIVE, DISABLED, EXPIRED, LIMIT_REACHED
from llmkeys.lib.money import NANO
from llmkeys.models import ApiKey
from tests.helpers import NOW

pytestmark = pytest.mark.django_db

TODAY, MONTH = date(2026, 11, 23), date(2026, 11, 1)


def make(**columns) -> ApiKey:
    return ApiKey.objects.create(**{"provider": "openrouter", "name": "Key", "day": TODAY, "month": MONTH} | columns)


def status(at: datetime = NOW, **columns) -> str:
    """Return the status, once from the row and once from SQL."""
    key = make(**columns)
    found = ApiKey.objects.with_status(at).get(pk=key.pk)
    assert found.status == found.status_at(at)
    return found.status


class TestStatus:
    def test_it_works(self):
        assert status() == ACTIVE

    @pytest.mark.parametrize(
        "columns",
        [
            {"enabled": False},
            {"rejected_at": NOW},
            {"secret_missing": True},
            {"deleted_at": NOW, "enabled": False},
            {"enabled": False, "expires_at": NOW, "total_limit_nano": 1, "spent_total_nano": 1},
        ],
    )
    def test_disabled_comes_first(self, columns):
        assert status(**columns) == DISABLED

    def test_it_expires_at_the_instant(self):
        assert status(expires_at=NOW + timedelta(microseconds=1)) == ACTIVE
        assert status(expires_at=NOW) == EXPIRED
        assert status(expires_at=NOW, daily_limit_nano=1, spent_day_nano=1) == EXPIRED

    @pytest.mark.parametrize(
        ("limit", "spent"),
        [
            ("daily_limit_nano", "spent_day_nano"),
            ("monthly_limit_nano", "spent_month_nano"),
            ("total_limit_nano", "spent_total_nano"),
        ],
    )
    def test_a_limit_is_reached_to_the_last_nano(self, limit, spent):
        assert status(**{limit: NANO, spent: NANO - 1}) == ACTIVE
        assert status(**{limit: NANO, spent: NANO}) == LIMIT_REACHED
        assert status(**{limit: NANO, spent: NANO - 1, "held_nano": NANO}) == ACTIVE  # holds are no cost yet
        assert status(**{limit: 0, spent: NANO}) == ACTIVE  # no limit

    def test_a_window_that_has_ended_does_not_count(self):
        midnight = datetime(2026, 11, 24, tzinfo=UTC)
        columns = {"daily_limit_nano": 1, "spent_day_nano": 1}
        assert status(midnight - timedelta(microseconds=1), **columns) == LIMIT_REACHED
        assert status(midnight, **columns) == ACTIVE
        columns = {"monthly_limit_nano": 1, "spent_month_nano": 1}
        assert status(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), **columns) == LIMIT_REACHED
        assert status(datetime(2026, 12, 1, tzinfo=UTC), **columns) == ACTIVE

    def test_the_day_is_the_operators(self, settings):
        settings.TIME_ZONE = "Asia/Tokyo"
        assert status(daily_limit_nano=1, spent_day_nano=1) == ACTIVE  # there it is the 24th already

    def test_a_window_that_is_ahead_of_us_counts(self):
        assert status(day=TODAY + timedelta(days=1), daily_limit_nano=1, spent_day_nano=1) == LIMIT_REACHED

    @pytest.mark.parametrize(
        ("window", "day", "expected"),
        [
            ("day", TODAY, LIMIT_REACHED),
            ("day", TODAY - timedelta(days=1), ACTIVE),
            ("month", MONTH, LIMIT_REACHED),
            ("month", MONTH - timedelta(days=1), ACTIVE),
            ("total", MONTH - timedelta(days=400), LIMIT_REACHED),
            ("day", None, ACTIVE),
            ("", TODAY, ACTIVE),
        ],
    )
    def test_a_refusal_counts_while_its_window_runs(self, window, day, expected):
        assert status(refused_window=window, refused_day=day) == expected

    def test_without_cost_tracking_no_limit_is_reached(self, settings):
        settings.COST_TRACKING = False
        assert status(total_limit_nano=1, spent_total_nano=1, refused_window="total") == ACTIVE


class TestBudgets:
    def test_it_tells_room_and_end_of_each_window(self):
        key = make(
            daily_limit_nano=10,
            monthly_limit_nano=100,
            spent_day_nano=4,
            spent_month_nano=7,
            spent_total_nano=9,
            held_nano=2,
        )
        day, month, total = key.budgets(NOW)
        assert (day.spent, day.remaining, day.resets_at) == (4, 4, datetime(2026, 11, 24, tzinfo=UTC))
        assert (month.spent, month.remaining, month.resets_at) == (7, 91, datetime(2026, 12, 1, tzinfo=UTC))
        assert (total.spent, total.remaining, total.resets_at) == (9, None, None)

    def test_what_remains_is_never_below_zero(self):
        assert make(daily_limit_nano=10, spent_day_nano=20).budgets(NOW)[0].remaining == 0

    def test_a_cost_below_zero_is_shown_as_none(self):
        assert make(daily_limit_nano=10, spent_day_nano=-5).budgets(NOW)[0].spent == 0


class TestServingOrder:
    def test_the_default_comes_first_and_the_environment_last(self):
        environment = make(name="e", source="environment", environment_variable="OPENAI_API_KEY", priority=1)
        late = make(name="l", created_at=NOW)
        early = make(name="s", created_at=NOW - timedelta(days=1))
        urgent = make(name="u", priority=1)
        default = make(name="d", priority=500, is_default=True)
        assert list(ApiKey.objects.in_serving_order()) == [default, urgent, early, late, environment]


_NANO = st.sampled_from([-1, 0, 1, 2, 10])
_DAYS = st.sampled_from([TODAY + timedelta(days=days) for days in (-40, -2, -1, 0, 1, 2, 40)])
_INSTANTS = st.sampled_from(
    [NOW + timedelta(days=days, hours=hours) for days in (-31, -1, 0, 1, 8) for hours in (-1, 0, 5)]
)
_ROWS = st.fixed_dictionaries(
    {
        "enabled": st.booleans(),
        "rejected_at": st.none() | st.none() | _INSTANTS,
        "secret_missing": st.sampled_from([False, False, False, True]),
        "expires_at": st.none() | _INSTANTS,
        "day": _DAYS,
        "month": _DAYS.map(lambda day: day.replace(day=1)),
        "daily_limit_nano": _NANO.map(abs),
        "monthly_limit_nano": _NANO.map(abs),
        "total_limit_nano": _NANO.map(abs),
        "spent_day_nano": _NANO,
        "spent_month_nano": _NANO,
        "spent_total_nano": _NANO,
        "held_nano": _NANO.map(abs),
        "refused_window": st.sampled_from(["", "", "day", "month", "total"]),
        "refused_day": st.none() | _DAYS,
    }
)


@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    rows=st.lists(_ROWS, min_size=1, max_size=8),
    at=_INSTANTS,
    zone=st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York"]),
)
def test_row_and_sql_say_the_same(settings, rows, at, zone):
    settings.TIME_ZONE = zone
    ApiKey.objects.all().delete()
    ApiKey.objects.bulk_create(
        ApiKey(id=f"key-{number}", provider="openai", name="Key", **row) for number, row in enumerate(rows)
    )
    usable = set(ApiKey.objects.usable(at).values_list("pk", flat=True))
    for key in ApiKey.objects.with_status(at):
        assert key.status == key.status_at(at)
        assert (key.status_at(at) in (ACTIVE, LIMIT_REACHED)) == (key.pk in usable)
