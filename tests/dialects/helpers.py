"""What the tests of dialects share: requests made from a body, and a stream read as the relay reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from llmkeys.dialects.base import Dialect, Request, Seen
from llmkeys.exceptions import InvalidInput

PNG = "iVBORw0KGgo" + "A" * 9_989  # 10,000 characters of base64


def request_of(
    dialect: Dialect, body: Any, *, operation: str = "", path_model: str = "", query: str = "", raw: bytes | None = None
) -> Request:
    """Return a request as the gateway makes it, at the dialect's first door or at the one of this operation."""
    door = next(door for door in dialect.doors if door.operation == operation or not operation)
    raw = json.dumps(body).encode() if raw is None else raw
    return Request(dialect=dialect, door=door, body=body, raw=raw, path_model=path_model, query=query)


def refusal(request: Request) -> dict[str, list[str]]:
    """Return the words with which a dialect refuses a request; empty where it takes it."""
    try:
        request.dialect.validate(request)
    except InvalidInput as refused:
        return refused.errors
    return {}


def pieces_of(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def events_of(request: Request, pieces: Iterable[bytes]) -> list[bytes]:
    events = request.dialect.events(request)
    found = [event for piece in pieces for event in events.feed(piece)]
    rest = events.rest()
    return [*found, rest] if rest else found


def seen_in(request: Request, pieces: Iterable[bytes]) -> Seen:
    """Return the sum of what the events of a stream tell."""
    whole = Seen()
    for event in events_of(request, pieces):
        seen = request.dialect.see_event(event, request)
        if seen.usage is not None:
            whole.usage = seen.usage if whole.usage is None else whole.usage.merged(seen.usage)
        whole.has_content |= seen.has_content
        whole.content_bytes += seen.content_bytes
        whole.error = whole.error or seen.error
        whole.is_end |= seen.is_end
        whole.is_finished |= seen.is_finished
        whole.id = whole.id or seen.id
    return whole
