"""The providers, in the order in which they are tried; no code outside this package knows one by name."""

from __future__ import annotations

from llmkeys.providers.anthropic import Anthropic
from llmkeys.providers.base import Call, Endpoint, Failure, FailureKind, KeyCheck, ListedModel, Provider, Scope
from llmkeys.providers.blame import Blame
from llmkeys.providers.google import Google
from llmkeys.providers.names import common_name
from llmkeys.providers.openai import OpenAI
from llmkeys.providers.openrouter import OpenRouter
from llmkeys.providers.scrub import scrub

__all__ = [
    "PROVIDERS",
    "Blame",
    "Call",
    "Endpoint",
    "Failure",
    "FailureKind",
    "KeyCheck",
    "ListedModel",
    "Provider",
    "Scope",
    "common_name",
    "get",
    "scrub",
]

PROVIDERS: dict[str, Provider] = {
    provider.name: provider for provider in (OpenRouter(), OpenAI(), Anthropic(), Google())
}


def get(name: str) -> Provider:
    """Return the provider with this name. Raises KeyError with the known names."""
    try:
        return PROVIDERS[name]
    except KeyError:
        raise KeyError(f"Unknown provider {name!r}: use one of {', '.join(PROVIDERS)}") from None
