"""Streamed JSON arrays, split into elements without changing a byte. Google streams one unless asked for SSE."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmkeys.lib.sse import LONGEST_EVENT

_SIGN = re.compile(rb'["{}\[\]]')
_IN_TEXT = re.compile(rb'["\\]')


class ArraySplitter:
    """Collects pieces of an array and yields each element with the bytes before it, and the last bracket separately."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._at = 0  # scanned so far
        self._depth = 0
        self._is_array = True
        self._in_text = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what `piece` completes. An element above 32 MB is yielded unfinished, to bound memory."""
        self._rest += piece
        while (sign := (_IN_TEXT if self._in_text else _SIGN).search(self._rest, self._at)) is not None:
            found, self._at = sign[0], sign.end()
            if found == b"\\":
                if self._at == len(self._rest):  # the escaped character has not arrived yet
                    self._at -= 1
                    break
                self._at += 1
            elif found == b'"':
                self._in_text = not self._in_text
            elif found in b"{[":
                self._is_array = found == b"[" if self._depth == 0 else self._is_array
                self._depth += 1
            else:
                self._depth = max(0, self._depth - 1)
                if self._depth == 0 or (self._depth == 1 and self._is_array):
                    yield self._cut()
        else:
            self._at = len(self._rest)
        if len(self._rest) > LONGEST_EVENT:
            yield self.rest()

    def _cut(self) -> bytes:
        event = bytes(self._rest[: self._at])
        del self._rest[: self._at]
        self._at = 0
        return event

    def rest(self) -> bytes:
        """Return and clear what came after the last whole element."""
        rest = bytes(self._rest)
        self._rest.clear()
        self._at = 0
        return rest
