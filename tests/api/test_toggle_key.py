"""POST /api/llm/keys/{id}/toggle"""

from __future__ import annotations

import pytest

from tests.api import checks
from tests.helpers import NOW, make_key

pytestmark = pytest.mark.django_db


def path(key):
    return f"/api/llm/keys/{key.id}/toggle"


def status(api, key):
    return api.get(f"/api/llm/keys/{key.id}").json()["status"]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("active", [True, False])
def test_it_works(api, before, active):
    key = make_key(enabled=before)
    answer = api.post(path(key), {"active": active})
    assert answer.status_code == 200
    assert answer.json() == {"success": True, "active": active}
    assert status(api, key) == ("ACTIVE" if active else "DISABLED")


@pytest.mark.parametrize("body", [b"", {}])
def test_it_flips_without_active(api, body):
    key = make_key()
    assert [api.post(path(key), body).json()["active"] for _ in range(3)] == [False, True, False]


def test_it_flips_without_a_body_of_any_type(api):
    """`curl -X POST -d ''` says that it sends a form."""
    key = make_key()
    for content_type in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"):
        answers = [api.post(path(key), CONTENT_TYPE=content_type).json() for _ in range(2)]
        assert answers == [{"success": True, "active": False}, {"success": True, "active": True}]


def test_it_hands_the_default_on(api):
    default, following = make_key(), make_key()
    api.post(path(default), {"active": False})
    assert api.get(f"/api/llm/keys/{following.id}").json()["isDefault"] is True


def test_it_never_clears_a_rejection(api):
    key = make_key(rejected_at=NOW, enabled=False)
    assert api.post(path(key), {"active": True}).json() == {"success": True, "active": True}
    assert status(api, key) == "DISABLED"


@pytest.mark.parametrize("body", [{"active": "yes"}, {"active": None}, {"active": 1}, {"activ": True}])
def test_it_names_a_bad_field(api, body):
    key = make_key()
    answer = api.post(path(key), body)
    assert answer.status_code == 400
    assert list(answer.json()) == list(body)
    assert status(api, key) == "ACTIVE"


def test_it_refuses_malformed_bodies(api):
    checks.refuses_malformed_bodies(api.post, path(make_key()))


def test_it_refuses_a_form(api):
    answer = api.post(path(make_key()), "active=true", content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 415
    assert list(answer.json()) == ["detail"]


def test_it_knows_no_other_key(api):
    checks.is_unknown(api.post("/api/llm/keys/key-0-0/toggle"))


def test_it_needs_authentication():
    checks.needs_authentication("post", path(make_key()))


def test_it_needs_the_permission_to_change():
    checks.needs_permission("post", path(make_key()), "change_apikey")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, path(make_key()), "post")
