"""The answer of a simulated model, its usage and its cost: pure arithmetic, no HTTP."""

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
# A test may ask for a million tokens, but they need not all be sent.
MAX_WORDS_SENT = 5_000


class Unacceptable(Exception):
    """The request's body is invalid; the message says why."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that may be called; a custom tool takes text, and a namespace groups tools."""

    name: str
    is_custom: bool = False
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, in any dialect; `output_limit` is for all choices together."""

    model: str = ""
    texts: list[str] | tuple[str, ...] = ()  # the whole input; a word is a token
    last_user_text: str = ""  # where directives are
    output_limit: int | None = None
    choices: int = 1
    is_streamed: bool = False
    wants_usage: bool = False  # in a stream; some dialects always report it
    tools: tuple[Tool, ...] = ()
    follows_tool: bool = False  # the conversation ends with the result of a tool
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
    """A call of a tool that the client executes."""

    tool: Tool
    values: dict[str, Any]

    @property
    def name(self) -> str:
        return self.tool.name

    @property
    def text(self) -> str:
        """The input of a custom tool."""
        return str(self.values.get("input", ""))

    @property
    def arguments(self) -> str:
        return json.dumps(self.values)


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation: `tokens` and `cost` are billed, `pieces` are the text of every choice in stream order."""

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
    """Return the generation of a request; tokens can be read from or written to a cache only if `caches` is true."""
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
    """Return the generation of embeddings, which cost their input, or of token counting, which is free."""
    tokens = Tokens(prompt=_prompt(asked, directives), completion=0)
    charge = bill(model, tokens) if asked.kind == "embed" else Bill(Decimal(0), Decimal(0))
    cost = charge.total if directives.cost is None or asked.kind == "count" else directives.cost
    return Generation(asked.model, tokens, charge, cost, is_cut_short=False, pieces=[], choices=1)


def _tokens(asked: Asked, directives: Directives, *, completion: int, caches: bool) -> Tokens:
    """Return the tokens; dialects that cannot report a cache have none, so that the bill matches the usage."""
    return Tokens(
        prompt=_prompt(asked, directives),
        completion=completion,
        cached=directives.cached_tokens if caches else 0,
        cache_write=directives.cache_write_tokens if caches else 0,
        reasoning=min(directives.reasoning_tokens, completion),
    )


def _prompt(asked: Asked, directives: Directives) -> int:
    """Return the input tokens, which are its whitespace-separated words, at least 1."""
    if directives.prompt_tokens is not None:
        return directives.prompt_tokens
    return max(sum(len(text.split()) for text in asked.texts), 1)


def _call(asked: Asked, directives: Directives) -> Call | None:
    """Return the tool call that the text asks for, if the request offers the tool and does not end with its result."""
    if directives.tool is None or asked.follows_tool:
        return None
    tool = next((tool for tool in asked.tools if tool.name == directives.tool), None)
    return Call(tool, directives.arguments or {}) if tool is not None else None


def pieces_of(words: int, chunks: int) -> list[str]:
    """Return "simulated word word …" with this many words in this many pieces, none of them empty."""
    if words == 0:
        return []
    chunks = max(min(chunks, words), 1)
    size, longer = divmod(words, chunks)
    pieces = [" word" * (size + (number < longer)) for number in range(chunks)]
    pieces[0] = "simulated" + pieces[0].removeprefix(" word")
    return pieces
