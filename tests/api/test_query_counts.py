"""How often each operation asks the database: so often and no more, however many keys, rows, events and tokens."""

from __future__ import annotations

from datetime import timedelta

import pytest
import responses
from django.db import connection
from django.test.utils import CaptureQueriesContext

from llmkeys.models import AccessToken, ApiKey, Cooling, DailyUsage, KeyEvent, ModelAlias, ModelPrice
from tests.api.test_permission_table import ROUTES
from tests.helpers import NOW, make_key, make_token, make_usage, new_secret

pytestmark = pytest.mark.django_db

KEYS, KEY = "/api/llm/keys", "/api/llm/keys/{key}"
# Operation: route, method, path, body, the most statements. Two of each are the access token and its user.
OPERATIONS = [
    ("keys", "get", KEYS, None, 5),
    ("keys", "post", KEYS, {"provider": "openai", "name": "n", "apiKey": ""}, 16),
    ("statistics", "get", f"{KEYS}/statistics", None, 4),
    ("active", "get", f"{KEYS}/active", None, 12),
    ("key", "get", KEY, None, 5),
    ("key", "put", KEY, {"dailyLimit": 7}, 12),
    ("key", "patch", KEY, {"name": "other"}, 12),
    ("key", "delete", KEY, None, 14),
    ("set-default", "post", f"{KEY}/set-default", None, 14),
    ("toggle", "post", f"{KEY}/toggle", {"active": False}, 16),
    ("test", "post", f"{KEY}/test", None, 16),
    ("usage", "get", "/api/llm/usage?model=m1&success=true", None, 6),
    ("usage", "get", "/api/llm/usage?since=2026-11-20&key={key}", None, 8),
    ("summary", "get", "/api/llm/usage/summary?group_by=key", None, 12),
    ("void", "post", "/api/llm/usage/{usage}/void", None, 16),
    ("events", "get", "/api/llm/events", None, 3),
    ("tokens", "get", "/api/llm/tokens", None, 5),
    ("tokens", "post", "/api/llm/tokens", {"name": "t", "scopes": ["read"], "keyIds": []}, 18),
    ("current-token", "get", "/api/llm/tokens/current", None, 4),
    ("token", "get", "/api/llm/tokens/{token}", None, 5),
    ("token", "patch", "/api/llm/tokens/{token}", {"dailyLimit": 5, "expiresAt": "2027-01-01"}, 18),
    ("rotate-token", "post", "/api/llm/tokens/{token}/rotate", {"overlapSeconds": 60}, 14),
    ("token", "delete", "/api/llm/tokens/{token}", None, 12),
    ("prices", "get", "/api/llm/prices", None, 3),
    (
        "prices",
        "post",
        "/api/llm/prices",
        {"provider": "openai", "model": "", "inputUsdPerMtok": 1, "outputUsdPerMtok": 2, "serviceTier": "flex"},
        6,
    ),
    ("price", "get", "/api/llm/prices/{price}", None, 3),
    ("price", "put", "/api/llm/prices/{price}", {"inputUsdPerMtok": 3}, 7),
    ("price", "delete", "/api/llm/prices/{price}", None, 4),
    ("aliases", "get", "/api/llm/aliases", None, 3),
    ("aliases", "post", "/api/llm/aliases", {"alias": "", "models": ["m"]}, 6),
    ("alias", "get", "/api/llm/aliases/{alias}", None, 3),
    ("alias", "put", "/api/llm/aliases/{alias}", {"models": ["m2"]}, 7),
    ("alias", "delete", "/api/llm/aliases/{alias}", None, 4),
    ("metrics", "get", "/metrics", None, 4),
]


def name_of(operation):
    route, method, path, *_ = operation
    return f"{method} {route}" + ("?" if "?" in path else "")


@pytest.fixture(autouse=True)
def provider(frozen):
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get("https://openrouter.ai/api/v1/key", json={"data": {"limit": None}})
        yield


def grow(administrator, count):
    """Store so many more keys, rows, days, coolings, events and tokens."""
    for number in range(count):
        key = make_key()
        ApiKey.objects.filter(pk=key.pk).update(billing_group=key.id)
        make_usage(key, at=NOW - timedelta(minutes=count - number), model=f"m{number % 2}")
        for days in range(12):
            DailyUsage.objects.create(key=key, day=NOW.date() - timedelta(days=days), model="m1", requests=1)
        Cooling.objects.create(scope=f"group:openrouter:{key.id}", kind="exhausted", until=NOW + timedelta(hours=1))
        KeyEvent.objects.create(kind="cooled", key=key, message="rests", created_at=NOW)
        make_token(administrator, "read", name=f"t{number}", keyIds=[key.id])


def statements(api, method, path, body):
    """Ask for things of its own, so that the operation can be done a second time."""
    key = make_key(name="asked for")
    token = AccessToken.objects.order_by("-id").first()
    lost = make_usage(key, state="LOST", success=False, cost_source="estimated")
    price = ModelPrice.objects.create(
        provider="openai", model=key.id, input_usd_per_mtok=1, output_usd_per_mtok=2, valid_from=NOW
    )
    alias = ModelAlias.objects.create(alias=key.id, model_names=["m"])
    fresh = {"apiKey": new_secret("openai"), "model": f"new {key.id}", "alias": f"new {key.id}", "keyIds": [key.id]}
    body = {name: fresh.get(name, value) for name, value in body.items()} if body else body
    path = path.format(key=key.id, usage=lost.id, token=token.id, price=price.pk, alias=alias.pk)
    with CaptureQueriesContext(
        connection,
    ) as asked:
        answer = getattr(api, method)(path, body) if method != "get" else api.get(path)
    assert answer.status_code in (200, 201), answer.content
    return [query["sql"] for query in asked.captured_queries]


@pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)
def test_it_asks_as_little_with_many_keys(api, administrator, operation):
    _, method, path, body, most = operation
    grow(administrator, 2)
    statements(api, method, path, body)  # what is remembered from the first time on
    few = statements(api, method, path, body)
    grow(administrator, 25)
    statements(api, method, path, body)
    many = statements(api, method, path, body)
    assert len(many) <= len(few) <= most, (len(few), len(many), *many)


def test_every_operation_is_counted():
    counted = {(route, method) for route, method, *_ in OPERATIONS}
    routed = {
        ("metrics" if route.name == "metrics" else route.name, method)
        for route in ROUTES
        for method in route.callback.actions.keys() - {"head"}
    }
    assert counted == routed
