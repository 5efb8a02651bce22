"""The base of dialects: how requests are read, bounded and rewritten, and what answers say.

A dialect is one object in one file. Relay, upstream and gateway use this interface and know no dialect by name; which
provider serves it is declared by the provider. Pure functions: plain data in, plain data out.
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
    """The usage that an answer reports. None means not reported; a zero is a zero.

    `input_tokens` is all input (including cache reads and writes, audio, images and video), `output_tokens` all output
    (including reasoning, audio and images). The other counts are parts of these; the rest is text. What other prompts
    took and made while the model answered is beside them, in `advice` and `summaries`.
    """

    input_tokens: int | None = None
    plain_input_tokens: int | None = None  # only Anthropic: neither read from a cache nor written to one
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None  # all of them, including those kept for an hour
    cache_write_1h_tokens: int | None = None
    audio_input_tokens: int | None = None
    cached_audio_tokens: int | None = None
    image_input_tokens: int | None = None
    video_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_output_tokens: int | None = None
    image_output_tokens: int | None = None
    # Parts of the above for another model that drew pictures as a tool, which has its own prices.
    drawn_input_tokens: int | None = None
    drawn_image_input_tokens: int | None = None
    drawn_output_tokens: int | None = None
    advice: tuple[Usage, ...] = ()  # Anthropic: of other models that advised, each with its `model`
    summaries: tuple[Usage, ...] = ()  # Anthropic: of the model itself, when it shortened the conversation
    searches: int | None = None  # calls of server tools that cost a fee each
    file_searches: int | None = None  # calls of OpenAI's tool that searches stored files
    containers: int | None = None  # machines in which the provider ran code
    cost_usd: Decimal | None = None  # what the answer itself says it cost
    service_tier: str = ""  # the tier that served
    speed: str = ""  # Anthropic: `fast`
    region: str = ""  # Anthropic: `inference_geo`
    model: str = ""  # the model that answered

    @property
    def is_known(self) -> bool:
        """True if the cost can be determined: a cost, or both totals, were reported."""
        return self.cost_usd is not None or (self.input_tokens is not None and self.output_tokens is not None)

    def of_the_model(self) -> Usage:
        """Return the usage of the model itself, without that of the model that drew pictures."""
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

    def total(self, kind: str) -> int | None:
        """Return a count of tokens by the name of its field, with that of the prompts beside the answer."""
        counts = [getattr(part, kind) for part in (self, *self.advice, *self.summaries)]
        return None if all(count is None for count in counts) else sum(count or 0 for count in counts)

    def merged(self, later: Usage | None) -> Usage:
        """Return the two combined field by field: known values win over unknown ones, larger over smaller counts."""
        if later is None:
            return self
        found: dict[str, Any] = {}
        for one in fields(Usage):
            old, new = getattr(self, one.name), getattr(later, one.name)
            if isinstance(old, str):
                found[one.name] = new or old
            elif isinstance(old, tuple):
                found[one.name] = max(new, old, key=len)  # the longer one, and of two the later
            else:
                found[one.name] = max((value for value in (old, new) if value is not None), default=None)
        if found["plain_input_tokens"] is not None:  # its parts may arrive in different events
            parts = ("plain_input_tokens", "cached_input_tokens", "cache_write_tokens")
            found["input_tokens"] = max(found["input_tokens"] or 0, sum(found[name] or 0 for name in parts))
        return Usage(**found)


# Names of fees, other than those of searches.
FILE_SEARCH_FEE = "file search"
PAGE_FEE = "page"
PROMPT_CONTAINER_FEE = "container of a prompt"  # of unknown size


def container_fee(size: str) -> str:
    """Return the name of the fee of a container with this much memory, such as `4g`."""
    return f"container {size}"


def is_container_fee(what: str) -> bool:
    return what.startswith("container")


@dataclass(frozen=True, slots=True)
class Bound:
    """Upper bounds of one request, whichever model answers.

    `output_tokens` is for one choice, None if the client set no limit; it includes `prediction_tokens`, because a
    rejected prediction is billed as output. Code that sets a limit on a request without one adds them.
    """

    input_tokens: int  # all input that can be counted; the kinds below are parts of it
    output_tokens: int | None
    fallback_output_tokens: int = 0  # the highest limit of a model that may stand in, where the request sets none
    inputs: int = 1  # prompts, or texts that are embedded, each of which may fill the model's context window
    choices: int = 1
    prediction_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    images: int = 0
    file_tokens: int = 0  # text files
    whole_window: bool = False  # something cannot be counted, so the input may fill a model's whole context window
    unseen_bytes: int = 0  # the base64 of videos and PDFs in the body, which cannot be counted
    output_kinds: frozenset[str] = frozenset({"text"})  # what may come out: text, audio, image
    can_write_cache: bool = False
    can_write_cache_1h: bool = False
    searches: int = 0  # most calls of server tools that cost a fee each
    preview_search: bool | None = False  # they use OpenAI's older tool, which may cost more; None: one or the other
    fees: tuple[tuple[str, int], ...] = ()  # other fees (`tariffs.OTHER_FEES`), and how often at most
    drawings: int = 0  # most pictures that a tool draws in addition to the answer
    drawing_models: tuple[str, ...] = ()  # models that may draw them; empty if the client leaves the choice
    tool_input_tokens: int = 0  # what server tools add to the input in all their rounds
    service_tier: str | None = None  # as requested by the client
    may_reason: bool | None = None  # None: the model's default; False: switched off
    thinking_tokens: int = 0  # the thinking budget that the client set: an output limit must stay above it
    is_free: bool = False  # counting tokens costs nothing
    region: str = ""  # Anthropic: `inference_geo`, as requested by the client
    unlimited_field: str = ""  # the field that is -1, which is only accepted for models that cost nothing
    text_tokens: int = 0  # the part of the input that can be counted more tightly with a public vocabulary


@dataclass(frozen=True, slots=True)
class Door:
    """One address of a dialect: where programs send requests, and what it does."""

    path: str  # in Starlette's syntax, with `{model}` if the address names the model
    operation: str
    action: str = ""  # what follows the dialect's root URL at the provider: `/count_tokens`, `:generateContent`
    method: str = "POST"
    always_streams: bool = False


@dataclass
class Request:
    """A request as received: the parsed body and the client's own bytes, until both are released."""

    dialect: Dialect
    door: Door
    body: Mapping[str, Any]
    raw: bytes
    path_model: str = ""
    query: str = ""  # without the question mark and without anything secret
    headers: Mapping[str, str] = field(default_factory=dict)  # the dialect's headers, to be passed on
    _bounds: dict[Any, Bound] = field(default_factory=dict, repr=False)  # by the traits of the model that serves

    @cached_property
    def size(self) -> int:
        """The number of bytes that the client sent."""
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
        """Presets stored at OpenRouter, which may choose a model of their own."""
        preset = self.body.get("preset")
        return (f"@preset/{preset}",) if preset else ()

    @cached_property
    def streamed(self) -> bool:
        return self.dialect.is_streamed(self)

    @cached_property
    def sealed(self) -> str:
        """What binds the conversation to an organisation: see `Dialect.sealed`."""
        return self.dialect.sealed(self)

    @cached_property
    def bound(self) -> Bound:
        """The bounds by the name that the client sent, which may be an alias: a hold needs `bound_for`."""
        return self.dialect.bound(self, self.model)

    def bound_for(self, model: str) -> Bound:
        """Return the bounds if `model` serves; the body is read again only if its name means more or less."""
        traits = self.dialect.traits(model)
        if traits == self.dialect.traits(self.model):
            return self.bound
        if traits not in self._bounds:
            self._bounds[traits] = self.dialect.bound(self, model)
        return self._bounds[traits]

    def knows_bound_for(self, model: str) -> bool:
        """Return whether `bound_for` need not read the body."""
        traits = self.dialect.traits(model)
        return traits in self._bounds or traits == self.dialect.traits(self.model)

    def let_go(self) -> None:
        """Release the memory of a body that will not be sent again, because a stream that has begun may take minutes.

        The fields that are still needed, and the values derived from the body, are kept.
        """
        _ = self.size, self.model, self.other_models, self.streamed, self.bound
        kept = self.dialect.read_while_streaming
        self.raw, self.body = b"", {name: value for name, value in self.body.items() if name in kept}


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What has to change in a request to one key; if nothing does, the client's own bytes are sent."""

    model: str  # the provider's own name
    output_limit: int | None = None  # replaces the client's own
    asks_usage: bool = False  # the usage of a stream must be asked for
    limit_field: str = "max_tokens"  # the provider's name for the limit, in dialects that have two
    max_price: Mapping[str, Decimal] | None = None  # for OpenRouter: USD per million tokens and per request
    without: frozenset[str] = frozenset()  # added fields that the server refused; never the output limit
    renamed: Mapping[str, str] = field(default_factory=dict)  # the limit, if the server wants its other name


@dataclass(slots=True)
class Seen:
    """What one event of a stream, or a whole answer, says."""

    body: Any = None  # parsed; None if it is not JSON
    usage: Usage | None = None
    is_running_total: bool = False  # the usage is that of an answer that may go on
    has_content: bool = False  # usable output: from here on no other key may answer
    content_bytes: int = 0  # bytes of text, for an estimate if no usage is reported
    error: Mapping[str, Any] | None = None  # the body with an error, to be classified by the provider
    is_end: bool = False  # the dialect's end marker
    is_finished: bool = False  # the model said that it has finished
    is_usage_only: bool = False  # a chunk that was sent only because the usage was asked for
    id: str = ""
    sealed: str = ""  # the last encrypted reasoning block, or the id of the stored answer: see `Dialect.sealed`

    @property
    def has_final_usage(self) -> bool:
        """True if the usage covers the whole answer and is not a running total of one still in progress."""
        if self.usage is None or not self.usage.is_known:
            return False
        return self.is_finished or self.is_end or not self.is_running_total or self.usage.cost_usd is not None


class Events(Protocol):
    """Splits a stream into whole events without changing a byte."""

    def feed(self, piece: bytes) -> Iterator[bytes]: ...

    def rest(self) -> bytes: ...


class Dialect:
    """A dialect; subclasses set the attributes and override the hooks."""

    name: ClassVar[str]
    doors: ClassVar[tuple[Door, ...]]
    passed_headers: ClassVar[frozenset[str]] = frozenset()  # the client's headers that are passed on, in lower case
    # Matches events that may contain more than content, or data that counts as less than its bytes. It only saves
    # parsing the others; None: every event is parsed.
    telling: ClassVar[re.Pattern[bytes] | None] = None
    read_while_streaming: ClassVar[frozenset[str]] = frozenset()  # fields of the body that `see_event` needs
    limit_names: ClassVar[tuple[str, ...]] = ()  # what servers call the output limit when they refuse it
    needs_output_limit: ClassVar[bool] = False  # providers refuse requests without one, so the gateway adds it
    names_models_everywhere: ClassVar[bool] = False  # `other_models` may answer at every provider, not only at some

    # --- the request -------------------------------------------------------------------------------------------------

    def passes(self, header: str) -> bool:
        """Return whether a header of the client (its name in lower case) is passed on to the provider."""
        return header in self.passed_headers

    def validate(self, request: Request) -> None:
        """Raise InvalidInput for requests that no provider could answer, before anything is held or sent."""
        raise NotImplementedError

    def named_model(self, request: Request) -> str:
        model = request.body.get("model")
        return model if isinstance(model, str) else ""

    def other_models(self, request: Request) -> tuple[str, ...]:
        """Return the other models that may answer, at a provider that chooses among them."""
        return ()

    def is_streamed(self, request: Request) -> bool:
        return request.door.always_streams or request.body.get("stream") is True

    def bound(self, request: Request, model: str) -> Bound:
        """Return the upper bounds of the request if `model` serves it, or another one that it names.

        Raises ValueError for numbers that no provider would accept.
        """
        raise NotImplementedError

    def traits(self, model: str) -> Any:
        """Return all that the bound takes from a model's name; models with the same traits have the same bound."""
        return model

    def sealed(self, request: Request) -> str:
        """Return what only the organisation that produced it can use, or an empty string.

        That is the newest encrypted reasoning block in the request, or the id of the stored answer that it continues.
        """
        return ""

    def tighter_bound(self, request: Request, model: str) -> Bound:
        """Return a tighter bound if the model's vocabulary is public: slower, and never above `bound`."""
        return request.bound_for(model)

    def rewritten(self, request: Request, change: Rewrite) -> bytes:
        """Return the bytes of the request to one key."""
        raise NotImplementedError

    def added_fields(self, request: Request, change: Rewrite) -> set[str]:
        """Return the fields that `rewritten` adds and the client did not send, by the names that servers use."""
        added = {"provider"} if change.max_price else set()
        if change.output_limit is not None and request.bound.output_tokens is None:
            added |= {change.limit_field} & set(self.limit_names) or set(self.limit_names)
        return {name for name in added if request.body.get(name) is None}

    # --- the answer --------------------------------------------------------------------------------------------------

    def events(self, request: Request) -> Events:
        """Return the splitter for the stream of this request."""
        raise NotImplementedError

    def see_event(self, event: bytes, request: Request) -> Seen:
        """Return what an event says. Never raises."""
        raise NotImplementedError

    def see_answer(self, body: Any) -> Seen:
        """Return what a whole answer says. Never raises."""
        raise NotImplementedError

    # --- to the client ------------------------------------------------------------------------------------------------

    def error_body(self, status: int, code: str, message: str, param: str | None = None) -> bytes:
        """Return an error in the dialect's own form, with the stable code."""
        raise NotImplementedError

    def error_event(self, status: int, code: str, message: str, request: Request) -> bytes:
        """Return an error as an event inside a stream."""
        raise NotImplementedError

    def first_error_event(self, status: int, code: str, message: str, request: Request) -> bytes:
        """Return an error as the first event of a stream, before which only keep-alives were sent."""
        return self.error_event(status, code, message, request)

    def as_event(self, body: bytes, request: Request) -> bytes:
        """Return a whole answer, or an error, as the only event of a stream."""
        return b"data: " + one_line(body) + b"\n\n"

    def model(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return an entry of OpenAI's model list in the dialect's own form."""
        return dict(entry)

    def model_list(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the whole model list in the dialect's own form."""
        return {"object": "list", "data": [self.model(entry) for entry in entries]}

    def keep_alive(self, request: Request) -> bytes:
        """Return the keep-alive, which prevents proxies from cutting a silent stream."""
        return b": keep-alive\n\n"

    def stream_type(self, request: Request) -> str:
        return "text/event-stream"


def with_changes(request: Request, change: Rewrite, *, limit_field: str = "", **more: Any) -> bytes:
    """Return a request with another model, output limit and highest price, each in one field, and `more` fields."""
    body = request.body
    changes: dict[str, Any] = {} if body.get("model") == change.model else {"model": change.model}
    if limit_field and change.output_limit is not None:
        changes[limit_field] = change.output_limit
    if change.max_price and "provider" not in change.without:
        changes["provider"] = with_max_price(body.get("provider"), change.max_price)
    changes |= more
    return dump({**body, **changes}) if changes else request.raw


def with_max_price(given: Any, most: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenRouter's `provider` field with the highest prices that the hold covers; a client's lower ones win."""
    routing = dict(given) if isinstance(given, dict) else {}
    own: Any = routing.get("max_price")
    own = own if isinstance(own, dict) else {}
    routing["max_price"] = {**own, **{name: _lower(own.get(name), price) for name, price in most.items()}}
    return routing


def _lower(own: Any, most: Any) -> float:
    try:
        return min(float(own), float(most))
    except (TypeError, ValueError):
        return float(most)


def one_line(body: bytes) -> bytes:
    """Return JSON on a single line; strings contain no raw line ends, so they do not change."""
    return b" ".join(body.split(b"\n")).replace(b"\r", b"").strip()


def dump(body: Mapping[str, Any]) -> bytes:
    """Return a body as compact JSON. Raises RecursionError if it is nested too deeply."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate that the client sent as an escape sequence
        return json.dumps(body, separators=(",", ":")).encode()
