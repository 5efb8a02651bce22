"""A client's JSON, read strictly: an object, no duplicate top-level keys, no NaN or Infinity, at most 32 MB."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any, NoReturn

from django.conf import settings
from django.http import HttpRequest
from django.http.request import RawPostDataException, UnreadablePostError

from llmkeys.exceptions import InvalidInput
from llmkeys.gateway.errors import GatewayError

REFUSED_BYTES = 1024 * 1024  # so much is read of a body that nobody looks at


def read_body(request: HttpRequest) -> bytes:
    """Return the body, at most `REFACTAI_MAX_BODY_MB`. Raises GatewayError 413."""
    limit = settings.MAX_BODY_MB * 1024 * 1024
    if (declared := request.META.get("CONTENT_LENGTH") or "0").isdigit() and int(declared) > limit:
        raise _too_large()
    try:
        # Not `request.body`: Django's own limit of 2.5 MB is for forms.
        body = request.read(limit + 1)
    except (UnreadablePostError, RawPostDataException, OSError):
        raise InvalidInput({"body": ["The body could not be read to its end."]}) from None
    if len(body) > limit:
        raise _too_large()
    return body


def read_to_the_end(request: HttpRequest) -> None:
    """Take what was sent of a request that is refused before its body is asked for, unless that is much.

    The web server closes a connection on which a body was left, and the program's next request meets a closed door.
    """
    declared = request.META.get("CONTENT_LENGTH") or "0"
    if declared.isdigit() and int(declared) <= REFUSED_BYTES:
        with contextlib.suppress(UnreadablePostError, RawPostDataException, OSError):
            request.read(REFUSED_BYTES)


def _too_large() -> GatewayError:
    return GatewayError(
        413, "request_too_large", f"The body is larger than {settings.MAX_BODY_MB} MB (REFACTAI_MAX_BODY_MB)."
    )


def parse_body(raw: bytes) -> dict[str, Any]:
    """Return the JSON object. Raises InvalidInput with what is wrong."""
    doubled: list[dict] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            doubled.append(found)
        return found

    try:
        body = json.loads(raw, object_pairs_hook=collect, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidInput({"body": [f"The body is no valid JSON: {_short(error)}"]}) from None
    if not isinstance(body, dict):
        raise InvalidInput({"body": ["The body must be a JSON object."]})
    if any(found is body for found in doubled):
        raise InvalidInput({"body": ["The same key stands twice at the top level of the body."]})
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _short(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
