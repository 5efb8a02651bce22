"""What happens by itself to access tokens: the end of a window, a warning, the end of their time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmkeys import tasks
from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, Alert, KeyEvent
from llmkeys.tokens.making import revoke_token
from tests.helpers import NOW, make_account, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]


def token(name="shop", *, at=NOW, **fields):
    return make_account(make_user(f"user of {name}"), name=name, at=at, **fields)[0]


def told(kind):
    return list(KeyEvent.objects.filter(kind=kind).order_by("id").values_list("token__name", "message"))


class TestWindows:
    def test_the_end_of_a_day_is_an_event_of_the_token(self, frozen):
        spent = token(dailyLimit=5)
        AccessToken.objects.update(
            day=NOW.date(), month=NOW.date().replace(day=1), spent_day_nano=NANO, spent_month_nano=2 * NANO
        )
        frozen.move_to(NOW + timedelta(hours=4))
        assert (tasks.reset_daily_costs(), tasks.reset_daily_costs()) == (1, 0)
        assert told("window_reset") == [("shop", "A new day began for “shop”: $1.00 had been spent on 2026-11-23.")]
        spent.refresh_from_db()
        assert (spent.spent_day_nano, spent.spent_month_nano) == (0, 2 * NANO)

    def test_a_revoked_one_is_left_alone(self, frozen):
        gone = token()
        AccessToken.objects.update(day=NOW.date(), spent_day_nano=NANO)
        revoke_token(gone, at=NOW)
        frozen.move_to(NOW + timedelta(hours=4))
        assert tasks.reset_daily_costs() == 0


class TestExpiry:
    def test_its_end_is_told_once_for_each_date(self, frozen):
        token(expiresAt=NOW + timedelta(hours=1))
        frozen.move_to(NOW + timedelta(hours=2))
        assert (tasks.check_expired_keys(), tasks.check_expired_keys()) == (1, 0)
        words = "The access token “shop” expired on 2026-11-23 21:30 UTC: its requests are refused."
        assert told("expired")[0][1].startswith(words)
        assert Alert.objects.get(kind="key_expired").message.startswith(words)
        AccessToken.objects.update(expires_at=NOW + timedelta(minutes=90))
        assert tasks.check_expired_keys() == 1

    def test_its_end_is_not_told_again_when_the_event_has_been_deleted_after_a_year(self, frozen):
        token(expiresAt=NOW + timedelta(hours=1))
        frozen.move_to(NOW + timedelta(hours=2))
        assert tasks.check_expired_keys() == 1
        frozen.move_to(NOW + timedelta(days=368))
        tasks.prune_usage()
        assert tasks.check_expired_keys() == 0
        assert told("expired") == [] and not Alert.objects.exists()

    def test_it_warns_seven_days_and_one_day_before(self, frozen):
        token(expiresAt=NOW + timedelta(days=8))
        counts = []
        for hours in (0, 24, 25, 24 * 7, 24 * 7 + 1):
            frozen.move_to(NOW + timedelta(hours=hours))
            counts.append(tasks.check_expired_keys())
        assert counts == [0, 1, 0, 1, 0]
        assert told("expiring")[0][1].startswith("The access token “shop” expires on 2026-12-01 20:30 UTC.")

    def test_a_short_life_is_meant_so(self, frozen):
        token(expiresAt=NOW + timedelta(days=3))
        token("hourly", expiresAt=NOW + timedelta(hours=1))
        assert tasks.check_expired_keys() == 0
        frozen.move_to(NOW + timedelta(days=2, hours=1))
        assert tasks.check_expired_keys() == 2  # one has a day left, the other one is over
        assert [name for name, _ in told("expiring")] == ["shop"]

    def test_nothing_is_told_of_what_has_ended_otherwise(self, frozen):
        revoke_token(token(expiresAt=NOW + timedelta(hours=1)), at=NOW)
        gone = token("gone", expiresAt=NOW + timedelta(hours=1))
        gone.user.is_active = False
        gone.user.save()
        frozen.move_to(NOW + timedelta(hours=2))
        assert tasks.check_expired_keys() == 0
