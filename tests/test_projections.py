"""What the month will have cost, of keys and of access tokens alike: the month so far, and the rest at the pace."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from llmkeys.keys.transfer.importing import import_file
from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, ApiKey, DailyUsage
from tests.helpers import NOW, make_account, make_key, new_secret

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

TODAY, MONTH = NOW.date(), NOW.date().replace(day=1)  # 23 November, 20:30: 7 days and 3.5 hours are left
LEFT = 7 + 3.5 / 24


@pytest.fixture(params=["keys", "tokens"])
def account(request, api, administrator):
    """Return what makes a row of the account's daily totals, and what shows its projection."""
    key = make_key(day=TODAY, month=MONTH)
    token, _ = make_account(administrator)
    of, number = (ApiKey, key.pk) if request.param == "keys" else (AccessToken, token.pk)

    class One:
        @staticmethod
        def spent(days_ago, usd):
            day = TODAY - timedelta(days=days_ago)
            owner = token if request.param == "tokens" else None
            DailyUsage.objects.create(day=day, key=key, model="m", token=owner, cost_nano=usd * NANO)

        @staticmethod
        def made(days_ago):
            of.objects.filter(pk=number).update(created_at=NOW - timedelta(days=days_ago))

        @staticmethod
        def stands(**columns):
            of.objects.filter(pk=number).update(day=TODAY, month=MONTH, **columns)

        @staticmethod
        def projected():
            return api.get(f"/api/llm/{request.param}/{number}").json()["projectedMonthlyCost"]

    return One


def test_it_is_the_mean_of_the_last_seven_whole_days(account):
    account.made(40)
    account.stands(spent_month_nano=100 * NANO)
    for days_ago in range(1, 8):
        account.spent(days_ago, days_ago)  # 28 in seven days: 4 a day
    account.spent(0, 1000)  # the day that runs tells nothing yet
    account.spent(8, 1000)
    assert account.projected() == pytest.approx(100 + 4 * LEFT)


def test_a_younger_one_is_measured_by_the_days_it_has(account):
    account.made(2)
    account.spent(1, 6)
    account.stands(spent_month_nano=6 * NANO)
    assert account.projected() == pytest.approx(6 + 3 * LEFT)


def test_before_the_first_whole_day_there_is_none(account):
    account.made(0)
    account.stands(spent_month_nano=NANO)
    assert account.projected() is None


def test_without_spending_it_is_what_was_spent(account):
    account.made(40)
    account.stands(spent_month_nano=5 * NANO)
    assert account.projected() == 5.0


def test_a_month_that_has_ended_does_not_count(account, frozen):
    account.made(40)
    account.stands(spent_month_nano=100 * NANO)
    frozen.move_to(datetime(2026, 12, 20, 12, tzinfo=NOW.tzinfo))
    assert account.projected() == 0.0


def test_the_days_are_the_operators(account, settings, frozen):
    """In Tokyo it is the 24th already: one whole day more has passed, and one less is left."""
    settings.TIME_ZONE = "Asia/Tokyo"
    account.made(40)
    account.spent(0, 70)
    assert account.projected() == pytest.approx(10 * (6 + 18.5 / 24))


def test_an_imported_key_is_measured_by_the_days_since_its_import(api, tmp_path, frozen):
    """What it spent in the older product counts for the month, but no day of it is known here."""
    frozen.move_to(NOW - timedelta(days=2))
    older = {"provider": "openrouter", "name": "Old", "apiKey": new_secret(), "currentMonthlyCost": 100,
             "createdAt": "2025-01-31T12:00:00Z"}  # fmt: skip
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([older]))
    (key,) = import_file(file, at=NOW - timedelta(days=2)).imported

    def projected():
        return api.get(f"/api/llm/keys/{key.pk}").json()["projectedMonthlyCost"]

    assert projected() is None
    frozen.move_to(NOW)
    DailyUsage.objects.create(day=TODAY - timedelta(days=1), key=key, model="m", cost_nano=6 * NANO)
    assert projected() == pytest.approx(100 + 3 * LEFT)
    assert api.get("/api/llm/keys").json()[0]["projectedMonthlyCost"] == projected()
    ApiKey.objects.update(created_at=NOW - timedelta(days=1))
    assert projected() == pytest.approx(100 + 6 * LEFT), "the later of both"
