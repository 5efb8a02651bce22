"""What a simulated model would say to a request, what it used and what that costs: pure arithmetic, no HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .behaviour import Directives, count_words
from .prices import Bill, Model, Tokens, bill

DEFAULT_WORDS = 20
DEFAULT_CHUNKS = 5
MAX_CHOICES = 128
# A test may claim a million tokens; nobody has to read them.
MAX_WORDS_SENT = 5_000


class Unacceptable(Exception):
    """The request's body has a mistake; the text says which."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation: `tokens` and `cost` are what is billed, `pieces` what every choice says, in stream order."""

    model_name: str
    tokens: Tokens
    bill: Bill
    cost: Decimal
    finish_reason: str
    pieces: list[str]
    choices: int

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def generate(
    *, provider: str, model: Model, model_name: str, body: dict[str, Any], directives: Directives
) -> Generation:
    """The answer to a chat request; raises Unacceptable for limits that make no sense."""
    choices = _whole(body, "n", most=MAX_CHOICES) or 1
    limit = _output_limit(body)
    wanted = DEFAULT_WORDS * choices if directives.completion_tokens is None else directives.completion_tokens
    allowed = wanted if limit is None else min(wanted, limit * choices)
    tokens = _tokens(provider, body["messages"], directives, allowed)
    charge = bill(model, tokens)
    spoken = (tokens.completion - tokens.reasoning) // choices
    chunks = DEFAULT_CHUNKS if directives.chunks is None else directives.chunks
    return Generation(
        model_name=model_name,
        tokens=tokens,
        bill=charge,
        cost=charge.total if directives.cost is None else directives.cost,
        finish_reason="length" if allowed < wanted else "stop",
        pieces=pieces_of(min(spoken, MAX_WORDS_SENT), chunks),
        choices=choices,
    )


def _tokens(provider: str, messages: list[Any], directives: Directives, completion: int) -> Tokens:
    """The two layers that report no cache have none, so that what is billed can be known from what is reported."""
    caches = provider in ("openrouter", "openai")
    return Tokens(
        prompt=count_words(messages) if directives.prompt_tokens is None else directives.prompt_tokens,
        completion=completion,
        cached=directives.cached_tokens if caches else 0,
        cache_write=directives.cache_write_tokens if caches else 0,
        reasoning=min(directives.reasoning_tokens, completion),
    )


def _output_limit(body: dict[str, Any]) -> int | None:
    limits = [_whole(body, name) for name in ("max_tokens", "max_completion_tokens")]
    given = [limit for limit in limits if limit is not None]
    return min(given) if given else None


def _whole(body: dict[str, Any], name: str, *, most: int | None = None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
        raise Unacceptable(f"Invalid value for '{name}': expected a whole number of at least 1.")
    return value


def pieces_of(words: int, chunks: int) -> list[str]:
    """ "simulated word word …" with this many words in this many pieces, but no piece without a word."""
    if words == 0:
        return []
    chunks = max(min(chunks, words), 1)
    size, longer = divmod(words, chunks)
    pieces = [" word" * (size + (number < longer)) for number in range(chunks)]
    pieces[0] = "simulated" + pieces[0].removeprefix(" word")
    return pieces
