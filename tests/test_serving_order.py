"""The order in which keys serve, with REFACTAI_KEY_ORDER=fill and spread: in Python and in SQL."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llmkeys.key_state import serving_place
from llmkeys.models import ApiKey
from tests.helpers import NOW

pytestmark = pytest.mark.django_db

TODAY, MONTH = date(2026, 11, 23), date(2026, 11, 1)


def make(name: str, **columns) -> ApiKey:
    numbers = {"created_at": NOW + timedelta(seconds=ApiKey.objects.count())}
    base = {"provider": "openrouter", "name": name, "day": TODAY, "month": MONTH}
    return ApiKey.objects.create(**base | numbers | columns)


def order() -> list[str]:
    """Return the names in serving order, once from Python and once from SQL."""
    by_sql = [key.name for key in ApiKey.objects.in_serving_order(NOW)]
    keys = ApiKey.objects.order_by("?")
    assert [key.name for key in sorted(keys, key=lambda key: serving_place(key, NOW))] == by_sql
    return by_sql


class TestFill:
    def test_the_default_key_then_priority_then_age_and_the_environment_last(self):
        make("older"), make("younger")
        make("environment", source="environment", environment_variable="X", priority=1)
        make("second", priority=50), make("default", is_default=True, priority=900)
        assert order() == ["default", "second", "older", "younger", "environment"]

    def test_what_is_spent_does_not_matter(self):
        make("spent", daily_limit_nano=10, spent_day_nano=9), make("fresh", daily_limit_nano=10)
        assert order() == ["spent", "fresh"]


class TestSpread:
    @pytest.fixture(autouse=True)
    def _spread(self, settings):
        settings.KEY_ORDER = "spread"

    def test_the_largest_share_of_the_tightest_budget_left_comes_first(self):
        make("half", daily_limit_nano=10, spent_day_nano=5)
        make("tenth", daily_limit_nano=1000, monthly_limit_nano=10, spent_month_nano=9)
        make("most", daily_limit_nano=10, spent_day_nano=1, total_limit_nano=100, spent_total_nano=20)
        make("held", daily_limit_nano=10, held_nano=7)
        make("unlimited", spent_day_nano=10**12)
        assert order() == ["unlimited", "most", "half", "held", "tenth"]

    def test_priority_comes_before_it_and_the_default_mark_only_breaks_ties(self):
        make("first", priority=1, daily_limit_nano=10, spent_day_nano=9)
        make("default", is_default=True, daily_limit_nano=10, spent_day_nano=2)
        make("fresh", daily_limit_nano=10, spent_day_nano=1), make("equal", daily_limit_nano=10, spent_day_nano=2)
        make("environment", source="environment", environment_variable="X", priority=1)
        assert order() == ["first", "fresh", "default", "equal", "environment"]

    def test_a_window_that_has_ended_is_whole_again(self):
        make("yesterday", daily_limit_nano=10, spent_day_nano=10, day=TODAY - timedelta(days=1))
        make("today", daily_limit_nano=10, spent_day_nano=1)
        assert order() == ["yesterday", "today"]

    def test_holds_that_are_given_back_change_it_back(self):
        one, _ = make("one", daily_limit_nano=10), make("two", daily_limit_nano=10)
        assert order() == ["one", "two"]
        ApiKey.objects.filter(pk=one.pk).update(held_nano=1)
        assert order() == ["two", "one"]


amounts = st.integers(0, 3)
keys = st.lists(
    st.fixed_dictionaries(
        {
            "priority": st.integers(1, 2), "daily_limit_nano": amounts, "monthly_limit_nano": amounts,
            "total_limit_nano": amounts, "spent_day_nano": amounts, "spent_month_nano": amounts,
            "spent_total_nano": amounts, "held_nano": amounts, "day": st.sampled_from([TODAY, date(2026, 11, 20)]),
            "month": st.sampled_from([MONTH, date(2026, 10, 1)]), "is_default": st.just(False),
        }
    ),
    max_size=6,
)  # fmt: skip


@pytest.mark.parametrize("mode", ["fill", "spread"])
def test_python_and_sql_agree(settings, mode):
    settings.KEY_ORDER = mode

    @hypothesis_settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(rows=keys)
    def agree(rows):
        ApiKey.objects.all().delete()
        for number, columns in enumerate(rows):
            make(f"key {number}", **columns)
        order()

    agree()
