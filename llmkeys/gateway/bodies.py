"""The body of a client's request: bounded in size, time and memory, decoded, and parsed strictly."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from django.conf import settings
from starlette.datastructures import Headers

from llmkeys.exceptions import InvalidInput, LLMKeysError
from llmkeys.gateway.errors import GatewayError, Overloaded
from llmkeys.lib import bodies
from llmkeys.lib.bodies import BodyRefused, Receive, Room, Taken
from llmkeys.relay import background

BODY_SECONDS = 60.0  # for a whole body, however slowly it arrives
MOST_CONTAINERS = 250_000  # objects and lists: each takes twenty times its size in memory
MOST_VALUES = 2_000_000

_CODES = {413: "request_too_large", 415: "unsupported_encoding", 408: "request_timeout", 400: "invalid_request"}
MOST_STRINGS = 1_000_000
_TOO_MUCH = (
    f"The body has more than {MOST_CONTAINERS:,} objects and lists, {MOST_VALUES:,} values or {MOST_STRINGS:,} strings."
)
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)  # possessive, because matching holds the GIL

LEAST_ROOM_MB = 256


def whole_room() -> Room:
    """Return the room for all bodies of a worker, in which the largest fits, as it was sent and decoded."""
    return Room(free=max(LEAST_ROOM_MB, 2 * settings.MAX_BODY_MB) * 1024 * 1024)


_room = whole_room()


@contextmanager
def taking() -> Iterator[Taken]:
    """Count the memory that a request's body takes, and give it back at the end."""
    with _room.taken() as taken:
        yield taken


async def read(receive: Receive, headers: Headers, taken: Taken) -> bytes:
    """Return the decoded body. Raises GatewayError 408, 413 or 415, Overloaded, InvalidInput and Disconnected."""
    limit, declared = settings.MAX_BODY_MB * 1024 * 1024, headers.get("content-length", "")
    length = int(declared) if declared.isdigit() else None
    try:
        raw = await bodies.read(receive, limit=limit, seconds=BODY_SECONDS, taken=taken, declared=length)
        encoding = headers.get("content-encoding", "")
        if not encoding:
            return raw
        decoded = await background.in_parser(bodies.decoded, raw, encoding, limit=limit)
        taken.more(len(decoded))
        return decoded
    except BodyRefused as refusal:
        raise _as_ours(refusal) from None


def _as_ours(refusal: BodyRefused) -> LLMKeysError:
    if refusal.status == 503:
        return Overloaded(str(refusal))
    if refusal.status == 413:
        words = f"The body is larger than {settings.MAX_BODY_MB} MB (REFACTAI_MAX_BODY_MB)."
        return GatewayError(413, _CODES[413], words)
    return GatewayError(refusal.status, _CODES[refusal.status], str(refusal))


async def parsed(raw: bytes) -> dict[str, Any]:
    """Return the JSON object, parsed off the event loop if it is large. Raises InvalidInput."""
    return await background.in_parser(parse, raw) if len(raw) > background.LARGE_BYTES else parse(raw)


def parse(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object that has no duplicate top-level keys, no NaN or Infinity and not too many values.

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
            raw.decode("utf-8-sig"),  # of bytes it would accept UTF-16 too, in which nothing was counted
            object_pairs_hook=collect,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidInput({"body": [f"The body is not valid JSON: {_short(error)}."]}) from None
    if not isinstance(body, dict):
        raise InvalidInput({"body": ["The body must be a JSON object."]})
    if any(found is body for found in doubled):
        raise InvalidInput({"body": ["The same key appears twice at the top level of the body."]})
    return body


def _refuse_amplified(raw: bytes) -> None:
    """Refuse a body that would take many times its size in memory; what is inside strings does not count."""
    if raw.count(b'"') - raw.count(b'\\"') > 2 * MOST_STRINGS:
        raise InvalidInput({"body": [_TOO_MUCH]})
    if raw.count(b"{") + raw.count(b"[") <= MOST_CONTAINERS and raw.count(b",") <= MOST_VALUES:
        return
    bare = _STRINGS.sub(b"", raw)
    if bare.count(b"{") + bare.count(b"[") > MOST_CONTAINERS or bare.count(b",") > MOST_VALUES:
        raise InvalidInput({"body": [_TOO_MUCH]})


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
