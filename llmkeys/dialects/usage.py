"""Token counts as providers and compatible servers write them, read tolerantly."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from llmkeys.dialects.base import Usage
from llmkeys.lib.reading import count, mapping, money, text


def read_openai_usage(body: Mapping[str, Any]) -> Usage | None:
    """Return the usage of an answer or chunk in the OpenAI chat form; None where it tells nothing of it.

    Prompt and completion are inclusive. A total proves what is null, missing or left out: some hosts count the
    reasoning beside the completion.
    """
    found = usage_object(body)
    prompt, completion = mapping(found.get("prompt_tokens_details")), mapping(found.get("completion_tokens_details"))
    input_tokens, output_tokens = count(found.get("prompt_tokens")), count(found.get("completion_tokens"))
    total = count(found.get("total_tokens"))
    if total is not None and input_tokens is not None:
        output_tokens = max(total - input_tokens, output_tokens or 0)
    elif total is not None and output_tokens is not None and total >= output_tokens:
        input_tokens = total - output_tokens
    cached = count(prompt.get("cached_tokens"))
    told = Usage(
        input_tokens=input_tokens,
        cached_input_tokens=count(found.get("cached_tokens")) if cached is None else cached,
        cache_write_tokens=count(prompt.get("cache_write_tokens")),
        audio_input_tokens=count(prompt.get("audio_tokens")),
        image_input_tokens=count(prompt.get("image_tokens")),
        output_tokens=output_tokens,
        reasoning_tokens=count(completion.get("reasoning_tokens")),
        audio_output_tokens=count(completion.get("audio_tokens")),
        image_output_tokens=count(completion.get("image_tokens")),
        cost_usd=_cost(found),
        service_tier=_word(mapping(body).get("service_tier")) or _word(found.get("service_tier")),
        model=text(mapping(body).get("model"), limit=200),
    )
    return told if told != Usage() else None


def usage_object(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the usage object of an answer or chunk, wherever hosts put it; an empty one where there is none."""
    places = [body.get("usage"), mapping(body.get("x_groq")).get("usage")]
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        places += [mapping(choice).get("usage"), mapping(mapping(choice).get("delta")).get("usage")]
    return next((place for place in places if isinstance(place, Mapping) and place), {})


def _cost(usage: Mapping[str, Any]) -> Decimal | None:
    """Return what OpenRouter charged, and with the owner's own key at the vendor (BYOK) the vendor's bill too.

    A BYOK charge without the vendor's bill is only OpenRouter's fee, so it counts as not told.
    """
    charge = money(usage.get("cost"))
    if charge is None or usage.get("is_byok") is not True:
        return charge
    upstream = money(mapping(usage.get("cost_details")).get("upstream_inference_cost"))
    return charge + upstream if upstream is not None else None


def _word(value: Any) -> str:
    found = text(value, limit=40).strip()
    return found if found.isprintable() else ""
