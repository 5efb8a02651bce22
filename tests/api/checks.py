"""What every address owes to strangers, to those with too little right, and to a wrong method."""

from __future__ import annotations

from typing import Any

from llmkeys.models import ApiKey, KeyEvent
from tests.helpers import JsonClient, make_token, make_user

SECRET = "sk-or-v1-12345678" + "n0b0dy-may-see-this-" * 2 + "abcd"
HIDDEN = "n0b0dy-may-see-this"
MASKED = "sk-or-v1-12345678...abcd"
METHODS = ("get", "post", "put", "patch", "delete", "options")


def needs_authentication(method: str, path: str) -> None:
    for client in (JsonClient(), JsonClient("rfk_unknown"), JsonClient("sk-or-v1-not-ours")):
        answer = getattr(client, method)(path)
        assert answer.status_code == 401, answer.content
        assert answer["WWW-Authenticate"] == "Bearer"
        assert list(answer.json()) == ["detail"]


def needs_permission(method: str, path: str, permission: str, *, suffix: str = "") -> None:
    """The scope alone is too little, and so is the permission alone."""
    scope, lesser = ("read", "gateway") if method == "get" else ("manage", "read")
    able, unable = make_user(f"able{suffix}", permission), make_user(f"unable{suffix}")
    for client in (JsonClient(make_token(able, lesser)), JsonClient(make_token(unable, scope)), _session(unable)):
        answer = getattr(client, method)(path)
        assert answer.status_code == 403, answer.content
        assert list(answer.json()) == ["detail"]
    for client in (JsonClient(make_token(able, scope)), _session(able)):
        assert getattr(client, method)(path).status_code not in (401, 403)


def _session(user: Any) -> JsonClient:
    client = JsonClient()
    client.force_login(user)
    return client


def refuses_other_methods(api: JsonClient, path: str, *allowed: str) -> None:
    for method in set(METHODS) - set(allowed):
        answer = getattr(api, method)(path)
        assert answer.status_code == 405, (method, answer.content)
        assert list(answer.json()) == ["detail"]


def refuses_malformed_bodies(method: Any, path: str) -> None:
    for body in ("{", "[]", '"text"', "null", '{"name": NaN}', '{"name": 1, "name": 1}', b"\xff{}"):
        answer = method(path, body)
        assert answer.status_code == 400, (body, answer.content)
        assert all(isinstance(words, list) and words for words in answer.json().values())


def is_unknown(answer: Any) -> None:
    assert answer.status_code == 404
    assert list(answer.json()) == ["detail"]


def shows_no_secret(*answers: Any) -> None:
    """Neither the answers nor anything stored in words has the secret."""
    for answer in answers:
        assert HIDDEN not in answer.content.decode()
    assert not KeyEvent.objects.filter(message__contains=HIDDEN).exists()
    assert not ApiKey.objects.filter(last_error__contains=HIDDEN).exists()
