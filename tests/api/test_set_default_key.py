"""POST /api/llm/keys/{id}/set-default"""

from __future__ import annotations

import pytest

from llmkeys.keys.environment import register_environment_keys
from llmkeys.models import ApiKey, KeyEvent
from tests.api import checks
from tests.helpers import NOW, make_key, new_secret

pytestmark = pytest.mark.django_db


def path(key):
    return f"/api/llm/keys/{key.id}/set-default"


def defaults(api):
    return [key["name"] for key in api.get("/api/llm/keys").json() if key["isDefault"]]


def test_it_works(api):
    make_key(name="first")
    second = make_key(name="second")
    answer = api.post(path(second))
    assert answer.status_code == 200
    assert answer.json() == {"success": True, "message": "Key set as default"}
    assert defaults(api) == ["second"]
    assert KeyEvent.objects.filter(kind="default_changed", key=second).count() == 1


def test_a_second_time_changes_nothing(api):
    key = make_key()
    KeyEvent.objects.all().delete()
    assert api.post(path(key)).status_code == 200
    assert not KeyEvent.objects.exists()


def test_an_environment_key_that_was_chosen_stays_the_default_when_keys_are_added(api, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-" + "e" * 40)
    (chosen,) = register_environment_keys(at=NOW)
    first = make_key(name="first")
    assert defaults(api) == ["first"], "an environment key has the mark while there is no other"
    api.post(path(chosen))
    make_key(name="second")
    assert defaults(api) == ["Default OpenAI Key"]
    api.post(f"/api/llm/keys/{first.id}/toggle", {"active": False})
    api.delete(f"/api/llm/keys/{ApiKey.objects.get(name='second').id}")
    make_key(name="third")
    api.post(f"/api/llm/keys/{first.id}/toggle", {"active": True})
    assert defaults(api) == ["Default OpenAI Key"], "a person chose it, though no other could have it for a while"


def test_an_environment_key_that_is_chosen_while_it_is_the_only_one_stays_the_default(api, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-" + "e" * 40)
    (chosen,) = register_environment_keys(at=NOW)
    assert api.post(path(chosen)).status_code == 200
    make_key(name="first")
    assert defaults(api) == ["Default OpenAI Key"]


def test_an_environment_key_that_nobody_chose_gives_way_to_the_first_stored_key_that_can_serve(api, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-" + "e" * 40)
    register_environment_keys(at=NOW)
    off = {"provider": "openai", "name": "first", "apiKey": new_secret("openai"), "enabled": False}
    first = api.post("/api/llm/keys", off).json()
    assert defaults(api) == ["Default OpenAI Key"]
    api.post(f"/api/llm/keys/{first['id']}/toggle", {"active": True})
    assert defaults(api) == ["first"]
    make_key(name="second")
    assert defaults(api) == ["first"]


def test_it_switches_a_disabled_key_on(api):
    make_key(name="first")
    off = make_key(name="off", enabled=False)
    assert api.post(path(off)).status_code == 200
    assert api.get(f"/api/llm/keys/{off.id}").json()["status"] == "ACTIVE"


def test_it_never_clears_a_rejection(api):
    key = make_key(rejected_at=NOW)
    api.post(path(key))
    assert api.get(f"/api/llm/keys/{key.id}").json()["status"] == "DISABLED"


def test_it_refuses_an_expired_key(api, frozen):
    make_key(name="first")
    expired = make_key(expires_at=NOW)
    answer = api.post(path(expired))
    assert answer.status_code == 409
    assert "expired" in answer.json()["detail"]
    assert defaults(api) == ["first"]


def test_it_knows_no_other_key(api):
    checks.is_unknown(api.post("/api/llm/keys/key-0-0/set-default"))


def test_it_needs_authentication():
    checks.needs_authentication("post", path(make_key()))


def test_it_needs_the_permission_to_change():
    checks.needs_permission("post", path(make_key()), "change_apikey")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, path(make_key()), "post")
