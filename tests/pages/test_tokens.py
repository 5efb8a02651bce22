"""GET /llm-settings/tokens, making a token and revoking it."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from llmkeys.dashboard import tokens_page as snippets
from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken
from llmkeys.vault.crypto import token_digest
from tests.helpers import NOW, JsonClient, make_account, make_key, make_token, make_user
from tests.pages.helpers import logged_in, messages_of, text_of

pytestmark = pytest.mark.django_db
PATH = "/llm-settings/tokens"
RIGHTS = ("view_accesstoken", "add_accesstoken", "delete_accesstoken")


@pytest.fixture(autouse=True)
def _present(frozen):
    """Every page of this file is asked for at `NOW`."""


def create(client, **fields):
    return client.post(f"{PATH}/create", {"name": "shop", "scopes": ["gateway"], "expiry": "90", **fields})


def shown_in(answer) -> str:
    return re.search(r'id="token" type="text" value="(rfk_[^"]+)"', answer.content.decode())[1]


class TestList:
    def test_it_tells_what_each_token_may_and_what_is_left(self, operator, administrator):
        key = make_key(name="Production")
        make_token(
            administrator, name="shop", keyIds=[key.id], models=["openai/*", "gpt-6*"], requestsPerMinute=60,
            dailyLimit="5", expiresAt=NOW + timedelta(days=20),
        )  # fmt: skip
        make_token(administrator, "manage", name="root")
        AccessToken.objects.filter(name="shop").update(
            last_used_at=NOW - timedelta(hours=3), day=NOW.date(), month=NOW.date().replace(day=1),
            spent_day_nano=2 * NANO, spent_month_nano=3 * NANO, held_nano=NANO, total_requests=7,
        )  # fmt: skip
        text = text_of(operator.get(PATH).content.decode())
        assert (
            "shop admin · gateway ACTIVE Models: openai/*, gpt-6* · Keys: Production · 60 requests per minute" in text
        )
        assert "Ready. $2.00 left today, 60 requests per minute at most." in text
        assert "Day $2.00 of $5.00 Month $3.00 no limit" in text and "$1.00 held" in text
        assert "Requests 7 Succeeded – Last used 3 h ago Expires in 20 days" in text
        assert "root admin · manage ACTIVE Models: every model · Keys: every key" in text and "2 of 2 valid" in text

    def test_it_shows_an_expiry_that_does_not_exist_in_the_time_zone(self, operator, administrator, settings):
        settings.TIME_ZONE = "Asia/Tokyo"
        token, _ = make_account(administrator)
        AccessToken.objects.update(expires_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        assert 'title="9999-12-31 23:59:59 UTC"' in operator.get(PATH).content.decode()
        assert operator.get(f"{PATH}/{token.pk}").status_code == 200

    def test_it_tells_which_have_ended_and_why_one_does_not_serve(self, operator, administrator):
        make_token(administrator, name="one", expiresAt=NOW + timedelta(seconds=1))
        AccessToken.objects.update(expires_at=NOW)
        make_token(make_user("gone"), name="two")
        AccessToken.objects.filter(name="two").update(user=make_user("off", is_active=False))
        make_token(administrator, name="three")
        AccessToken.objects.filter(name="three").update(revoked_at=NOW)
        make_token(administrator, name="holds", at=NOW - timedelta(days=5))
        make_token(administrator, name="full", dailyLimit="2")
        AccessToken.objects.filter(name="full").update(day=NOW.date(), spent_day_nano=2 * NANO)
        make_token(make_user("anna"), name="mute")
        text = text_of(operator.get(PATH).content.decode())
        assert "one admin · gateway EXPIRED" in text and "three admin · gateway REVOKED" in text
        assert "two off · gateway REVOKED" in text and "Ended with its user. off is disabled" in text
        assert "full admin · gateway LIMIT_REACHED" in text
        assert "Daily budget spent. $2.00 of $2.00. Requests with it are served again tomorrow at 00:00 UTC" in text
        assert "It may not send requests. Its user anna lacks the permission" in text
        assert "3 of 6 valid" in text and text.index("holds admin") < text.index("one admin")

    def test_it_is_searched_and_turned_in_pages(self, operator, administrator):
        for number in range(33):
            make_token(administrator, name=f"program {number:02}")
        AccessToken.objects.filter(name="program 00").update(revoked_at=NOW)
        first, second = (text_of(operator.get(f"{PATH}?page={page}").content.decode()) for page in (1, 2))
        assert "1 to 30 of 33" in first and "program 32" in first and "program 00" not in first
        assert "31 to 33 of 33" in second and "program 00" in second
        assert text_of(operator.get(f"{PATH}?page=999").content.decode()) == second
        found = text_of(operator.get(f"{PATH}?q=gram+07").content.decode())
        assert "program 07" in found and "program 08" not in found
        assert "No token matches “%”" in text_of(operator.get(f"{PATH}?q=%25").content.decode())
        ended = text_of(operator.get(f"{PATH}?show=ended").content.decode())
        assert "Valid 32 Ended 1" in ended and "program 00" in ended and "program 01" not in ended
        for odd in ("?page=0", "?page=x", "?show=x", "?q=%00", "?page=²"):
            assert operator.get(f"{PATH}{odd}").status_code == 200

    def test_it_names_a_token_whose_keys_are_gone(self, operator, administrator):
        key = make_key()
        make_token(administrator, keyIds=[key.id])
        operator.post(f"/llm-settings/keys/{key.id}/delete")
        assert "none: its keys are deleted" in text_of(operator.get(PATH).content.decode())

    def test_it_shows_others_their_own_alone(self, administrator, with_rights):
        make_token(administrator, name="of the administrator")
        user = make_user("anna", *RIGHTS)
        make_token(user, name="of anna")
        text = text_of(logged_in(user).get(PATH).content.decode())
        assert "of anna" in text and "of the administrator" not in text and "Your own tokens" in text

    def test_it_leads_to_the_first_token(self, operator, with_rights):
        assert "No token yet" in operator.get(PATH).content.decode()
        reader = with_rights("view_accesstoken").get(PATH).content.decode()
        assert "can view tokens, but not create them" in reader and "/tokens/create" not in reader

    def test_its_queries_do_not_grow(self, operator, administrator):
        keys = [make_key().id for _ in range(3)]

        def asked():
            with CaptureQueriesContext(connection) as queries:
                operator.get(PATH)
            assert not [one for one in queries if "usagerecord" in one["sql"] and "HELD" not in one["sql"]]
            return len(queries)

        make_token(administrator, keyIds=keys)
        AccessToken.objects.update(held_nano=NANO)
        few = asked()
        for number in range(25):
            make_token(make_user(f"u{number}"), keyIds=keys)
        # session, user, how many, how many hold, tokens with their users, keys, open requests, who may send, paces
        assert asked() == few <= 9

    def test_it_needs_the_right(self, with_rights):
        assert with_rights("view_apikey").get(PATH).status_code == 403
        assert Client().get(PATH).headers["Location"].startswith("/login")


class TestCreate:
    def test_it_shows_the_token_once_and_it_works(self, operator):
        make_key()
        answer = create(operator, scopes=["gateway", "read"])
        assert answer.status_code == 200
        text = shown_in(answer)
        token = AccessToken.objects.get(digest=token_digest(text))
        assert (token.name, token.scopes, token.user.username) == ("shop", ["gateway", "read"], "admin")
        assert token.expires_at == NOW + timedelta(days=90)
        assert JsonClient(text).get("/api/llm/keys").status_code == 200
        assert text not in operator.get(PATH).content.decode()

    def test_the_token_stands_in_that_answer_alone(self, operator, caplog):
        with caplog.at_level(logging.DEBUG):
            answer = create(operator)
        text = shown_in(answer)
        assert "no-store" in answer.headers["Cache-Control"]
        stored = "".join(str(session.get_decoded()) for session in Session.objects.all())
        elsewhere = [str(answer.headers), str(answer.cookies), str(operator.cookies), stored, caplog.text]
        assert not [place for place in elsewhere if text in place or "rfk_" in place]

    @pytest.mark.parametrize(
        ("fields", "ends"),
        [
            ({"expiry": "7"}, NOW + timedelta(days=7)), ({"expiry": "365"}, NOW + timedelta(days=365)),
            ({"expiry": "never"}, None), ({"expiry": ""}, None),
            ({"expiry": "7", "expiresAt": "2027-01-01"}, NOW + timedelta(days=7)),
            ({"expiry": "date", "expiresAt": "2026-12-31"}, NOW.replace(year=2027, month=1, day=1, hour=0, minute=0)),
        ],
    )  # fmt: skip
    def test_it_ends_when_it_was_chosen(self, operator, fields, ends):
        create(operator, **fields)
        assert AccessToken.objects.get().expires_at == ends

    def test_it_takes_limits_models_pace_and_mode(self, operator):
        fields = {
            "dailyLimit": "2.50", "monthlyLimit": "", "totalLimit": "40", "requestsPerMinute": "60",
            "budgetMode": "soft", "models": "openai/*\r\n gpt-6*, claude-*",
        }  # fmt: skip
        create(operator, **fields)
        token = AccessToken.objects.get()
        assert (token.daily_limit_nano, token.monthly_limit_nano, token.total_limit_nano) == (
            25 * NANO // 10,
            0,
            40 * NANO,
        )
        assert (token.requests_per_minute, token.budget_mode) == (60, "soft")
        assert token.allowed_models == ["openai/*", "gpt-6*", "claude-*"]

    def test_it_shows_the_limits_of_new_tokens(self, operator, settings):
        settings.TOKEN_DAILY_LIMIT_USD = Decimal("7.5")
        assert 'name="dailyLimit" value="7.5"' in operator.get(f"{PATH}/create").content.decode()
        operator.post(f"{PATH}/create", {"name": "shop", "scopes": ["gateway"], "expiry": "90"})
        assert AccessToken.objects.get().daily_limit_nano == 75 * NANO // 10

    def test_an_administrator_makes_one_for_somebody_else(self, operator, with_rights):
        contractor = make_user("contractor")
        create(operator, user="contractor")
        assert AccessToken.objects.get().user == contractor
        assert "There is no active user “nobody”." in text_of(create(operator, user="nobody").content.decode())
        other = with_rights("add_accesstoken")
        assert 'name="user"' not in other.get(f"{PATH}/create").content.decode()
        create(other, name="mine", user="contractor")
        assert AccessToken.objects.get(name="mine").user != contractor

    def test_it_is_served_by_the_chosen_keys_alone(self, operator):
        key, _ = make_key(name="Production"), make_key()
        create(operator, keyIds=[key.id])
        token = AccessToken.objects.get()
        assert token.limited_to_keys and [each.id for each in token.keys.all()] == [key.id]

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"name": ""}, "May not be empty."), ({"name": "a\tb"}, "May not contain control characters."),
            ({"name": "x" * 101}, "at most 100 characters"), ({"scopes": []}, "Choose from: gateway, read, manage."),
            ({"scopes": ["root"]}, "root is not one of the available choices"),
            ({"expiry": "soon"}, "soon is not one of the available choices"),
            ({"expiry": "date"}, "Give the last day, or choose another expiry."),
            ({"expiry": "date", "expiresAt": "soon"}, "Must be a day such as"),
            ({"expiry": "date", "expiresAt": "2020-01-01"}, "The expiry is in the past."),
            ({"expiry": "date", "expiresAt": "9999-12-31"}, "The last day must be before"),
            ({"keyIds": ["key-0-0"]}, "key-0-0 is not one of the available choices"),
            ({"name": "a\0b"}, "Null characters are not allowed."),
            ({"dailyLimit": "-1"}, "Must not be negative"), ({"monthlyLimit": "NaN"}, "Must be"),
            ({"requestsPerMinute": "many"}, "Must be a whole number from 0"),
            ({"requestsPerMinute": "²"}, "Must be a whole number from 0"),
            ({"requestsPerMinute": "9" * 40}, "Must be a whole number from 0"),
            ({"budgetMode": "loose"}, "loose is not one of the available choices"),
            ({"models": "x" * 300}, "1 to 200"),
        ],
    )  # fmt: skip
    def test_it_says_what_is_wrong_beside_the_field(self, operator, fields, words):
        make_key()
        answer = create(operator, **fields)
        assert answer.status_code == 200 and words in text_of(answer.content.decode())
        assert not AccessToken.objects.exists()

    def test_a_mistake_costs_nothing_that_was_typed(self, operator):
        key = make_key()
        page = create(operator, name="shop " * 30, scopes=["read"], expiry="30", keyIds=[key.id]).content.decode()
        assert 'value="read" checked' in page and 'value="30" checked' in page and f'value="{key.id}" checked' in page

    def test_a_page_that_is_loaded_again_creates_no_second_token(self, operator):
        def opened() -> str:
            return re.search(r'name="nonce" value="(\w+)"', operator.get(f"{PATH}/create").content.decode())[1]

        one, other = opened(), opened()
        assert "May not be empty." in create(operator, nonce=one, name="").content.decode()
        shown_in(create(operator, nonce=one))
        again = operator.post(f"{PATH}/create", {"name": "shop", "scopes": ["gateway"], "nonce": one}, follow=True)
        (said,) = messages_of(again)
        assert said.startswith("This form has already been submitted") and "rfk_" not in said
        token = AccessToken.objects.get()
        assert again.redirect_chain == [(f"{PATH}/{token.pk}", 302)]
        shown_in(create(operator, nonce=other))
        assert AccessToken.objects.count() == 2

    def test_it_needs_its_right(self, with_rights):
        client = with_rights("view_accesstoken")
        assert create(client).status_code == client.get(f"{PATH}/create").status_code == 403
        assert create(with_rights("add_accesstoken")).status_code == 200
        assert AccessToken.objects.count() == 1

    def test_it_demands_the_csrf_token(self, administrator):
        assert create(logged_in(administrator, enforce_csrf_checks=True)).status_code == 403


class TestSnippets:
    def test_it_promises_what_the_gateway_serves(self, operator):
        page = create(operator).content.decode()
        token = shown_in(create(operator))
        titles = re.findall(r"<summary>(.*?)</summary>", page)
        assert titles == [
            each.title for each in snippets._ALL if each.scope == "gateway" and snippets.is_served(each.needs)
        ]
        assert {"curl", "openai (Python)", "LangChain", "Environment variables"} <= set(titles)
        assert "http://testserver/v1" in page and token

    def test_it_leaves_out_what_the_gateway_does_not_know(self, operator, monkeypatch):
        served = {"/v1/messages": True, "/v1/chat/completions": False}
        monkeypatch.setattr(snippets, "is_served", lambda path: served.get(path, False))
        titles = re.findall(r"<summary>(.*?)</summary>", create(operator).content.decode())
        assert titles == ["anthropic (Python)", "Environment variables, Anthropic clients"]

    def test_an_unknown_address_is_not_served(self):
        assert snippets.is_served("/v1/chat/completions") and not snippets.is_served("/v1/moderations")

    def test_a_token_that_only_reads_gets_the_rest_api(self, operator):
        page = create(operator, scopes=["read"]).content.decode()
        assert "/api/llm/keys/statistics" in page and "/v1/chat/completions" not in page

    def test_each_snippet_of_python_is_python(self):
        for each in snippets.snippets_for("rfk_x", base="http://h:1/", scopes=["gateway"]):
            if "Python" in each.title or each.title == "LangChain":
                compile(each.text, each.id, "exec")
            assert "{" not in each.text or each.id in ("curl", "openai", "anthropic", "google-genai")


class TestRevoke:
    def test_it_asks_first_and_then_ends_it(self, operator, administrator):
        make_key()
        text = make_token(administrator, "read", name="shop")
        path = f"{PATH}/{AccessToken.objects.get().pk}/revoke"
        page = operator.get(path).content.decode()
        assert "Revoke “shop”?" in page and "This cannot be undone" in page
        assert JsonClient(text).get("/api/llm/keys").status_code == 200
        answer = operator.post(path, follow=True)
        assert messages_of(answer) == ["“shop” was revoked: requests with it are refused from now on."]
        assert JsonClient(text).get("/api/llm/keys").status_code == 401
        assert "It has already been revoked" in operator.get(path).content.decode()

    def test_others_revoke_their_own_alone(self, administrator):
        make_token(administrator, name="of the administrator")
        user = make_user("anna", *RIGHTS)
        make_token(user, name="of anna")
        client = logged_in(user)
        for name, status in (("of the administrator", 404), ("of anna", 302)):
            token = AccessToken.objects.get(name=name)
            assert client.post(f"{PATH}/{token.pk}/revoke").status_code == status
            token.refresh_from_db()
            assert bool(token.revoked_at) == (status == 302)

    def test_it_needs_its_right(self, administrator, with_rights):
        make_token(administrator)
        client, pk = (
            with_rights("view_accesstoken", "add_accesstoken", is_superuser=False),
            AccessToken.objects.get().pk,
        )
        assert client.get(f"{PATH}/{pk}/revoke").status_code == client.post(f"{PATH}/{pk}/revoke").status_code == 403
        assert "Revoke" not in client.get(PATH).content.decode()

    @pytest.mark.parametrize("number", [0, 2**62, 2**64])
    def test_it_knows_no_other_token(self, operator, number):
        assert operator.get(f"{PATH}/{number}/revoke").status_code == 404
