"""/llm-settings/keys/{id}/edit, and the test of a secret before it is saved."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta

import pytest
import responses

from llmkeys.lib.money import NANO
from llmkeys.models import ApiKey
from llmkeys.vault import keyring
from tests.helpers import NOW, make_key, new_secret
from tests.pages.helpers import messages_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]
IN_DIALOG = {"HX-Request": "true", "HX-Target": "dialog"}


def address(key: ApiKey) -> str:
    return f"/llm-settings/keys/{key.pk}/edit"


def shown(client, key: ApiKey) -> dict[str, str]:
    """Return what the form would send as it stands."""
    page = html.unescape(client.get(address(key)).content.decode())
    fields = dict(re.findall(r'<input type="(?:text|hidden|datetime-local)" name="(\w+)"(?: value="([^"]*)")?', page))
    chosen = re.search(r'name="expires" id="[^"]*" value="(\w+)" checked', page)[1]
    return {**fields, "expires": chosen}


def test_it_needs_the_right_to_change_keys(client, with_rights):
    key = make_key()
    assert client.get(address(key)).headers["Location"].startswith("/login")
    assert with_rights("view_apikey").get(address(key)).status_code == 403
    assert with_rights("view_apikey").post(address(key), {"name": "x"}).status_code == 403


def test_it_knows_no_deleted_key(operator):
    key = make_key(fingerprint=None, enabled=False, is_default=False, deleted_at=NOW)
    assert operator.get(address(key)).status_code == 404


def test_it_saves_what_was_changed_and_nothing_else(operator):
    key = make_key(name="Old", daily_limit_nano=1_234_567_891, expires_at=NOW + timedelta(days=9, seconds=7))
    secret = keyring.open_secret(key)
    answer = operator.post(address(key), shown(operator, key) | {"name": "New", "totalLimit": "7.5"}, follow=True)
    assert messages_of(answer) == ["“New” was saved."]
    changed = ApiKey.objects.get()
    assert (changed.name, changed.total_limit_nano) == ("New", 15 * NANO // 2)
    assert (changed.daily_limit_nano, changed.expires_at) == (key.daily_limit_nano, key.expires_at)
    assert keyring.open_secret(changed) == secret


def test_it_keeps_what_others_have_changed_since_the_form_was_opened(operator, api):
    key = make_key(name="Old", description="Two  words", daily_limit_nano=10 * NANO)
    opened = shown(operator, key)
    changes = {"dailyLimit": 5, "expiresAt": "2027-01-31T12:00:00Z", "priority": 7, "billingGroup": "team"}
    assert api.patch(f"/api/llm/keys/{key.pk}", changes).status_code == 200
    refused = html.unescape(operator.post(address(key), opened | {"name": "New", "totalLimit": "x"}).content.decode())
    again = re.search(r'name="shown" value="([^"]*)"', refused)[1]
    operator.post(address(key), opened | {"name": "New", "shown": again})
    changed = ApiKey.objects.get()
    assert (changed.name, changed.daily_limit_nano) == ("New", 5 * NANO)
    assert changed.expires_at == datetime(2027, 1, 31, 12, tzinfo=UTC)
    assert (changed.priority, changed.billing_group, changed.description) == (7, "team", "Two  words")


def test_it_sets_the_budget_mode_and_leaves_it_to_the_setting_again(operator, api):
    key = make_key()
    assert "default: strict</option>" in operator.get(address(key)).content.decode()
    operator.post(address(key), shown(operator, key) | {"budgetMode": "soft"})
    assert ApiKey.objects.get().budget_mode == "soft"
    page = operator.get(address(key)).content.decode()
    assert '<option value="soft" selected>soft: checked before, charged after</option>' in page
    assert '<details class="more" open>' in page, "what differs from the setting is not hidden"
    operator.post(address(key), shown(operator, key) | {"budgetMode": ""})
    assert ApiKey.objects.get().budget_mode is None
    api.patch(f"/api/llm/keys/{key.pk}", {"budgetMode": "soft"})
    operator.post(address(key), shown(operator, key) | {"budgetMode": "gentle"})
    assert ApiKey.objects.get().budget_mode == "soft"


def test_it_leaves_an_expiry_alone_that_does_not_exist_in_the_time_zone(operator, settings):
    settings.TIME_ZONE = "Asia/Tokyo"
    key = make_key(name="Old", expires_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert shown(operator, key)["expiresAt"] == "9999-12-31T23:59"
    operator.post(address(key), shown(operator, key) | {"name": "New"})
    changed = ApiKey.objects.get()
    assert (changed.name, changed.expires_at) == ("New", key.expires_at)


def test_it_replaces_the_secret_and_brings_a_rejected_key_back(operator):
    key = make_key(rejected_at=NOW, last_error="User not found.")
    secret = new_secret()
    operator.post(address(key), shown(operator, key) | {"apiKey": secret})
    key.refresh_from_db()
    assert keyring.open_secret(key) == secret and key.rejected_at is None


@pytest.mark.parametrize(
    ("choice", "expires"),
    [
        ({"expires": "never"}, None),
        ({"expires": "7"}, NOW + timedelta(days=7)),
        ({"expires": "90"}, NOW + timedelta(days=90)),
        ({"expires": "date", "expiresAt": "2027-01-31T12:00"}, datetime(2027, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_it_takes_the_quick_choices_of_expiry(operator, choice, expires):
    key = make_key(expires_at=NOW + timedelta(days=3))
    operator.post(address(key), shown(operator, key) | choice)
    key.refresh_from_db()
    assert key.expires_at == expires


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": ""}, "May not be empty."),
        ({"dailyLimit": "-1"}, "Must not be negative"),
        ({"expires": "date", "expiresAt": ""}, "Give a date and time"),
        ({"expires": "date", "expiresAt": "2020-01-01T00:00"}, "is in the past"),
        ({"priority": "soon"}, "whole number"),
        ({"apiKey": "rfk_1234567890"}, "access token of this product"),
    ],
)
def test_it_says_beside_the_field_what_is_wrong_and_changes_nothing(operator, given, words):
    key = make_key(name="Same")
    answer = operator.post(address(key), shown(operator, key) | given)
    assert answer.status_code == 200 and words in html.unescape(answer.content.decode())
    key.refresh_from_db()
    assert (key.name, key.daily_limit_nano) == ("Same", 10 * NANO)


def test_it_names_the_key_that_has_the_secret_already_and_never_sends_a_secret_back(operator):
    secret = new_secret()
    make_key(name="First", secret=secret)
    key = make_key()
    page = html.unescape(operator.post(address(key), shown(operator, key) | {"apiKey": secret}).content.decode())
    assert "First" in page and secret not in page


def test_it_asks_for_a_typed_secret_again_where_something_else_was_wrong(operator):
    key = make_key()
    again = "Enter the API key again"
    assert again not in operator.get(address(key)).content.decode()
    wrong = shown(operator, key) | {"dailyLimit": "abc"}
    assert again in operator.post(address(key), wrong | {"apiKey": new_secret()}).content.decode()
    assert again not in operator.post(address(key), wrong).content.decode()


def test_it_says_whether_the_secret_was_replaced(operator):
    key = make_key(name="Production")
    same = shown(operator, key)
    answer = operator.post(address(key), same | {"apiKey": new_secret()}, follow=True)
    assert messages_of(answer) == ["“Production” was saved, with its new API key."]
    assert messages_of(operator.post(address(key), same, follow=True)) == ["“Production” was saved."]


def test_it_asks_no_secret_of_a_key_of_the_environment(operator):
    key = make_key(source="environment", environment_variable="OPENROUTER_API_KEY")
    assert 'name="apiKey"' not in operator.get(address(key)).content.decode()
    operator.post(address(key), shown(operator, key) | {"dailyLimit": "3", "apiKey": new_secret()})
    key.refresh_from_db()
    assert key.daily_limit_nano == 3 * NANO


def test_it_begins_with_the_field_that_a_remedy_is_about(operator):
    page = operator.get(address(make_key()) + "?field=dailyLimit").content.decode()
    assert re.findall(r'name="(\w+)"[^>]* autofocus', page) == ["dailyLimit"]


class TestDialog:
    def test_it_is_the_form_alone(self, operator):
        page = operator.get(address(make_key()), headers=IN_DIALOG).content.decode()
        assert page.lstrip().startswith("<form") and "<html" not in page and "data-close" in page

    def test_it_begins_with_the_first_field_that_is_wrong(self, operator):
        key = make_key()
        given = shown(operator, key) | {"totalLimit": "-1", "dailyLimit": "-1"}
        page = operator.post(address(key), given, headers=IN_DIALOG).content.decode()
        assert re.findall(r'name="(\w+)"[^>]* autofocus', page) == ["dailyLimit"]

    @pytest.mark.parametrize(("below", "leads_to"), [("", "#{}"), ("/keys/{}", None)])
    def test_it_loads_the_page_below_anew_and_keeps_the_message(self, operator, below, leads_to):
        key = make_key(name="Production")
        page = {"HX-Current-URL": f"http://testserver/llm-settings{below.format(key.pk)}?a=b"}
        values = shown(operator, key) | {"description": "For the night"}
        answer = operator.post(address(key), values, headers=IN_DIALOG | page)
        assert (answer.status_code, answer.headers["HX-Refresh"], answer.content) == (200, "true", b"")
        assert answer.headers.get("HX-Redirect") == (leads_to and leads_to.format(key.pk))
        assert messages_of(operator.get("/llm-settings")) == ["“Production” was saved."]


class TestTry:
    def answer(self, provider, **fields):
        provider.add(responses.GET, re.compile("https://openrouter.ai/.*"), **fields)

    def tried(self, client, path: str, **given: str) -> str:
        answer = client.post(f"/llm-settings/keys/{path}", given, headers=IN_DIALOG)
        assert answer.status_code == 200
        return html.unescape(answer.content.decode())

    def test_it_tests_a_typed_secret_and_stores_nothing(self, operator, provider):
        self.answer(provider, json={"data": {"usage": 1.5}})
        secret = new_secret()
        page = self.tried(operator, "try", provider="openrouter", apiKey=secret)
        assert "Key tested successfully" in page and secret not in page
        assert provider.calls[0].request.headers["Authorization"] == f"Bearer {secret}"
        assert not ApiKey.objects.exists()

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"provider": "openrouter"}, "This field is required."),
            ({"provider": "openrouter", "apiKey": "sk"}, "too short"),
            ({"provider": "nobody", "apiKey": "sk-or-v1-123456789"}, "Unknown provider."),
            ({}, "This field is required."),
        ],
    )
    def test_it_says_what_cannot_be_tested_without_asking_anybody(self, operator, provider, given, words):
        assert words in self.tried(operator, "try", **given) and not provider.calls

    def test_it_tests_the_stored_secret_where_none_is_typed_and_remembers_what_was_said(self, operator, provider):
        self.answer(provider, json={"data": {"usage": 1.5, "limit_remaining": 8.5}})
        key = make_key()
        assert "Key tested successfully" in self.tried(operator, f"{key.pk}/try", apiKey=" ")
        key.refresh_from_db()
        assert key.last_test_at == NOW and key.last_test["ok"] is True
        page = operator.get(f"/llm-settings/keys/{key.pk}").content.decode()
        assert "Credit left" in page and "$8.50" in page and "Difference to ours" in page

    def test_it_asks_for_a_tested_secret_again_without_a_script(self, operator, provider):
        self.answer(provider, json={"data": {"usage": 1.5}})
        path = f"/llm-settings/keys/{make_key().pk}/try"
        assert "Enter the API key again" in operator.post(path, {"apiKey": new_secret()}).content.decode()
        assert "Enter the API key again" not in operator.post(path, {"apiKey": ""}).content.decode()

    def test_it_leaves_the_stored_secret_alone_where_another_is_typed(self, operator, provider):
        self.answer(provider, status=401, json={"error": {"message": "User not found.", "code": 401}})
        key = make_key()
        assert "does not accept this key" in self.tried(operator, f"{key.pk}/try", apiKey=new_secret())
        key.refresh_from_db()
        assert key.rejected_at is None and key.last_test == {}

    def test_it_needs_the_right_to_add_or_change(self, with_rights):
        key = make_key()
        viewer = with_rights("view_apikey")
        for path in ("try", f"{key.pk}/try"):
            assert viewer.post(f"/llm-settings/keys/{path}", {}).status_code == 403
            form = f"/llm-settings/keys/{path}".replace(f"{key.pk}/try", f"{key.pk}/edit").replace("/try", "/add")
            assert viewer.get(f"/llm-settings/keys/{path}").headers["Location"] == form

    def test_it_works_as_a_page_without_a_script(self, operator, provider):
        self.answer(provider, json={"data": {"usage": 0}})
        secret = new_secret()
        page = operator.post(
            "/llm-settings/keys/try", {"provider": "openrouter", "apiKey": secret, "name": "Kept"}
        ).content.decode()
        assert "Key tested successfully" in page and 'value="Kept"' in page and secret not in page
        assert "never sent back to a page" in page
