"""Reads the token counts of providers and compatible servers tolerantly."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from llmkeys.dialects.base import Usage
from llmkeys.lib.reading import count, mapping, price, text


def read_openai_usage(body: Any) -> Usage | None:
    """Return the usage of an answer or chunk in OpenAI's forms (chat, responses, embeddings), or None if it has none.

    Input and output include all their parts. Missing counts are derived from the total: some hosts do not include the
    reasoning in the completion.
    """
    body = mapping(body)
    found = usage_object(body)
    taken = mapping(found.get("prompt_tokens_details") or found.get("input_tokens_details"))
    made = mapping(found.get("completion_tokens_details") or found.get("output_tokens_details"))
    input_tokens = first_count(found, "prompt_tokens", "input_tokens")
    completion = output_tokens = first_count(found, "completion_tokens", "output_tokens")
    total = count(found.get("total_tokens"))
    if total is not None and input_tokens is not None:
        output_tokens = max(total - input_tokens, output_tokens or 0)
    elif total is not None and output_tokens is not None and total >= output_tokens:
        input_tokens = total - output_tokens
    reasoning = count(made.get("reasoning_tokens"))
    if reasoning is None and completion is not None and output_tokens is not None and output_tokens > completion:
        reasoning = output_tokens - completion
    cached = count(taken.get("cached_tokens"))
    if cached is None:
        cached = first_count(found, "cached_tokens", "prompt_cache_hit_tokens")
    reported = Usage(
        input_tokens=input_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=count(taken.get("cache_write_tokens")),
        cache_write_1h_tokens=count(mapping(taken.get("cache_write_tokens_details")).get("ttl_12h_tokens")),
        audio_input_tokens=count(taken.get("audio_tokens")),
        cached_audio_tokens=count(mapping(taken.get("cached_tokens_details")).get("audio_tokens")),
        image_input_tokens=count(taken.get("image_tokens")),
        video_input_tokens=count(taken.get("video_tokens")),
        output_tokens=output_tokens,
        reasoning_tokens=reasoning,
        audio_output_tokens=count(made.get("audio_tokens")),
        image_output_tokens=count(made.get("image_tokens")),
        searches=count(mapping(found.get("server_tool_use")).get("web_search_requests")),
        cost_usd=reported_cost(found),
        service_tier=_served_tier(body) or _served_tier(found),
        model=text(body.get("model"), limit=200),
    )
    return reported if reported != Usage() else None


def usage_object(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the usage object of an answer or chunk, wherever hosts put it, or an empty one."""
    places = [body.get("usage"), mapping(body.get("x_groq")).get("usage")]
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        places += [mapping(choice).get("usage"), mapping(mapping(choice).get("delta")).get("usage")]
    return next((place for place in places if isinstance(place, Mapping) and place), {})


def first_count(found: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of these counts that is present."""
    for name in names:
        if (value := count(found.get(name))) is not None:
            return value
    return None


def reported_cost(usage: Mapping[str, Any]) -> Decimal | None:
    """Return what OpenRouter charged, plus the vendor's bill if the account has its own key there (BYOK).

    A BYOK charge without the vendor's bill is only OpenRouter's fee, so it counts as not reported.
    """
    charge = price(usage.get("cost"))
    if charge is None or usage.get("is_byok") is not True:
        return charge
    upstream = price(mapping(usage.get("cost_details")).get("upstream_inference_cost"))
    return charge + upstream if upstream is not None else None


def _served_tier(place: Mapping[str, Any]) -> str:
    tier = word(place.get("service_tier"))
    return "" if tier == "auto" else tier  # only repeats what the client asked for


def word(value: Any) -> str:
    """Return a short printable name, such as a tier, or an empty string."""
    found = text(value, limit=40).strip()
    return found if found.isprintable() else ""
