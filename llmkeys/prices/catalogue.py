"""What the operator says of models: prices and aliases, cached for seconds."""

from __future__ import annotations

import asyncio
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

    def is_stale(self) -> bool:
        return time.monotonic() - self._made_at > self._seconds

    def get(self) -> T:
        """Return the value; on an event loop the last one must do, for making it anew would block."""
        if self._value is None or (self.is_stale() and asyncio._get_running_loop() is None):
            self.refresh()
        return self._value  # type: ignore[return-value]

    def refresh(self) -> None:
        self._value = self._make()
        self._made_at = time.monotonic()

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


def is_stale() -> bool:
    """True where a coroutine should have `refresh` called before it asks."""
    return _aliases.is_stale() or _prices.is_stale()


def refresh() -> None:
    """Read the tables anew; blocks."""
    _aliases.refresh()
    _prices.refresh()


def forget() -> None:
    """Drop the cached tables, after an edit in this process and between tests."""
    _aliases.forget()
    _prices.forget()
