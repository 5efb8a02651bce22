"""The whole table of rights: every route and method against everybody who may come."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from tests.api.test_permission_table import ROUTES
from tests.helpers import JSON, make_key, make_token, make_usage, make_user
from tests.serving import ROOT

METHODS = ("get", "post", "put", "patch", "delete")
# Route and method: the scope that a token needs, and the permission that its user, or that of a session, needs.
TABLE = {
    ("keys", "get"): ("read", "view_apikey"),
    ("keys", "post"): ("manage", "add_apikey"),
    ("statistics", "get"): ("read", "view_apikey"),
    ("active", "get"): ("read", "view_apikey"),
    ("key", "get"): ("read", "view_apikey"),
    ("key", "put"): ("manage", "change_apikey"),
    ("key", "patch"): ("manage", "change_apikey"),
    ("key", "delete"): ("manage", "delete_apikey"),
    ("set-default", "post"): ("manage", "change_apikey"),
    ("toggle", "post"): ("manage", "change_apikey"),
    ("test", "post"): ("manage", "change_apikey"),
    ("usage", "get"): ("read", "view_usagerecord"),
    ("summary", "get"): ("read", "view_usagerecord"),
    ("void", "post"): ("manage", "change_usagerecord"),
    ("events", "get"): ("read", "view_keyevent"),
    ("tokens", "get"): ("read", "view_accesstoken"),
    ("tokens", "post"): ("manage", "add_accesstoken"),
    ("token", "get"): ("read", "view_accesstoken"),
    ("token", "patch"): ("manage", "change_accesstoken"),
    ("token", "delete"): ("manage", "delete_accesstoken"),
    ("rotate-token", "post"): ("manage", "change_accesstoken"),
    ("current-token", "get"): ("any", "none"),
    ("prices", "get"): ("read", "view_modelprice"),
    ("prices", "post"): ("manage", "add_modelprice"),
    ("price", "get"): ("read", "view_modelprice"),
    ("price", "put"): ("manage", "change_modelprice"),
    ("price", "delete"): ("manage", "delete_modelprice"),
    ("aliases", "get"): ("read", "view_modelalias"),
    ("aliases", "post"): ("manage", "add_modelalias"),
    ("alias", "get"): ("read", "view_modelalias"),
    ("alias", "put"): ("manage", "change_modelalias"),
    ("alias", "delete"): ("manage", "delete_modelalias"),
    ("metrics", "get"): ("read", "view_usagerecord"),
}
EVERY = sorted({permission for _, permission in TABLE.values()} - {"none"})
ROLES = {
    # name: scopes of the token (None: a session; empty: a stranger), and the permissions of its user
    "stranger": ((), None),
    "gateway token": (("gateway",), "every"),
    "read token": (("read",), "every"),
    "manage token": (("manage",), "every"),
    "manage token of a user without rights": (("manage",), "none"),
    "manage token of a user with this right alone": (("manage",), "this"),
    "manage token of a user with all but this right": (("manage",), "other"),
    "session with this right alone": (None, "this"),
    "session with all but this right": (None, "other"),
    "session without rights": (None, "none"),
}
CELLS = [(route, method, role) for route in ROUTES for method in METHODS for role in ROLES]


def address(route) -> str:
    """Return an address of the route whose key, row or token is not there: a right is asked before."""
    path = "/metrics" if route.name == "metrics" else f"/api/llm/{route.pattern}"
    return re.sub(r"<(\w+):\w+>", lambda found: "key-0-0" if found[1] == "str" else "987654321", path)


def client_of(scopes, rights: str | None, needed: str) -> Client:
    if rights is None:
        return Client()
    permissions = {"every": EVERY, "none": [], "this": [needed], "other": sorted({*EVERY} - {needed})}[rights]
    user = make_user("somebody", *(permission for permission in permissions if permission != "none"))
    if scopes is None:
        client = Client()
        client.force_login(user)
        return client
    return Client(headers={"Authorization": f"Bearer {make_token(user, *scopes)}"})


def expected(route: str, method: str, scopes, rights: str | None) -> str:
    if rights is None:
        return "401"
    if (route, method) not in TABLE:
        return "405"
    scope, permission = TABLE[route, method]
    if permission == "none":
        return "let in"
    has_scope = scopes is None or scope in scopes or "manage" in scopes
    return "let in" if has_scope and rights in ("every", "this") else "403"


@pytest.mark.django_db
@pytest.mark.parametrize(("route", "method", "role"), CELLS, ids=lambda part: getattr(part, "name", part))
def test_it_lets_in_whom_the_table_names(route, method, role):
    scopes, rights = ROLES[role]
    _, needed = TABLE.get((route.name, method), ("", EVERY[0]))
    answer = getattr(client_of(scopes, rights, needed), method)(address(route), b"", content_type=JSON)
    told = {401: "401", 403: "403", 405: "405"}.get(answer.status_code, "let in")
    assert told == expected(route.name, method, scopes, rights), answer.content


def test_the_table_is_complete():
    """A new route, or a method of one, fails here until somebody says who may use it."""
    routed = {(route.name, method) for route in ROUTES for method in route.callback.actions.keys() - {"head"}}
    assert set(TABLE) == routed


@pytest.mark.django_db
def test_a_session_needs_the_csrf_token():
    user = make_user("somebody", "change_apikey")
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    key = make_key()
    assert client.post(f"/api/llm/keys/{key.id}/toggle", b"", content_type=JSON).status_code == 403


@pytest.mark.django_db
@pytest.mark.parametrize("method", METHODS)
def test_no_right_to_keys_opens_what_hangs_on_them(method):
    """Rights are asked for each object: keys do not open usage rows, nor these the tokens."""
    user = make_user("keys alone", "view_apikey", "add_apikey", "change_apikey", "delete_apikey")
    client = Client(headers={"Authorization": f"Bearer {make_token(user, 'manage')}"})
    row = make_usage(make_key(), state="LOST")
    for path in ("usage", "usage/summary", f"usage/{row.id}/void", "events", "tokens", "tokens/1"):
        answer = getattr(client, method)(f"/api/llm/{path}", b"", content_type=JSON)
        assert answer.status_code in (403, 405), (path, answer.content)


def test_the_guide_shows_this_table():
    shown = set(
        re.findall(r"^\| `(\w+)` \| `(\S+)` \| `(\w+)` \| `(\w+)` \|$", (ROOT / "docs/api.md").read_text(), re.M)
    )
    names = {route.name: route for route in ROUTES}
    real = {
        (method.upper(), re.sub(r"<\w+:\w+>", "{id}", _path(names[route])), scope, permission)
        for (route, method), (scope, permission) in TABLE.items()
    }
    assert shown == real


def _path(route) -> str:
    return "/metrics" if route.name == "metrics" else f"/api/llm/{route.pattern}"
