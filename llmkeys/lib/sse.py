"""Event streams on their way through: cut into whole events, looked into only where something of ours is inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

LONGEST_EVENT = 4 * 1024 * 1024
DONE = b"[DONE]"


class EventSplitter:
    """Collect pieces of a stream and hand out whole events, bytes untouched (LF or CRLF line ends)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield each event that `piece` completes, its blank line included."""
        data = self._rest + piece if self._rest else piece
        start = 0
        while (end := _event_end(data, start)) is not None:
            yield data[start:end]
            start = end
        self._rest = data[start:]
        if len(self._rest) > LONGEST_EVENT:  # no provider sends such an event: pass it on unread
            yield self._rest
            self._rest = b""

    def rest(self) -> bytes:
        """Return what came after the last whole event."""
        rest, self._rest = self._rest, b""
        return rest


def _event_end(data: bytes, start: int) -> int | None:
    lf, crlf = data.find(b"\n\n", start), data.find(b"\r\n\r\n", start)
    ends = [position for position in (lf + 2 if lf >= 0 else -1, crlf + 4 if crlf >= 0 else -1) if position > 0]
    return min(ends, default=None)


def data_of(event: bytes) -> bytes | None:
    """Return the joined `data:` lines of an event; None for comments and events without data."""
    if event.startswith(b"data:") and event.count(b"\n") <= 2:
        return event[5:].strip()
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines).strip() if lines else None


def is_done(event: bytes) -> bool:
    return DONE in event and data_of(event) == DONE


def load_json(data: bytes) -> Any:
    """Parse a provider's JSON with exact decimals; None where it is no JSON."""
    try:
        return json.loads(data, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):  # ArithmeticError: an exponent beyond Decimal's own range
        return None
