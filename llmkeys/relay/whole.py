"""Answers that were read to their end: JSON, JSON lines, or an event stream that nobody asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llmkeys.dialects import Request, Seen
from llmkeys.lib.reading import load_json
from llmkeys.lib.sse import data_lines, whole_events

# How an event stream begins, whatever its head announces; JSON and web pages begin otherwise.
_STREAM = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry|):")


def is_stream(raw: bytes) -> bool:
    return _STREAM.match(raw) is not None


def look(request: Request, raw: bytes) -> Seen | None:
    """Return what a whole answer says: JSON, JSON lines, or an event stream that has an end; None if it is neither.

    Some servers send a stream that nobody asked for.
    """
    body = load_json(raw)
    if body is not None:
        return request.dialect.see_answer(body) if isinstance(body, dict | list) else None
    if not is_stream(raw):
        lines = [load_json(line) for line in raw.splitlines() if line.strip()]
        is_json = bool(lines) and all(isinstance(line, dict) for line in lines)
        return _together(map(request.dialect.see_answer, lines)) if is_json else None
    whole = _together(seen for _, seen in _events_in(request, raw))
    has_an_end = whole.is_end or whole.is_finished or whole.has_final_usage or whole.error is not None
    return whole if has_an_end else None


def error_body(request: Request, body: bytes) -> bytes:
    """Return the document of an answer that has the error: all of it, or that of one event."""
    events = _events_in(request, body) if is_stream(body) else ()
    return next((b"\n".join(data_lines(event)) for event, seen in events if seen.error is not None), body)


def content_type(raw: bytes, announced: str) -> str:
    """Return the type by which a client should read a whole answer; some servers announce another than they send."""
    if is_stream(raw):
        return "text/event-stream"
    return announced if "json" in announced or load_json(raw) is None else "application/json"


def _events_in(request: Request, raw: bytes) -> Iterator[tuple[bytes, Seen]]:
    """Yield each event of a stream that was read to its end, and what it says."""
    for event in whole_events([raw]):
        yield event, request.dialect.see_event(event, request)


def _together(parts: Iterable[Seen]) -> Seen:
    """Return what the parts of an answer say together."""
    whole = Seen()
    for seen in parts:
        if seen.usage is not None:
            whole.usage = whole.usage.merged(seen.usage) if whole.usage else seen.usage
            whole.is_running_total = seen.is_running_total
        whole.is_end = whole.is_end or seen.is_end
        whole.is_finished = whole.is_finished or seen.is_finished
        whole.error = whole.error or seen.error
        whole.has_content = whole.has_content or seen.has_content
        whole.content_bytes += seen.content_bytes
        whole.id = whole.id or seen.id
        whole.sealed = seen.sealed or whole.sealed
    return whole
