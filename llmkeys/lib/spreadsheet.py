"""CSV files that are safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def csv_lines(rows: Iterable[Mapping[str, Any]], *, columns: Iterable[str] | None = None) -> Iterator[str]:
    """Yield a header line and a line for each row; without `columns` the names in the first row are the header."""
    writer = csv.writer(_Echo())
    columns = tuple(columns) if columns is not None else None
    if columns is not None:
        yield writer.writerow(columns)
    for row in rows:
        if columns is None:
            columns = tuple(row)
            yield writer.writerow(columns)
        yield writer.writerow([_cell(row[column]) for column in columns])


class _Echo:
    """A file for the csv module that returns each line instead of storing it."""

    def write(self, line: str) -> str:
        return line


def _cell(value: Any) -> str:
    """Return a value as text, with a leading apostrophe if a spreadsheet would take it for a formula."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return f"{Decimal(repr(value)):f}"
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA_STARTS) else text
