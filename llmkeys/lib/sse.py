"""Event streams on their way through: cut into whole events, bytes untouched.

LF, CR and CRLF each end a line, an empty line ends an event (WHATWG, HTML, "Server-sent events").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

LONGEST_EVENT = 32 * 1024 * 1024
DONE = b"[DONE]"

# Atomic groups: the CR of a CRLF and its LF must never count as two ends of a line.
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LONGEST_END = 4
_MARK = b"\xef\xbb\xbf"  # a stream may begin with a byte order mark, which is none of its first line


class EventSplitter:
    """Collect pieces of a stream and hand out whole events, each with the empty line that ends it.

    Where an event ends in CR and the LF of that CRLF comes with the next piece, the LF begins the next event: nothing
    is lost, and nobody waits for a byte that may never come.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield each event that `piece` completes. An event above 32 MB is handed out unfinished, to bound memory."""
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
        """Return what came after the last whole event."""
        rest = bytes(self._rest)
        self._rest.clear()
        self._searched = 0
        return rest


def data_lines(event: bytes) -> list[bytes]:
    """Return the value of each `data` line; comments and other fields are skipped line by line."""
    if event.startswith(b"data:") and event.find(b"\n") >= len(event.rstrip()):  # one line, as nearly always
        return [event[5:].strip()]
    lines = _LINE_END.split(event.removeprefix(_MARK))
    return [line[5:].removeprefix(b" ").rstrip() for line in lines if line.startswith(b"data:")]


def documents(event: bytes) -> list[Any]:
    """Return what an event carries, parsed: one document, or one of each line where the lines make none together.

    Lines that are not JSON, such as the end marker, are returned as bytes.
    """
    lines = data_lines(event)
    if len(lines) > 1 and (joined := load_json(b"\n".join(lines))) is not None:
        return [joined]
    return [line if (found := load_json(line)) is None else found for line in lines]


def load_json(data: bytes) -> Any:
    """Parse a provider's JSON with exact decimals; None if it is not JSON."""
    try:
        return json.loads(data, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):  # ArithmeticError: an exponent beyond Decimal's own range
        return None
