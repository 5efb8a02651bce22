"""The demo's past: believable, and in books that are right. The demo itself is a flow of its own."""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmkeys.key_state import current_windows
from llmkeys.ledger import audit
from llmkeys.management.demo import history
from llmkeys.models import Alert, ApiKey, DailyUsage, KeyEvent, UsageRecord
from tests.helpers import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

DAYS = 10


@pytest.fixture(params=["UTC", "Asia/Tokyo"])
def keys(request, settings):
    settings.TIME_ZONE = request.param
    return history.fill(days=DAYS, at=NOW)


@pytest.mark.django_db(transaction=True)
def test_its_past_is_in_the_books_to_the_cent(keys):
    report = audit.audit()
    assert report.differences == [] and report.rows > DAYS * 50
    assert not UsageRecord.objects.filter(state="HELD").exists()
    assert not UsageRecord.objects.filter(overrun=True).exists()


def test_every_past_day_was_used_and_today_is_fresh(keys):
    today = current_windows(NOW).day
    days = set(DailyUsage.objects.values_list("day", flat=True))
    assert days == {today - timedelta(days=number) for number in range(1, DAYS + 1)}
    for key in ApiKey.objects.all():
        day, _, total = key.budgets(NOW)
        assert (day.spent, key.status_at(NOW)) == (0, "ACTIVE") and total.spent >= 0


def test_budgets_were_kept_and_the_next_key_took_over(keys):
    production, backup, _ = ApiKey.objects.order_by("created_at", "id")
    assert production.is_default and backup.spent_total_nano > 0
    spent = {}
    for row in DailyUsage.objects.filter(key=production):
        spent[row.day] = spent.get(row.day, 0) + row.cost_nano
    assert max(spent.values()) <= production.daily_limit_nano
    assert KeyEvent.objects.filter(kind="rotated").exists()


def test_nothing_of_the_past_is_told_as_new(keys):
    assert not Alert.objects.filter(seen_at__isnull=True).exists()


def test_no_days_means_three_fresh_keys():
    assert len(history.fill(days=0, at=NOW)) == 3
    assert not UsageRecord.objects.exists()


@pytest.mark.parametrize("arguments", [("--history", "-1"), ("--history", "x"), ("--seconds", "0")])
def test_it_refuses_what_is_no_number(run, arguments):
    ran = run("demo", *arguments)
    assert ran.code != 0 and "is not a number of" in ran.err
