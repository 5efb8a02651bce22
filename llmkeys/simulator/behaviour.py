"""How a request chooses what the simulated provider does: by the ending of its key, and by directives in its text.

The ending of the key, after its last "-", chooses a failure; "-429x2" fails the key's first two requests to models and
then works. Keys without a known ending work.

    -429 -401 -402 -403 -404 -400 -500 -503   a refusal in the provider's own words (429: wait 7 s; 402: no credit left)
    -echo       401 whose message repeats the whole key
    -hang       accepts the request and never answers        -slow      2 s before the first byte
    -cut        half of the answer (2 chunks), then a reset  -stall     the same, then silence forever
    -noend      a stream without its end: no finish reason, last usage or end marker
    -malformed  200 with invalid JSON (in a stream, one invalid data line)
    -html       200 with a web page                          -empty     200 with no body
    -nousage    no token counts                              -zerousage all counts and the cost are 0
    -negusage   negative counts                              -strusage  counts that are words
    -miderror   200 with an error inside (in a stream after 2 chunks)
    -ok         works; `invalid` and an empty key are refused

Directives are in the last user message, any number of them between double brackets:

    [[prompt_tokens=1000 completion_tokens=50 cached_tokens=100 cache_write_tokens=0 reasoning_tokens=5 chunks=5
      delay_ms=200 chunk_delay_ms=50 status=500 cost=0.0123 behaviour=cut]]

`completion_tokens` includes `reasoning_tokens` and is still limited by the request's own limit; `cost` is in USD and
replaces the computed cost; `behaviour` is one of the endings above; `status` refuses with that HTTP status, in the
provider's own format (402: no credit left, 503: overloaded). A token is a word; an answer has 20 by default. The
OpenAI layers of Anthropic and Google cache nothing, because they cannot report it.

    [[tool=NAME {"argument": "value"}]]   calls this tool, if the request offers it and does not end with its result
                                          (a custom tool of responses gets the value of "input")

Thinking is included if the request asks for it, and sealed: a request that returns it with a key of another
organisation (another name after "org-" in the key, or else any other key) is refused with 400.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

REFUSALS = frozenset({"400", "401", "402", "403", "404", "429", "500", "503", "echo"})
TROUBLES = frozenset({"hang", "slow", "cut", "stall", "noend", "malformed", "html", "empty", "miderror"})
FALSE_USAGES = frozenset({"nousage", "zerousage", "negusage", "strusage"})
KNOWN = REFUSALS | TROUBLES | FALSE_USAGES | {"ok", "invalid"}

_ENDING = re.compile(r"([a-z]+|[0-9]{3})(?:x([0-9]{1,6}))?")
_BRACKETS = re.compile(r"\[\[([^\[\]]*)\]\]")
_TOOL = re.compile(r"\[\[tool=([\w.:-]{1,128})\s*(\{.*?\})?\s*\]\]", re.DOTALL)
_PAIR = re.compile(r"([a-z_]+)=([a-z0-9.]+)")
_TOKEN_COUNTS = {"prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"}
_COUNTS = frozenset(_TOKEN_COUNTS | {"chunks", "delay_ms", "chunk_delay_ms", "status"})


class KeyFailures:
    """Counts the requests of keys that fail only the first few times."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()

    def of_request(self, key: str) -> str:
        """Return the behaviour of a request to a model, and count it."""
        behaviour, times = ending(key)
        if times is None:
            return behaviour
        self._used[key] += 1
        return behaviour if self._used[key] <= times else "ok"

    def of_free_call(self, key: str) -> str:
        """Return the behaviour of a free call, without counting it."""
        behaviour, times = ending(key)
        return "ok" if times is not None and self._used[key] >= times else behaviour

    def clear(self) -> None:
        self._used.clear()


def ending(key: str) -> tuple[str, int | None]:
    """Return the behaviour that the ending of a key chooses, and for how many requests (None: always)."""
    found = _ENDING.fullmatch(key.rsplit("-", 1)[-1])
    if found is None or found[1] not in KNOWN:
        return "ok", None
    return found[1], int(found[2]) if found[2] else None


@dataclass(frozen=True, slots=True)
class Directives:
    """The directives in the last user message; None means the simulator's default."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    chunks: int | None = None
    delay_ms: int | None = None
    chunk_delay_ms: int | None = None
    status: int | None = None
    cost: Decimal | None = None
    behaviour: str | None = None
    tool: str | None = None
    arguments: dict[str, Any] | None = None


NO_DIRECTIVES = Directives()


def read_directives(text: str) -> Directives:
    """Return all bracketed directives of a text; unknown and out-of-range ones are ignored."""
    if "[[" not in text:
        return NO_DIRECTIVES
    wanted: dict[str, Any] = {}
    for inside in _BRACKETS.findall(text):
        for name, value in _PAIR.findall(inside):
            wanted |= _directive(name, value)
    if (called := _TOOL.search(text)) is not None:
        wanted |= {"tool": called[1], "arguments": _arguments(called[2])}
    return Directives(**wanted)


def _arguments(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _directive(name: str, value: str) -> dict[str, Any]:
    if name in _COUNTS and re.fullmatch(r"[0-9]{1,9}", value):
        return _status(int(value)) if name == "status" else {name: int(value)}
    if name == "cost" and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,18})?", value):
        return {name: Decimal(value)}
    if name == "behaviour" and value in KNOWN:
        return {name: value}
    return {}


def _status(status: int) -> dict[str, Any]:
    return {"status": status} if 400 <= status <= 599 else {}
