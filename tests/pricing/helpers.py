"""What the pricing tests share: a fixed present, a price context, and the models of the price data."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from genai_prices.data_snapshot import get_snapshot

NOW = datetime(2026, 11, 23, 20, 30, tzinfo=UTC)
PROVIDERS = ("openrouter", "openai", "anthropic", "google")


def context(provider: str, model: str, **changes: Any) -> dict[str, Any]:
    return {
        "provider": provider,
        "model": model,
        "at": NOW,
        "operator_price": None,
        "fallback_usd_per_token": Decimal("0.0001"),
        "local": False,
        **changes,
    }


def listed_models() -> list[tuple[str, str]]:
    """Return (provider, model) of everything in the price data that is one of ours and answers to its own name."""
    ours = [(listed, model) for listed in get_snapshot().providers if listed.id in PROVIDERS for model in listed.models]
    return [(listed.id, model.id) for listed, model in ours if listed.find_model(model.id) is not None]
