"""The usage object of the OpenAI chat dialect, as OpenAI and OpenRouter count: prompt and completion are inclusive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmkeys.providers.base import Usage
from llmkeys.providers.reading import count, mapping, text


def usage_object(body: Any) -> Mapping[str, Any]:
    """Return the usage object of an answer or chunk, an empty one where there is none."""
    usage = mapping(body).get("usage")
    return usage if isinstance(usage, Mapping) else {}


def read_usage(body: Any) -> Usage | None:
    """Return the usage of a chat answer or chunk; None where it tells no count at all."""
    usage = usage_object(body)
    prompt, completion = mapping(usage.get("prompt_tokens_details")), mapping(usage.get("completion_tokens_details"))
    told = Usage(
        input_tokens=count(usage.get("prompt_tokens")),
        cached_input_tokens=count(prompt.get("cached_tokens")),
        cache_write_tokens=count(prompt.get("cache_write_tokens")),
        output_tokens=count(usage.get("completion_tokens")),
        reasoning_tokens=count(completion.get("reasoning_tokens")),
    )
    return replace(told, service_tier=_service_tier(body)) if told != Usage() else None


def _service_tier(body: Any) -> str:
    tier = text(mapping(body).get("service_tier"), limit=40).strip()
    return tier if tier.isprintable() else ""
