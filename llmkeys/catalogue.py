"""What the operator and the providers say of models: prices, aliases, model lists. Cached for seconds or minutes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from llmkeys import pricing, providers, upstream
from llmkeys.exceptions import LLMKeysError
from llmkeys.models import ApiKey, ModelAlias, ModelPrice
from llmkeys.providers.base import ListedModel

logger = logging.getLogger(__name__)

TABLES_SECONDS = 2.0  # how long an edit of a price or an alias may take to be seen by every process
LISTS_SECONDS = 600.0

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
    """Drop every cached table and list, after an edit in this process and between tests."""
    _aliases.forget()
    _prices.forget()
    with _lists_lock:
        _lists.clear()


# --- the providers' own model lists --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _List:
    models: tuple[ListedModel, ...]
    read_at: float


_lists: dict[str, _List] = {}
_lists_lock = threading.Lock()


def models_of(key_id: str, *, ask: bool = True) -> tuple[ListedModel, ...]:
    """Return the model list that the key's provider gives it, at most ten minutes old.

    An unreachable provider gives the list last read, or none; it is asked again after ten minutes. Without `ask` the
    list last read must do: a page does not wait for a provider.
    """
    with _lists_lock:
        known = _lists.get(key_id)
    if not ask:
        return known.models if known else ()
    if known is not None and time.monotonic() - known.read_at < LISTS_SECONDS:
        return known.models
    models = _ask(key_id)
    if models is None:
        models = known.models if known else ()
    with _lists_lock:
        _lists[key_id] = _List(models, time.monotonic())
    return models


def _ask(key_id: str) -> tuple[ListedModel, ...] | None:
    key = ApiKey.objects.stored().filter(pk=key_id).first()
    if key is None:
        return None
    try:
        answer = upstream.list_models(key)
    except (upstream.TransportError, LLMKeysError) as error:
        logger.warning("The model list of key %s could not be read: %s", key_id, error)
        return None
    if answer.status != 200:
        return None
    return tuple(providers.get(key.provider).models_answer(answer.body))


def lists_model(key_id: str, provider: str, model: str, *, ask: bool = True) -> bool:
    """Tell whether the key's own model list has `model`; asked only for names that no rule knows."""
    if not model or ("/" in model and provider == "openrouter"):
        return False
    return any(listed.id == model for listed in models_of(key_id, ask=ask))
