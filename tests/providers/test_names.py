"""`model_name`: which provider serves a model under which name."""

from __future__ import annotations

import pytest

from llmkeys.providers import PROVIDERS, common_name

# asked for: (OpenRouter, OpenAI, Anthropic, Google)
NAMES: dict[str, tuple[str | None, str | None, str | None, str | None]] = {
    # with the vendor
    "openai/gpt-6.1-terra": ("openai/gpt-6.1-terra", "gpt-6.1-terra", None, None),
    "anthropic/claude-sonnet-5.5": ("anthropic/claude-sonnet-5.5", None, "claude-sonnet-5-5", None),
    "google/gemini-3.8-flash": ("google/gemini-3.8-flash", None, None, "gemini-3.8-flash"),
    # bare
    "gpt-4o": ("openai/gpt-4o", "gpt-4o", None, None),
    "gpt-4o-2024-08-06": ("openai/gpt-4o-2024-08-06", "gpt-4o-2024-08-06", None, None),
    "chatgpt-4o-latest": ("openai/chatgpt-4o-latest", "chatgpt-4o-latest", None, None),
    "o1": ("openai/o1", "o1", None, None),
    "o3-mini": ("openai/o3-mini", "o3-mini", None, None),
    "o4-mini": ("openai/o4-mini", "o4-mini", None, None),
    "text-embedding-3-small": ("openai/text-embedding-3-small", "text-embedding-3-small", None, None),
    "gemini-2.5-flash": ("google/gemini-2.5-flash", None, None, "gemini-2.5-flash"),
    "models/gemini-2.5-flash": ("google/gemini-2.5-flash", None, None, "gemini-2.5-flash"),
    "google/models/gemini-2.5-flash": ("google/gemini-2.5-flash", None, None, "gemini-2.5-flash"),
    "gemma-3-27b-it": ("google/gemma-3-27b-it", None, None, "gemma-3-27b-it"),
    # Claude's spellings
    "claude-sonnet-4-5": ("anthropic/claude-sonnet-4.5", None, "claude-sonnet-4-5", None),
    "claude-sonnet-4.5": ("anthropic/claude-sonnet-4.5", None, "claude-sonnet-4-5", None),
    "anthropic/claude-sonnet-4.5": ("anthropic/claude-sonnet-4.5", None, "claude-sonnet-4-5", None),
    "anthropic/claude-sonnet-4-5": ("anthropic/claude-sonnet-4.5", None, "claude-sonnet-4-5", None),
    "claude-sonnet-4-5-20250929": ("anthropic/claude-sonnet-4.5", None, "claude-sonnet-4-5-20250929", None),
    "claude-sonnet-4-20250514": ("anthropic/claude-sonnet-4", None, "claude-sonnet-4-20250514", None),
    "claude-3-5-sonnet-20241022": ("anthropic/claude-3.5-sonnet", None, "claude-3-5-sonnet-20241022", None),
    "anthropic/claude-3.5-sonnet": ("anthropic/claude-3.5-sonnet", None, "claude-3-5-sonnet", None),
    "anthropic/claude-3-opus": ("anthropic/claude-3-opus", None, "claude-3-opus", None),
    "anthropic/claude-4.6-sonnet-20260217": (
        "anthropic/claude-4.6-sonnet-20260217",
        None,
        "claude-sonnet-4-6",
        None,
    ),
    # OpenRouter's own
    "openai/gpt-4o:free": ("openai/gpt-4o:free", None, None, None),
    "gpt-4o:nitro": ("openai/gpt-4o:nitro", None, None, None),
    "claude-sonnet-4-5:online": ("anthropic/claude-sonnet-4.5:online", None, None, None),
    "anthropic/claude-sonnet-4.5:thinking": ("anthropic/claude-sonnet-4.5:thinking", None, None, None),
    "google/gemini-2.5-flash:free": ("google/gemini-2.5-flash:free", None, None, None),
    "~openai/gpt-latest": ("~openai/gpt-latest", None, None, None),
    "~anthropic/claude-sonnet-latest": ("~anthropic/claude-sonnet-latest", None, None, None),
    "openrouter/auto": ("openrouter/auto", None, None, None),
    "deepseek/deepseek-v3": ("deepseek/deepseek-v3", None, None, None),
    "openai/gpt-oss-120b": ("openai/gpt-oss-120b", None, None, None),
    # OpenAI's own
    "ft:gpt-4o-mini-2024-07-18:acme::abc": (None, "ft:gpt-4o-mini-2024-07-18:acme::abc", None, None),
    # nobody's
    "llama3": (None, None, None, None),
    "gpt-oss:20b": (None, None, None, None),
    "gemma-3:4b": (None, None, None, None),
    "auto": (None, None, None, None),
    "opus": (None, None, None, None),
    "o3x": (None, None, None, None),
}
WRONG = [
    "",
    " ",
    "/",
    "/gpt-4o",
    "openai/",
    "gpt 4o",
    "gpt-4o\n",
    "gpt-4o\x00",
    "gpt-\u200b4o",
    "gpt-\ud800",
    "g\u00a0t",
]


@pytest.mark.parametrize("asked", NAMES)
def test_it_translates(asked: str) -> None:
    assert tuple(provider.model_name(asked) for provider in PROVIDERS.values()) == NAMES[asked]


@pytest.mark.parametrize("asked", [*WRONG, "gpt-" + "4" * 197])
def test_it_refuses_what_is_no_name(asked: str) -> None:
    assert [provider.model_name(asked) for provider in PROVIDERS.values()] == [None] * 4


def test_it_takes_a_name_of_200_characters() -> None:
    name = "gpt-" + "4" * 196
    assert PROVIDERS["openai"].model_name(name) == name


@pytest.mark.parametrize("start", ["gpt-", "claude-x", "gemini-"])
def test_it_gives_openrouter_no_name_that_its_prefix_makes_too_long(start: str) -> None:
    name = start + "4" * (200 - len(start))
    assert PROVIDERS["openrouter"].model_name(name) is None
    assert common_name(name) == name
    prefixed = PROVIDERS["openrouter"].model_name(name[:-10])
    assert prefixed is not None
    assert len(prefixed) <= 200
    assert common_name(name[:-10]) == prefixed


@pytest.mark.parametrize("asked", ["google/../x", "google/a?key=b", "models/a:generateContent", "openai/a/b"])
def test_it_never_gives_a_vendor_a_name_that_could_change_a_path(asked: str) -> None:
    vendors = [PROVIDERS[name] for name in ("openai", "anthropic", "google")]
    assert [vendor.model_name(asked) for vendor in vendors] == [None] * 3


@pytest.mark.parametrize("asked", NAMES)
def test_it_gives_the_same_name_when_asked_with_its_answer(asked: str) -> None:
    for provider in PROVIDERS.values():
        name = provider.model_name(asked)
        assert name is None or provider.model_name(name) == name
