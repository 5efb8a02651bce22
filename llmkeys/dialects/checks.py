"""Checks of bodies that all dialects share, made before anything is held or sent, with helpful messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmkeys.dialects import bounds
from llmkeys.dialects.base import MAX_MODEL_NAME, Request
from llmkeys.exceptions import InvalidInput

MOST_MODELS = 50
MOST_TOKENS = 10**9  # in all that a request may take and make; no provider comes near it
_ELSEWHERE = {
    "messages": "This is a chat body: send it to /v1/chat/completions, or to /v1/messages in Anthropic's form.",
    "contents": "This is a Google body: send it to /v1beta/models/MODEL:generateContent.",
    "requests": "This is a Google batch: send it to /v1beta/models/MODEL:batchEmbedContents.",
    "content": "This is a Google body: send it to /v1beta/models/MODEL:embedContent.",
    "input": "This is a Responses body: send it to /v1/responses.",
    "prompt": "A “prompt” belongs to legacy completions, which are not served: send “messages”.",
}


def check_model(body: Mapping[str, Any]) -> None:
    """Raise InvalidInput if `model` cannot be the name of a model."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidInput({"model": ["must be a string, the name of a model."]})
    if model and not _can_be_a_name(model):
        raise InvalidInput({"model": [f"must be at most {MAX_MODEL_NAME} printable characters."]})


def check_other_models(request: Request) -> None:
    """Raise InvalidInput for more models than any provider accepts, because each one is bounded separately.

    Raise it also for a model or a preset whose name cannot exist.
    """
    if len(request.other_models) > MOST_MODELS:
        raise InvalidInput({"models": [f"names {len(request.other_models)} models; at most {MOST_MODELS} may answer."]})
    if not all(map(_can_be_a_name, request.other_models)):
        words = f"must be names of at most {MAX_MODEL_NAME} printable characters"
        raise InvalidInput({"models": [f"{words}; so must the models in “fallbacks” and “tools”."]})
    preset = request.body.get("preset")
    if preset and not (isinstance(preset, str) and _can_be_a_name(preset)):
        raise InvalidInput({"preset": [f"must be a string of at most {MAX_MODEL_NAME} printable characters."]})


def _can_be_a_name(text: str) -> bool:
    return len(text) <= MAX_MODEL_NAME and text.isprintable()


def check_messages(body: Mapping[str, Any]) -> None:
    check_objects(body, "messages", "must be a list of objects with role and content.", "message")


def check_objects(body: Mapping[str, Any], name: str, words: str, one: str) -> None:
    """Raise InvalidInput if a field is not a nonempty list of objects."""
    value = body.get(name)
    if value is None:
        raise InvalidInput({name: [missing(body, name, f"give at least one {one}.")]})
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidInput({name: [words]})
    if not value:
        raise InvalidInput({name: [f"is empty: give at least one {one}."]})


def missing(body: Mapping[str, Any], name: str, hint: str) -> str:
    """Return the message for a missing field, which says where the body belongs if it is of another dialect."""
    for field, words in _ELSEWHERE.items():
        if field != name and body.get(field) is not None:
            if field == "input" and "embed" in str(body.get("model")):
                words = "This is an embeddings body: send it to /v1/embeddings."
            return f"is missing. {words}"
    return f"is missing: {hint}"


def check_flag(body: Mapping[str, Any], name: str) -> None:
    if not isinstance(body.get(name), bool | None):
        raise InvalidInput({name: ["must be true or false."]})


def check_object(body: Mapping[str, Any], name: str) -> None:
    if body.get(name) is not None and not isinstance(body[name], dict):
        raise InvalidInput({name: ["must be an object."]})


def check_bound(request: Request) -> None:
    """Compute the bound. Raises InvalidInput for numbers that no provider would accept, each by itself or all together.

    Sums of holds have to fit the database's integers.
    """
    try:
        most = bounds.most_tokens(request.bound)
    except bounds.BadCount as error:
        raise InvalidInput({error.param: [error.words]}) from None
    except RecursionError:
        raise InvalidInput({"body": ["The body is nested too deeply."]}) from None
    if most > MOST_TOKENS:
        words = (
            f"The request may take {most:,} tokens in all, more than the {MOST_TOKENS:,} that can be served: lower the "
            "limits of its tools, media and answers."
        )
        raise InvalidInput({"body": [words]})
