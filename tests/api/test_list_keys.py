"""GET /api/llm/keys"""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmkeys.lib.money import NANO
from llmkeys.models import Cooling
from tests.api import checks
from tests.api.checks import MASKED, SECRET
from tests.helpers import NOW, make_key

PATH = "/api/llm/keys"

pytestmark = pytest.mark.django_db


def names(answer):
    assert answer.status_code == 200, answer.content
    return [key["name"] for key in answer.json()]


def test_it_works(api, frozen):
    make_key(
        name="Production",
        secret=SECRET,
        daily_limit_nano=10 * NANO,
        spent_day_nano=2_500_000_000,
        spent_month_nano=15_750_000_000,
        spent_total_nano=15_750_000_000,
        held_nano=NANO // 2,
        total_requests=142,
        successful_requests=138,
        failed_requests=4,
        last_used_at=NOW,
    )
    answer = api.get(PATH)
    (key,) = answer.json()
    assert key.pop("id").startswith("key-")
    assert key == {
        "provider": "openrouter", "name": "Production", "description": "", "maskedApiKey": MASKED,
        "source": "database", "isActive": True, "isDefault": True, "status": "ACTIVE", "priority": 100,
        "dailyLimit": 10.0, "monthlyLimit": 100.0, "totalLimit": 1000.0, "currentDailyCost": 2.5,
        "currentMonthlyCost": 15.75, "totalCost": 15.75, "reservedCost": 0.5, "remainingDailyBudget": 7.0,
        "remainingMonthlyBudget": 83.75, "remainingTotalBudget": 983.75, "totalRequests": 142,
        "successfulRequests": 138, "failedRequests": 4, "successRate": 97.18, "createdAt": "2026-11-23T20:30:00Z",
        "updatedAt": "2026-11-23T20:30:00Z", "lastUsed": "2026-11-23T20:30:00Z", "expiresAt": None,
        "coolingUntil": None, "billingGroup": "", "workspaceId": "", "lastError": "",
        "enabled": True, "budgetMode": None, "projectedMonthlyCost": None,
    }  # fmt: skip
    assert answer["Content-Type"] == "application/json"
    assert answer["Cache-Control"] == "no-store"
    checks.shows_no_secret(answer)


def test_it_lists_in_serving_order(api, frozen):
    make_key(name="older", at=NOW - timedelta(days=2))
    make_key(name="first by priority", priority=1)
    make_key(name="newer")
    assert names(api.get(PATH)) == ["older", "first by priority", "newer"]  # the oldest is the default


def test_it_leaves_out_deleted_keys(api, frozen):
    kept, gone = make_key(name="kept"), make_key(name="gone")
    api.delete(f"{PATH}/{gone.id}")
    assert names(api.get(PATH)) == [kept.name]


def test_it_filters_by_provider(api, frozen):
    make_key(name="one")
    make_key(name="two", provider="anthropic")
    assert names(api.get(PATH, {"provider": "anthropic"})) == ["two"]
    assert names(api.get(PATH, {"provider": "google"})) == []
    assert len(names(api.get(PATH, {"provider": ""}))) == 2


@pytest.mark.parametrize("status", ["ACTIVE", "LIMIT_REACHED", "EXPIRED", "DISABLED"])
def test_it_filters_by_status(api, frozen, status):
    make_key(name="ACTIVE")
    make_key(name="LIMIT_REACHED", daily_limit_nano=NANO, spent_day_nano=NANO)
    make_key(name="EXPIRED", expires_at=NOW)
    make_key(name="DISABLED", enabled=False)
    answer = api.get(PATH, {"status": status})
    assert names(answer) == [status]
    assert answer.json()[0]["status"] == status
    assert answer.json()[0]["isActive"] == (status == "ACTIVE")


def test_a_spent_day_ends_at_midnight(api, frozen):
    make_key(name="spent", daily_limit_nano=NANO, spent_day_nano=NANO)
    assert api.get(PATH).json()[0]["status"] == "LIMIT_REACHED"
    frozen.move_to(NOW.replace(hour=0, minute=0) + timedelta(days=1))
    assert api.get(PATH).json()[0]["status"] == "ACTIVE"
    assert api.get(PATH).json()[0]["currentDailyCost"] == 0.0


@pytest.mark.parametrize("name", ["provider", "status"])
@pytest.mark.parametrize("value", ["%", "_", "nobody", "active' OR 1=1", "ACTIVE\0"])
def test_it_names_a_bad_filter(api, name, value):
    answer = api.get(PATH, {name: value})
    assert answer.status_code == 400
    assert list(answer.json()) == [name]


def test_it_shows_cooling(api, frozen):
    key = make_key(billing_group="team")
    Cooling.objects.create(scope=f"key:{key.id}", kind="rate_limited", until=NOW + timedelta(seconds=10))
    Cooling.objects.create(scope="group:openrouter:team", kind="exhausted", until=NOW + timedelta(seconds=20))
    assert api.get(PATH).json()[0]["coolingUntil"] == "2026-11-23T20:30:20Z"


def test_it_asks_the_database_as_often_for_fifty_keys_as_for_one(api, django_assert_num_queries, frozen):
    make_key()
    api.get(PATH)
    with django_assert_num_queries(5):  # the token, its user, the keys, their coolings, their last week
        api.get(PATH)
    for _ in range(49):
        make_key(billing_group="team")
    with django_assert_num_queries(5):
        assert len(api.get(PATH).json()) == 50


def test_it_needs_authentication():
    checks.needs_authentication("get", PATH)


def test_it_needs_the_permission_to_view():
    checks.needs_permission("get", PATH, "view_apikey")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get", "post")


def test_a_trailing_slash_is_another_address(api):
    checks.is_unknown(api.get(f"{PATH}/"))


def test_it_answers_in_json_whatever_is_accepted(api):
    assert api.get(PATH, headers={"Accept": "text/html"})["Content-Type"] == "application/json"
