"""The operator's prices and aliases of models, cached for a few seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.conf import settings

from llmkeys import providers
from llmkeys.models import AUTO, OPTIONAL_PRICES, PRICES, ModelAlias, ModelPrice
from llmkeys.prices.tariffs import OperatorPrice, Price, PriceList
from llmkeys.providers.base import Provider

TABLES_SECONDS = 2.0  # how long other processes may take to see an edit of a price or alias

AMOUNTS = (*PRICES, *OPTIONAL_PRICES)

T = TypeVar("T")


class _Cached(Generic[T]):
    """A value that is rebuilt when it is older than TABLES_SECONDS."""

    def __init__(self, make: Callable[[], T]):
        self._make = make
        self._made_at = float("-inf")
        self._value: T | None = None

    def is_stale(self) -> bool:
        return time.monotonic() - self._made_at > TABLES_SECONDS

    def get(self) -> T:
        """Return the value; on an event loop it may be stale, because rebuilding it would block."""
        if self._value is None or (self.is_stale() and asyncio._get_running_loop() is None):
            self.refresh()
        return self._value  # type: ignore[return-value]

    def refresh(self) -> None:
        made = self._make()
        self._value = self._value if made == self._value else made
        self._made_at = time.monotonic()

    def forget(self) -> None:
        self._made_at = float("-inf")


def _read_aliases() -> dict[tuple[str, str], tuple[str, ...]]:
    rows = ModelAlias.objects.values_list("provider", "alias", "model_names")
    return {(provider, alias): tuple(names) for provider, alias, names in rows if names}


def _read_prices() -> dict[tuple[str, str], list[OperatorPrice]]:
    found: dict[tuple[str, str], list[OperatorPrice]] = {}
    for row in ModelPrice.objects.order_by("-valid_from"):
        amounts = {name.removesuffix("_usd_per_mtok").removesuffix("_usd"): getattr(row, name) for name in AMOUNTS}
        kept = OperatorPrice(Price(**amounts), row.valid_from, row.service_tier, row.above_input_tokens)
        found.setdefault((row.provider, row.model), []).append(kept)
    return found


_aliases = _Cached(_read_aliases)
_prices = _Cached(_read_prices)
_made: tuple[tuple[Any, ...], PriceList] | None = None  # what the last list was made of, and the list


def aliases() -> dict[tuple[str, str], str]:
    """Return the operator's aliases at one provider: (provider, name that clients send) → the provider's own name."""
    return {key: names[0] for key, names in _aliases.get().items() if key[0]}


def models_for(alias: str) -> tuple[str, ...] | None:
    """Return the models of an alias in the order in which they are tried, or None if the name is not an alias."""
    return _aliases.get().get(("", alias))


def models_to_try(named: str) -> tuple[str, ...]:
    """Return the models to try in turn for the name a client sent; for none or `auto`, the operator's choice."""
    found = models_for(named or AUTO)
    if found is not None:
        return found
    return (named,) if named and named != AUTO else (settings.PRIMARY_MODEL, *settings.FALLBACK_MODELS)


def price_list() -> PriceList:
    """Return the current prices; the same object until something is edited."""
    global _made
    made_of = (_prices.get(), settings.FALLBACK_USD_PER_TOKEN, settings.PROVIDER_BASE_URLS)
    known = _made  # read and written in one step, because threads make lists at the same time
    if known is None or any(new is not old for new, old in zip(made_of, known[0], strict=True)):
        _made = known = made_of, PriceList(made_of[0], made_of[1], _local_providers())
    return known[1]


def is_local(provider: Provider) -> bool:
    """Return whether the base URL is not the provider's own, so that unknown models are free, and flagged."""
    return provider.name in _local_providers()


def _local_providers() -> frozenset[str]:
    urls = settings.PROVIDER_BASE_URLS
    return frozenset(name for name, url in urls.items() if not providers.get(name).is_own(url))


def is_stale() -> bool:
    """Return whether a coroutine should call `refresh` (in a thread) before it reads."""
    return _aliases.is_stale() or _prices.is_stale()


def refresh() -> None:
    """Read the tables again. Blocks."""
    _aliases.refresh()
    _prices.refresh()


def forget() -> None:
    """Drop the cached tables, after an edit in this process and between tests."""
    _aliases.forget()
    _prices.forget()
