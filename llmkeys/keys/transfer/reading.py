"""Reads the file as entries with line numbers, for error messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from llmkeys.exceptions import LLMKeysError

MOST_BYTES = 32 * 1024 * 1024
_WHITESPACE = re.compile(r"[ \t\n\r]*")


class BrokenFile(LLMKeysError):
    """The file cannot be imported; nothing was changed. Each line of the message names one error and its place."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of the list: its number from 1, its line, its values and its text."""

    number: int
    line: int
    values: dict[str, Any]
    text: str

    def line_of(self, field: str) -> int:
        found = re.search(rf'"{re.escape(field)}"\s*:', self.text)
        return self.line + (self.text.count("\n", 0, found.start()) if found else 0)

    @property
    def title(self) -> str:
        name = self.values.get("name")
        return f"key {self.number}" + (f" (“{name}”)" if isinstance(name, str) and name else "")


class _Fault(ValueError):
    """An error in JSON that is syntactically valid."""


def read_entries(path: Path) -> list[Entry]:
    """Return the entries of the file. Raises BrokenFile naming the line."""
    try:
        return list(_entries(_text(path)))
    except json.JSONDecodeError as error:
        raise BrokenFile(f"Line {error.lineno}, column {error.colno}: this is not JSON ({error.msg}).") from None
    except RecursionError:
        raise BrokenFile("The file is nested too deeply for a list of keys.") from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise BrokenFile(
                f"The file {path} is larger than {MOST_BYTES // 1024 // 1024} MB, too large for a list of keys."
            )
        return data.decode("utf-8-sig")
    except OSError as error:
        raise BrokenFile(f"The file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BrokenFile(f"Line {line}: the file is not in UTF-8.") from None


def _entries(text: str) -> Iterator[Entry]:
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise BrokenFile(f"Line {_line(text, at)}: the file must contain a list of keys, which begins with “[”.")
    at = _skip(text, at + 1)
    number = 0
    while text[at : at + 1] != "]" or number:
        number += 1
        start = at
        values, at = _value(text, start, number)
        yield Entry(number, _line(text, start), values, text[start:at])
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        at = _skip(text, at + 1)
    if (rest := _skip(text, at + 1)) < len(text):
        raise json.JSONDecodeError("Extra data after the list", text, rest)


def _value(text: str, start: int, number: int) -> tuple[dict[str, Any], int]:
    try:
        values, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except _Fault as fault:
        raise BrokenFile(f"Line {_line(text, start)}, key {number}: {fault}") from None
    except (ValueError, ArithmeticError):  # more digits than Python reads, or an exponent beyond Decimal's own range
        words = "a number is too large or too small."
        raise BrokenFile(f"Line {_line(text, start)}, key {number}: {words}") from None
    if not isinstance(values, dict):
        raise BrokenFile(f"Line {_line(text, start)}: entry {number} of the list is not a key, but {_kind(values)}.")
    return values, end


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _skip(text: str, at: int) -> int:
    found = _WHITESPACE.match(text, at)
    return found.end() if found else at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _no_constant(name: str) -> NoReturn:
    raise _Fault(f"{name} is not a JSON number.")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise _Fault(f"the field “{twin}” appears twice.")
    return values


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_no_twins)
