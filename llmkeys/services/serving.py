"""Which key would serve the next request, and who comes after it."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings

from llmkeys import admission
from llmkeys.admission import Caller
from llmkeys.exceptions import NoKey
from llmkeys.key_state import ACTIVE
from llmkeys.models import ApiKey


def serving_keys(*, at: datetime, model: str = "", caller: Caller | None = None) -> list[ApiKey]:
    """Return the keys that can serve now, in order: for `model`, or the first of primary and fallbacks that has any.

    No provider is asked: for a model that no rule knows, the model lists last read must do.
    """
    models = (model,) if model and model != "auto" else (settings.PRIMARY_MODEL, *settings.FALLBACK_MODELS)
    for name in models:
        try:
            pool = admission.candidates(name, caller=caller or Caller(), at=at, ask=False)
        except NoKey:
            continue
        keys = ApiKey.objects.in_bulk([candidate.id for candidate in pool if not candidate.obstacle])
        serving = [keys[c.id] for c in pool if c.id in keys and keys[c.id].status_at(at) == ACTIVE]
        if serving:
            return serving
    return []
