"""POST /api/llm/keys"""

from __future__ import annotations

import json

import pytest

from llmkeys.models import ApiKey, KeyEvent
from llmkeys.vault import keyring
from tests.api import checks
from tests.api.checks import MASKED, SECRET
from tests.helpers import make_key, new_secret

PATH = "/api/llm/keys"
BODY = {"provider": "openrouter", "name": "Production", "apiKey": SECRET}

pytestmark = pytest.mark.django_db


def fault(answer, field):
    assert answer.status_code == 400, answer.content
    assert list(answer.json()) == [field], answer.content
    assert ApiKey.objects.count() == 0
    return answer.json()[field][0]


def test_it_works(api, frozen):
    answer = api.post(PATH, BODY)
    assert answer.status_code == 201, answer.content
    key = answer.json()
    assert (key["name"], key["maskedApiKey"], key["status"], key["isDefault"]) == ("Production", MASKED, "ACTIVE", True)
    assert (key["dailyLimit"], key["monthlyLimit"], key["totalLimit"]) == (10.0, 100.0, 1000.0)
    stored = ApiKey.objects.get(pk=key["id"])
    assert SECRET.encode() not in bytes(stored.secret)
    assert keyring.open_secret(stored) == SECRET
    checks.shows_no_secret(answer, api.get(PATH))


def test_it_tells_who_added_it(api, administrator):
    api.post(PATH, BODY)
    event = KeyEvent.objects.get(kind="added", key__isnull=False)
    assert event.actor.startswith("admin (token ")


def test_it_takes_every_field(api, frozen):
    more = {
        "description": "for the shop", "dailyLimit": 0, "monthlyLimit": 0.000000001, "totalLimit": 1_000_000,
        "expiresAt": "2027-01-31T01:00:00+01:00", "priority": -5, "billingGroup": "team", "workspaceId": "wrkspc_1",
        "isDefault": True,
    }  # fmt: skip
    make_key()
    key = api.post(PATH, BODY | more).json()
    assert key["expiresAt"] == "2027-01-31T00:00:00Z"
    assert (key["remainingDailyBudget"], key["monthlyLimit"], key["totalLimit"]) == (None, 1e-09, 1_000_000.0)
    assert (key["priority"], key["billingGroup"], key["workspaceId"]) == (-5, "team", "wrkspc_1")
    assert key["isDefault"] is True


def test_only_the_first_becomes_default_by_itself(api):
    assert [api.post(PATH, BODY | {"apiKey": new_secret()}).json()["isDefault"] for _ in range(2)] == [True, False]


def test_there_is_one_default_at_most(api):
    for _ in range(3):
        api.post(PATH, BODY | {"apiKey": new_secret(), "isDefault": True})
    assert [key["isDefault"] for key in api.get(PATH).json()] == [True, False, False]


def test_it_refuses_a_secret_twice(api):
    api.post(PATH, BODY)
    answer = api.post(PATH, BODY | {"name": "Again"})
    assert answer.status_code == 409
    assert "“Production”" in answer.json()["detail"]
    assert ApiKey.objects.count() == 1
    checks.shows_no_secret(answer)


def test_the_secret_of_a_deleted_key_may_come_back(api):
    api.delete(f"{PATH}/{api.post(PATH, BODY).json()['id']}")
    assert api.post(PATH, BODY).status_code == 201


def test_two_providers_may_share_a_secret(api):
    body = BODY | {"apiKey": "a-secret-of-no-known-look"}
    assert api.post(PATH, body).status_code == 201
    assert api.post(PATH, body | {"provider": "openai"}).status_code == 201


@pytest.mark.parametrize("field", ["provider", "name", "apiKey"])
def test_it_names_what_is_missing(api, field):
    fault(api.post(PATH, {name: value for name, value in BODY.items() if name != field}), field)


def test_it_names_all_that_is_missing(api):
    for body in (b"", {}):
        answer = api.post(PATH, body)
        assert answer.status_code == 400
        assert set(answer.json()) == {"provider", "name", "apiKey"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("provider", "mistral"), ("provider", 1), ("provider", ["openai"]), ("provider", None),
        ("name", ""), ("name", "   "), ("name", "x" * 65_536), ("name", "bell\u0007"), ("name", 7), ("name", None),
        ("description", "x" * 501), ("description", None),
        ("apiKey", ""), ("apiKey", None), ("apiKey", "short"), ("apiKey", "has a space in it"), ("apiKey", "x" * 501),
        ("apiKey", "line\nbreak-in-the-key"), ("apiKey", "schlüssel-ohne-ascii"), ("apiKey", "rfk_" + "a" * 40),
        ("dailyLimit", -1), ("dailyLimit", 1_000_000.01), ("dailyLimit", None), ("dailyLimit", "ten"),
        ("dailyLimit", True), ("dailyLimit", 1e-10), ("dailyLimit", []), ("monthlyLimit", -0.01),
        ("totalLimit", 10**400),
        ("expiresAt", "2020-01-01T00:00:00Z"), ("expiresAt", "tomorrow"), ("expiresAt", 5),
        ("expiresAt", "2027-02-30T00:00:00Z"), ("expiresAt", "9999-12-31T23:59:59-14:00"),
        ("expiresAt", "0001-01-01T00:00:00+14:00"), ("expiresAt", "9999-12-31T23:59:59Z"),
        ("expiresAt", "2200-01-01T00:00:01Z"), ("expiresAt", "2200-06-01"),
        ("priority", 1.5), ("priority", True), ("priority", 10**30), ("priority", None),
        ("workspaceId", "a b"), ("workspaceId", "ü"), ("billingGroup", "x" * 101),
        ("isDefault", 1), ("isDefault", None),
        ("colour", "red"), ("api_key", SECRET),
    ],
)  # fmt: skip
def test_it_names_a_bad_field(api, frozen, field, value):
    answer = api.post(PATH, BODY | {field: value})
    assert fault(answer, field)
    checks.shows_no_secret(answer)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e99999999999999999999"])
@pytest.mark.parametrize("field", ["dailyLimit", "priority", "totalCost"])
def test_it_refuses_what_is_no_number(api, field, number):
    fault(api.post(PATH, json.dumps(BODY)[:-1] + f', "{field}": {number}}}'), field)


@pytest.mark.parametrize("text", [r"a\u0000b", r"\ud83d", r"\udc00 turned round"])
def test_it_refuses_texts_that_cannot_be_stored(api, text):
    fault(api.post(PATH, f'{{"provider": "openrouter", "apiKey": "{SECRET}", "name": "{text}"}}'), "name")


@pytest.mark.parametrize(
    "name",
    ["🔑 Schlüssel", "مفتاح", "👩‍💻 laptop", "\"double\" 'single'", "<script>alert(1)</script>", "é" * 100],
)
def test_it_keeps_names_as_they_are(api, name):
    answer = api.post(PATH, BODY | {"name": name})
    assert answer.status_code == 201, answer.content
    assert answer.json()["name"] == name
    assert api.get(f"{PATH}/{answer.json()['id']}").json()["name"] == name


def test_it_takes_limits_exactly(api):
    answer = api.post(PATH, json.dumps(BODY)[:-1] + ', "dailyLimit": 123456.123456789}')
    assert ApiKey.objects.get(pk=answer.json()["id"]).daily_limit_nano == 123_456_123_456_789


def test_it_refuses_malformed_bodies(api):
    checks.refuses_malformed_bodies(api.post, PATH)


def test_it_needs_authentication():
    checks.needs_authentication("post", PATH)


def test_it_needs_the_permission_to_add():
    checks.needs_permission("post", PATH, "add_apikey")


def test_a_wrong_encryption_key_is_told(api, settings):
    make_key()
    settings.REFACTAI_ENCRYPTION_KEYS = ["another key than before"]
    answer = api.post(PATH, BODY)
    assert answer.status_code == 503
    assert answer.json()["code"] == "sealed"
    assert ApiKey.objects.count() == 1
