"""What the operator says of models: prices and aliases, cached for seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Generic, TypeVar

from llmkeys.models import ModelAlias, ModelPrice
from llmkeys.prices import pricing

TABLES_SECONDS = 2.0  # how long an edit of a price or an alias may take to be seen by every process

T = TypeVar("T")


class _Cached(Generic[T]):
    """A value made anew when it is older than `seconds`."""

    def __init__(self, make: Callable[[], T], seconds: float):
        self._make, self._seconds = make, seconds
        self._made_at = float("-inf")
        self._value: T | None = None

    def get(self) -> T:
        if time.monotonic() - self._made_at > self._seconds:
            self._value = self._make()
            self._made_at = time.monotonic()
        return self._value  # type: ignore[return-value]

    def forget(self) -> None:
        self._made_at = float("-inf")


def _read_aliases() -> dict[tuple[str, str], str]:
    return {
        (provider, alias): model
        for provider, alias, model in ModelAlias.objects.values_list("provider", "alias", "model")
    }


def _read_prices() -> dict[tuple[str, str], list[tuple[datetime, pricing.Price]]]:
    found: dict[tuple[str, str], list[tuple[datetime, pricing.Price]]] = {}
    for row in ModelPrice.objects.order_by("-valid_from"):
        price = pricing.Price(
            input=row.input_usd_per_mtok,
            output=row.output_usd_per_mtok,
            cached_input=row.cached_input_usd_per_mtok,
            cache_write=row.cache_write_usd_per_mtok,
            cache_write_1h=None,
        )
        found.setdefault((row.provider, row.model), []).append((row.valid_from, price))
    return found


_aliases = _Cached(_read_aliases, TABLES_SECONDS)
_prices = _Cached(_read_prices, TABLES_SECONDS)


def aliases() -> dict[tuple[str, str], str]:
    """Return the operator's aliases: (provider, name that clients send) → the provider's own name."""
    return _aliases.get()


def operator_price(provider: str, model: str, at: datetime) -> pricing.Price | None:
    """Return the operator's price that is in force at `at`, None where there is none."""
    rows = _prices.get().get((provider, model), ())
    return next((price for valid_from, price in rows if valid_from <= at), None)


def forget() -> None:
    """Drop the cached tables, after an edit in this process and between tests."""
    _aliases.forget()
    _prices.forget()
