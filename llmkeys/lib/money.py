"""Amounts of money: stored as integers of 10⁻⁹ USD, converted through Decimal, float only in outgoing JSON."""

from __future__ import annotations

import re
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, Context, Decimal, InvalidOperation

NANO = 10**9
MAX_LIMIT_USD = 1_000_000

_DECIMALS = 9
_LARGEST_EXPONENT = 30  # a larger amount is nonsense, and converting it to an integer would take forever
_LONGEST_TEXT = 100
_EXACT = Context(prec=2000, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[InvalidOperation])
_PLAIN_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)


def usd_to_nano(usd: Decimal | int | str, rounding: str = ROUND_CEILING) -> int:
    """Return USD as nano-dollars, by default rounded up.

    Raises ValueError if it is not a finite amount, and for a float, whose digits are not exact.
    """
    if isinstance(usd, bool | float):
        raise ValueError(f"an amount of money must be a Decimal, an integer or a string, not a {type(usd).__name__}")
    try:
        value = Decimal(usd)
    except InvalidOperation:
        raise ValueError("not an amount of money") from None
    if not value.is_finite() or value.adjusted() > _LARGEST_EXPONENT:
        raise ValueError("not a finite amount of money")
    return int(value.scaleb(_DECIMALS, _EXACT).to_integral_value(rounding, _EXACT))


def nano_to_usd(nano: int) -> Decimal:
    """Return nano-dollars as USD, exactly."""
    return Decimal(nano).scaleb(-_DECIMALS, _EXACT)


def usd_json(nano: int) -> float:
    """Return USD for outgoing JSON; below 10⁶ USD it is printed with exactly the digits of the amount."""
    return nano / NANO


def format_usd(nano: int) -> str:
    """Return an amount for people, with two to nine decimals as needed."""
    whole, rest = divmod(abs(nano), NANO)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nano < 0 else ''}${whole:,}.{decimals}"


def plain_usd(amount: Decimal | None) -> str:
    """Return a price with all its decimals, at least two."""
    if amount is None:
        return "–"
    amount = amount.normalize()
    return f"${amount:,.2f}" if amount == round(amount, 2) else f"${amount:,f}"


def parse_limit_usd(value: object) -> int:
    """Return a limit that a person entered in USD as nano-dollars; 0 means no limit.

    Raises ValueError with a message for that person.
    """
    amount = _number(value)
    if not amount.is_finite():
        raise ValueError("must be a number, not NaN or Infinity.")
    if amount < 0:
        raise ValueError("must not be negative; 0 means no limit.")
    if amount > MAX_LIMIT_USD:
        raise ValueError(f"must be at most {MAX_LIMIT_USD:,} USD.")
    nano = amount.scaleb(_DECIMALS, _EXACT)
    if nano != nano.to_integral_value(context=_EXACT):
        raise ValueError(f"must have at most {_DECIMALS} decimals.")
    return int(nano)


def _number(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    text = value.strip() if isinstance(value, str) and len(value) <= _LONGEST_TEXT else ""
    if text.lower().lstrip("+-") in ("nan", "snan", "inf", "infinity"):
        return Decimal(text)
    if not _PLAIN_NUMBER.fullmatch(text):
        raise ValueError("must be a number in USD, such as 10 or 2.50, without currency sign or thousands separators.")
    return Decimal(text)
