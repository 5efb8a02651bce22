"""What comes in and what goes out: a request, the client that waits for its answer, and the answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from llmkeys import dialects
from llmkeys.dialects import Dialect
from llmkeys.models import AUTO
from llmkeys.prices import catalogue
from llmkeys.prices.tariffs import DRAWING_MODELS
from llmkeys.relay import refusals
from llmkeys.tokens.rights import Caller


def new_request_id() -> str:
    """Return an id that grows with time, so that the index of a large table is written at one end only."""
    return f"req_{time.time_ns() // 1_000_000:011x}{secrets.token_hex(7)}"


@dataclass(frozen=True)
class RelayRequest:
    """A validated request of a caller."""

    request: dialects.Request
    caller: Caller
    id: str = field(default_factory=new_request_id)

    @property
    def dialect(self) -> Dialect:
        return self.request.dialect

    @property
    def streamed(self) -> bool:
        return self.request.streamed

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The models to try in turn: the one that was named, or the primary and the fallbacks.

        Raises ModelNotAllowed, also if the token may not use another model that the request lets the provider choose,
        or one that may draw as a tool.
        """
        for other in (*self.request.other_models, *self.request.presets):
            models_for(other, self.caller)
        bound = self.request.bound
        for name in (bound.drawing_models or DRAWING_MODELS) if bound.drawings else ():
            if not self.caller.may_use(name):
                raise refusals.drawing_not_allowed(name, self.caller.models or ())
        return models_for(self.request.model, self.caller)


def models_for(named: str, caller: Caller) -> tuple[str, ...]:
    """Return the models to try for the name that a caller sent: of an alias, the models that the caller may use.

    An alias that is itself among the caller's models is allowed with all of its models. Raises ModelNotAllowed.
    """
    models = catalogue.models_to_try(named)
    if caller.models is None or (named or AUTO) in caller.models:
        return models
    allowed = tuple(model for model in models if caller.may_use(model))
    if not allowed:
        raise refusals.model_not_allowed(named or AUTO, caller.models)
    return allowed


class Client(Protocol):
    """The caller that waits for an answer: a program at the gateway, a person at the playground or the terminal."""

    has_begun: bool  # a first byte was sent: the status can no longer be changed
    has_gone: bool

    def when_gone(self, call: Callable[[], None]) -> None:
        """Call this once, as soon as the client has gone; immediately if it has."""

    async def write(self, piece: bytes) -> None:
        """Send a piece of a stream to the client, as fast as it reads; do nothing if it has gone."""


class Stream(Protocol):
    """A stream whose first content has arrived."""

    async def run(self) -> None:
        """Forward it to its end."""


@dataclass(frozen=True)
class Answer:
    """What the client gets: a whole answer, or a stream whose first content has arrived."""

    status: int
    content_type: str
    content: bytes | Stream
    request_id: str
    key_id: str
    attempts: int
    headers: Mapping[str, str] = field(default_factory=dict)
    cost_nano: int | None = None
    remaining_day_nano: int | None = None

    @property
    def is_stream(self) -> bool:
        return not isinstance(self.content, bytes)


@dataclass
class Tracked:
    """What is known about a request in progress, for the headers of a stream that starts with a keep-alive."""

    key_id: str = ""
    attempts: int = 0
    max_tokens: int | None = None
    may_be_billed: bool = False  # a failed attempt may have been: sending the request again could cost twice
