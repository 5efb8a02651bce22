"""Whatever is sent, the answer is one of those documented and never a server error."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkeys.keys.fields import READ_ONLY, WRITABLE
from tests.helpers import make_key, new_secret

PATH = "/api/llm/keys"
FIELDS = [*WRITABLE, *sorted(READ_ONLY), "provider", "apiKey", "isDefault", "active", "scopes", "keyIds", "reason"]

FILTERS = [
    "provider",
    "status",
    "key",
    "model",
    "success",
    "state",
    "token",
    "since",
    "until",
    "cursor",
    "format",
    "kind",
]

texts = st.text(st.characters(), max_size=20)  # halves of surrogate pairs and NUL included
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | texts
    | st.datetimes(timezones=st.timezones() | st.none()).map(lambda when: when.isoformat())
    | st.sampled_from(["openrouter", "anthropic", "gateway", "manage", 10**400, -0.0, 1e-320, "1e999", "sk-or-v1-abc"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
bodies = st.dictionaries(st.sampled_from(FIELDS) | texts, values, max_size=6)
quick = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])

pytestmark = pytest.mark.django_db


def encoded(body):
    return json.dumps(body, ensure_ascii=True)


def is_in_order(answer, *statuses):
    assert answer.status_code in statuses, answer.content
    document = answer.json()
    if answer.status_code == 400:
        assert all(isinstance(words, list) and all(map(str, words)) for words in document.values())


@quick
@given(body=bodies)
def test_a_new_key(api, body):
    is_in_order(api.post(PATH, encoded(body)), 201, 400, 409)


@quick
@given(body=bodies)
def test_a_new_key_that_is_nearly_right(api, body):
    right = {"provider": "openrouter", "name": "n", "apiKey": new_secret()}
    is_in_order(api.post(PATH, encoded(right | body)), 201, 400, 409)


@quick
@given(body=bodies)
def test_a_changed_key(api, body):
    key = make_key()
    is_in_order(api.put(f"{PATH}/{key.id}", encoded(body)), 200, 400, 409)
    assert api.get(f"{PATH}/{key.id}").status_code == 200


@quick
@given(body=bodies)
def test_a_new_token(api, body):
    is_in_order(api.post("/api/llm/tokens", encoded({"name": "n"} | body)), 201, 400)


@quick
@given(raw=st.binary(max_size=60) | values.map(lambda value: encoded(value).encode()))
def test_any_bytes(api, raw):
    is_in_order(api.post(PATH, raw), 201, 400, 409)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [100, 990, 5_000, 100_000])
def test_a_deep_body(api, opening, depth):
    closing = {"[": "]", '{"a":': "}", '[{"a":': "}]"}[opening]
    is_in_order(api.post(PATH, opening * depth + "1" + closing * depth), 400, 413)
    is_in_order(api.post(PATH, f'{{"totalCost": {opening * depth}1{closing * depth}}}'), 400, 413)


@quick
@given(query=st.dictionaries(st.sampled_from(FILTERS), texts.filter(str.isascii), max_size=4))
def test_any_filter(api, query):
    for path in (PATH, "/api/llm/usage", "/api/llm/events"):
        assert api.get(path, query).status_code in (200, 400)
