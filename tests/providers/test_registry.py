"""The registry and the plain facts of each provider: addresses, headers, prefixes."""

from __future__ import annotations

import pytest

from llmkeys.providers import PROVIDERS, get

SECRET = "sk-test-0123456789abcdef"


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
    assert provider.url("openai-chat", base_url=provider.default_base_url) == url


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
    relayed = [provider.headers(dialect, secret=SECRET, workspace_id="wrkspc_1") for dialect in provider.endpoints]
    all_headers = [*relayed, *(call.headers for call in calls)]
    for headers in all_headers:
        assert sum(SECRET in value for value in headers.values()) == 1
    for call in calls:
        assert SECRET not in call.url
        assert SECRET not in repr(call)


def test_it_sends_a_bearer_token_on_the_chat_path() -> None:
    for provider in PROVIDERS.values():
        assert provider.headers("openai-chat", secret=SECRET) == {"Authorization": f"Bearer {SECRET}"}


def test_it_uses_each_vendors_own_header_outside_the_chat_path() -> None:
    anthropic = get("anthropic").check_call(base_url="http://x", secret=SECRET).headers
    assert (anthropic["x-api-key"], anthropic["anthropic-version"]) == (SECRET, "2023-06-01")
    assert get("google").models_call(base_url="http://x", secret=SECRET).headers["x-goog-api-key"] == SECRET


def test_it_names_the_workspace_of_an_anthropic_key_only_where_given() -> None:
    anthropic = get("anthropic")
    headers = anthropic.headers("openai-chat", secret=SECRET, workspace_id="wrkspc_1")
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
def test_it_serves_these_dialects(dialect: str) -> None:
    assert [name for name, provider in PROVIDERS.items() if provider.serves(dialect)] == SERVED.get(dialect, [])


def test_it_counts_tokens_at_anthropic_alone() -> None:
    counting = [name for name, provider in PROVIDERS.items() if provider.serves("anthropic-messages", "/count_tokens")]
    assert counting == ["anthropic"]


@pytest.mark.parametrize(
    ("name", "dialect", "parts", "url"),
    [
        ("openrouter", "openai-responses", {}, "/responses"),
        ("openrouter", "anthropic-messages", {}, "/messages"),
        ("openai", "openai-responses", {}, "/responses"),
        ("openai", "openai-embeddings", {}, "/embeddings"),
        ("anthropic", "anthropic-messages", {}, "/v1/messages"),
        ("anthropic", "anthropic-messages", {"action": "/count_tokens"}, "/v1/messages/count_tokens"),
        ("google", "openai-embeddings", {}, "/v1beta/openai/embeddings"),
        (
            "google", "google-generate", {"model": "gemini-2.5-flash", "action": ":streamGenerateContent"},
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        ),
        (
            "google", "google-generate", {"model": "../../x?key=y", "action": ":countTokens"},
            "/v1beta/models/..%2F..%2Fx%3Fkey%3Dy:countTokens",
        ),
    ],
)  # fmt: skip
def test_it_knows_where_each_dialect_goes(name: str, dialect: str, parts: dict[str, str], url: str) -> None:
    assert get(name).url(dialect, base_url="http://x", **parts) == f"http://x{url}"


def test_it_leaves_the_version_that_the_client_names_alone() -> None:
    anthropic = get("anthropic")
    assert anthropic.headers("anthropic-messages", secret=SECRET) == {
        "x-api-key": SECRET, "anthropic-version": "2023-06-01",
    }  # fmt: skip
    given = anthropic.headers("anthropic-messages", secret=SECRET, given={"anthropic-version"})
    assert given == {"x-api-key": SECRET}


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
