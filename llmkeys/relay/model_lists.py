"""The providers' own model lists, one per key, cached for ten minutes."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from llmkeys import providers
from llmkeys.exceptions import LLMKeysError
from llmkeys.models import ApiKey
from llmkeys.providers.base import ListedModel
from llmkeys.relay import background
from llmkeys.upstream import asked

logger = logging.getLogger(__name__)

LISTS_SECONDS = 600.0
UNKNOWN_SECONDS = 15.0  # until a list that was never read is asked for again
ASK_SECONDS = 5.0  # how long a request with an unknown model name waits for all the lists


@dataclass(frozen=True, slots=True)
class _List:
    models: tuple[ListedModel, ...] | None  # None if the provider was asked in vain, and never answered before
    read_at: float

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.read_at < (UNKNOWN_SECONDS if self.models is None else LISTS_SECONDS)


_lists: dict[str, _List] = {}
_lock = threading.Lock()
_being_asked: dict[str, asyncio.Task[None]] = {}


def models_of(key_id: str) -> tuple[ListedModel, ...]:
    """Return the list last read, empty if none was."""
    with _lock:
        known = _lists.get(key_id)
    return (known.models or ()) if known else ()


async def ask(key_ids: Iterable[str]) -> None:
    """Fetch the lists of these keys that are not fresh: concurrently, once for all callers, waiting at most 5 s.

    What takes longer continues and is there for the next request. If a provider is unreachable, the list last read
    counts as fresh again; without one, the provider is asked again after 15 s.
    """
    waiting = []
    for key_id in key_ids:
        if not _is_fresh(key_id):
            task = _being_asked.get(key_id)
            if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
                task = _being_asked[key_id] = background.start(background.in_asker(read, key_id))
            waiting.append(task)
    if waiting:
        await asyncio.wait(waiting, timeout=ASK_SECONDS)


def read(key_id: str) -> None:
    """Fetch the key's model list from the provider unless there is a fresh one; blocks."""
    if _is_fresh(key_id):
        return
    models = _asked(key_id)
    with _lock:
        known = _lists.get(key_id)
        if models is None and known is not None:
            models = known.models
        _lists[key_id] = _List(models, time.monotonic())


def _is_fresh(key_id: str) -> bool:
    with _lock:
        known = _lists.get(key_id)
    return known is not None and known.is_fresh


def _asked(key_id: str) -> tuple[ListedModel, ...] | None:
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


def lists_model(key_id: str, provider: str, model: str) -> bool:
    """Return whether the list last read contains `model`."""
    if not model or ("/" in model and not providers.get(provider).vendor):
        return False
    return any(listed.id == model for listed in models_of(key_id))


def forget() -> None:
    """Drop all lists; for tests."""
    with _lock:
        _lists.clear()
