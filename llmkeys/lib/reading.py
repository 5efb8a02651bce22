"""Read JSON that others wrote: every function takes anything and gives a value of the promised type, or None."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

MOST_TOKENS = 10**9  # a larger count is nonsense, not a count
MOST_USD = 10**6  # so is a single answer that costs more than any budget can be
MOST_TEXT = 4000

_WRITTEN_COUNT = re.compile(r"\d{1,12}(?:\.0*)?")


def load_json(body: bytes) -> Any:
    """Parse a body, numbers with a fraction as Decimal; None if it is not JSON."""
    try:
        return json.loads(body.decode("utf-8-sig", errors="replace"), parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):  # ArithmeticError: an exponent beyond Decimal's own range
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value where it is an object, else an empty one; a list with one object counts as that object."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]  # Google's OpenAI layer wraps its errors so
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects in a list; whatever else is in it is left out."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def text(value: Any, *, limit: int = MOST_TEXT) -> str:
    """Return the value where it is a string, cut at `limit` characters, else an empty string."""
    return value[:limit] if isinstance(value, str) else ""


def word(value: Any) -> str:
    """Return a code or type in lower case."""
    return text(value, limit=100).strip().lower()


def count(value: Any) -> int | None:
    """Return a token count, or None for what is negative, not whole, not a number or absurd.

    Compatible servers write counts as text too, or with a point: "10", 10.0, "10.0".
    """
    number = finite(_number_in(value))
    if number is None or not 0 <= number <= MOST_TOKENS or number != int(number):
        return None
    return int(number)


def _number_in(value: Any) -> Any:
    if not isinstance(value, str) or not _WRITTEN_COUNT.fullmatch(value.strip()):
        return value
    return int(value.strip().partition(".")[0])


def money(value: Any) -> Decimal | None:
    """Return an amount in USD, or None for what is negative, not a number or absurd; a string is not an amount."""
    number = finite(value)
    if number is None or not 0 <= number <= MOST_USD:
        return None
    return number if isinstance(number, Decimal) else Decimal(str(number))


def price(value: Any) -> Decimal | None:
    """Return a price in USD, which OpenRouter writes as a string; negative ones mean "it depends"."""
    if not isinstance(value, str):
        return money(value)
    try:
        return money(Decimal(value[:50]))
    except ArithmeticError:
        return None


def flag(value: Any) -> bool | None:
    """Return the value where it is true or false."""
    return value if isinstance(value, bool) else None


def finite(value: Any) -> int | float | Decimal | None:
    """Return the value where it is a number other than NaN and infinity; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if isinstance(value, Decimal):
        return value if value.is_finite() else None
    return value if isinstance(value, int) or math.isfinite(value) else None
