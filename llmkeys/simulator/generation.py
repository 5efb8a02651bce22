"""What a simulated model would say to a request, what it used and what that costs: pure arithmetic, no HTTP."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .behaviour import Directives
from .prices import Bill, Model, Tokens, bill

DEFAULT_WORDS = 20
DEFAULT_CHUNKS = 5
MAX_CHOICES = 128
# A test may claim a million tokens; nobody has to read them.
MAX_WORDS_SENT = 5_000


class Unacceptable(Exception):
    """The request's body has a mistake; the text says which."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that may be called; a custom one takes text, a namespace groups tools of one name."""

    name: str
    is_custom: bool = False
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, whatever its dialect; `output_limit` is for all choices together."""

    model: str = ""
    texts: list[str] | tuple[str, ...] = ()  # all that goes in; a word is a token
    last_user_text: str = ""  # where directives stand
    output_limit: int | None = None
    choices: int = 1
    is_streamed: bool = False
    wants_usage: bool = False  # in a stream; some dialects always tell it
    tools: tuple[Tool, ...] = ()
    follows_tool: bool = False  # the conversation ends with what a tool gave back
    shows_thinking: bool = False
    signatures: tuple[str, ...] = ()  # encrypted reasoning of earlier turns
    kind: str = "generate"  # or "count", "embed"
    inputs: int = 1  # how many texts to embed
    is_batch: bool = False
    is_array: bool = False  # a stream that is one JSON array
    dimensions: int = 0
    in_base64: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool that the client runs."""

    tool: Tool
    values: dict[str, Any]

    @property
    def name(self) -> str:
        return self.tool.name

    @property
    def text(self) -> str:
        """What a custom tool gets."""
        return str(self.values.get("input", ""))

    @property
    def arguments(self) -> str:
        return json.dumps(self.values)


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation: `tokens` and `cost` are what is billed, `pieces` what every choice says, in stream order."""

    model_name: str
    tokens: Tokens
    bill: Bill
    cost: Decimal
    is_cut_short: bool
    pieces: list[str]
    choices: int
    call: Call | None = None
    organisation: str = ""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def generate(*, model: Model, asked: Asked, directives: Directives, caches: bool, organisation: str) -> Generation:
    """The answer to a request; only where `caches` is true can tokens be read from a cache or written to one."""
    if asked.kind != "generate":
        return _without_output(model, asked, directives)
    wanted = DEFAULT_WORDS * asked.choices if directives.completion_tokens is None else directives.completion_tokens
    allowed = wanted if asked.output_limit is None else min(wanted, asked.output_limit)
    tokens = _tokens(asked, directives, completion=allowed, caches=caches)
    charge = bill(model, tokens)
    spoken = (tokens.completion - tokens.reasoning) // asked.choices
    chunks = DEFAULT_CHUNKS if directives.chunks is None else directives.chunks
    return Generation(
        model_name=asked.model,
        tokens=tokens,
        bill=charge,
        cost=charge.total if directives.cost is None else directives.cost,
        is_cut_short=allowed < wanted,
        pieces=pieces_of(min(spoken, MAX_WORDS_SENT), chunks),
        choices=asked.choices,
        call=_call(asked, directives),
        organisation=organisation,
    )


def _without_output(model: Model, asked: Asked, directives: Directives) -> Generation:
    """Vectors cost their input, counting costs nothing."""
    tokens = Tokens(prompt=_prompt(asked, directives), completion=0)
    charge = bill(model, tokens) if asked.kind == "embed" else Bill(Decimal(0), Decimal(0))
    cost = charge.total if directives.cost is None or asked.kind == "count" else directives.cost
    return Generation(asked.model, tokens, charge, cost, is_cut_short=False, pieces=[], choices=1)


def _tokens(asked: Asked, directives: Directives, *, completion: int, caches: bool) -> Tokens:
    """A layer that reports no cache has none, so that what is billed can be known from what is reported."""
    return Tokens(
        prompt=_prompt(asked, directives),
        completion=completion,
        cached=directives.cached_tokens if caches else 0,
        cache_write=directives.cache_write_tokens if caches else 0,
        reasoning=min(directives.reasoning_tokens, completion),
    )


def _prompt(asked: Asked, directives: Directives) -> int:
    """Whitespace-separated words of all that went in, at least 1: the simulator's idea of a token."""
    if directives.prompt_tokens is not None:
        return directives.prompt_tokens
    return max(sum(len(text.split()) for text in asked.texts), 1)


def _call(asked: Asked, directives: Directives) -> Call | None:
    """The call that the text asks for, if the request offers that tool; after its result the model just answers."""
    if directives.tool is None or asked.follows_tool:
        return None
    tool = next((tool for tool in asked.tools if tool.name == directives.tool), None)
    return Call(tool, directives.arguments or {}) if tool is not None else None


def pieces_of(words: int, chunks: int) -> list[str]:
    """ "simulated word word …" with this many words in this many pieces, but no piece without a word."""
    if words == 0:
        return []
    chunks = max(min(chunks, words), 1)
    size, longer = divmod(words, chunks)
    pieces = [" word" * (size + (number < longer)) for number in range(chunks)]
    pieces[0] = "simulated" + pieces[0].removeprefix(" word")
    return pieces
