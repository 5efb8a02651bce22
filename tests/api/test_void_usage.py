"""POST /api/llm/usage/{id}/void"""

from __future__ import annotations

import pytest
from django.db import connection

from llmkeys.lib.money import NANO
from llmkeys.models import Adjustment, KeyEvent, UsageRecord
from tests.api import checks
from tests.helpers import NOW, make_key, make_usage

pytestmark = pytest.mark.django_db


def path(row):
    return f"/api/llm/usage/{row.id}/void"


def lost(**columns):
    key = make_key(spent_day_nano=NANO, spent_month_nano=NANO, spent_total_nano=NANO, **columns)
    return make_usage(key, state="LOST", success=False, cost_nano=NANO // 2, cost_source="estimated")


def test_it_works(api, frozen):
    row = lost()
    answer = api.post(path(row), {"reason": "The provider's bill does not have it."})
    assert answer.status_code == 200, answer.content
    assert answer.json() == {"success": True, "message": "Charge taken back", "amount": 0.5}
    key = api.get(f"/api/llm/keys/{row.key_id}").json()
    assert (key["currentDailyCost"], key["currentMonthlyCost"], key["totalCost"]) == (0.5, 0.5, 0.5)
    adjustment = Adjustment.objects.get()
    assert (adjustment.kind, adjustment.usage_id, adjustment.total_nano) == ("void", row.id, -NANO // 2)
    assert adjustment.created_by.startswith("admin (token ")
    assert adjustment.reason == "The provider's bill does not have it."


@pytest.mark.only_on("sqlite")  # reads its plan
def test_it_finds_the_daily_total_without_reading_the_others(api):
    row, changes = lost(), []

    def note(execute, sql, params, many, context):
        if sql.startswith("UPDATE llmkeys_dailyusage"):
            changes.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        assert api.post(path(row)).status_code == 200
    ((sql, params),) = changes
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
        (step,) = [found[3] for found in cursor.fetchall()]
    assert step.startswith("SEARCH") and "dailyusage_one_per_group" in step


def test_it_leaves_one_event_of_the_key_that_says_who_did_it(api):
    row = lost()
    api.post(path(row)), api.post(path(row))
    event = KeyEvent.objects.get(kind="voided")
    assert (event.key_id, event.actor) == (row.key_id, Adjustment.objects.get().created_by)
    assert event.message == (f"The charge of the lost usage row {row.id} was taken back by {event.actor}: $0.50.")


def test_it_leaves_no_event_where_nothing_was_charged(api):
    row = lost()
    UsageRecord.objects.update(cost_nano=0)
    assert api.post(path(row)).json()["amount"] == 0
    assert not KeyEvent.objects.filter(kind="voided").exists()


def test_history_stays(api):
    row = lost()
    api.post(path(row))
    (shown,) = api.get("/api/llm/usage").json()["results"]
    assert (shown["state"], shown["cost"]) == ("LOST", 0.5)


def test_a_second_time_is_a_conflict(api):
    row = lost()
    assert api.post(path(row)).status_code == 200
    answer = api.post(path(row))
    assert answer.status_code == 409
    assert "already been taken back" in answer.json()["detail"]
    assert Adjustment.objects.count() == 1


@pytest.mark.parametrize("state", ["HELD", "SETTLED", "RELEASED"])
def test_only_a_lost_row_can_be_voided(api, state):
    row = make_usage(make_key(), state=state, cost_nano=0, lease_until=NOW)
    answer = api.post(path(row))
    assert answer.status_code == 409
    assert state in answer.json()["detail"]
    assert not Adjustment.objects.exists()


@pytest.mark.parametrize("body", [{"reason": 1}, {"reason": "x" * 501}, {"reason": "a\nb"}, {"why": "x"}])
def test_it_names_a_bad_field(api, body):
    answer = api.post(path(lost()), body)
    assert answer.status_code == 400
    assert list(answer.json()) == list(body)
    assert not Adjustment.objects.exists()


def test_it_refuses_malformed_bodies(api):
    checks.refuses_malformed_bodies(api.post, path(lost()))


@pytest.mark.parametrize("number", ["0", "999999", "9" * 30, "-1", "x"])
def test_it_knows_no_other_row(api, number):
    checks.is_unknown(api.post(f"/api/llm/usage/{number}/void"))


def test_it_needs_authentication():
    checks.needs_authentication("post", path(lost()))


def test_it_needs_the_permission_to_change():
    checks.needs_permission("post", path(lost()), "change_usagerecord")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, path(lost()), "post")
