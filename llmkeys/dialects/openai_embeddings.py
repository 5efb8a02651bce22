"""The dialect *OpenAI embeddings*: `POST /v1/embeddings`. An answer has vectors and no output tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmkeys.dialects import bounds, checks
from llmkeys.dialects.base import Bound, Door, Request, Rewrite, Seen, with_changes
from llmkeys.dialects.media import survey
from llmkeys.dialects.openai_chat import OpenAIChat
from llmkeys.dialects.usage import read_openai_usage
from llmkeys.exceptions import InvalidInput
from llmkeys.lib.reading import text

_WORDS = "must be a string, a list of strings, or lists of token numbers."


class OpenAIEmbeddings(OpenAIChat):
    name = "openai-embeddings"
    doors = (Door("/v1/embeddings", "embeddings"),)
    limit_names = ()

    def validate(self, request: Request) -> None:
        body = request.body
        checks.check_model(body)
        checks.check_other_models(request)
        given = body.get("input")
        if given is None:
            raise InvalidInput({"input": [checks.missing(body, "input", "give a string or a list of strings.")]})
        if not isinstance(given, str | list) or not given:
            raise InvalidInput({"input": ["is empty: give at least one string." if given in ("", []) else _WORDS]})
        checks.check_bound(request)

    def is_streamed(self, request: Request) -> bool:
        return False

    def bound(self, request: Request, model: str) -> Bound:
        body = request.body
        models = bounds.names_in(model, body.get("models"))
        found = survey(body, size=len(request.raw), places=_parts(body), models=models)
        return Bound(
            input_tokens=found.tokens + bounds.OVERHEAD_TOKENS,
            text_tokens=found.text_bytes,
            output_tokens=0,
            inputs=_count_inputs(body.get("input")),
            audio_input_tokens=found.audio_tokens,
            image_input_tokens=found.image_tokens,
            images=found.images,
            file_tokens=found.file_tokens,
            unseen_bytes=found.unseen_bytes,
            whole_window=found.whole_window,
            service_tier=bounds.service_tier(body),
            may_reason=False,
        )

    def tighter_bound(self, request: Request, model: str) -> Bound:
        models = (model, *request.other_models)
        return bounds.tighter(request.body, request.bound_for(model), models=models, places=_parts(request.body))

    def rewritten(self, request: Request, change: Rewrite) -> bytes:
        return with_changes(request, change)

    def see_answer(self, body: Any) -> Seen:
        """Return the usage; vectors are content, but have no output tokens."""
        seen = Seen()
        if isinstance(body, list) and len(body) == 1:  # Google wraps its errors in a list
            body = body[0]
        if not isinstance(body, Mapping):
            return seen
        seen.body, seen.id = body, text(body.get("id"), limit=200)
        seen.error = body if body.get("error") else None
        seen.has_content = seen.is_finished = bool(body.get("data"))
        if (usage := read_openai_usage(body)) is not None:
            seen.usage = usage if usage.input_tokens is None else replace(usage, output_tokens=usage.output_tokens or 0)
        return seen


def _count_inputs(given: Any) -> int:
    """Return how many texts are embedded; a list of token numbers is one of them."""
    listed = given if isinstance(given, list) else []
    return max(1, sum(isinstance(item, str | list | dict) for item in listed))


def _parts(body: Mapping[str, Any]) -> list[Any]:
    """Return the parts of OpenRouter's inputs that may be media."""
    return [part for one in bounds.objects_in(body.get("input")) for part in bounds.objects_in(one.get("content"))]
