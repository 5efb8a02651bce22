"""The price data that is shipped with the product: finds a model under any of its spellings, and its rates. Pure.

OpenRouter charges the vendors' list prices, but its entries are incomplete; the vendor's entry fills the gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from llmkeys import providers
from llmkeys.providers.names import VARIANTS

if TYPE_CHECKING:  # loading the price data takes 15 MB and 0.1 s, so it is imported only when needed
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo

_LONGEST_NAME = 200
_CACHED_NAMES = 4096

TIER_CONTEXT: Mapping[str, Mapping[str, str]] = {
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},  # Anthropic calls it a speed
    "batch": {"processing": "batch"},
}
_VARIANTS = VARIANTS - {"free"}  # those that cost what the model itself costs
_VENDORS = {"mistralai": "mistral", "z-ai": "zai"}  # OpenRouter's name → the price data's, if they differ

_DATA_KEYS = {
    "text": "input_mtok",
    "cached": "cache_read_mtok",
    "write": "cache_write_mtok",
    "write_1h": "cache_write_1h_mtok",
    "audio_in": "input_audio_mtok",
    "cached_audio": "cache_audio_read_mtok",
    "image_in": "input_image_mtok",
    "video_in": "input_video_mtok",
    "text_out": "output_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_out": "output_audio_mtok",
    "image_out": "output_image_mtok",
    "video_out": "output_video_mtok",
}
# Kinds that OpenRouter's entries lack and the vendor's have; OpenRouter charges the vendor's list price.
_OF_THE_VENDOR = frozenset(_DATA_KEYS) - {"text", "cached", "write", "text_out"}


def listed_windows(provider: str, model: str) -> list[int]:
    """Return the context windows in the data for the model, including its vendor's. Some are too small."""
    return [entry.context_window for entry in entries(provider, model) if entry.context_window]


def same_model(provider: str, name: str, other: str) -> bool:
    """Return whether both names mean the same model in the data, such as a name and its dated snapshot."""
    if name == other:
        return True
    mine, theirs = entries(provider, name), entries(provider, other)
    return bool(mine and theirs) and mine[0] is theirs[0]


def known_rates(found: Sequence[ModelInfo], at: datetime, tier: str, length: int) -> dict[str, Decimal]:
    """Return the rates of prompts of `length` tokens; the vendor's entry fills what OpenRouter's leaves out."""
    known: dict[str, Decimal] = {}
    context = dict(TIER_CONTEXT.get(tier, {}))
    for number, entry in enumerate(found):
        prices = entry.get_prices(at, context)
        for kind, key in _DATA_KEYS.items():
            rate = at_length(getattr(prices, key), length)
            if rate is not None and (not number or kind in _OF_THE_VENDOR):
                known.setdefault(kind, rate)
    return known


def has_tier(entry: ModelInfo, at: datetime, tier: str) -> bool:
    context = TIER_CONTEXT.get(tier, {"": ""})
    return any(
        (variant.constraint is None or variant.constraint.active(at))
        and all(context.get(name) == value for name, value in variant.when.items())
        for variant in entry.price_variants or ()
    )


def prices_tokens(entry: ModelInfo, at: datetime) -> bool:
    """Return False for a price of minutes, characters or images only; an empty price means free."""
    prices = entry.get_prices(at)
    given = [value for value in vars(prices).values() if value is not None]
    return not given or prices.input_mtok is not None or prices.output_mtok is not None


def at_length(price: Any, input_tokens: int) -> Decimal | None:
    if price is None or isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if input_tokens > tier.start]  # the data sorts them
    return reached[-1] if reached else price.base


@cache
def _snapshot() -> DataSnapshot:
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


@lru_cache(maxsize=_CACHED_NAMES)
def entries(provider: str, model: str) -> tuple[ModelInfo, ...]:
    """Return the data's entries of a model under any of its spellings: the provider's own, then the vendor's."""
    if len(model) > _LONGEST_NAME:
        return ()
    found: list[ModelInfo] = []
    seen: set[str] = set()
    for place, name in _spellings(provider, model):
        entry = _look_up(place, name) if place not in seen else None
        if entry is not None:
            seen.add(place)
            found.append(entry)
    return tuple(found)


def _look_up(provider: str, name: str) -> ModelInfo | None:
    try:
        return _snapshot().find_provider_model(name, None, provider, None)[1]
    except (LookupError, ValueError):
        return None


def _spellings(provider: str, model: str) -> Iterator[tuple[str, str]]:
    seller = providers.get(provider)
    name = model.removeprefix(seller.model_prefix)
    yield provider, name
    if seller.vendor:
        return
    base, colon, variant = name.rpartition(":")
    if colon and variant in _VARIANTS:
        name = base
        yield provider, name
    if variant == "batch":  # the vendor's prices of other tiers do not apply to batches
        return
    vendor, slash, rest = name.partition("/")
    vendor = _VENDORS.get(vendor, vendor)
    if slash and any(listed.id == vendor for listed in _snapshot().providers):
        yield vendor, rest
