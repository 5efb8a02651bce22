"""Output of commands: aligned tables for people, JSON for programs."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TextIO

from django.conf import settings

from llmkeys.key_state import Budget
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import local_time

_GAP = "  "


def write_json(stream: TextIO, data: Any) -> None:
    """Write one JSON document, indented, without escaping non-ASCII characters."""
    stream.write(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=_as_number) + "\n")


def _as_number(value: Any) -> float:
    """Convert a provider's exact decimal to a JSON number."""
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"JSON does not have a {type(value).__name__}")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> list[str]:
    """Return the lines of a table; the columns named in `right` are aligned to the right."""
    cells = [list(headers), *([_printable(cell) for cell in row] for row in rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(headers))]
    to_the_right = [header in set(right) for header in headers]
    return [_GAP.join(map(_pad, row, widths, to_the_right)).rstrip() for row in cells]


def pairs(values: Iterable[tuple[str, str]]) -> list[str]:
    """Return lines of labels and values."""
    values = [(label, _printable(value)) for label, value in values]
    width = max((_width(label) for label, _ in values), default=0)
    return [f"{_pad(label, width, False)}{_GAP}{value}".rstrip() for label, value in values]


def limit(nano: int) -> str:
    return format_usd(nano) if nano else "no limit"


def budget(one: Budget) -> str:
    """Return how much of a budget is spent: `$2.50 of $10.00`."""
    return f"{format_usd(one.spent)} of {limit(one.limit)}"


def requests(total: int, good: int, failed: int) -> str:
    """Return `13 (12 succeeded, 0 failed, 1 neither: …)`, whose parts add up.

    The rest are the programs' own mistakes, which the provider refused, and requests in progress.
    """
    parts = [f"{good:,} succeeded", f"{failed:,} failed"]
    if rest := total - good - failed:
        parts.append(f"{rest:,} neither: the program's own mistake, or still in progress")
    return f"{total:,} ({', '.join(parts)})"


def when(at: datetime | None) -> str:
    """Return a time in the operator's time zone, or "never" for None."""
    return local_time(at, settings.TIME_ZONE).strftime("%Y-%m-%d %H:%M %Z") if at else "never"


def _printable(text: str) -> str:
    """Replace characters that could control a terminal."""
    return "".join(character if unicodedata.category(character) not in ("Cc", "Cf") else " " for character in text)


def _width(text: str) -> int:
    """Return the width of a text on a terminal: wide characters take two columns, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _pad(text: str, width: int, to_the_right: bool) -> str:
    blank = " " * (width - _width(text))
    return blank + text if to_the_right else text + blank
