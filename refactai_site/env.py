"""Settings from the environment: parsed once at the border; a value that cannot be parsed becomes a system check error.

A reader never raises. It remembers the fault and returns the default, so that `manage.py check` can name every
variable that is wrong in one run (`llmkeys.checks`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Fault:
    variable: str
    problem: str
    example: str


FAULTS: list[Fault] = []


def _fault(variable: str, problem: str, example: str) -> None:
    FAULTS.append(Fault(variable, problem, example))


def _raw(variable: str) -> str | None:
    value = os.environ.get(variable, "").strip()
    return value or None


def text(variable: str, default: str) -> str:
    return _raw(variable) or default


def items(variable: str, default: str = "") -> list[str]:
    return [item.strip() for item in (_raw(variable) or default).split(",") if item.strip()]


def boolean(variable: str, default: bool) -> bool:
    value = _raw(variable)
    if value is None:
        return default
    if value.lower() in {"true", "1", "yes", "on"}:
        return True
    if value.lower() in {"false", "0", "no", "off"}:
        return False
    _fault(variable, f"“{value}” is neither true nor false", "true")
    return default


def integer(variable: str, default: int, *, least: int, most: int) -> int:
    value = _raw(variable)
    if value is None:
        return default
    try:
        number = int(value)
    except ValueError:
        _fault(variable, f"“{value}” is no whole number", str(default))
        return default
    if not least <= number <= most:
        _fault(variable, f"{number} is not between {least} and {most}", str(default))
        return default
    return number


def decimal(variable: str, default: str, *, least: str, most: str) -> Decimal:
    value = _raw(variable)
    if value is None:
        return Decimal(default)
    try:
        number = Decimal(value)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        _fault(variable, f"“{value}” is no number", default)
        return Decimal(default)
    if not Decimal(least) <= number <= Decimal(most):
        _fault(variable, f"{value} is not between {least} and {most}", default)
        return Decimal(default)
    return number


def choice(variable: str, default: str, choices: tuple[str, ...]) -> str:
    value = (_raw(variable) or default).lower()
    if value not in choices:
        _fault(variable, f"“{value}” is not one of {', '.join(choices)}", default)
        return default
    return value


def time_zone(variable: str, default: str) -> str:
    value = text(variable, default)
    try:
        ZoneInfo(value)
    except Exception:  # ZoneInfo raises five kinds of exception for a bad name
        _fault(variable, f"“{value}” is no time zone of the IANA database", "Europe/Berlin")
        return default
    return value


def url(variable: str, default: str) -> str:
    value = text(variable, default).rstrip("/")
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username or parts.query or parts.fragment:
        _fault(variable, "it is no plain http or https address", default)
        return default
    return value


class Concealed(str):
    """Text that is a secret: a page or log that shows the settings shows its place alone."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def alert_urls(variable: str) -> list[str]:
    """Read notification targets; a comma inside an address (two mail recipients, say) does not end it."""
    targets = [part.strip(" ,") for part in re.split(r",(?=\s*[A-Za-z][A-Za-z0-9]*://)", _raw(variable) or "")]
    targets = [target for target in targets if target]
    for place, target in enumerate(targets, start=1):
        if not re.match(r"[A-Za-z][A-Za-z0-9]*://.", target):  # not repeated: it may be half of a secret
            example = "mailtos://user:password@example.com,slack://TokenA/TokenB/TokenC"
            _fault(variable, f"number {place} of its {len(targets)} targets is no notification address", example)
            return []
    return [Concealed(target) for target in targets]
