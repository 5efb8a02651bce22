"""Event streams, split into whole events without changing a byte.

LF, CR and CRLF each end a line, an empty line ends an event (WHATWG, HTML, "Server-sent events").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

LONGEST_EVENT = 32 * 1024 * 1024
DONE = b"[DONE]"

# Atomic groups, so that the CR and the LF of a CRLF never count as two line ends.
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LONGEST_END = 4
_MARK = b"\xef\xbb\xbf"  # a stream may begin with a byte order mark, which is not part of its first line


class EventSplitter:
    """Collects pieces of a stream and yields whole events, each with the empty line that ends it.

    If an event ends in CR and the LF of that CRLF arrives with the next piece, the LF begins the next event: nothing is
    lost, and there is no waiting for a byte that may never come.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield each event that `piece` completes. An event above 32 MB is yielded unfinished, to bound memory."""
        rest = self._rest
        rest += piece
        start, search = 0, max(0, self._searched - _LONGEST_END)
        while (end := _EVENT_END.search(rest, search)) is not None:
            yield bytes(rest[start : end.end()])
            start = search = end.end()
        del rest[:start]
        self._searched = len(rest)
        if len(rest) > LONGEST_EVENT:
            yield self.rest()

    def rest(self) -> bytes:
        """Return and clear what came after the last whole event."""
        rest = bytes(self._rest)
        self._rest.clear()
        self._searched = 0
        return rest


def whole_events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each event of a stream that is read to its end; the last one may lack its empty line."""
    splitter = EventSplitter()
    for piece in pieces:
        yield from splitter.feed(piece)
    yield splitter.rest()


def data_lines(event: bytes) -> list[bytes]:
    """Return the value of each `data` line; comments and other fields are skipped."""
    if event.startswith(b"data:") and event.find(b"\n") >= len(event.rstrip()):  # one line: the usual case
        return [event[5:].strip()]
    lines = _LINE_END.split(event.removeprefix(_MARK))
    return [line[5:].removeprefix(b" ").rstrip() for line in lines if line.startswith(b"data:")]


def documents(event: bytes) -> list[Any]:
    """Return the parsed JSON of an event: one document, or one per line if the lines together are not valid JSON.

    A line that is not JSON, such as the end marker, is returned as bytes.
    """
    lines = data_lines(event)
    if len(lines) > 1 and (joined := load_json(b"\n".join(lines))) is not None:
        return [joined]
    return [line if (found := load_json(line)) is None else found for line in lines]


def load_json(data: bytes) -> Any:
    """Parse JSON with exact decimals; return None if it is not JSON."""
    try:
        return json.loads(data, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):  # ArithmeticError: an exponent beyond Decimal's own range
        return None
