"""What a request may cost at most, and what it did cost: pricing with the operator's settings and tables put in."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.conf import settings

from llmkeys import providers
from llmkeys.dialects import bounds
from llmkeys.dialects.base import Bound, Usage
from llmkeys.prices import catalogue, pricing
from llmkeys.providers.base import Provider


@dataclass(frozen=True, slots=True)
class Charge:
    """The cost of an attempt in nano-dollars and how it is known."""

    nano: int
    source: str


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The hold of a request on a key, and the output limit that has to be put on it (None: leave it as it is)."""

    nano: int
    output_limit: int | None


def is_local(provider: Provider) -> bool:
    """Tell whether the base URL is not the provider's own: unknown models are then free, and flagged."""
    return not provider.is_own(settings.PROVIDER_BASE_URLS[provider.name])


def price_context(provider: str, model: str, at: datetime) -> dict[str, Any]:
    """Return the arguments that every function of `pricing` wants."""
    return {
        "provider": provider,
        "model": model,
        "at": at,
        "operator_price": catalogue.operator_price(provider, model, at),
        "fallback_usd_per_token": settings.FALLBACK_USD_PER_TOKEN,
        "local": is_local(providers.get(provider)),
    }


def worst_case(
    provider: str, model: str, bound: Bound, *, at: datetime, other_models: tuple[str, ...] = ()
) -> WorstCase:
    """Return what a request within `bound` can cost at most; `other_models` may answer in place of `model`."""
    if not settings.COST_TRACKING:
        return WorstCase(0, None)
    limit, wanted = _output_limit(provider, model, bound)
    nano = max(_highest(provider, name, bound, limit, at) for name in (model, *other_models))
    if nano == 0 or settings.BUDGET_MODE == "soft":
        wanted = None
    return WorstCase(nano, wanted)


def _output_limit(provider: str, model: str, bound: Bound) -> tuple[int, int | None]:
    """Return the tokens that one choice may have, and the limit to put on the request where the client set none."""
    own = pricing.max_output_tokens(provider, model)
    if bound.output_tokens is None:
        limit = min(settings.DEFAULT_MAX_TOKENS, own or settings.DEFAULT_MAX_TOKENS)
        return limit, limit
    limit = bound.output_tokens - bound.prediction_tokens  # the prediction is added once, not per choice
    return (min(limit, own) if own else limit), None


def _highest(provider: str, model: str, bound: Bound, limit: int, at: datetime) -> int:
    window = pricing.context_window(provider, model)
    return pricing.worst_case(
        input_tokens=min(bound.input_tokens, window) if window else bound.input_tokens,
        output_tokens=limit * bound.choices + bound.prediction_tokens,
        can_write_cache=bound.can_write_cache,
        service_tier=bound.service_tier,
        **price_context(provider, model, at),
    )


def charge(usage: Usage, provider: str, model: str, *, at: datetime) -> Charge | None:
    """Return the cost of a known usage; None where the provider told neither a cost nor both token counts."""
    if not settings.COST_TRACKING:
        return Charge(0, "")
    if not providers.get(provider).reports_costs:
        usage = replace(usage, cost_usd=None)
    cost = pricing.cost_of(usage, **price_context(provider, model, at))
    return Charge(cost.nano, cost.source) if cost is not None else None


def estimate(
    provider: str, model: str, *, input_bytes: int, output_tokens: int, bound: Bound, hold_nano: int, at: datetime
) -> Charge:
    """Return a flagged estimate for an answer without usage: never above the hold, never zero where it costs."""
    if not settings.COST_TRACKING:
        return Charge(0, "")
    tokens = min(bounds.estimate_tokens(input_bytes), bound.input_tokens)
    usage = Usage(input_tokens=max(1, tokens), output_tokens=max(1, output_tokens))
    cost = pricing.cost_of(usage, **price_context(provider, model, at))
    nano = cost.nano if cost is not None else hold_nano
    if hold_nano == 0:
        return Charge(0, "estimated")
    return Charge(min(hold_nano, max(1, math.ceil(nano))), "estimated")
