"""What the stored keys can serve: the providers' own model lists with prices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from llmkeys import providers
from llmkeys.models import ApiKey
from llmkeys.prices import catalogue, limits
from llmkeys.providers.base import ListedModel
from llmkeys.relay import background, model_lists
from llmkeys.tokens.rights import Caller

_MILLION = Decimal(1_000_000)


async def servable_models(caller: Caller, *, at: datetime) -> list[dict[str, Any]]:
    """Return, as an OpenAI model list in serving order, the models that the caller may use and its keys can serve.

    Keys of one account have the same list, so the lists of one key per provider and billing group are fetched,
    concurrently.
    """
    keys = await background.in_thread(_usable_keys, caller, at)
    await model_lists.ask(key.id for key in keys)
    found = await background.in_thread(_entries, keys, at)
    return [entry for entry in found if caller.may_use(entry["id"])]


def _usable_keys(caller: Caller, at: datetime) -> list[ApiKey]:
    first: dict[tuple[str, str], ApiKey] = {}
    for key in ApiKey.objects.stored().usable(at).in_serving_order():
        if caller.key_ids is None or key.id in caller.key_ids:
            first.setdefault((key.provider, key.billing_group), key)
    return list(first.values())


def _entries(keys: Sequence[ApiKey], at: datetime) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key in keys:
        for listed in model_lists.models_of(key.id):
            entry = found.setdefault(listed.id, _entry(key, listed, at))
            if key.provider not in entry["providers"]:
                entry["providers"].append(key.provider)
    return list(found.values())


def models_to_choose(*, at: datetime, ask: bool) -> list[dict[str, Any]]:
    """Return the models that the first usable key of each provider can serve, in serving order, to choose from.

    Without `ask`, which lets the caller wait for providers, only the model lists last read are used.
    """
    first: dict[str, ApiKey] = {}
    for key in ApiKey.objects.stored().usable(at).in_serving_order():
        first.setdefault(key.provider, key)
    if ask:
        for key in first.values():
            model_lists.read(key.id)
    found: dict[str, dict[str, Any]] = {}
    for key in first.values():
        for listed in model_lists.models_of(key.id):
            found.setdefault(listed.id, _entry(key, listed, at))
    return list(found.values())


def _entry(key: ApiKey, listed: ListedModel, at: datetime) -> dict[str, Any]:
    owner = listed.id.split("/")[0] if "/" in listed.id else key.provider
    return {
        "id": listed.id,
        "object": "model",
        "created": 0,
        "owned_by": owner,
        "providers": [key.provider],
        "context_length": listed.context_tokens or limits.shown_window(key.provider, listed.id),
        "max_output_tokens": listed.max_output_tokens,
        "pricing": _prices(key, listed, at),
    }


def _prices(key: ApiKey, listed: ListedModel, at: datetime) -> dict[str, str | None] | None:
    """Return USD per token as text, as OpenRouter does; None if no price is known."""
    prices = catalogue.price_list()
    if not prices.has_operator_price(key.provider, listed.id, at) and listed.input_usd_per_token is not None:
        return {"prompt": _text(listed.input_usd_per_token), "completion": _text(listed.output_usd_per_token)}
    price = prices.shown(key.provider, listed.id, at)
    if price is None:
        return None
    return {"prompt": _text(price.input / _MILLION), "completion": _text(price.output / _MILLION)}


def _text(value: Decimal | None) -> str | None:
    return None if value is None else f"{value.normalize():f}"


def provider_choices() -> list[dict[str, str]]:
    """Return what a person needs to know of each provider before adding a key."""
    return [
        {
            "name": provider.name,
            "label": provider.label,
            "hint": provider.secret_hint,
            "keys_page": provider.keys_page,
            "keys_page_name": provider.keys_page.removeprefix("https://"),
        }
        for provider in providers.PROVIDERS.values()
    ]
