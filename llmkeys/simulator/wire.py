"""JSON with Decimals as plain numbers: 0.0000036, and never 3.6e-06 or 3.5999999999999998e-06."""

from __future__ import annotations

import json
import re
from decimal import Decimal


def plain(amount: Decimal) -> str:
    """Return the shortest form of an amount without an exponent."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _mark(value: object) -> str:
    if not isinstance(value, Decimal):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return f"\0{plain(value)}\0"


# The standard encoder cannot write a number from text, so it writes a marked string, whose marks are removed.
_ENCODER = json.JSONEncoder(separators=(",", ":"), default=_mark)
_MARKED = re.compile(r'"\\u0000(-?[0-9.]+)\\u0000"')


def dumps(value: object) -> str:
    """Return compact JSON on one line, with Decimals as numbers."""
    return _MARKED.sub(r"\1", _ENCODER.encode(value))


def encoded(value: object) -> bytes:
    return dumps(value).encode()
