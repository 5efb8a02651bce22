"""The registry and the plain facts of each provider: addresses, headers, prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from llmkeys.providers import PROVIDERS, Provider, get

SECRET = "sk-test-0123456789abcdef"


@dataclass
class FakeDialect:
    name: str


@dataclass
class FakeDoor:
    upstream_path: str


@dataclass
class FakeRequest:
    """As much of a request as its address and headers come from."""

    dialect: FakeDialect
    door: FakeDoor
    query: str
    headers: dict[str, str]


def relayed(
    provider: Provider,
    dialect: str,
    *,
    base_url: str = "http://x",
    path: str = "/chat/completions",
    model: str = "gemini-2.5-flash",
    query: str = "",
    headers: dict[str, str] | None = None,
    workspace_id: str = "",
) -> tuple[str, dict[str, str]]:
    request: Any = FakeRequest(FakeDialect(dialect), FakeDoor(path), query, headers or {})
    return provider.relayed_call(request, base_url=base_url, model=model, secret=SECRET, workspace_id=workspace_id)


def test_it_has_the_four_providers_in_order() -> None:
    assert list(PROVIDERS) == ["openrouter", "openai", "anthropic", "google"]
    assert all(get(name) is provider and provider.name == name for name, provider in PROVIDERS.items())


def test_it_names_the_providers_there_are_for_an_unknown_one() -> None:
    with pytest.raises(KeyError, match="openrouter, openai, anthropic, google"):
        get("mistral")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("openrouter", "https://openrouter.ai/api/v1/chat/completions"),
        ("openai", "https://api.openai.com/v1/chat/completions"),
        ("anthropic", "https://api.anthropic.com/v1/chat/completions"),
        ("google", "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions"),
    ],
)
def test_it_builds_the_chat_url(name: str, url: str) -> None:
    provider = get(name)
    assert relayed(provider, "openai-chat", base_url=provider.default_base_url)[0] == url


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("openrouter", "http://localhost:9900/key"),
        ("openai", "http://localhost:9900/models"),
        ("anthropic", "http://localhost:9900/v1/models?limit=1"),
        ("google", "http://localhost:9900/v1beta/models?pageSize=1"),
    ],
)
def test_it_builds_the_free_check(name: str, url: str) -> None:
    call = get(name).check_call(base_url="http://localhost:9900", secret=SECRET)
    assert (call.method, call.url) == ("GET", url)


def test_it_reads_googles_two_variables_in_order() -> None:
    assert get("google").environment_variables == ("GOOGLE_API_KEY", "GEMINI_API_KEY")


@pytest.mark.parametrize("name", PROVIDERS)
def test_it_sends_exactly_one_credential_and_keeps_it_out_of_url_and_repr(name: str) -> None:
    provider = get(name)
    calls = [
        provider.check_call(base_url="http://x", secret=SECRET, workspace_id="wrkspc_1"),
        provider.models_call(base_url="http://x", secret=SECRET, workspace_id="wrkspc_1"),
    ]
    relayed_headers = [relayed(provider, dialect, workspace_id="wrkspc_1")[1] for dialect in provider.endpoints]
    all_headers = [*relayed_headers, *(call.headers for call in calls)]
    for headers in all_headers:
        assert sum(SECRET in value for value in headers.values()) == 1
    for call in calls:
        assert SECRET not in call.url
        assert SECRET not in repr(call)


def test_it_sends_a_bearer_token_on_the_chat_path() -> None:
    for provider in PROVIDERS.values():
        assert relayed(provider, "openai-chat")[1] == {
            "Authorization": f"Bearer {SECRET}",
            "Content-Type": "application/json",
        }


def test_it_uses_each_vendors_own_header_outside_the_chat_path() -> None:
    anthropic = get("anthropic").check_call(base_url="http://x", secret=SECRET).headers
    assert (anthropic["x-api-key"], anthropic["anthropic-version"]) == (SECRET, "2023-06-01")
    assert get("google").models_call(base_url="http://x", secret=SECRET).headers["x-goog-api-key"] == SECRET


def test_it_names_the_workspace_of_an_anthropic_key_only_where_given() -> None:
    anthropic = get("anthropic")
    headers = relayed(anthropic, "openai-chat", workspace_id="wrkspc_1")[1]
    assert headers["anthropic-workspace-id"] == "wrkspc_1"
    call = anthropic.check_call(base_url="http://x", secret=SECRET, workspace_id="wrkspc_1")
    assert call.headers["anthropic-workspace-id"] == "wrkspc_1"
    assert "anthropic-workspace-id" not in anthropic.check_call(base_url="http://x", secret=SECRET).headers


@pytest.mark.parametrize(
    ("model", "own_base_url", "field"),
    [
        ("gpt-6-luna", True, "max_completion_tokens"),
        ("gpt-4o", True, "max_completion_tokens"),
        # behind another address a name of OpenAI's reasoning models still means one of them
        ("gpt-6-luna", False, "max_completion_tokens"),
        ("gpt-5-mini", False, "max_completion_tokens"),
        ("o3", False, "max_completion_tokens"),
        ("gpt-4o", False, "max_tokens"),
        ("llama3.2", False, "max_tokens"),
        ("gpt-oss:20b", False, "max_tokens"),
    ],
)
def test_it_limits_the_output_by_the_field_that_the_model_takes(model: str, own_base_url: bool, field: str) -> None:
    assert get("openai").output_limit_field(model, own_base_url=own_base_url) == field
    for name in ("openrouter", "anthropic", "google"):
        assert get(name).output_limit_field(model, own_base_url=own_base_url) == "max_tokens"


SERVED = {
    "openai-chat": ["openrouter", "openai", "anthropic", "google"],
    "openai-responses": ["openrouter", "openai"],
    "openai-embeddings": ["openrouter", "openai", "google"],
    "anthropic-messages": ["openrouter", "anthropic"],
    "google-generate": ["google"],
}


@pytest.mark.parametrize("dialect", [*SERVED, "never-heard-of"])
def test_it_serves_the_dialects_of_the_contract(dialect: str) -> None:
    assert [name for name, provider in PROVIDERS.items() if provider.serves(dialect)] == SERVED.get(dialect, [])


def test_it_counts_tokens_at_anthropic_alone() -> None:
    counting = [name for name, provider in PROVIDERS.items() if provider.serves("anthropic-messages", "count_tokens")]
    assert counting == ["anthropic"]


@pytest.mark.parametrize(
    ("name", "dialect", "path", "url"),
    [
        ("openrouter", "openai-responses", "/responses", "/responses"),
        ("openrouter", "anthropic-messages", "/messages", "/messages"),
        ("openai", "openai-responses", "/responses", "/responses"),
        ("openai", "openai-embeddings", "/embeddings", "/embeddings"),
        ("anthropic", "anthropic-messages", "/messages", "/v1/messages"),
        ("anthropic", "anthropic-messages", "/messages/count_tokens", "/v1/messages/count_tokens"),
        ("google", "openai-embeddings", "/embeddings", "/v1beta/openai/embeddings"),
        (
            "google", "google-generate", "/models/{model}:streamGenerateContent",
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        ),
    ],
)  # fmt: skip
def test_it_knows_where_each_dialect_goes(name: str, dialect: str, path: str, url: str) -> None:
    assert relayed(get(name), dialect, path=path)[0] == f"http://x{url}"
    assert relayed(get(name), dialect, path=path, query="beta=true")[0] == f"http://x{url}?beta=true"


def test_no_name_of_a_model_leaves_its_place_in_the_path() -> None:
    path = "/models/{model}:countTokens"
    url, _ = relayed(get("google"), "google-generate", path=path, model="../../x?key=y")
    assert url == "http://x/v1beta/models/..%2F..%2Fx%3Fkey%3Dy:countTokens"


def test_it_leaves_the_version_that_the_client_names_alone() -> None:
    anthropic = get("anthropic")
    assert relayed(anthropic, "anthropic-messages")[1]["anthropic-version"] == "2023-06-01"
    _, headers = relayed(anthropic, "anthropic-messages", headers={"Anthropic-Version": "2026-10-21"})
    assert {name: value for name, value in headers.items() if name.lower() == "anthropic-version"} == {
        "anthropic-version": "2026-10-21"
    }


def test_no_header_of_the_client_takes_the_place_of_the_secret() -> None:
    for provider in PROVIDERS.values():
        for dialect in provider.endpoints:
            _, headers = relayed(provider, dialect, headers={"openai-beta": "x"})
            assert headers["openai-beta"] == "x"
            assert sum(SECRET in value for value in headers.values()) == 1


@pytest.mark.parametrize(
    ("name", "base_url", "is_own"),
    [
        ("openai", "https://api.openai.com/v1", True),
        ("openai", "https://eu.api.openai.com/v1", True),
        ("openai", "https://API.OpenAI.com:443/v1/", True),
        ("openai", "https://api.openai.com./v1", True),
        ("openai", "https://user:word@us.api.openai.com/v1", True),
        ("openrouter", "https://eu.openrouter.ai/api/v1", True),
        ("anthropic", "https://api.eu.anthropic.com", True),
        ("google", "https://europe-west1-generativelanguage.googleapis.com", True),
        ("openai", "http://localhost:11434/v1", False),
        ("openai", "https://notopenai.com/v1", False),
        ("openai", "https://api.openai.com.example.org/v1", False),
        ("openai", "https://example.org/api.openai.com/v1", False),
        ("openai", "https://api.openai.com@example.org/v1", False),
        ("openai", "https://openrouter.ai/api/v1", False),
        ("openai", "http://[::1", False),
        ("openai", "", False),
    ],
)
def test_it_knows_its_own_addresses(name: str, base_url: str, is_own: bool) -> None:
    assert get(name).is_own(base_url) is is_own


@pytest.mark.parametrize("name", PROVIDERS)
def test_it_lists_secret_prefixes_longest_first(name: str) -> None:
    prefixes = get(name).secret_prefixes
    assert prefixes
    assert not any(late.startswith(early) for n, early in enumerate(prefixes) for late in prefixes[n + 1 :])


@pytest.mark.parametrize(
    ("name", "secret", "usable"),
    [
        ("openai", "sk-admin-abcdefghijkl", False),
        ("openai", "sk-proj-abcdefghijkl", True),
        ("anthropic", "sk-ant-admin01-abcdefgh", False),
        ("anthropic", "sk-ant-api03-abcdefgh", True),
        ("google", "AIzaabcdefgh", True),
    ],
)
def test_it_tells_management_keys_by_their_look(name: str, secret: str, usable: bool) -> None:
    problem = get(name).secret_problem(secret)
    assert (problem == "") is usable
    assert secret not in problem
