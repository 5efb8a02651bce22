"""GET /api/llm/keys/{id}"""

from __future__ import annotations

import pytest

from tests.api import checks
from tests.api.checks import SECRET
from tests.helpers import NOW, make_key

pytestmark = pytest.mark.django_db


def path(key):
    return f"/api/llm/keys/{key.id}"


def test_it_works(api, frozen):
    make_key(name="other")
    key = make_key(name="wanted", secret=SECRET)
    answer = api.get(path(key))
    assert answer.status_code == 200
    assert answer.json() == api.get("/api/llm/keys").json()[1]
    assert (answer.json()["id"], answer.json()["name"]) == (key.id, "wanted")
    checks.shows_no_secret(answer)


RATE_LIMIT = {"last_error": "Rate limit for openai/gpt-4o-mini: 429 Too Many Requests."}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "Switched off manually."),
        (RATE_LIMIT, "Switched off manually."),
        ({"rejected_at": NOW, "last_error": "User not found."}, "User not found."),
        ({"rejected_at": NOW}, "Switched off manually."),
        ({"secret_missing": True, "last_error": "OPENAI_API_KEY is not set."}, "OPENAI_API_KEY is not set."),
    ],
)
def test_it_tells_why_a_key_is_off(api, columns, words):
    key = make_key(enabled=False, **columns)
    shown = api.get(path(key)).json()
    assert (shown["status"], shown["lastError"]) == ("DISABLED", words)


def test_a_key_that_is_switched_on_again_shows_its_last_error_again(api):
    key = make_key(**RATE_LIMIT)
    api.post(f"{path(key)}/toggle", {"active": False})
    assert api.get(path(key)).json()["lastError"] == "Switched off manually."
    api.post(f"{path(key)}/toggle", {"active": True})
    assert api.get(path(key)).json()["lastError"] == RATE_LIMIT["last_error"]


@pytest.mark.parametrize("key_id", ["key-0-0", "%00", "a%00b", "%ED%A0%80", "x" * 5000, "%25", "..%2f", "🔑"])
def test_it_knows_no_other_key(api, key_id):
    make_key()
    checks.is_unknown(api.get(f"/api/llm/keys/{key_id}"))


def test_a_deleted_key_is_gone(api):
    key = make_key()
    assert api.delete(path(key)).status_code == 200
    checks.is_unknown(api.get(path(key)))


def test_it_needs_authentication():
    checks.needs_authentication("get", path(make_key()))


def test_it_needs_the_permission_to_view():
    checks.needs_permission("get", path(make_key()), "view_apikey")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, path(make_key()), "get", "put", "patch", "delete")
