"""DELETE /api/llm/keys/{id}"""

from __future__ import annotations

import pytest

from llmkeys.keys.environment import register_environment_keys
from llmkeys.models import ApiKey, KeyEvent, UsageRecord
from tests.api import checks
from tests.api.checks import SECRET
from tests.helpers import NOW, make_key, make_usage

pytestmark = pytest.mark.django_db


def path(key):
    return f"/api/llm/keys/{key.id}"


def test_it_works(api):
    key = make_key(secret=SECRET, spent_total_nano=5)
    make_usage(key)
    answer = api.delete(path(key))
    assert answer.status_code == 200
    assert answer.json() == {"success": True, "message": "Key deleted"}
    wiped = ApiKey.objects.get(pk=key.pk)
    assert (bytes(wiped.secret), wiped.fingerprint, wiped.enabled) == (b"", None, False)
    assert wiped.spent_total_nano == 5
    assert UsageRecord.objects.filter(key=key).count() == 1
    assert KeyEvent.objects.filter(kind="deleted", key=key).count() == 1
    checks.shows_no_secret(answer)


def test_it_hands_the_default_on_to_the_next_available(api):
    default = make_key(name="default")
    make_key(name="rejected", rejected_at=NOW, priority=1)
    make_key(name="later", priority=9)
    make_key(name="next", priority=5)
    api.delete(path(default))
    assert [key["name"] for key in api.get("/api/llm/keys").json() if key["isDefault"]] == ["next"]


def test_the_last_key_leaves_no_default(api):
    api.delete(path(make_key()))
    assert api.get("/api/llm/keys").json() == []
    assert not ApiKey.objects.filter(is_default=True).exists()


def test_it_refuses_a_key_of_the_environment(api, monkeypatch):
    monkeypatch.setenv("OPENROUTER_API_KEY", SECRET)
    (key,) = register_environment_keys(at=NOW)
    answer = api.delete(path(key))
    assert answer.status_code == 409
    assert "OPENROUTER_API_KEY" in answer.json()["detail"]
    assert api.get(path(key)).status_code == 200
    checks.shows_no_secret(answer)


def test_a_second_delete_finds_nothing(api):
    key = make_key()
    api.delete(path(key))
    checks.is_unknown(api.delete(path(key)))


def test_it_needs_authentication():
    checks.needs_authentication("delete", path(make_key()))


def test_it_needs_the_permission_to_delete():
    checks.needs_permission("delete", path(make_key()), "delete_apikey")
