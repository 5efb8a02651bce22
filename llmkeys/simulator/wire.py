"""JSON in which a Decimal is a plain number: 0.0000036 and never 3.6e-06 or 3.5999999999999998e-06."""

from __future__ import annotations

import json
import re
from decimal import Decimal


def plain(amount: Decimal) -> str:
    """The shortest way to write this amount without an exponent."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _mark(value: object) -> str:
    if not isinstance(value, Decimal):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return f"\0{plain(value)}\0"


# The standard encoder has no way to write a number from text, so it writes a marked string and the marks are cut out.
_ENCODER = json.JSONEncoder(separators=(",", ":"), default=_mark)
_MARKED = re.compile(r'"\\u0000(-?[0-9.]+)\\u0000"')


def dumps(value: object) -> str:
    """Compact JSON, one line; Decimals are numbers."""
    return _MARKED.sub(r"\1", _ENCODER.encode(value))


def encoded(value: object) -> bytes:
    return dumps(value).encode()
