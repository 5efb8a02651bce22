"""A strict parser of bodies: one JSON object of at most 1 MB, with numbers and strings that can be stored.

Python's own parser accepts NaN, turns 1e999 into infinity, keeps the last of two equal names and lets lone surrogates
through, which neither the database nor a response can contain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import IO, Any

from rest_framework.parsers import BaseParser

from llmkeys.api.errors import BodyTooLarge
from llmkeys.exceptions import InvalidInput

MAX_BODY_BYTES = 1024 * 1024
_LONGEST_NAME = 100
_NOT_A_NUMBER = Decimal("NaN")


class StrictJSONParser(BaseParser):
    """Parses a body to a dict, with fractions as Decimal. Raises InvalidInput naming the field, and BodyTooLarge."""

    media_type = "application/json"

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> dict[str, Any]:
        raw = stream.read(MAX_BODY_BYTES + 1)
        if len(raw) > MAX_BODY_BYTES:
            raise BodyTooLarge
        return parse_object(raw)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parse one JSON object. Raises InvalidInput."""
    try:
        body = json.loads(
            raw.decode(), object_pairs_hook=_object, parse_float=_number, parse_constant=lambda _: _NOT_A_NUMBER
        )
        if not isinstance(body, dict):
            raise _bad_body("The body must be a JSON object.")
        _check(body)
    except UnicodeDecodeError:
        raise _bad_body("The body is not valid UTF-8.") from None
    except json.JSONDecodeError as error:
        raise _bad_body(f"The body is not valid JSON: {error}.") from None
    except ValueError:
        raise _bad_body("A number in the body has too many digits.") from None
    except RecursionError:
        raise _bad_body("The body is nested too deeply.") from None
    return body


def _bad_body(text: str) -> InvalidInput:
    return InvalidInput({"body": [text]})


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if len(name) > _LONGEST_NAME or _text_problem(name):
            raise _bad_body("The name of a field is too long or contains characters that cannot be stored.")
        if name in found:
            raise InvalidInput({name: ["This field appears twice in the body."]})
        found[name] = value
    return found


def _number(text: str) -> Decimal:
    try:
        return Decimal(text) if math.isfinite(float(text)) else _NOT_A_NUMBER
    except InvalidOperation:
        return _NOT_A_NUMBER


def _check(body: Mapping[str, Any]) -> None:
    faults = {name: problems for name, value in body.items() if (problems := list(dict.fromkeys(_problems(value))))}
    if faults:
        raise InvalidInput(faults)


def _problems(value: Any) -> Iterator[str]:
    match value:
        case str():
            if problem := _text_problem(value):
                yield problem
        case Decimal():
            if not value.is_finite():
                yield "Must be a finite number, not NaN or Infinity."
        case list():
            for item in value:
                yield from _problems(item)
        case dict():
            for item in value.values():
                yield from _problems(item)


def _text_problem(text: str) -> str:
    if "\0" in text:
        return "May not contain NUL characters."
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "Contains half of a surrogate pair, which is not text."
    return ""
