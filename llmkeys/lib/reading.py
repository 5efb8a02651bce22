"""Reading untrusted JSON: every function accepts any value and returns one of the promised type, or None."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

MOST_TOKENS = 10**9  # a larger count is nonsense, not a count
MOST_USD = 10**6  # a single answer cannot cost more than the largest possible budget
MOST_TEXT = 4000

_LARGEST = 10**18  # a larger exponent would take forever to write out
_WRITTEN_COUNT = re.compile(r"\d{1,12}(?:\.0*)?")


def load_json(body: bytes) -> Any:
    """Parse a body, with fractions as Decimal; return None if it is not JSON."""
    try:
        return json.loads(body.decode("utf-8-sig", errors="replace"), parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):  # ArithmeticError: an exponent beyond Decimal's own range
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is an object, else an empty one; a list of one object counts as that object."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]  # Google's OpenAI layer wraps its errors in a list
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects in a list, leaving out everything else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def text(value: Any, *, limit: int = MOST_TEXT) -> str:
    """Return the value if it is a string, cut at `limit` characters, else an empty string."""
    return value[:limit] if isinstance(value, str) else ""


def word(value: Any) -> str:
    """Return a code or type name in lower case, or an empty string."""
    return text(value, limit=100).strip().lower()


def count(value: Any) -> int | None:
    """Return a token count, or None if it is negative, not whole, not a number or absurdly large.

    Some compatible servers write counts as strings or with a decimal point: "10", 10.0, "10.0".
    """
    number = finite(_number_in(value))
    if number is None or not 0 <= number <= MOST_TOKENS or number != int(number):
        return None
    return int(number)


def whole_number(value: Any) -> int | None:
    """Return a whole number of a request, which may be written with a point (256.0), or None for anything else."""
    number = finite(value)
    if number is None or isinstance(number, int):
        return number
    return int(number) if -_LARGEST <= number <= _LARGEST and number == int(number) else None


def _number_in(value: Any) -> Any:
    if not isinstance(value, str) or not _WRITTEN_COUNT.fullmatch(value.strip()):
        return value
    return int(value.strip().partition(".")[0])


def money(value: Any) -> Decimal | None:
    """Return an amount in USD, or None if it is negative, not a number (such as a string) or absurdly large."""
    number = finite(value)
    if number is None or not 0 <= number <= MOST_USD:
        return None
    return number if isinstance(number, Decimal) else Decimal(str(number))


def price(value: Any) -> Decimal | None:
    """Return a price or a cost in USD, which may be written as a string, or None.

    OpenRouter writes prices so, and a negative one means "it depends"; some hosts of its API write costs so.
    """
    if not isinstance(value, str):
        return money(value)
    try:
        return money(Decimal(value[:50]))
    except ArithmeticError:
        return None


def flag(value: Any) -> bool | None:
    """Return the value if it is true or false, else None."""
    return value if isinstance(value, bool) else None


def finite(value: Any) -> int | float | Decimal | None:
    """Return the value if it is a number other than NaN and infinity, else None; booleans are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if isinstance(value, Decimal):
        return value if value.is_finite() else None
    return value if isinstance(value, int) or math.isfinite(value) else None
