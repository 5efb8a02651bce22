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
    assert provider.chat_url(provider.default_base_url) == url


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
    all_headers = [provider.auth_headers(secret=SECRET), *(call.headers for call in calls)]
    for headers in all_headers:
        assert sum(SECRET in value for value in headers.values()) == 1
    for call in calls:
        assert SECRET not in call.url
        assert SECRET not in repr(call)


def test_it_sends_a_bearer_token_on_the_chat_path() -> None:
    for provider in PROVIDERS.values():
        assert provider.auth_headers(secret=SECRET) == {"Authorization": f"Bearer {SECRET}"}


def test_it_uses_each_vendors_own_header_outside_the_chat_path() -> None:
    anthropic = get("anthropic").check_call(base_url="http://x", secret=SECRET).headers
    assert (anthropic["x-api-key"], anthropic["anthropic-version"]) == (SECRET, "2023-06-01")
    assert get("google").models_call(base_url="http://x", secret=SECRET).headers["x-goog-api-key"] == SECRET


def test_it_names_the_workspace_of_an_anthropic_key_only_where_given() -> None:
    anthropic = get("anthropic")
    assert anthropic.auth_headers(secret=SECRET, workspace_id="wrkspc_1")["anthropic-workspace-id"] == "wrkspc_1"
    call = anthropic.check_call(base_url="http://x", secret=SECRET, workspace_id="wrkspc_1")
    assert call.headers["anthropic-workspace-id"] == "wrkspc_1"
    assert "anthropic-workspace-id" not in anthropic.check_call(base_url="http://x", secret=SECRET).headers


def test_it_limits_the_output_by_the_field_that_each_server_takes() -> None:
    assert get("openai").output_limit_field(own_base_url=True) == "max_completion_tokens"
    assert get("openai").output_limit_field(own_base_url=False) == "max_tokens"
    for name in ("openrouter", "anthropic", "google"):
        assert get(name).output_limit_field(own_base_url=True) == "max_tokens"


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
