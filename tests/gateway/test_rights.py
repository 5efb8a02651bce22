"""The whole table of rights at the gateway: every address and method against everybody who may come."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from llmkeys.gateway.app import _router
from llmkeys.models import AccessToken
from llmkeys.tokens.making import change_token, revoke_token
from tests.gateway.door import OPENAI, OPENROUTER, Program, ask, completion, error_of, only_row
from tests.helpers import NOW, make_account, make_key, make_user

METHODS = ("get", "post", "put", "patch", "delete")
SENDS, LISTS = "post", "get"
# Every address, and the one method that it takes (HEAD beside GET): to send requests, or to list models.
TABLE = {
    "/v1/chat/completions": SENDS,
    "/v1/responses": SENDS,
    "/v1/embeddings": SENDS,
    "/v1/messages": SENDS,
    "/v1/messages/count_tokens": SENDS,
    **{
        f"/{version}/models/{{model:path}}:{action}": SENDS
        for version in ("v1", "v1beta")
        for action in (
            "generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents",
        )
    },
    "/v1/models": LISTS,
    "/v1/models/{model:path}": LISTS,
    "/v1beta/models": LISTS,
    "/v1beta/models/{model:path}": LISTS,
}  # fmt: skip
# name: scopes of the token (None: none comes), the permissions of its user, and what is told
ROLES = {
    "stranger": (None, (), 401),
    "read token": (("read",), ("use_gateway", "view_apikey"), 403),
    "gateway token of a user who may send": (("gateway",), ("use_gateway",), 0),
    "gateway token of a user who may not": (("gateway",), ("view_apikey", "change_apikey"), 403),
    "manage token of a user who may send": (("manage",), ("use_gateway",), 0),
    "manage token of a user who may not": (("manage",), ("change_apikey", "add_accesstoken"), 403),
    "gateway token of an administrator": (("gateway",), "administrator", 0),
}


def door_of(scopes, rights):
    if scopes is None:
        return Program()
    is_root = rights == "administrator"
    user = make_user("somebody", *(() if is_root else rights), is_superuser=is_root)
    return Program(make_account(user, *scopes)[1])


def told(answer):
    return {401: 401, 403: 403, 405: 405}.get(answer.status_code, 0)


@pytest.mark.parametrize("role", ROLES)
def test_it_lets_in_whom_the_table_names(role):
    """No key is stored: whoever is let in hears of that, or of an empty list."""
    scopes, rights, refused = ROLES[role]
    door = door_of(scopes, rights)
    for path, allowed in TABLE.items():
        address = path.replace("{model:path}", "gemini-3.8-flash")
        for method in METHODS:
            answer = getattr(door, method)(address, *([] if method == "get" else ["{}"]))
            expected = refused if method == allowed else 405
            assert told(answer) == expected, (method, address, answer.status_code, answer.content)
            assert answer.status_code < 500 or answer.json()["error"], answer.content


def test_the_table_is_complete():
    """A new address fails here until somebody says who may use it."""
    routed = {route.path: {method.lower() for method in route.endpoint.methods} - {"head"} for route in _router.routes}
    assert routed == {path: {method} for path, method in TABLE.items()}


def contractor(keys, **fields):
    person = make_user("contractor", "use_gateway")
    limits = {"models": ["openai/gpt-6.1-terra", "house-model"], "keyIds": [keys[0].id], **fields}
    return make_account(person, name="contractor", **limits)


def test_a_contractor_has_one_key_and_two_models(provider):
    """And never hears of more than that: in lists, refusals or answers."""
    keys = [make_key(name="Theirs"), make_key(name="Others'", provider="openai")]
    door = Program(contractor(keys)[1])
    provider.post(OPENROUTER, json=completion())
    provider.get("https://openrouter.ai/api/v1/models", json={"data": [
        {"id": name, "pricing": {}} for name in ("openai/gpt-6.1-terra", "house-model", "openai/gpt-6-luna")
    ]})  # fmt: skip
    assert ask(door).status_code == 200
    assert only_row().key_id == keys[0].id
    assert [entry["id"] for entry in door.get("/v1/models").json()["data"]] == ["openai/gpt-6.1-terra", "house-model"]
    error = error_of(ask(door, model="openai/gpt-6-luna"))
    assert error["code"] == "model_not_allowed" and "Others" not in error["message"]
    keys[0].enabled = False
    keys[0].save()
    error = error_of(ask(door))
    assert error["code"] == "no_key_available" and "of 1 stored" in error["message"]


def test_what_an_administrator_changes_counts_at_the_next_request(provider, frozen):
    keys = [make_key(), make_key(provider="openai")]
    token, text = contractor(keys)
    door = Program(text)
    provider.post(OPENROUTER, json=completion())
    provider.post(OPENAI, json=completion())
    assert ask(door).status_code == 200
    steps = [
        ({"models": ["meta/*"]}, 403, "model_not_allowed"),
        ({"models": None, "keyIds": [keys[1].id]}, 200, ""),
        ({"scopes": ["read"]}, 403, "missing_scope"),
        ({"scopes": ["gateway"], "totalLimit": 0.000001}, 400, "request_exceeds_budget"),
        ({"totalLimit": 0, "requestsPerMinute": 1}, 429, "too_many_requests"),
        ({"requestsPerMinute": 0, "expiresAt": (NOW + timedelta(seconds=1)).isoformat()}, 200, ""),
    ]
    for values, status, code in steps:
        change_token(AccessToken.objects.select_related("user").get(pk=token.pk), values=values, at=NOW)
        answer = ask(door)
        assert (answer.status_code, "" if status == 200 else error_of(answer)["code"]) == (status, code), values
    revoke_token(token, at=NOW)
    assert error_of(ask(door))["code"] == "invalid_token"
    assert json.loads(ask(door).content)["error"]["message"].startswith("Invalid or missing access token")
