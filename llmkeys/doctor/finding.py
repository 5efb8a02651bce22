"""A finding, and the parameters of a check."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `remedy` says what to do, and is empty if there is nothing to do."""

    level: str
    title: str
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """The time of the examination, and how thorough it is."""

    at: datetime
    offline: bool
    thorough: bool


def good(title: str, detail: str) -> Finding:
    return Finding(PASS, title, detail)


def count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
