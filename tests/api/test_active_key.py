"""GET /api/llm/keys/active"""

from __future__ import annotations

import re

import pytest
import responses

from llmkeys.lib.money import NANO
from tests.api import checks
from tests.api.checks import SECRET
from tests.helpers import NOW, JsonClient, make_key, make_token

PATH = "/api/llm/keys/active"
NONE = {"available": False, "message": "No active API key available"}

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def model_lists():
    """The providers' own lists, asked for names that no rule knows: they know none of them."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        for host in ("api.openai.com", "api.anthropic.com", "openrouter.ai"):
            mock.get(re.compile(f"https://{host}/.*"), json={"data": []})
        yield mock


def active(client, **query):
    answer = client.get(PATH, query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_it_works(api, frozen):
    key = make_key(name="default", secret=SECRET)
    make_key(name="spare")
    answer = api.get(PATH)
    assert answer.json() == api.get(f"/api/llm/keys/{key.id}").json()
    checks.shows_no_secret(answer)


def test_it_tells_that_there_is_none(api):
    assert active(api) == NONE


def test_it_passes_over_keys_that_cannot_serve(api, frozen):
    make_key(name="disabled", enabled=False)
    make_key(name="rejected", rejected_at=NOW)
    make_key(name="expired", expires_at=NOW)
    make_key(name="spent", daily_limit_nano=NANO, spent_day_nano=NANO)
    assert active(api) == NONE
    make_key(name="last")
    assert active(api)["name"] == "last"


def test_it_asks_for_a_model(api, frozen):
    make_key(name="gpt", provider="openai")
    make_key(name="claude", provider="anthropic")
    assert active(api, model="claude-sonnet-5.5")["name"] == "claude"
    assert active(api, model="gpt-6.1-terra")["name"] == "gpt"
    assert active(api, model="gemini-3.8-flash") == NONE


def test_without_a_model_the_fallbacks_count(api, frozen):
    make_key(name="claude", provider="anthropic")
    assert active(api)["name"] == "claude"


@pytest.mark.parametrize("model", ["%", "no/such/model' --", "🔑", "x" * 5000])
def test_an_odd_model_is_no_error(api, model):
    make_key(provider="openai")
    assert active(api, model=model) == NONE


def test_a_nul_in_the_model_is_bad_input(api):
    assert list(api.get(PATH, {"model": "a\0b"}).json()) == ["model"]


def test_a_token_limited_to_keys_sees_what_would_serve_it(administrator, frozen):
    make_key(name="production")
    key = make_key(name="contractor")
    token = make_token(administrator, "gateway", "read", keyIds=[key.id])
    assert active(JsonClient(token))["name"] == "contractor"


def test_a_token_limited_to_models_sees_what_would_serve_those(administrator, frozen):
    make_key(provider="openai", name="OpenAI")
    make_key(provider="anthropic", name="Anthropic")
    client = JsonClient(make_token(administrator, "read", models=["anthropic/*"]))
    assert active(client)["name"] == "Anthropic", "of primary and fallbacks the ones that it may use"
    assert active(client, model="gpt-6.1-terra")["available"] is False


def test_it_needs_authentication():
    checks.needs_authentication("get", PATH)


def test_it_needs_the_permission_to_view():
    checks.needs_permission("get", PATH, "view_apikey")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get")
