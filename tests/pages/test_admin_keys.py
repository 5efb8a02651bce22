"""/admin/llmkeys/apikey/."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta

import pytest
import responses
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from llmkeys.keys import checking
from llmkeys.lib.money import NANO
from llmkeys.models import Adjustment, ApiKey, Cooling
from llmkeys.vault import keyring
from llmkeys.vault.crypto import MasterKey
from tests.helpers import NOW, make_key, make_usage, new_secret
from tests.pages.helpers import messages_of

pytestmark = pytest.mark.django_db
LIST = "/admin/llmkeys/apikey/"
NO_EXPIRY = {"expires_at_0": "", "expires_at_1": ""}


def change_fields(key: ApiKey, **fields: str) -> dict[str, str]:
    return {
        "name": key.name, "description": "", "daily_limit": "10", "monthly_limit": "100", "total_limit": "1000",
        "priority_": "100", "billing_group": "", "workspace_id": "", "api_key": "", **NO_EXPIRY, **fields,
    }  # fmt: skip


def act(client, action: str, *keys: ApiKey, **more: str) -> str:
    data = {"action": action, "_selected_action": [key.pk for key in keys], **more}
    return client.post(LIST, data, follow=True).content.decode()


def names(page: str, *keys: ApiKey) -> list[str]:
    return [key.name for key in keys if f"/{key.pk}/change/" in page]


class TestAdd:
    def test_it_stores_a_key_through_the_service(self, operator):
        secret = new_secret("openai")
        data = {
            "provider_": "openai",
            "name": "Fresh",
            "api_key": secret,
            "daily_limit": "2.5",
            "budget_mode": "soft",
            "priority_": "3",
            **NO_EXPIRY,
        }
        answer = operator.post(f"{LIST}add/", data, follow=True)
        assert answer.redirect_chain, answer.context["errors"]
        key = ApiKey.objects.get()
        assert keyring.open_secret(key) == secret
        assert (key.daily_limit_nano, key.monthly_limit_nano) == (5 * NANO // 2, 100 * NANO)
        assert key.budget_mode == "soft"
        assert key.is_default and key.events.get(kind="added").actor == "admin"
        assert secret not in answer.content.decode()

    def test_it_shows_what_the_service_refuses_beside_the_field(self, operator):
        secret = new_secret()
        make_key(name="Older", secret=secret)
        data = {
            "provider_": "openrouter",
            "name": "Fresh",
            "api_key": secret,
            "daily_limit": "-1",
            "priority_": "3",
            **NO_EXPIRY,
        }
        page = operator.post(f"{LIST}add/", data).content.decode()
        assert "Must not be negative" in page and secret not in page
        page = operator.post(f"{LIST}add/", {**data, "daily_limit": "1"}).content.decode()
        assert "already stored as “Older”" in page and secret not in page
        assert ApiKey.objects.count() == 1


class TestChange:
    def test_it_shows_facts_and_never_a_secret(self, operator):
        secret = new_secret()
        key = make_key(secret=secret, daily_limit_nano=NANO // 4)
        page = operator.get(f"{LIST}{key.pk}/change/").content.decode()
        assert key.masked_secret in page and 'value="0.25"' in page
        assert secret not in page and key.fingerprint not in page and "fingerprint" not in page.lower()

    def test_it_changes_what_was_edited_and_leaves_the_secret(self, operator):
        secret = new_secret()
        key = make_key(secret=secret)
        operator.post(f"{LIST}{key.pk}/change/", change_fields(key, name="Renamed", daily_limit="0.000000001"))
        key.refresh_from_db()
        assert (key.name, key.daily_limit_nano) == ("Renamed", 1)
        assert keyring.open_secret(key) == secret and key.events.get(kind="changed").actor == "admin"

    def test_it_sets_the_budget_mode_and_leaves_it_to_the_setting_again(self, operator, with_rights):
        key = make_key()
        operator.post(f"{LIST}{key.pk}/change/", change_fields(key, budget_mode="soft"))
        key.refresh_from_db()
        assert key.budget_mode == "soft"
        page = operator.get(f"{LIST}{key.pk}/change/").content.decode()
        assert '<option value="soft" selected>soft: checked before, charged after</option>' in page
        page = with_rights("view_apikey", is_staff=True).get(f"{LIST}{key.pk}/change/").content.decode()
        assert re.search(r"Budget mode:.*?>soft<", page, re.DOTALL)
        operator.post(f"{LIST}{key.pk}/change/", change_fields(key, budget_mode=""))
        key.refresh_from_db()
        assert key.budget_mode is None

    def test_it_keeps_what_others_have_changed_since_the_form_was_opened(self, operator, api):
        key = make_key(expires_at=NOW.replace(year=2099))
        page = html.unescape(operator.get(f"{LIST}{key.pk}/change/").content.decode())
        opened = dict(re.findall(r'<input type="(?:text|number|hidden)" name="(\w+)" value="([^"]*)"', page))
        changes = {"dailyLimit": 5, "expiresAt": "2098-01-31T12:00:00Z", "priority": 7}
        assert api.patch(f"/api/llm/keys/{key.pk}", changes).status_code == 200
        operator.post(f"{LIST}{key.pk}/change/", change_fields(key, **opened | {"name": "Renamed"}))
        key.refresh_from_db()
        assert (key.name, key.daily_limit_nano, key.priority, key.expires_at.year) == ("Renamed", 5 * NANO, 7, 2098)
        assert LogEntry.objects.get().get_change_message() == "Changed name."

    def test_it_replaces_the_secret_and_clears_the_rejection(self, operator):
        key, secret = make_key(rejected_at=NOW, last_error="Rejected."), new_secret()
        operator.post(f"{LIST}{key.pk}/change/", change_fields(key, api_key=secret))
        key.refresh_from_db()
        assert keyring.open_secret(key) == secret and key.rejected_at is None
        assert secret not in str(list(LogEntry.objects.values()))

    def test_it_leaves_an_expiry_alone_that_was_not_edited(self, operator):
        past = NOW.replace(microsecond=123456) - timedelta(days=400)
        key = make_key(expires_at=past)
        fields = change_fields(key, name="Renamed", expires_at_0=f"{past:%Y-%m-%d}", expires_at_1=f"{past:%H:%M:%S}")
        operator.post(f"{LIST}{key.pk}/change/", fields)
        key.refresh_from_db()
        assert (key.name, key.expires_at) == ("Renamed", past)

    def test_it_shows_times_that_do_not_exist_in_the_time_zone(self, operator, settings):
        settings.TIME_ZONE = "Asia/Tokyo"
        last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
        key = make_key(expires_at=last, created_at=last, updated_at=last, last_used_at=last)
        assert "9999" in operator.get(LIST).content.decode()
        page = operator.get(f"{LIST}{key.pk}/change/").content.decode()
        assert 'value="9999-12-31"' in page and page.count("Dec. 31, 9999, 11:59 p.m.") == 3
        fields = change_fields(key, name="Renamed", expires_at_0="9999-12-31", expires_at_1="23:59:59")
        operator.post(f"{LIST}{key.pk}/change/", fields)
        key.refresh_from_db()
        assert (key.name, key.expires_at) == ("Renamed", last)

    def test_it_refuses_an_expiry_that_is_too_far_away(self, operator):
        key = make_key()
        fields = change_fields(key, expires_at_0="9999-12-31", expires_at_1="23:59:59")
        page = operator.post(f"{LIST}{key.pk}/change/", fields).content.decode()
        assert "Must be in the years 1970 to 2199; it is in the year 9999." in page

    def test_it_takes_no_secret_for_a_key_of_the_environment(self, operator):
        key = make_key(source="environment", environment_variable="OPENROUTER_API_KEY")
        assert 'name="api_key"' not in operator.get(f"{LIST}{key.pk}/change/").content.decode()

    def test_it_shows_facts_alone_to_those_who_may_only_look(self, with_rights):
        key = make_key(name="Production")
        page = with_rights("view_apikey", is_staff=True).get(f"{LIST}{key.pk}/change/").content.decode()
        assert key.masked_secret in page and 'name="name"' not in page and 'name="_save"' not in page


class TestDelete:
    def test_it_wipes_the_secret_and_keeps_the_history(self, operator):
        key = make_key()
        make_usage(key)
        assert "its secret. Its usage stays" in operator.get(f"{LIST}{key.pk}/delete/").content.decode()
        operator.post(f"{LIST}{key.pk}/delete/", {"post": "yes"})
        key.refresh_from_db()
        assert key.deleted_at and bytes(key.secret) == b"" and key.fingerprint is None and key.usage.count() == 1
        assert f"/{key.pk}/change/" not in operator.get(LIST).content.decode()

    def test_it_deletes_several_at_once(self, operator):
        keys = [make_key(), make_key()]
        act(operator, "delete_selected", *keys, post="yes")
        assert not ApiKey.objects.stored().exists() and ApiKey.objects.count() == 2

    def test_it_protects_keys_of_the_environment(self, operator):
        key = make_key(source="environment", environment_variable="OPENROUTER_API_KEY")
        assert operator.post(f"{LIST}{key.pk}/delete/", {"post": "yes"}).status_code == 403
        act(operator, "delete_selected", key, post="yes")
        assert ApiKey.objects.stored().count() == 1


class TestList:
    def test_it_filters_in_the_operators_words(self, operator):
        good = make_key(name="good")
        spent = make_key(name="spent", spent_day_nano=10 * NANO, day="2999-01-01")
        expired = make_key(name="expired", expires_at=NOW - timedelta(days=900))
        soon = make_key(name="soon", expires_at=timezone.now() + timedelta(days=6))
        rejected, off = make_key(name="rejected", rejected_at=NOW), make_key(name="off", enabled=False)
        rests, partly = make_key(name="rests", billing_group="team"), make_key(name="partly")
        far = NOW + timedelta(days=9000)
        Cooling.objects.create(scope="group:openrouter:team", kind="exhausted", until=far)
        Cooling.objects.create(scope=f"key:{partly.pk}", model="gpt-5", kind="rate_limited", until=far)
        Cooling.objects.create(scope="group:openrouter:", kind="exhausted", until=far)
        every = (good, spent, expired, soon, rejected, off, rests, partly)
        found = {
            state: names(operator.get(f"{LIST}?state={state}").content.decode(), *every)
            for state in ("available", "cooling", "over", "expiring", "expired", "rejected", "off")
        }
        assert found == {
            "available": ["good", "soon", "partly"], "cooling": ["rests", "partly"], "over": ["spent"],
            "expiring": ["soon"], "expired": ["expired"],
            "rejected": ["rejected"], "off": ["off"],
        }  # fmt: skip

    def test_it_writes_names_and_errors_as_text(self, operator):
        make_key(name="<img src=x>", last_error='"><script>alert(1)</script>')
        page = operator.get(LIST).content.decode()
        assert "<img src=x" not in page and "<script>alert" not in page

    def test_it_asks_the_database_as_often_for_fifty_keys_as_for_two(self, operator):
        make_key(), make_key()
        with CaptureQueriesContext(connection) as few:
            operator.get(LIST)
        for _ in range(48):
            make_key()
        with CaptureQueriesContext(connection) as many:
            operator.get(LIST)
        assert len(many) == len(few) <= 12


class TestActions:
    def test_it_switches_keys_off_and_on(self, operator):
        keys = [make_key(), make_key()]
        assert "Disabled 2 keys." in act(operator, "disable", *keys)
        assert not ApiKey.objects.filter(enabled=True).exists()
        assert "Enabled 1 key." in act(operator, "enable", keys[0])
        assert LogEntry.objects.count() == 3

    def test_it_makes_one_key_the_default(self, operator):
        first, second = make_key(), make_key()
        assert "select exactly one" in act(operator, "make_default", first, second)
        act(operator, "make_default", second)
        assert ApiKey.objects.get(is_default=True) == second

    def test_it_tells_what_a_service_refuses(self, operator):
        make_key()
        assert "Change its expiry date first." in act(
            operator, "make_default", make_key(expires_at=NOW - timedelta(days=900))
        )

    def test_it_tests_keys(self, operator, provider):
        provider.add(responses.GET, "https://openrouter.ai/api/v1/key", json={"data": {"usage": 0, "limit": None}})
        assert "Key tested successfully" in act(operator, "test", make_key())

    def test_it_says_which_keys_cannot_be_tested_with_the_wrong_encryption_key(self, operator, settings):
        keys = [make_key(name="One"), make_key(name="Two")]
        settings.REFACTAI_ENCRYPTION_KEYS = [MasterKey("another master key").text]
        answer = operator.post(LIST, {"action": "test", "_selected_action": [key.pk for key in keys]})
        assert answer.status_code == 302
        said = messages_of(operator.get(LIST))
        assert sorted(words.partition(":")[0] for words in said) == [
            "“One” could not be tested",
            "“Two” could not be tested",
        ]

    def test_it_stops_testing_when_its_time_is_over_and_says_how_many_are_left(self, operator, monkeypatch):
        monkeypatch.setattr(checking, "AT_MOST_SECONDS", -1)
        page = act(operator, "test", make_key(name="One"), make_key(name="Two"))
        assert "2 of 2 keys were not tested, from “" in page and "Test them on their own." in page

    def test_it_asks_before_it_resets_costs_and_names_who_does_it(self, operator, frozen):
        key = make_key(name="Spender", spent_day_nano=NANO, spent_month_nano=2 * NANO, spent_total_nano=3 * NANO)
        page = act(operator, "reset_costs", key)
        assert "Spender" in page and "$1.00 of $10.00" in page and "<strong>admin</strong>" in page
        assert "Choose at least one" in act(operator, "reset_costs", key, post="yes")
        assert not Adjustment.objects.exists()

    @pytest.mark.parametrize(("window", "left"), [("daily", (0, 2, 3)), ("monthly", (1, 0, 3)), ("total", (1, 2, 0))])
    def test_it_resets_the_chosen_costs_by_an_adjustment(self, operator, frozen, window, left):
        key = make_key(spent_day_nano=NANO, spent_month_nano=2 * NANO, spent_total_nano=3 * NANO)
        assert f"Reset the {window} costs of 1 API key" in act(
            operator, "reset_costs", key, post="yes", **{window: "on"}
        )
        key.refresh_from_db()
        assert (key.spent_day_nano, key.spent_month_nano, key.spent_total_nano) == tuple(n * NANO for n in left)
        adjustment = Adjustment.objects.get()
        assert (adjustment.kind, adjustment.created_by) == ("reset", "admin")
        assert key.events.get(kind="cost_reset").actor == "admin" and LogEntry.objects.count() == 1
        assert "nothing to reset" in act(operator, "reset_costs", key, post="yes", **{window: "on"})

    def test_it_offers_no_action_to_those_who_may_only_look(self, with_rights):
        key = make_key()
        client = with_rights("view_apikey", is_staff=True)
        act(client, "disable", key)
        assert ApiKey.objects.get().enabled
