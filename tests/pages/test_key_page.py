"""GET /llm-settings/keys/{id}."""

from __future__ import annotations

import html
import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from llmkeys.dashboard import accounts
from llmkeys.lib.money import NANO
from llmkeys.models import Adjustment, ApiKey, DailyUsage, KeyEvent
from tests.helpers import NOW, make_key, make_usage

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]
TODAY = NOW.date()


def page_of(client, key: ApiKey) -> str:
    answer = client.get(f"/llm-settings/keys/{key.pk}")
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", answer.content.decode())


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def spend(key: ApiKey, model: str, cost: int, *, days_ago: int = 0, requests: int = 1) -> None:
    day = TODAY - timedelta(days=days_ago)
    DailyUsage.objects.create(day=day, key=key, model=model, requests=requests, successful=requests, cost_nano=cost)


def test_it_needs_a_person_with_the_right_and_a_stored_key(client, with_rights, operator):
    key = make_key()
    assert client.get(f"/llm-settings/keys/{key.pk}").headers["Location"].startswith("/login")
    assert with_rights().get(f"/llm-settings/keys/{key.pk}").status_code == 403
    assert operator.get("/llm-settings/keys/key-0-0").status_code == 404
    gone = make_key(fingerprint=None, enabled=False, is_default=False, deleted_at=NOW)
    assert operator.get(f"/llm-settings/keys/{gone.pk}").status_code == 404


def test_it_shows_the_three_budgets_with_what_is_left_and_held(operator):
    key = make_key(spent_day_nano=4 * NANO, spent_month_nano=5 * NANO, spent_total_nano=6 * NANO, held_nano=NANO)
    text = text_of(page_of(operator, key))
    assert "Daily Budget $4.00 of $10.00 $5.00 left, $1.00 held Resets tomorrow at 00:00 UTC" in text
    assert "Monthly Budget $5.00 of $100.00 $94.00 left" in text
    assert "Total Budget $6.00 of $1,000 $993.00 left, $1.00 held Never resets automatically" in text


def test_it_shows_what_it_cost_by_day_and_by_model(operator):
    key, other = make_key(), make_key()
    spend(key, "gpt", 3 * NANO, requests=7), spend(key, "claude", NANO, days_ago=29)
    spend(key, "old", 50 * NANO, days_ago=30), spend(other, "gpt", 90 * NANO)
    page = page_of(operator, key)
    assert "$4.00 in 30 days" in page and "Mon 23 Nov 2026: $3.00" in page and "$50" not in page
    assert "gpt 7 $3.00 75 % claude 1 $1.00 25 %" in text_of(page)
    assert f'href="/llm-settings/usage?key={key.pk}&amp;model=gpt"' in page


def test_it_tells_how_much_of_it_is_a_guess(operator):
    key = make_key()
    spend(key, "model", NANO)
    assert "$1.00 in 30 days </p>" not in page_of(operator, key) and "estimated</a>" not in page_of(operator, key)
    DailyUsage.objects.update(estimated_nano=NANO // 2, lost_nano=NANO // 4)
    assert "$1.00 in 30 days, of which $0.50 estimated · $0.25 lost" in text_of(page_of(operator, key))


def test_it_sums_many_models_into_one_line(operator):
    key = make_key()
    for number in range(30):
        spend(key, f"model-{number:02}", NANO)
    text = text_of(page_of(operator, key))
    assert "20 other models 20 $20.00" in text and "model-29" not in text


def test_it_says_why_each_request_came_to_this_key(operator):
    first, key = make_key(name="Alpha"), make_key(name="Beta")
    make_usage(key, skipped=[{"keyId": first.pk, "reason": "cooling"}])
    make_usage(first)
    assert "Alpha was cooling down" in page_of(operator, key)
    page = page_of(operator, first)
    assert "First in line" in page and "Tried again" not in page
    row = make_usage(first)
    make_usage(first, request_id=row.request_id, attempt=2)
    assert "Tried again attempt 2 of 2" in text_of(page_of(operator, first))


def test_it_offers_to_take_a_lost_charge_back_until_that_is_done(operator, with_rights):
    key = make_key()
    row = make_usage(key, state="LOST", success=False, cost_source="estimated")
    page = page_of(operator, key)
    assert "A request was lost" in page and f"/llm-settings/usage/{row.pk}/void" in page
    assert "/void" not in page_of(with_rights("view_apikey"), key)
    form = re.search(rf'<form method="post" action="/llm-settings/usage/{row.pk}/void">.*?</form>', page)[0]
    assert re.findall(r'name="(\w+)"', form) == ["csrfmiddlewaretoken"], "nothing else is read"
    operator.post(f"/llm-settings/usage/{row.pk}/void")
    assert Adjustment.objects.get().kind == "void" and "A request was lost" not in page_of(operator, key)


def test_it_counts_every_lost_request_and_shows_the_newest(operator, monkeypatch):
    key = make_key()
    for _ in range(5):
        make_usage(key, state="LOST", success=False, cost_source="estimated")
    page = page_of(operator, key)
    assert "5 requests were lost. They may have been billed" in text_of(page) and "the newest 5" not in page
    make_usage(key, state="LOST", success=False, cost_source="estimated")
    page = page_of(operator, key)
    assert "6 requests were lost. They may" in text_of(page) and "These are the newest 5; see all" in text_of(page)
    assert page.count("Void the charge") == 5
    link = html.unescape(re.search(r'<a href="([^"]*)">see all of the last 90 days', page)[1])
    assert operator.get(link).content.decode().count('<a class="model"') == 6
    monkeypatch.setattr(accounts, "_LOST_COUNTED", 5)
    assert "More than 5 requests were lost." in text_of(page_of(operator, key))


def test_it_shows_its_budget_mode_or_that_of_the_setting(operator, settings):
    key = make_key()
    assert "Budget mode strict Priority 100" in text_of(page_of(operator, key))
    settings.BUDGET_MODE = "soft"
    assert "Budget mode soft Priority 100" in text_of(page_of(operator, key))
    ApiKey.objects.update(budget_mode="strict")
    assert "Budget mode strict Priority 100" in text_of(page_of(operator, key))


def test_it_joins_events_that_repeat(operator):
    key = make_key()
    for number in range(12):
        KeyEvent.objects.create(
            kind="rotated", key=key, message=f"Rotated from “A” to “B” for model {number}.", created_at=NOW
        )
        KeyEvent.objects.create(kind="cooled", key=key, message=f"Cools until 09:{number}.", created_at=NOW)
    KeyEvent.objects.create(
        kind="rotated", key=key, message="Rotated the day before.", created_at=NOW - timedelta(days=1)
    )
    KeyEvent.objects.create(kind="changed", key=key, message="Limit 5.", actor="anna", created_at=NOW)
    KeyEvent.objects.create(kind="changed", key=key, message="Limit 5.", actor="anna", created_at=NOW)
    page = page_of(operator, key)
    assert page.count("12 times that day") == 2 and "for model 11." in page and "for model 10." not in page
    assert "Rotated the day before." in page and page.count("Limit 5.") == 2


def test_it_shows_events_and_who_did_them(operator):
    key = make_key()
    KeyEvent.objects.create(kind="cooled", key=key, message="Cooled for 60 s.", created_at=NOW, actor="somebody")
    assert "Cooled for 60 s. by somebody" in text_of(page_of(operator, key))


def test_it_says_where_nothing_is_known_yet(operator):
    text = text_of(page_of(operator, make_key()))
    assert "Not tested yet." in text and "No requests on this key yet." in text


@pytest.mark.parametrize(
    "told", [{}, {"details": None}, {"details": {"usage": "x", "limit": True}}, {"details": {"usage": "1e999"}}]
)
def test_it_stands_whatever_the_last_test_left(operator, told):
    key = make_key(last_test_at=NOW, last_test={"ok": False, "message": "No.", **told})
    assert "Last test" in page_of(operator, key)


def test_it_asks_the_database_as_often_for_many_requests_as_for_one(operator):
    key = make_key()
    make_usage(key, skipped=[{"keyId": key.pk, "reason": "cooling"}])
    spend(key, "the first", NANO)
    page_of(operator, key)
    with CaptureQueriesContext(connection) as few:
        page_of(operator, key)
    for _ in range(15):
        make_usage(key, skipped=[{"keyId": key.pk, "reason": "cooling"}])
        spend(key, f"model {_}", NANO)
    with CaptureQueriesContext(connection) as many:
        page_of(operator, key)
    assert len(many) == len(few) <= 18, [query["sql"][:100] for query in many.captured_queries]
    assert not [query for query in many if "COUNT" in query["sql"] and "usagerecord" in query["sql"]]


def test_it_writes_every_text_as_text(operator):
    bad = "<script>alert(1)</script>\"'<img src=x onerror=alert(1)>"
    key = make_key(name=bad, description=bad, billing_group=bad, last_test={"ok": False, "message": bad})
    ApiKey.objects.filter(pk=key.pk).update(last_test_at=NOW)
    spend(key, bad, NANO)
    make_usage(key, model=bad, token_name=bad, error=bad, skipped=[{"keyId": bad, "reason": bad}])
    make_usage(key, model=bad, state="LOST", success=False, error=bad)
    KeyEvent.objects.create(kind="changed", key=key, message=bad, actor=bad, created_at=NOW)
    page = page_of(operator, key)
    assert "<script>" not in page and "<img" not in page and "&lt;script&gt;" in page


def test_it_says_what_the_month_will_have_cost(operator):
    """The limit is $100; seven days at $14 are $14 a day, and a week is left."""
    key = make_key(month=TODAY.replace(day=1), spent_month_nano=20 * NANO)
    ApiKey.objects.filter(pk=key.pk).update(created_at=NOW - timedelta(days=40))
    for days_ago in range(1, 8):
        spend(key, "m", 14 * NANO, days_ago=days_ago)
    for page in (text_of(page_of(operator, key)), text_of(operator.get("/llm-settings").content.decode())):
        assert "At this pace $120.04" in page and "above the limit" in page
    ApiKey.objects.update(monthly_limit_nano=200 * NANO)
    page = text_of(page_of(operator, key))
    assert "At this pace $120.04 by the end of the month" in page and "above the limit" not in page


def test_it_says_nothing_of_a_pace_before_the_first_whole_day(operator):
    assert "At this pace" not in text_of(page_of(operator, make_key()))
