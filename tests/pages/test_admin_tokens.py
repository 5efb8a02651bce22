"""Access tokens in the admin."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, Adjustment, KeyEvent
from llmkeys.tokens import rights
from llmkeys.vault.crypto import token_digest
from tests.helpers import NOW, make_account, make_key, make_token, make_user
from tests.pages.helpers import logged_in, messages_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]
TOKENS = "/admin/llmkeys/accesstoken/"


def text_of(answer) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())))


def add(client, **fields):
    data = {"name": "worker", "scopes": ["gateway"], "expires_at_0": "", "expires_at_1": "", **fields}
    return client.post(f"{TOKENS}add/", data, follow=True)


def change(client, token, **fields):
    """Send the form as it stands for a plain token, with changes."""
    shown = {
        "name": token.name, "scopes": token.scopes, "daily_limit": "0", "monthly_limit": "0", "total_limit": "0",
        "requests_per_minute": "0", "budget_mode": "", "models": "", "expires_at_0": "", "expires_at_1": "",
    }  # fmt: skip
    return client.post(f"{TOKENS}{token.pk}/change/", {**shown, **fields}, follow=True)


class TestMaking:
    def test_it_shows_the_token_once(self, operator, administrator):
        page = add(operator).content.decode()
        text = page.partition("<code>")[2].partition("</code>")[0]
        token = AccessToken.objects.get()
        assert text.startswith("rfk_") and token.digest == token_digest(text) and token.user == administrator
        assert rights.caller_of(text, timezone.now()).has_gateway_scope
        for address in (TOKENS, f"{TOKENS}{token.pk}/change/", "/admin/"):
            later = operator.get(address).content.decode()
            assert text not in later and token.digest not in later
        assert text not in str(list(LogEntry.objects.values()))

    def test_a_page_that_is_loaded_again_creates_no_second_token(self, operator):
        page = operator.get(f"{TOKENS}add/").content.decode()
        nonce = re.search(r'name="nonce" value="(\w+)"', page)[1]
        assert "at most 100 characters" in text_of(add(operator, nonce=nonce, name="x" * 101))
        assert "shown only once" in text_of(add(operator, nonce=nonce))
        again = add(operator, nonce=nonce)
        (said,) = messages_of(again)
        assert said.startswith("This form has already been submitted") and "rfk_" not in again.content.decode()
        assert again.redirect_chain == [(f"{TOKENS}{AccessToken.objects.get().pk}/change/", 302)]
        assert "shown only once" in text_of(add(operator, nonce="another"))
        assert AccessToken.objects.count() == 2

    def test_it_takes_limits_models_keys_pace_and_mode(self, operator):
        key = make_key(name="Only this")
        add(
            operator, daily_limit="2.5", total_limit="40", requests_per_minute="60", budget_mode="soft",
            models="openai/*\ngpt-6*", keys=[key.pk],
        )  # fmt: skip
        token = AccessToken.objects.get()
        assert (token.daily_limit_nano, token.total_limit_nano) == (25 * NANO // 10, 40 * NANO)
        assert (token.requests_per_minute, token.budget_mode) == (60, "soft")
        assert token.allowed_models == ["openai/*", "gpt-6*"] and list(token.keys.all()) == [key]
        text = text_of(operator.get(TOKENS))
        assert "gateway openai/*, gpt-6* Only this $0.00 of $2.50" in text

    def test_it_shows_what_the_verb_refuses(self, operator):
        page = text_of(add(operator, expires_at_0="2001-01-01", expires_at_1="00:00:00"))
        assert "The expiry is in the past." in page
        page = text_of(add(operator, daily_limit="-1", requests_per_minute="-1", models="x" * 300))
        assert "Must not be negative" in page and "whole number from 0" in page and "1 to 200" in page
        assert not AccessToken.objects.exists()

    def test_it_belongs_to_whoever_made_it(self, with_rights, administrator):
        client = with_rights("add_accesstoken", "view_accesstoken", is_staff=True)
        add(client, user=administrator.pk)
        assert AccessToken.objects.get().user != administrator


class TestChanging:
    def test_it_changes_what_was_edited_and_nothing_else(self, operator, administrator):
        key = make_key()
        token, _ = make_account(administrator, name="shop", keyIds=[key.pk], expiresAt=NOW + timedelta(days=9))
        AccessToken.objects.update(daily_limit_nano=1, expires_at=NOW + timedelta(days=9, microseconds=7))
        at = NOW + timedelta(days=9)
        same = {
            "daily_limit": "0.000000001", "keys": [key.pk], "expires_at_0": f"{at:%Y-%m-%d}",
            "expires_at_1": f"{at:%H:%M:%S}",
        }  # fmt: skip
        before = AccessToken.objects.values().get()
        change(operator, token, **same)
        assert AccessToken.objects.values().get() == before
        change(operator, token, **same, monthly_limit="30", models="openai/*", name="till")
        assert AccessToken.objects.values().get() == before | {
            "monthly_limit_nano": 30 * NANO, "allowed_models": ["openai/*"], "name": "till",
        }  # fmt: skip
        assert KeyEvent.objects.latest("pk").actor == "admin"

    def test_it_keeps_what_others_have_changed_since_the_form_was_opened(self, operator, administrator, api):
        key = make_key()
        token, _ = make_account(administrator, name="shop", models=["a", "b"], keyIds=[key.pk], dailyLimit="10")
        page = html.unescape(operator.get(f"{TOKENS}{token.pk}/change/").content.decode())
        opened = {
            "shown": re.search(r'name="shown" value="([^"]*)"', page)[1], "models": "a\r\nb", "keys": [key.pk],
            "daily_limit": "10",
        }  # fmt: skip
        changes = {"dailyLimit": 5, "models": ["c", "d"], "keyIds": None, "expiresAt": "2027-01-31T12:00:00Z"}
        assert api.patch(f"/api/llm/tokens/{token.pk}", changes).status_code == 200
        before = AccessToken.objects.filter(pk=token.pk).values().get()
        change(operator, token, **opened, name="till")
        assert AccessToken.objects.filter(pk=token.pk).values().get() == before | {"name": "till"}

    def test_it_resets_costs_and_asks_first(self, operator, administrator):
        token, _ = make_account(administrator, name="shop")
        AccessToken.objects.update(day=NOW.date(), spent_day_nano=2 * NANO, spent_total_nano=5 * NANO)
        given = {"action": "reset_costs", "_selected_action": [token.pk]}
        assert "shop $2.00" in text_of(operator.post(TOKENS, given))
        answer = operator.post(TOKENS, {**given, "post": "yes", "daily": "on"}, follow=True)
        assert messages_of(answer) == ["Reset the daily costs of 1 access token: up to $2.00."]
        token.refresh_from_db()
        assert (token.spent_day_nano, token.spent_total_nano) == (0, 5 * NANO)
        assert Adjustment.objects.get().created_by == "admin"

    def test_it_revokes_for_good(self, operator, administrator):
        token, text = make_account(administrator)
        answer = operator.post(TOKENS, {"action": "revoke", "_selected_action": [token.pk]}, follow=True)
        assert messages_of(answer) == ["Revoked 1 token."] and ">REVOKED<" in answer.content.decode()
        assert rights.caller_of(text, timezone.now()) is None
        page = operator.get(f"{TOKENS}{token.pk}/change/").content.decode()
        assert "<h1>View" in page and 'name="_save"' not in page
        assert change(operator, token, name="again").status_code == 403
        assert operator.post(f"{TOKENS}{token.pk}/delete/", {"post": "yes"}).status_code == 403

    def test_it_shows_what_it_is(self, operator, administrator):
        token, _ = make_account(administrator, name="shop", dailyLimit="5")
        AccessToken.objects.update(day=NOW.date(), spent_day_nano=2 * NANO, held_nano=NANO, total_requests=7)
        text = text_of(operator.get(f"{TOKENS}{token.pk}/change/"))
        assert "$2.00 of $5.00" in text and "Held: $1.00" in text and "Total requests: 7" in text
        assert "Spend, requests, rotation and statements of shop" in text


class TestList:
    def test_it_tells_in_which_state_a_token_is(self, operator, administrator):
        make_token(make_user("gone", is_active=False), name="ended")
        make_token(make_user("anna"), name="old", at=NOW - timedelta(days=900), expiresAt=NOW - timedelta(days=800))
        make_token(administrator, name="full", dailyLimit="1")
        AccessToken.objects.filter(name="full").update(day=NOW.date(), spent_day_nano=NANO)
        page = operator.get(TOKENS).content.decode()
        assert set(re.findall(r'class="key-status (\w+)"', page)) == {"revoked", "expired", "limit_reached"}
        assert "gone is disabled" in page
        page = operator.get(f"{TOKENS}?status=EXPIRED").content.decode()
        assert re.findall(r'class="key-status (\w+)"', page) == ["expired"] and "old" in page

    def test_it_shows_an_expiry_that_does_not_exist_in_the_time_zone(self, operator, administrator, settings):
        settings.TIME_ZONE = "Asia/Tokyo"
        token, _ = make_account(administrator)
        AccessToken.objects.update(expires_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        for address in (TOKENS, f"{TOKENS}{token.pk}/change/"):
            assert "9999" in operator.get(address).content.decode()

    def test_staff_see_and_do_what_is_theirs_alone(self, administrator):
        user = make_user("anna", "view_accesstoken", "change_accesstoken", "delete_accesstoken", is_staff=True)
        own, _ = make_account(user, name="of anna")
        other, _ = make_account(administrator, name="of the administrator")
        client = logged_in(user)
        text = text_of(client.get(TOKENS))
        assert "of anna" in text and "of the administrator" not in text
        assert "of anna" in text_of(client.get(f"{TOKENS}{own.pk}/change/"))
        assert client.get(f"{TOKENS}{other.pk}/change/").headers["Location"] == "/admin/"
        client.post(TOKENS, {"action": "revoke", "_selected_action": [own.pk, other.pk]})
        change(client, other, name="taken")
        own.refresh_from_db(), other.refresh_from_db()
        assert own.revoked_at and not other.revoked_at and other.name == "of the administrator"

    def test_a_reader_changes_nothing(self, administrator):
        user = make_user("anna", "view_accesstoken", is_staff=True)
        own, _ = make_account(user, name="of anna", models=["openai/*"])
        client = logged_in(user)
        page = client.get(f"{TOKENS}{own.pk}/change/")
        assert "openai/*" in text_of(page) and 'name="_save"' not in page.content.decode()
        assert change(client, own, name="taken").status_code == 403
        for action in ("revoke", "reset_costs"):
            client.post(TOKENS, {"action": action, "_selected_action": [own.pk], "post": "yes", "total": "on"})
        own.refresh_from_db()
        assert own.name == "of anna" and own.revoked_at is None

    def test_its_queries_do_not_grow(self, operator, administrator):
        def asked():
            with CaptureQueriesContext(connection) as queries:
                operator.get(TOKENS)
            return len(queries)

        key = make_key()
        make_token(administrator, keyIds=[key.pk])
        few = asked()
        for number in range(20):
            make_token(make_user(f"user{number}"), keyIds=[key.pk])
        assert asked() == few <= 9
