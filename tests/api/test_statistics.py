"""GET /api/llm/keys/statistics"""

from __future__ import annotations

import pytest

from llmkeys.lib.money import NANO
from tests.api import checks
from tests.helpers import NOW, make_key

PATH = "/api/llm/keys/statistics"

pytestmark = pytest.mark.django_db


def test_it_works(api, frozen):
    make_key(
        daily_limit_nano=10 * NANO,
        monthly_limit_nano=100 * NANO,
        spent_day_nano=4 * NANO,
        spent_month_nano=20 * NANO,
        spent_total_nano=50 * NANO,
        held_nano=NANO // 2,
        total_requests=10,
        successful_requests=8,
        failed_requests=1,
    )
    make_key(
        daily_limit_nano=0, monthly_limit_nano=0, spent_day_nano=NANO, spent_month_nano=NANO, spent_total_nano=NANO
    )
    make_key(enabled=False, daily_limit_nano=20 * NANO, monthly_limit_nano=100 * NANO)
    assert api.get(PATH).json() == {
        "totalKeys": 3, "activeKeys": 2, "totalCost": 51.0, "totalRequests": 10, "successfulRequests": 8,
        "failedRequests": 1, "successRate": 88.89, "dailyCost": 5.0, "dailyLimit": 30.0, "dailyBudgetUsed": 13.33,
        "monthlyCost": 21.0, "monthlyLimit": 200.0, "monthlyBudgetUsed": 10.0, "reservedCost": 0.5,
        "dailyResetsAt": "2026-11-24T00:00:00Z", "monthlyResetsAt": "2026-12-01T00:00:00Z",
    }  # fmt: skip


def test_it_works_without_keys(api):
    answer = api.get(PATH).json()
    assert (answer["totalKeys"], answer["successRate"], answer["dailyBudgetUsed"]) == (0, 0.0, 0.0)


def test_a_deleted_key_keeps_its_place_in_the_sums(api, frozen):
    key = make_key(spent_total_nano=NANO, total_requests=1, successful_requests=1)
    api.delete(f"/api/llm/keys/{key.id}")
    answer = api.get(PATH).json()
    assert (answer["totalKeys"], answer["totalCost"], answer["totalRequests"]) == (0, 1.0, 1)


def test_the_first_of_the_month_begins_anew(api, frozen):
    make_key(spent_day_nano=NANO, spent_month_nano=NANO, spent_total_nano=NANO)
    frozen.move_to(NOW.replace(month=12, day=1, hour=0, minute=0))
    answer = api.get(PATH).json()
    assert (answer["dailyCost"], answer["monthlyCost"], answer["totalCost"]) == (0.0, 0.0, 1.0)


def test_it_needs_authentication():
    checks.needs_authentication("get", PATH)


def test_it_needs_the_permission_to_view():
    checks.needs_permission("get", PATH, "view_apikey")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get")
