"""The text of answers in the OpenAI chat dialect, for people (the `chat` command, the playground)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmkeys import dialects
from llmkeys.dialects import Request
from llmkeys.exceptions import UpstreamFailed
from llmkeys.lib.reading import load_json
from llmkeys.lib.sse import documents, whole_events
from llmkeys.relay.requests import Answer, RelayRequest
from llmkeys.tokens.rights import Caller


def chat_request(body: Mapping[str, Any], caller: Caller) -> RelayRequest:
    """Return a request in the OpenAI chat dialect. Raises InvalidInput."""
    chat = dialects.get("openai-chat")
    request = Request(dialect=chat, door=chat.doors[0], body=body, raw=json.dumps(body).encode())
    chat.validate(request)
    return RelayRequest(request, caller)


def complete_text(answer: Answer) -> str:
    """Return the text of an answer that is not a stream. Raises UpstreamFailed with the provider's message."""
    assert isinstance(answer.content, bytes)
    body = load_json(answer.content)
    if answer.status >= 400:
        raise UpstreamFailed(_error_in(body) or f"The provider refused with status {answer.status}.")
    if body is None:  # a server that streams unasked
        return "".join(deltas([answer.content]))
    message = _first_choice(body).get("message")
    return str(message.get("content") or "") if isinstance(message, dict) else ""


def deltas(pieces: Iterable[bytes]) -> Iterator[str]:
    """Yield the text of a stream in pieces. Raises UpstreamFailed for an error inside it."""
    for event in whole_events(pieces):
        for body in documents(event):
            if error := _error_in(body):
                raise UpstreamFailed(error)
            delta = _first_choice(body).get("delta")
            text = delta.get("content") if isinstance(delta, dict) else None
            if isinstance(text, str) and text:
                yield text


def _first_choice(body: Any) -> dict[str, Any]:
    choices = body.get("choices") if isinstance(body, dict) else None
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def _error_in(body: Any) -> str:
    body = body[0] if isinstance(body, list) and body else body  # Google wraps its errors in a list
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return str(error.get("message") or "The provider answered with an error.")
    return error if isinstance(error, str) else ""
