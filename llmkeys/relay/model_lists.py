"""The providers' own model lists, one per key, cached for minutes."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from llmkeys import providers
from llmkeys.exceptions import LLMKeysError
from llmkeys.models import ApiKey
from llmkeys.providers.base import ListedModel
from llmkeys.upstream import asked

logger = logging.getLogger(__name__)

LISTS_SECONDS = 600.0


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
        answer = asked.list_models(key)
    except (asked.TransportError, LLMKeysError) as error:
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


def forget() -> None:
    """Drop every list, between tests."""
    with _lists_lock:
        _lists.clear()
