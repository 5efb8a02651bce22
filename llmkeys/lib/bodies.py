"""The body of a request, read from an ASGI server: bounded in size and time, and decoded."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

_PATIENCE_SECONDS = 2.0  # how long the rest of a refused body is read, so that the client gets to read the refusal

_MOST_MEMBERS = 20  # gzip data may consist of several members; each costs a copy of the rest


class BodyRefused(Exception):
    """A body that is refused: the status of the answer, and a message for the sender."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Disconnected(Exception):
    """The client disconnected before its body was complete."""


@dataclass(slots=True)
class Room:
    """How many bytes of request bodies a worker may still keep in memory, for all requests together."""

    free: int

    @contextmanager
    def taken(self) -> Iterator[Taken]:
        taken = Taken(self)
        try:
            yield taken
        finally:
            taken.give_back()


@dataclass(slots=True)
class Taken:
    """The part of the room that one request has taken."""

    room: Room
    size: int = 0

    def more(self, size: int) -> None:
        """Take `size` more bytes. Raises BodyRefused (503)."""
        if size > self.room.free:
            raise BodyRefused(503, "The server is reading as many request bodies as it can. Try again in a second.")
        self.room.free -= size
        self.size += size

    def give_back(self) -> None:
        """Give all of it back: the bytes are no longer in memory."""
        self.room.free, self.size = self.room.free + self.size, 0


async def read(receive: Receive, *, limit: int, seconds: float, taken: Taken, declared: int | None = None) -> bytes:
    """Return the whole body as it was sent. Raises BodyRefused (413, 408, 503) and Disconnected.

    `declared` is its Content-Length, None if the client sent none (a chunked body).
    """
    try:
        if declared is not None and declared > limit:
            raise _too_large(limit)
        async with asyncio.timeout(seconds):
            return await _all_of(receive, limit, taken)
    except TimeoutError:
        raise BodyRefused(408, f"The body did not arrive within {seconds:g} seconds.") from None


async def _all_of(receive: Receive, limit: int, taken: Taken) -> bytes:
    pieces, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        piece, more = message.get("body", b""), message.get("more_body", False)
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        taken.more(len(piece))
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def discard(receive: Receive) -> None:
    """Read the rest of a body for a moment, because a client that is cut off while it sends never reads the answer."""
    more = True
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while more:
                message = await receive()
                more = message["type"] == "http.request" and message.get("more_body", False)
    except TimeoutError:
        return


def decoded(raw: bytes, encodings: str, *, limit: int) -> bytes:
    """Undo a Content-Encoding (`gzip`, `deflate`, or several in sequence). Raises BodyRefused (400, 413, 415)."""
    for name in reversed([name.strip().lower() for name in encodings.split(",")]):
        if name in ("", "identity"):
            continue
        if name not in ("gzip", "x-gzip", "deflate"):
            raise BodyRefused(415, f"The Content-Encoding “{name[:40]}” is not supported; send gzip, deflate or none.")
        raw = _inflated(raw, name, limit)
    return raw


def _inflated(raw: bytes, name: str, limit: int) -> bytes:
    # By the standard "deflate" means zlib's format, but some clients send raw deflate data.
    deflate = zlib.MAX_WBITS if _has_zlib_header(raw) else -zlib.MAX_WBITS
    bits = deflate if name == "deflate" else zlib.MAX_WBITS | 16
    whole = b""
    for _ in range(_MOST_MEMBERS):
        if not raw:
            return whole
        stream = zlib.decompressobj(bits)
        try:
            whole += stream.decompress(raw, limit + 1 - len(whole))
        except zlib.error:
            raise BodyRefused(400, f"The body is not valid {name} data.") from None
        if len(whole) > limit:
            raise _too_large(limit)
        if not stream.eof:
            raise BodyRefused(400, f"The {name} data of the body is incomplete.")
        raw = stream.unused_data
    raise BodyRefused(400, f"The {name} data of the body has more than {_MOST_MEMBERS} members.")


def _has_zlib_header(raw: bytes) -> bool:
    return len(raw) >= 2 and raw[0] & 0x0F == zlib.DEFLATED and int.from_bytes(raw[:2], "big") % 31 == 0


def _too_large(limit: int) -> BodyRefused:
    return BodyRefused(413, f"The body is larger than {limit / 1024**2:g} MB.")
