"""PUT and PATCH /api/llm/keys/{id}"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from llmkeys.keys.environment import register_environment_keys
from llmkeys.models import ApiKey, Cooling, KeyEvent
from llmkeys.vault import keyring
from tests.api import checks
from tests.api.checks import MASKED, SECRET
from tests.helpers import NOW, make_key

pytestmark = pytest.mark.django_db


@pytest.fixture(params=["put", "patch"])
def change(api, request):
    return lambda key, body: getattr(api, request.param)(path(key), body)


def path(key):
    return f"/api/llm/keys/{key.id}"


def test_it_changes_what_is_named_and_leaves_the_rest(change, frozen):
    key = make_key(name="before", description="kept", priority=7, at=NOW - timedelta(days=1))
    answer = change(key, {"name": "after", "dailyLimit": 2.5})
    assert answer.status_code == 200, answer.content
    changed = answer.json()
    assert (changed["name"], changed["dailyLimit"]) == ("after", 2.5)
    assert (changed["description"], changed["priority"], changed["monthlyLimit"]) == ("kept", 7, 100.0)
    assert changed["updatedAt"] == "2026-11-23T20:30:00Z"
    key.refresh_from_db()
    assert key.daily_limit_nano == 2_500_000_000
    assert KeyEvent.objects.get(kind="changed").message == "“after” was changed: dailyLimit, name."


def test_what_a_get_shows_can_be_edited_and_put_back(api, change, frozen):
    key = make_key(spent_day_nano=5, held_nano=5, total_requests=9, expires_at=NOW + timedelta(days=9))
    shown = api.get(path(key)).json()
    answer = change(key, shown | {"name": "edited"})
    assert answer.status_code == 200, answer.content
    assert answer.json() == shown | {"name": "edited"}


@pytest.mark.parametrize(
    "state",
    [
        {"expires_at": NOW - timedelta(days=1)},
        {"enabled": False},
        {"rejected_at": NOW, "last_error": "Incorrect API key provided"},
        {"spent_total_nano": 5_000_000_000, "total_limit_nano": 5_000_000_000},
        {"daily_limit_nano": 0, "monthly_limit_nano": 0, "total_limit_nano": 0},
        {"daily_limit_nano": 1},  # a billionth of a dollar
        {"expires_at": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)},  # accepted by earlier versions
        {"billing_group": "team", "workspace_id": "wrkspc_1", "provider": "anthropic"},
    ],
    ids=lambda state: next(iter(state)),
)
def test_a_key_in_any_state_can_be_put_back_as_it_is(api, change, frozen, state):
    key = make_key(**state)
    shown = api.get(path(key)).json()
    answer = change(key, shown)
    assert answer.status_code == 200, answer.content
    assert answer.json() == shown


@pytest.mark.parametrize("microsecond", [123456, 999])
@pytest.mark.parametrize("stored_before", [True, False], ids=["as earlier versions stored it", "as it is stored now"])
def test_an_expiry_finer_than_is_shown_can_be_put_back(api, change, frozen, microsecond, stored_before):
    expires = (NOW + timedelta(days=1)).replace(microsecond=microsecond)
    key = make_key()
    if stored_before:
        ApiKey.objects.filter(pk=key.pk).update(expires_at=expires)
    else:
        api.patch(path(key), {"expiresAt": expires.isoformat()})
    KeyEvent.objects.all().delete()
    shown = api.get(path(key)).json()
    assert change(key, shown).json() == shown
    assert not KeyEvent.objects.exists(), "nothing was changed"
    frozen.move_to(NOW + timedelta(days=2))
    shown = api.get(path(key)).json()
    answer = change(key, shown | {"name": "renamed"})
    assert (answer.status_code, answer.json()["name"]) == (200, "renamed"), answer.content
    assert answer.json()["expiresAt"] == shown["expiresAt"]


def test_nothing_changed_is_no_event(api, change, frozen):
    key = make_key()
    change(key, api.get(path(key)).json())
    assert not KeyEvent.objects.filter(kind="changed").exists()


def test_read_only_fields_are_ignored(change, frozen):
    key = make_key()
    answer = change(key, {"totalCost": 99, "status": "DISABLED", "isActive": True, "id": "key-1-1", "lastError": 5})
    assert answer.status_code == 200
    assert (answer.json()["totalCost"], answer.json()["status"], answer.json()["id"]) == (0.0, "ACTIVE", key.id)


def test_it_replaces_the_secret(change):
    key = make_key(rejected_at=NOW, last_error="Rejected by its provider: no.")
    Cooling.objects.create(scope=f"key:{key.id}", kind="exhausted", until=NOW + timedelta(days=3650))
    answer = change(key, {"apiKey": SECRET})
    assert answer.status_code == 200
    assert (answer.json()["maskedApiKey"], answer.json()["status"]) == (MASKED, "ACTIVE")
    assert (answer.json()["lastError"], answer.json()["coolingUntil"]) == ("", None)
    key.refresh_from_db()
    assert keyring.open_secret(key) == SECRET
    checks.shows_no_secret(answer)


def test_a_new_secret_has_no_test_result_of_the_old_one(api, change):
    key = make_key(last_test={"ok": False, "message": "User not found"}, last_test_at=NOW)
    assert change(key, {"apiKey": SECRET}).status_code == 200
    key.refresh_from_db()
    assert (key.last_test, key.last_test_at) == ({}, None)


def test_soft_mode_ends_what_the_last_refusal_left(api, change, frozen):
    key = make_key(refused_window="day", refused_day=NOW.date(), refused_need_nano=9, refused_room_nano=5)
    assert api.get(path(key)).json()["status"] == "LIMIT_REACHED"
    assert change(key, {"budgetMode": "soft"}).json()["status"] == "ACTIVE"
    assert api.get("/api/llm/keys/active").json()["id"] == key.id


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_secret_leaves_the_old_one(change, empty):
    key = make_key(secret=SECRET)
    assert change(key, {"apiKey": empty, "name": "other"}).status_code == 200
    key.refresh_from_db()
    assert keyring.open_secret(key) == SECRET


def test_it_refuses_the_secret_of_another_key(change):
    make_key(name="has it", secret=SECRET)
    key = make_key()
    answer = change(key, {"apiKey": SECRET, "name": "not taken over"})
    assert answer.status_code == 409
    assert "“has it”" in answer.json()["detail"]
    assert ApiKey.objects.get(pk=key.pk).name == key.name
    checks.shows_no_secret(answer)


def test_the_secret_of_an_environment_key_stays_in_the_environment(change, monkeypatch):
    monkeypatch.setenv("OPENROUTER_API_KEY", SECRET)
    (key,) = register_environment_keys(at=NOW)
    answer = change(key, {"apiKey": "sk-or-v1-another-secret-0123456789"})
    assert answer.status_code == 409
    assert "OPENROUTER_API_KEY" in answer.json()["detail"]
    assert change(key, {"dailyLimit": 1}).json()["dailyLimit"] == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dailyLimit", None), ("monthlyLimit", -1), ("totalLimit", "1e7"), ("name", ""), ("name", "x" * 101),
        ("provider", "openai"), ("expiresAt", "2020-01-01T00:00:00Z"), ("priority", "high"), ("apiKey", "short"),
        ("apiKey", "rfk_" + "a" * 40), ("unknown", 1), ("Name", "capital"), ("maskedapikey", "x"),
    ],
)  # fmt: skip
def test_it_names_a_bad_field_and_changes_nothing(change, frozen, field, value):
    key = make_key()
    answer = change(key, {"description": "never stored", field: value})
    assert answer.status_code == 400, answer.content
    assert list(answer.json()) == [field]
    key.refresh_from_db()
    assert key.description == ""


@pytest.mark.parametrize("number", ["7.0", "7.000", "0.7e1", "70e-1"])
def test_a_whole_number_may_be_written_with_a_point(change, number):
    answer = change(make_key(), f'{{"priority": {number}}}')
    assert (answer.status_code, answer.json().get("priority")) == (200, 7), answer.content


def test_an_expiry_can_be_taken_away(change, frozen):
    key = make_key(expires_at=NOW + timedelta(days=1))
    assert change(key, {"expiresAt": None}).json()["expiresAt"] is None


def test_it_refuses_malformed_bodies(api):
    key = make_key()
    checks.refuses_malformed_bodies(api.put, path(key))
    checks.refuses_malformed_bodies(api.patch, path(key))


def test_it_knows_no_other_key(api):
    checks.is_unknown(api.put("/api/llm/keys/key-0-0", {}))
    checks.is_unknown(api.patch("/api/llm/keys/key-0-0", {"name": "x"}))


@pytest.mark.parametrize("method", ["put", "patch"])
def test_it_needs_authentication(method):
    checks.needs_authentication(method, path(make_key()))


@pytest.mark.parametrize("method", ["put", "patch"])
def test_it_needs_the_permission_to_change(method):
    checks.needs_permission(method, path(make_key()), "change_apikey")
