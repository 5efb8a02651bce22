"""What a dialect is: how its requests are read, bounded and rewritten, and what its answers tell.

A dialect is one object in one file. Relay, upstream and gateway ask it and know none by name; which provider speaks it
is a line of the provider. Pure: plain data in, plain data out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from functools import cached_property
from typing import Any, ClassVar, Protocol

MAX_MODEL_NAME = 200


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer says it took. None: not told; a zero is a zero.

    `input_tokens` is all input (cached, written to a cache, sound and pictures included), `output_tokens` all output
    (reasoning, sound and pictures included). The kinds name parts of these; what they do not name is text.
    """

    input_tokens: int | None = None
    plain_input_tokens: int | None = None  # Anthropic tells only this: neither read from a cache nor written to one
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None  # all of them; those kept for an hour are named below as well
    cache_write_1h_tokens: int | None = None
    audio_input_tokens: int | None = None
    cached_audio_tokens: int | None = None
    image_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_output_tokens: int | None = None
    image_output_tokens: int | None = None
    # Of the above, what another model took and made that drew pictures as a tool: it has prices of its own.
    drawn_input_tokens: int | None = None
    drawn_image_input_tokens: int | None = None
    drawn_output_tokens: int | None = None
    searches: int | None = None  # calls of server tools that cost a fee each
    containers: int | None = None  # machines in which the provider ran code
    cost_usd: Decimal | None = None  # what the answer itself says it cost
    service_tier: str = ""  # the tier that served
    speed: str = ""  # Anthropic: `fast`
    region: str = ""  # Anthropic: `inference_geo`
    model: str = ""  # the model that answered

    @property
    def is_known(self) -> bool:
        """True if a cost can be worked out: a cost, or both totals, were reported."""
        return self.cost_usd is not None or (self.input_tokens is not None and self.output_tokens is not None)

    def of_the_model(self) -> Usage:
        """Return what the model itself took and made, without what was drawn in addition to it."""
        taken, made = self.drawn_input_tokens or 0, self.drawn_output_tokens or 0
        if not taken and not made:
            return self
        return replace(
            self,
            input_tokens=max(0, (self.input_tokens or 0) - taken),
            image_input_tokens=max(0, (self.image_input_tokens or 0) - (self.drawn_image_input_tokens or 0)),
            output_tokens=max(0, (self.output_tokens or 0) - made),
            image_output_tokens=max(0, (self.image_output_tokens or 0) - made),
        )

    def merged(self, later: Usage | None) -> Usage:
        """Return both field by field: what is known beats what is not, the larger count wins, a cost stays."""
        if later is None:
            return self
        found: dict[str, Any] = {}
        for one in fields(Usage):
            old, new = getattr(self, one.name), getattr(later, one.name)
            if isinstance(old, str):
                found[one.name] = new or old
            else:
                found[one.name] = max((value for value in (old, new) if value is not None), default=None)
        if found["plain_input_tokens"] is not None:  # its parts may come in different events
            parts = ("plain_input_tokens", "cached_input_tokens", "cache_write_tokens")
            found["input_tokens"] = max(found["input_tokens"] or 0, sum(found[name] or 0 for name in parts))
        return Usage(**found)


@dataclass(frozen=True, slots=True)
class Bound:
    """Upper bounds of one request, whichever model answers.

    `output_tokens` is for one choice, None if the client set no limit; it includes `prediction_tokens`, for a
    rejected prediction is billed as output. Who puts a limit on a request that has none adds them.
    """

    input_tokens: int  # all of it that can be counted; the kinds below are parts of it
    output_tokens: int | None
    choices: int = 1
    prediction_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    whole_window: bool = False  # something cannot be counted: any model may be sent its whole context window
    output_kinds: frozenset[str] = frozenset({"text"})  # what may come out: text, audio, image
    can_write_cache: bool = False
    can_write_cache_1h: bool = False
    searches: int = 0  # most calls of server tools that cost a fee each
    fees: tuple[tuple[str, int], ...] = ()  # others: what for (`tariffs.OTHER_FEES`), and how often at most
    drawings: int = 0  # most pictures that a tool draws in addition to the answer
    drawing_models: tuple[str, ...] = ()  # that may draw them; none where the client leaves the choice
    tool_input_tokens: int = 0  # what server tools add to the input over all their rounds
    service_tier: str | None = None  # as the client asked for it
    may_reason: bool | None = None  # None: as the model does; False: switched off
    thinking_tokens: int = 0  # the thinking budget that the client set: an output limit must stay above it
    is_free: bool = False  # counting tokens costs nothing
    region: str = ""  # Anthropic: `inference_geo`, as the client asked for it
    unlimited_field: str = ""  # the field that holds -1: absent where the model costs nothing, refused elsewhere
    text_tokens: int = 0  # of the input, the part that a public vocabulary may count tighter


@dataclass(frozen=True, slots=True)
class Door:
    """One address of a dialect: where programs send, and what is done there."""

    path: str  # in Starlette's form; `{model}` where the address names the model
    operation: str
    action: str = ""  # what follows the dialect's root at the provider: `/count_tokens`, `:generateContent`
    method: str = "POST"
    always_streams: bool = False


@dataclass
class Request:
    """A request as it came: parsed, and the client's own bytes, until both are let go."""

    dialect: Dialect
    door: Door
    body: Mapping[str, Any]
    raw: bytes
    path_model: str = ""
    query: str = ""  # without the question mark and without anything secret
    headers: Mapping[str, str] = field(default_factory=dict)  # of the dialect, to be passed on

    @cached_property
    def size(self) -> int:
        """How many bytes the client sent."""
        return len(self.raw)

    @cached_property
    def model(self) -> str:
        """The model that the client named, empty if it named none."""
        return self.dialect.named_model(self)

    @cached_property
    def other_models(self) -> tuple[str, ...]:
        return self.dialect.other_models(self)

    @cached_property
    def presets(self) -> tuple[str, ...]:
        """What is named and kept at OpenRouter, and may choose a model of its own."""
        preset = self.body.get("preset")
        return (f"@preset/{preset}",) if preset else ()

    @cached_property
    def streamed(self) -> bool:
        return self.dialect.is_streamed(self)

    @cached_property
    def sealed(self) -> str:
        """The newest encrypted reasoning block of the conversation, empty if it carries none."""
        return self.dialect.sealed(self)

    @cached_property
    def bound(self) -> Bound:
        return self.dialect.bound(self)

    def let_go(self) -> None:
        """Give back the memory of a body that nobody will be sent again: content has begun, and streams take minutes.

        What is still asked of it is kept, and what was worked out from it.
        """
        _ = self.size, self.model, self.other_models, self.streamed, self.bound
        kept = self.dialect.read_while_streaming
        self.raw, self.body = b"", {name: value for name, value in self.body.items() if name in kept}


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What has to change in a request on its way to one key; the client's own bytes go out where nothing does."""

    model: str  # the provider's own name
    output_limit: int | None = None  # to be put on the request, in place of the client's own
    asks_usage: bool = False  # a stream tells its usage only when asked
    limit_field: str = "max_tokens"  # what the provider calls the limit, in the dialects that have two names for it
    max_price: Mapping[str, Decimal] | None = None  # OpenRouter: USD per million tokens and per request, by its names
    without: frozenset[str] = frozenset()  # fields of ours that the server refused
    renamed: Mapping[str, str] = field(default_factory=dict)  # fields of ours that the server wants named so


@dataclass(slots=True)
class Seen:
    """What one event of a stream, or a whole answer, tells."""

    body: Any = None  # parsed; None if it is not JSON
    usage: Usage | None = None
    has_content: bool = False  # output that a person or program can use: from here on no other key may answer
    content_bytes: int = 0  # of text, for an estimate where no usage comes
    error: Mapping[str, Any] | None = None  # the body that holds an error, to be classified by the provider
    is_end: bool = False  # the dialect's end marker
    is_finished: bool = False  # the model said that it has finished
    is_usage_only: bool = False  # a chunk that exists because the usage was asked for
    id: str = ""
    sealed: str = ""  # the last encrypted reasoning block, which only the organisation that wrote it can read


class Events(Protocol):
    """Cuts a stream into whole events, bytes untouched."""

    def feed(self, piece: bytes) -> Iterator[bytes]: ...

    def rest(self) -> bytes: ...


class Dialect:
    """One dialect; subclasses fill in the attributes and the hooks."""

    name: ClassVar[str]
    doors: ClassVar[tuple[Door, ...]]
    passed_headers: ClassVar[frozenset[str]] = frozenset()  # of a client's, lower case, that the provider may see
    # What an event must hold to tell more than content. It saves the parsing of the others and decides nothing; None:
    # every event is parsed.
    telling: ClassVar[re.Pattern[bytes] | None] = None
    read_while_streaming: ClassVar[frozenset[str]] = frozenset()  # fields of a body that `see_event` looks at
    needs_output_limit: ClassVar[bool] = False  # providers refuse a request that sets none: the gateway puts its own
    names_models_everywhere: ClassVar[bool] = False  # `other_models` may answer at every provider, not at some alone

    # --- the request -------------------------------------------------------------------------------------------------

    def validate(self, request: Request) -> None:
        """Raise InvalidInput for what no provider could answer, before anything is held or sent."""
        raise NotImplementedError

    def named_model(self, request: Request) -> str:
        model = request.body.get("model")
        return model if isinstance(model, str) else ""

    def other_models(self, request: Request) -> tuple[str, ...]:
        """Return the further models of which any may answer, at a provider that chooses itself."""
        return ()

    def is_streamed(self, request: Request) -> bool:
        return request.door.always_streams or request.body.get("stream") is True

    def bound(self, request: Request) -> Bound:
        """Return the upper bounds of the request. Raises ValueError for counts that no provider would take."""
        raise NotImplementedError

    def sealed(self, request: Request) -> str:
        """Return the newest thought in the request that only the organisation which wrote it can read."""
        return ""

    def tighter_bound(self, request: Request, model: str) -> Bound:
        """Return a tighter bound where the model's own vocabulary is public: slower, and never above `bound`."""
        return request.bound

    def rewritten(self, request: Request, change: Rewrite) -> bytes:
        """Return the bytes for one key."""
        raise NotImplementedError

    # --- the answer --------------------------------------------------------------------------------------------------

    def events(self, request: Request) -> Events:
        """Return what cuts a stream of this request into events."""
        raise NotImplementedError

    def see_event(self, event: bytes, request: Request) -> Seen:
        """Report what an event holds. Never raises."""
        raise NotImplementedError

    def see_answer(self, body: Any) -> Seen:
        """Report what a whole answer holds. Never raises."""
        raise NotImplementedError

    # --- towards the client ------------------------------------------------------------------------------------------

    def error_body(self, status: int, code: str, message: str, param: str | None = None) -> bytes:
        """Return an error in the dialect's own shape, with the stable code."""
        raise NotImplementedError

    def error_event(self, status: int, code: str, message: str, request: Request) -> bytes:
        """Return the same inside a stream."""
        raise NotImplementedError

    def first_error_event(self, status: int, code: str, message: str, request: Request) -> bytes:
        """Return the same where nothing but keep-alives has gone out."""
        return self.error_event(status, code, message, request)

    def as_event(self, body: bytes, request: Request) -> bytes:
        """Return a whole answer, or an error, as the one event of a stream."""
        return b"data: " + one_line(body) + b"\n\n"

    def model(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return an entry of OpenAI's list of models in the dialect's own shape."""
        return dict(entry)

    def model_list(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the whole list in the dialect's own shape."""
        return {"object": "list", "data": [self.model(entry) for entry in entries]}

    def sign_of_life(self, request: Request) -> bytes:
        """Return what keeps proxies on the way from cutting a silent stream."""
        return b": keep-alive\n\n"

    def stream_type(self, request: Request) -> str:
        return "text/event-stream"


def one_line(body: bytes) -> bytes:
    """Return JSON that may have been written on several lines on one: inside texts there are no ends of lines."""
    return b" ".join(body.split(b"\n")).replace(b"\r", b"").strip()


def dump(body: Mapping[str, Any]) -> bytes:
    """Write a body as compact JSON. Raises RecursionError for one nested too deeply."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate that the client wrote as an escape
        return json.dumps(body, separators=(",", ":")).encode()
