"""What the buttons of a card do: test, default, enable and disable, delete."""

from __future__ import annotations

import html
from datetime import timedelta

import pytest
import responses
from django.test import Client

from llmkeys.keys.environment import register_environment_keys
from llmkeys.lib.money import NANO
from llmkeys.models import ApiKey
from tests.helpers import NOW, make_key, new_secret
from tests.pages.helpers import EVERY_RIGHT, logged_in, messages_of

pytestmark = pytest.mark.django_db
CHECK = "https://openrouter.ai/api/v1/key"
VERBS = {"test": "change_apikey", "default": "change_apikey", "toggle": "change_apikey", "delete": "delete_apikey"}


def press(client, key: ApiKey, verb: str, **fields: str):
    return client.post(f"/llm-settings/keys/{key.id}/{verb}", fields, follow=True)


@pytest.mark.parametrize("verb", VERBS)
class TestEveryVerb:
    def test_it_needs_its_right(self, with_rights, verb):
        key = make_key()
        rights = [right for right in EVERY_RIGHT if right != VERBS[verb]]
        assert press(with_rights(*rights), key, verb).status_code == 403
        assert press(Client(), key, verb).redirect_chain[0][0].startswith("/login")
        key.refresh_from_db()
        assert key.enabled and key.deleted_at is None

    def test_it_changes_nothing_by_get(self, operator, verb):
        key = make_key()
        address = f"/llm-settings/keys/{key.id}"
        answer = operator.get(f"{address}/{verb}")
        assert (answer.status_code, answer.headers.get("Location")) == (
            (200, None) if verb == "delete" else (302, address)
        )
        assert operator.put(f"{address}/{verb}").status_code == 405
        key.refresh_from_db()
        assert key.enabled and key.deleted_at is None

    def test_it_knows_no_other_key(self, operator, verb):
        gone = make_key(fingerprint=None, is_default=False, enabled=False, deleted_at=NOW)
        assert press(operator, gone, verb).status_code == 404
        assert operator.post(f"/llm-settings/keys/key-0-0000/{verb}").status_code == 404

    def test_it_demands_the_csrf_token(self, administrator, verb):
        key, client = make_key(), logged_in(administrator, enforce_csrf_checks=True)
        assert client.post(f"/llm-settings/keys/{key.id}/{verb}").status_code == 403


@pytest.mark.parametrize("verb", ["test", "default", "toggle"])
def test_its_button_leads_back_to_the_list_as_it_was_filtered(operator, provider, verb):
    keys = [make_key(name=f"Key {number}") for number in range(32)]
    page = html.unescape(operator.get("/llm-settings?q=Key&page=2").content.decode())
    address = f"/llm-settings/keys/{keys[-1].id}/{verb}?q=Key&page=2"
    assert f'formaction="{address}"' in page
    answer = operator.post(address, {"active": "false"})
    assert answer.headers["Location"] == f"/llm-settings?q=Key&page=2#{keys[-1].id}"
    answer = operator.post(address, {"active": "false", "from": "key"})
    assert answer.headers["Location"] == f"/llm-settings/keys/{keys[-1].id}"


def test_deleting_and_editing_without_a_script_lead_back_to_the_list_as_it_was_filtered(operator):
    keys = [make_key(name=f"Key {number}", rejected_at=NOW) for number in range(32)]
    last, listing = keys[-1].id, "/llm-settings?q=Key&page=2"

    def page(address: str) -> str:
        return html.unescape(operator.get(address).content.decode())

    edit, delete = (f"/llm-settings/keys/{last}/{verb}?q=Key&page=2" for verb in ("edit", "delete"))
    remedy = edit.replace("?", "?field=apiKey&")
    assert all(f'href="{address}"' in page(listing) for address in (edit, delete, remedy))
    for address, action in ((edit, edit), (remedy, edit), (delete, delete)):
        assert f'action="{action}"' in page(address) and f'href="{listing}#{last}"' in page(address)
    assert f'formaction="{edit.replace("/edit", "/try")}"' in page(edit)
    values = {"name": "Key 31", "expires": "never", "dailyLimit": "3", "monthlyLimit": "0", "totalLimit": "0"}
    refused = operator.post(edit, {**values, "priority": "soon"})
    assert f'action="{edit}"' in html.unescape(refused.content.decode())
    saved = operator.post(edit, {**values, "priority": "100"})
    assert saved.headers["Location"] == f"{listing}#{last}"
    assert operator.post(delete).headers["Location"] == listing
    environment = make_key(source="environment", environment_variable="OPENROUTER_API_KEY")
    refused = operator.post(f"/llm-settings/keys/{environment.id}/delete?q=Key&page=2")
    assert refused.headers["Location"] == f"{listing}#{environment.id}"


class TestTest:
    def test_it_tells_that_the_key_works_and_clears_a_rejection(self, operator, provider):
        provider.add(
            responses.GET, CHECK, json={"data": {"label": "x", "usage": 0, "limit": None, "is_free_tier": False}}
        )
        key = make_key(name="Production", rejected_at=NOW, last_error="User not found.")
        (message,) = messages_of(press(operator, key, "test"))
        assert message.startswith("“Production”: Key tested successfully") and "ms)" in message
        key.refresh_from_db()
        assert key.rejected_at is None and key.total_requests == 0

    def test_it_tells_why_the_key_does_not_work(self, operator, provider):
        secret = new_secret()
        provider.add(responses.GET, CHECK, status=401, json={"error": {"message": "User not found.", "code": 401}})
        key = make_key(name="Production", secret=secret)
        answer = press(operator, key, "test")
        assert "Production" in messages_of(answer)[0] and secret not in answer.content.decode()
        key.refresh_from_db()
        assert key.rejected_at is not None

    def test_it_says_what_to_do_where_servers_have_different_keys_in_their_environment(
        self, operator, provider, monkeypatch
    ):
        monkeypatch.setenv("OPENROUTER_API_KEY", new_secret())
        (key,) = register_environment_keys(at=NOW)
        monkeypatch.setenv("OPENROUTER_API_KEY", new_secret())
        provider.add(responses.GET, CHECK, status=401, json={"error": {"message": "User not found.", "code": 401}})
        (message,) = messages_of(press(operator, key, "test"))
        assert "nothing was stored. Start every `serve` with the same value" in message
        assert "dashboard" not in message, "this is the dashboard"

    def test_it_tells_that_the_provider_cannot_be_reached(self, operator, provider):
        (message,) = messages_of(press(operator, make_key(), "test"))
        assert "openrouter.ai" in message


class TestDefault:
    def test_it_hands_the_mark_over_and_switches_the_key_on(self, operator):
        make_key()
        key = make_key(name="Second", enabled=False)
        assert messages_of(press(operator, key, "default")) == ["“Second” is the default key now."]
        key.refresh_from_db()
        assert key.is_default and key.enabled and ApiKey.objects.filter(is_default=True).count() == 1

    def test_it_refuses_an_expired_key_in_words(self, operator):
        make_key()
        key = make_key(expires_at=NOW - timedelta(days=900))
        assert "Change its expiry date first." in messages_of(press(operator, key, "default"))[0]


class TestToggle:
    def test_it_does_what_the_button_said_however_often(self, operator):
        key = make_key(name="Production")
        for _ in range(2):
            assert messages_of(press(operator, key, "toggle", active="false")) == ["“Production” is switched off."]
        assert not ApiKey.objects.get(pk=key.pk).enabled
        assert messages_of(press(operator, key, "toggle", active="true")) == ["“Production” is switched on."]
        assert ApiKey.objects.get(pk=key.pk).enabled

    def test_it_says_that_a_rejected_key_stays_out(self, operator):
        key = make_key(rejected_at=NOW)
        assert "rejected" in messages_of(press(operator, key, "toggle", active="true"))[1]


class TestDelete:
    def test_it_asks_first_and_names_the_consequence(self, operator):
        key = make_key(name="Production", total_requests=9412, spent_total_nano=392 * NANO, held_nano=NANO)
        page = operator.get(f"/llm-settings/keys/{key.id}/delete").content.decode()
        assert "Delete “Production”?" in page and "The secret is wiped" in page
        assert "9,412 requests and $392.00 stay" in page and "default key" in page and "$1.00 held" in page

    def test_it_wipes_the_secret_and_keeps_the_row(self, operator):
        key = make_key(name="Production", spent_total_nano=NANO)
        answer = press(operator, key, "delete")
        assert messages_of(answer)[0].startswith("“Production” was deleted.")
        key.refresh_from_db()
        assert bytes(key.secret) == b"" and key.fingerprint is None and key.deleted_at and key.spent_total_nano == NANO

    def test_it_refuses_a_key_of_the_environment_in_words(self, operator):
        key = make_key(source="environment", environment_variable="OPENROUTER_API_KEY")
        assert "unset the variable" in messages_of(press(operator, key, "delete"))[0]
        assert ApiKey.objects.get(pk=key.pk).deleted_at is None
