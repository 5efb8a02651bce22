"""/api/llm/tokens, /api/llm/tokens/{id}, …/rotate and …/current"""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmkeys.models import AccessToken
from llmkeys.vault.crypto import token_digest
from tests.api import checks
from tests.helpers import NOW, JsonClient, make_key, make_token, make_user

PATH = "/api/llm/tokens"

pytestmark = pytest.mark.django_db


def path(number):
    return f"{PATH}/{number}"


def test_it_makes_a_token_and_shows_it_once(api, frozen):
    key = make_key()
    body = {"name": "shop", "scopes": ["gateway", "read"], "expiresAt": "2026-12-01T00:00:00Z", "keyIds": [key.id]}
    answer = api.post(PATH, body)
    assert answer.status_code == 201, answer.content
    made = answer.json()
    text = made.pop("token")
    assert text.startswith("rfk_")
    assert made == {
        "id": made["id"], "name": "shop", "user": "admin", "scopes": ["gateway", "read"], "keyIds": [key.id],
        "models": None, "requestsPerMinute": 0, "status": "ACTIVE", "dailyLimit": 0.0, "monthlyLimit": 0.0,
        "totalLimit": 0.0, "currentDailyCost": 0.0, "currentMonthlyCost": 0.0, "totalCost": 0.0, "reservedCost": 0.0,
        "remainingDailyBudget": None, "remainingMonthlyBudget": None, "remainingTotalBudget": None,
        "totalRequests": 0, "successfulRequests": 0, "failedRequests": 0, "successRate": 0.0,
        "createdAt": "2026-11-23T20:30:00Z", "lastUsed": None, "expiresAt": "2026-12-01T00:00:00Z",
        "budgetMode": None, "projectedMonthlyCost": None, "revokedAt": None,
    }  # fmt: skip
    listed = api.get(PATH)
    assert made in listed.json()
    assert text not in listed.content.decode()
    assert token_digest(text) not in listed.content.decode()
    assert JsonClient(text).get("/api/llm/keys").status_code == 200


def test_it_is_for_the_gateway_unless_told_otherwise(api):
    assert api.post(PATH, {"name": "plain"}).json()["scopes"] == ["gateway"]


def test_manage_implies_the_others(api):
    assert api.post(PATH, {"name": "all", "scopes": ["manage"]}).json()["scopes"] == ["gateway", "read", "manage"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("name", "  "), ("name", "x" * 101), ("name", "a\nb"), ("name", 5), ("name", None),
        ("scopes", []), ("scopes", ["root"]), ("scopes", "read"), ("scopes", [["read"]]), ("scopes", None),
        ("expiresAt", "2020-01-01"), ("expiresAt", "soon"), ("expiresAt", 7),
        ("keyIds", []), ("keyIds", ["key-0-0"]), ("keyIds", [1]), ("keyIds", "key-0-0"), ("keyIds", ["x"] * 1001),
        ("token", "rfk_mine"), ("user", "somebody"),
    ],
)  # fmt: skip
def test_it_names_a_bad_field(api, frozen, field, value):
    before = AccessToken.objects.count()
    answer = api.post(PATH, {"name": "shop"} | {field: value})
    assert answer.status_code == 400, answer.content
    assert list(answer.json()) == [field]
    assert AccessToken.objects.count() == before


def test_a_token_limited_to_keys_makes_no_wider_one(administrator, frozen):
    mine, other = make_key(), make_key()
    client = JsonClient(make_token(administrator, "manage", keyIds=[mine.id]))
    for key_ids in (None, [other.id], [mine.id, other.id]):
        assert client.post(PATH, {"name": "wider", "keyIds": key_ids}).status_code == 403
    assert client.post(PATH, {"name": "as narrow", "keyIds": [mine.id]}).status_code == 201


def test_it_revokes(api, administrator, frozen):
    text = make_token(administrator, "read")
    token = AccessToken.objects.get(digest=token_digest(text))
    for _ in range(2):
        answer = api.delete(path(token.pk))
        assert answer.status_code == 200
        assert answer.json() == {"success": True, "message": "Token revoked"}
    assert JsonClient(text).get("/api/llm/keys").status_code == 401
    revoked = {listed["id"]: listed["revokedAt"] for listed in api.get(PATH).json()}
    assert revoked.pop(token.pk) == "2026-11-23T20:30:00Z"
    assert list(revoked.values()) == [None]


@pytest.mark.parametrize("number", ["0", "9" * 30, "x"])
def test_it_knows_no_other_token(api, number):
    checks.is_unknown(api.delete(path(number)))


def test_it_lists_with_a_constant_number_of_queries(api, administrator, django_assert_num_queries, frozen):
    keys = [make_key().id for _ in range(3)]
    for _ in range(20):
        make_token(administrator, "read", keyIds=keys)
    api.get(PATH)
    with django_assert_num_queries(5):  # the token, its user, the tokens, their keys, the last days' costs
        assert len(api.get(PATH).json()) == 21


def test_one_sees_and_revokes_ones_own_and_an_administrator_every_one(api, administrator, frozen):
    """The page shows the same: `tests/pages/test_tokens.py`."""
    rights = ("view_accesstoken", "delete_accesstoken")
    person, colleague = make_user("person", *rights), make_user("colleague", *rights)
    client = JsonClient(make_token(person, "manage"))
    make_token(colleague, "gateway")
    mine, theirs = AccessToken.objects.get(user=person), AccessToken.objects.get(user=colleague)

    assert [token["user"] for token in client.get(PATH).json()] == ["person"]
    checks.is_unknown(client.delete(path(theirs.pk)))
    theirs.refresh_from_db()
    assert theirs.revoked_at is None

    assert {token["user"] for token in api.get(PATH).json()} == {"admin", "person", "colleague"}
    assert api.delete(path(theirs.pk)).status_code == 200
    assert client.delete(path(mine.pk)).status_code == 200


def test_it_refuses_malformed_bodies(api):
    checks.refuses_malformed_bodies(api.post, PATH)


@pytest.mark.parametrize(("method", "address"), [("get", PATH), ("post", PATH), ("delete", path(1))])
def test_it_needs_authentication(method, address):
    checks.needs_authentication(method, address)


@pytest.mark.parametrize(
    ("method", "address", "permission"),
    [
        ("get", PATH, "view_accesstoken"),
        ("post", PATH, "add_accesstoken"),
        ("delete", path(0), "delete_accesstoken"),
    ],
)
def test_it_needs_the_permission(method, address, permission):
    checks.needs_permission(method, address, permission)


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get", "post")
    number = AccessToken.objects.get().pk
    checks.refuses_other_methods(api, path(number), "get", "patch", "delete")
    checks.refuses_other_methods(api, path(number) + "/rotate", "post")
    checks.refuses_other_methods(api, path("current"), "get")


def test_an_expired_token_ends(administrator, frozen):
    client = JsonClient(make_token(administrator, "read", expiresAt=NOW + timedelta(seconds=1)))
    assert client.get(PATH).status_code == 200
    frozen.move_to(NOW + timedelta(seconds=1))
    assert client.get(PATH).status_code == 401
