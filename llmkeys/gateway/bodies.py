"""A client's body on its way in: bounded in size, time and amplification, decoded, and parsed strictly."""

from __future__ import annotations

import asyncio
import json
import math
import re
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

from django.conf import settings
from starlette.types import Receive

from llmkeys.exceptions import InvalidInput
from llmkeys.gateway.errors import GatewayError, Overloaded
from llmkeys.relay import under_way

MOST_BYTES_IN_HAND = 256 * 1024 * 1024  # of all bodies on this worker
BODY_SECONDS = 60.0  # for a whole body, however it trickles
REFUSED_BYTES = 1024 * 1024  # so much is read of a body that nobody looks at, and so long
REFUSED_SECONDS = 1.0
MOST_CONTAINERS = 250_000  # objects and lists: each takes twenty times its bytes in memory
MOST_VALUES = 2_000_000

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)

_in_hand = 0


class Body:
    """The bytes of one request; what it takes of the worker's room is given back by `done`."""

    def __init__(self, receive: Receive, headers: Mapping[str, str]):
        self._receive = receive
        self._limit = settings.MAX_BODY_MB * 1024 * 1024
        self._encoding = headers.get("content-encoding", "").strip().lower()
        self._declared = headers.get("content-length", "")
        self._taken = 0

    async def read(self) -> bytes:
        """Return the decoded body. Raises GatewayError 413, 415 or 408, Overloaded and InvalidInput."""
        decode = self._decoder()
        if self._declared.isdigit() and int(self._declared) > self._limit:
            raise _too_large()
        pieces: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while (piece := await self._next()) is not None:
                    if piece:
                        decoded = decode(piece, self._limit + 1 - self._taken)
                        self._take(len(decoded))
                        pieces.append(decoded)
        except TimeoutError:
            raise GatewayError(408, "request_timeout", f"The body did not come within {BODY_SECONDS:.0f} s.") from None
        except zlib.error:
            words = f"The body is not what its Content-Encoding says: {self._encoding}."
            raise InvalidInput({"body": [words]}) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def skim(self) -> None:
        """Take a little of a body that nobody looks at.

        The web server closes a connection on which a body was left, and the program's next request would meet a closed
        door; but no stranger may keep us waiting.
        """
        if self._declared.isdigit() and int(self._declared) > REFUSED_BYTES:
            return
        size = 0
        try:
            async with asyncio.timeout(REFUSED_SECONDS):
                while size <= REFUSED_BYTES and (piece := await self._next()) is not None:
                    size += len(piece)
        except (TimeoutError, InvalidInput):
            return

    def done(self) -> None:
        """Give back the room that the body took."""
        global _in_hand
        _in_hand -= self._taken
        self._taken = 0

    async def _next(self) -> bytes | None:
        if self._is_over:
            return None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise InvalidInput({"body": ["The body could not be read to its end."]})
        self._is_over = not message.get("more_body", False)
        return message.get("body", b"")

    _is_over = False

    def _take(self, size: int) -> None:
        global _in_hand
        self._taken += size
        _in_hand += size
        if self._taken > self._limit:
            raise _too_large()
        if _in_hand > MOST_BYTES_IN_HAND:
            raise Overloaded("This server has as many bytes of requests in hand as it may. Try again in a second.")

    def _decoder(self) -> Any:
        if self._encoding in ("", "identity"):
            return lambda piece, most: piece
        if self._encoding in ("gzip", "x-gzip", "deflate"):
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress
        raise GatewayError(
            415,
            "unsupported_encoding",
            f"The Content-Encoding “{self._encoding[:40]}” is not supported: send the body plain, or as gzip or deflate.",
        )


def _too_large() -> GatewayError:
    return GatewayError(
        413, "request_too_large", f"The body is larger than {settings.MAX_BODY_MB} MB (REFACTAI_MAX_BODY_MB)."
    )


async def parsed(raw: bytes) -> dict[str, Any]:
    """Return the JSON object, parsed off the loop where it is large. Raises InvalidInput with what is wrong."""
    return await under_way.in_parser(parse, raw) if len(raw) > under_way.LARGE_BYTES else parse(raw)


def parse(raw: bytes) -> dict[str, Any]:
    """Return the JSON object: no duplicate top-level keys, no NaN or Infinity, a bounded number of values.

    Raises InvalidInput.
    """
    if not raw.strip():
        raise InvalidInput({"body": ["The body is empty: send a JSON object."]})
    _refuse_amplified(raw)
    doubled: list[dict[str, Any]] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            doubled.append(found)
        return found

    try:
        body = json.loads(
            raw, object_pairs_hook=collect, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer
        )
    except (ValueError, RecursionError) as error:
        raise InvalidInput({"body": [f"The body is not valid JSON: {_short(error)}."]}) from None
    if not isinstance(body, dict):
        raise InvalidInput({"body": ["The body must be a JSON object."]})
    if any(found is body for found in doubled):
        raise InvalidInput({"body": ["The same key stands twice at the top level of the body."]})
    return body


def _refuse_amplified(raw: bytes) -> None:
    """Refuse a body that would take many times its size in memory. What stands in texts does not count."""
    if raw.count(b"{") + raw.count(b"[") <= MOST_CONTAINERS and raw.count(b",") <= MOST_VALUES:
        return
    bare = _STRINGS.sub(b"", raw)
    if bare.count(b"{") + bare.count(b"[") > MOST_CONTAINERS or bare.count(b",") > MOST_VALUES:
        words = f"The body has more than {MOST_CONTAINERS:,} objects and lists, or {MOST_VALUES:,} values."
        raise InvalidInput({"body": [words]})


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _integer(text: str) -> int:
    if len(text) > 400:
        raise ValueError("a number has more than 400 digits")
    return int(text)


def _short(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(error)[:200].rstrip(".")
