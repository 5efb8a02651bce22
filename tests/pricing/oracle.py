"""What a provider bills, worked out by the price library's own arithmetic and not by ours."""

from __future__ import annotations

import math
from datetime import datetime
from decimal import Decimal
from typing import Any

from genai_prices import Usage as Counts
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice

from llmkeys.dialects.base import Usage

_CONTEXTS = {
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},
}
_KINDS = ("audio", "image", "video")
_NEVER = [f"cache_{kind}_{use}_tokens" for kind in _KINDS for use in ("read", "write", "write_1h")][1:]


def entries(provider: str, model: str) -> list[ModelInfo]:
    """Return the data's entry of a model, and for OpenRouter the vendor's behind it."""
    vendor, _, name = model.partition("/")
    is_resold = provider == "openrouter" and not model.endswith((":batch", ":free"))
    places = [(provider, model)] + ([(vendor, name)] if is_resold else [])
    found = []
    for place, name in places:
        listed = next((each for each in get_snapshot().providers if each.id == place), None)
        entry = listed.find_model(name) if listed is not None else None
        if entry is not None:
            found.append(entry)
    return found


def window(provider: str, model: str) -> int | None:
    """Return the longest prompt that the data knows of."""
    return max((entry.context_window or 0 for entry in entries(provider, model)), default=0) or None


def prices(provider: str, model: str, at: datetime, tier: str = "") -> dict[str, Any]:
    """Return the rates of a model by the library's keys, what OpenRouter leaves out filled from the vendor."""
    found: dict[str, Any] = {}
    listed = entries(provider, model)
    if tier:  # of OpenRouter and its vendor only the vendor has tiers
        listed = [entry for entry in listed if _differs(entry, at, tier)] or listed
    for number, entry in enumerate(listed):
        given = {key: value for key, value in vars(entry.get_prices(at, _CONTEXTS.get(tier, {}))).items() if value}
        if number:
            given = {key: value for key, value in given.items() if any(kind in key for kind in (*_KINDS, "1h"))}
        found = given | found
    if "cache_audio_read_mtok" in found:
        found.setdefault("cache_read_mtok", found["input_mtok"])
    if "cache_write_1h_mtok" in found:
        found.setdefault("cache_write_mtok", found["input_mtok"])
    # Where no other price is listed, a kind costs in a cache what it costs outside: the library wants to be told so.
    for kind in _KINDS:
        for use in ("read", "write", "write_1h"):
            if f"input_{kind}_mtok" in found and f"cache_{use}_mtok" in found:
                found.setdefault(f"cache_{kind}_{use}_mtok", found[f"input_{kind}_mtok"])
    return found


def has_tier(provider: str, model: str, at: datetime, tier: str) -> bool:
    """True where a tier of the first entry has rates of its own."""
    return any(_differs(entry, at, tier) for entry in entries(provider, model))


def _differs(entry: ModelInfo, at: datetime, tier: str) -> bool:
    return vars(entry.get_prices(at, _CONTEXTS[tier])) != vars(entry.get_prices(at))


def bill(provider: str, model: str, usage: Usage, at: datetime, tier: str = "", *, drawn_by: str = "") -> int | None:
    """Return nano-dollars for tokens, without fees; None where the data has no rate for a kind that was used.

    What was drawn as a tool is billed at the rates of OpenAI's model `drawn_by`.
    """
    own = _dollars(provider, model, usage.of_the_model(), at, tier)
    return None if own is None else math.ceil((own + _drawn(drawn_by, usage, at)) * 10**9)


def _drawn(model: str, usage: Usage, at: datetime) -> Decimal:
    taken, made = usage.drawn_input_tokens or 0, usage.drawn_output_tokens or 0
    if not taken and not made:
        return Decimal(0)
    rates, pictures = prices("openai", model, at), usage.drawn_image_input_tokens or 0
    amount = (taken - pictures) * rates["input_mtok"] + pictures * rates["input_image_mtok"]
    return (amount + made * rates.get("output_image_mtok", rates["output_mtok"])) / 10**6


def _dollars(provider: str, model: str, usage: Usage, at: datetime, tier: str) -> Decimal | None:
    rates = {key: value for key, value in prices(provider, model, at, tier).items() if key.endswith("_mtok")}
    counts = {
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "input_audio_tokens": usage.audio_input_tokens,
        "cache_audio_read_tokens": usage.cached_audio_tokens,
        **dict.fromkeys(_NEVER, 0),
        "input_image_tokens": usage.image_input_tokens,
        "input_video_tokens": usage.video_input_tokens,
        "output_tokens": usage.output_tokens,
        "output_reasoning_tokens": usage.reasoning_tokens,
        "output_audio_tokens": usage.audio_output_tokens,
        "output_image_tokens": usage.image_output_tokens,
    }
    needed = {
        "cache_write_1h_tokens": "cache_write_1h_mtok",
        "cache_write_tokens": "cache_write_mtok",
        "input_audio_tokens": "input_audio_mtok",
        "output_audio_tokens": "output_audio_mtok",
        "output_image_tokens": "output_image_mtok",
    }
    if any(counts[kind] and key not in rates for kind, key in needed.items()) or "output_video_mtok" in rates:
        return None
    cost = ModelPrice(**rates).calc_price(Counts(**{kind: count or 0 for kind, count in counts.items()}))
    dollars = cost["total_price"]
    if provider == "anthropic" and usage.region == "us":
        dollars *= Decimal("1.1")
    return dollars
