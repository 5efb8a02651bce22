"""What the operator says of models: prices and aliases, cached for seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.conf import settings

from llmkeys import providers
from llmkeys.models import ModelAlias, ModelPrice
from llmkeys.prices.tariffs import OperatorPrice, Price, PriceList
from llmkeys.providers.base import Provider

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
        made = self._make()
        self._value = self._value if made == self._value else made
        self._made_at = time.monotonic()

    def forget(self) -> None:
        self._made_at = float("-inf")


def _read_aliases() -> dict[tuple[str, str], str]:
    return {
        (provider, alias): model
        for provider, alias, model in ModelAlias.objects.values_list("provider", "alias", "model")
    }


def _read_prices() -> dict[tuple[str, str], list[OperatorPrice]]:
    found: dict[tuple[str, str], list[OperatorPrice]] = {}
    for row in ModelPrice.objects.order_by("-valid_from"):
        price = Price(
            input=row.input_usd_per_mtok,
            output=row.output_usd_per_mtok,
            cached_input=row.cached_input_usd_per_mtok,
            cache_write=row.cache_write_usd_per_mtok,
        )
        found.setdefault((row.provider, row.model), []).append(OperatorPrice(price, row.valid_from))
    return found


_aliases = _Cached(_read_aliases, TABLES_SECONDS)
_prices = _Cached(_read_prices, TABLES_SECONDS)
_made: dict[str, Any] = {}  # the list made last, and what it was made of


def aliases() -> dict[tuple[str, str], str]:
    """Return the operator's aliases: (provider, name that clients send) → the provider's own name."""
    return _aliases.get()


def price_list() -> PriceList:
    """Return all prices as they are now; the same object as long as nothing was edited."""
    made_of = (_prices.get(), settings.FALLBACK_USD_PER_TOKEN, settings.PROVIDER_BASE_URLS)
    known = _made.get("of", ())
    if len(known) != 3 or any(new is not old for new, old in zip(made_of, known, strict=True)):
        table, fallback, _ = made_of
        _made["list"], _made["of"] = PriceList(table, fallback, _local_providers()), made_of
    return _made["list"]


def is_local(provider: Provider) -> bool:
    """Tell whether the base URL is not the provider's own: unknown models are then free, and flagged."""
    return provider.name in _local_providers()


def _local_providers() -> frozenset[str]:
    urls = settings.PROVIDER_BASE_URLS
    return frozenset(name for name, url in urls.items() if not providers.get(name).is_own(url))


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
