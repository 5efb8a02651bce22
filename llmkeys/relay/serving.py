"""Which key would serve the next request, and which keys come after it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from llmkeys.exceptions import NoKey
from llmkeys.key_state import ACTIVE
from llmkeys.models import ApiKey
from llmkeys.prices import catalogue
from llmkeys.relay import candidates
from llmkeys.relay.requests import models_for
from llmkeys.tokens.rights import Caller


def serving_keys(*, at: datetime, model: str = "", caller: Caller | None = None) -> list[ApiKey]:
    """Return the keys that can serve now, in order: for `model`, or for the first default model that has any.

    The default models are the primary and the fallbacks. No request is sent to a provider: for a model that no naming
    rule knows, the model lists last read are used.
    """
    caller = caller or Caller()
    try:
        models = models_for(model, caller)
    except NoKey:
        return []
    for name in models:
        free = _without_obstacle(name, caller, at)
        keys = ApiKey.objects.in_bulk(free)
        serving = [keys[key_id] for key_id in free if key_id in keys and keys[key_id].status_at(at) == ACTIVE]
        if serving:
            return serving
    return []


def serving_order(active: Collection[str], *, at: datetime) -> tuple[str, list[str]]:
    """Return the model that is served, and which of the `active` keys serve it, in order.

    The model is the first of the primary and fallback models that has any key, or an empty string.
    """
    for name in catalogue.models_to_try(""):
        serving = [key_id for key_id in _without_obstacle(name, Caller(), at) if key_id in active]
        if serving:
            return name, serving
    return "", []


def _without_obstacle(model: str, caller: Caller, at: datetime) -> list[str]:
    try:
        pool = candidates.find_now(model, caller=caller, at=at)
    except NoKey:
        return []
    return [candidate.id for candidate in pool if not candidate.obstacle]
