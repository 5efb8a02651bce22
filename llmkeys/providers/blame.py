"""Errors 400 that object to a field that we added: which field, and what the server asks for instead.

An output limit may be objected to without its name, because together with the prompt it exceeds the context window.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from llmkeys.lib.reading import MOST_TEXT

_INSTEAD = re.compile(r"use [`'\"]?([A-Za-z_]\w{0,40}(?:\.\w{1,40})*)[`'\"]? instead", re.IGNORECASE)
_AT_MOST = re.compile(
    r"(?:at most|less than or equal to|<=|maximum(?: value)?(?: is|:| of)?|"
    r"exceeds?(?: the)?(?: maximum| limit)?(?: of)?|up to|no more than|limit is|\d >|\(inclusive\) to)"
    r"\s*[`'\"]?(\d{1,9})\b( \(exclusive\))?",
    re.IGNORECASE,
)


_OUTPUT_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
_WINDOW = re.compile(r"maximum context length (?:is|of) (\d{1,9})\b", re.IGNORECASE)
_PROMPT = re.compile(r"request has (\d{1,9}) input tokens", re.IGNORECASE)  # vLLM
_REQUESTED = re.compile(
    r"requested (?:about )?(\d{1,9}) tokens\b.{0,200}?\b(\d{1,9}) (?:in|for) the (?:completion|output)",
    re.IGNORECASE | re.DOTALL,
)
_SUM = re.compile(r"context limit: (\d{1,9}) \+ \d{1,9} > (\d{1,9})\b", re.IGNORECASE)  # Anthropic


@dataclass(frozen=True, slots=True)
class Blame:
    """What a server wants instead of a field: another `name`, a value `at_most` this high, or no such field."""

    name: str = ""
    at_most: int | None = None


def blamed(body: bytes, names: Collection[str]) -> dict[str, Blame]:
    """Return which of `names`, fields that the client did not send, are mentioned in an error response.

    The error may also quote the client's text with such a name; the only effect is one useless retry.
    """
    message = body[:MOST_TEXT].decode("utf-8", errors="replace").replace('\\"', '"').replace("\\u0027", "'")
    room = _room(message)
    if room is not None:
        return {name: Blame(at_most=room) for name in names if name in _OUTPUT_LIMITS and room > 0}
    instead, most = _INSTEAD.search(message), _AT_MOST.search(message)
    wanted = instead[1] if instead else ""
    blame = Blame(name=wanted) if wanted else Blame(at_most=int(most[1]) - bool(most[2]) if most else None)
    return {name: blame for name in names if name != wanted and _is_named(name, message)}


def _room(message: str) -> int | None:
    """Return what the prompt leaves of the context window, from an error that says both; negative if nothing."""
    if found := _SUM.search(message):
        return int(found[2]) - int(found[1])
    window, prompt, requested = (pattern.search(message) for pattern in (_WINDOW, _PROMPT, _REQUESTED))
    if window and prompt:
        return int(window[1]) - int(prompt[1])
    return int(window[1]) - (int(requested[1]) - int(requested[2])) if window and requested else None


def _is_named(name: str, message: str) -> bool:
    """Return whether the message has the name, in snake case or camel case: Google's servers use both."""
    head, *rest = name.split("_")
    spellings = head + "".join(f"_?[{word[0]}{word[0].upper()}]{word[1:]}" for word in rest if word)
    return re.search(rf"(?<![\w-]){spellings}(?![\w-])", message) is not None
