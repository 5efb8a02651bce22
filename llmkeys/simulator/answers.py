"""Handles requests to models, in any dialect: builds the answer, or the failure that the key asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .auth import Caller
from .behaviour import NO_DIRECTIVES, REFUSALS, Directives, read_directives
from .dialects import Dialect, Reply, Stream
from .generation import Asked, Generation, Unacceptable, generate
from .http import FOREVER, Answer, End, Part, Request
from .journal import Entry
from .prices import find_model
from .refusals import Occasion, Refusal, refuse
from .signatures import is_foreign, organisation_of
from .state import State
from .wire import encoded

SLOW_SECONDS = 2.0
# What was sent before a reset must reach the client first, or it would see only the reset.
BEFORE_RESET_SECONDS = 0.05
CHUNKS_BEFORE_TROUBLE = 2
WEB_PAGE = b"<!doctype html><title>simulated</title><p>simulated: this is a web page, not the answer of a model.</p>"


@dataclass(slots=True)
class Call:
    """A request as far as it could be parsed; `mistake` says what is wrong with its body."""

    caller: Caller
    request: Request
    dialect: Dialect
    asked: Asked
    mistake: str
    directives: Directives
    behaviour: str


def answer_call(state: State, caller: Caller, request: Request, dialect: Dialect, action: str) -> Answer:
    """Return the answer to a request to a model, which is recorded in the journal before any of it is sent."""
    call = _read(state, caller, request, dialect, action)
    kind = _refusal_kind(call)
    if kind is not None:
        return _refused(state, call, kind)
    model = find_model(provider=caller.provider, name=call.asked.model)
    if model is None or model.embeds is not (call.asked.kind == "embed"):
        return _refused(state, call, "404")
    generation = generate(
        model=model,
        asked=call.asked,
        directives=call.directives,
        caches=dialect.caches_at(caller.provider),
        organisation=organisation_of(caller.key),
    )
    return _generated(state, call, generation)


def _read(state: State, caller: Caller, request: Request, dialect: Dialect, action: str) -> Call:
    asked, mistake = _read_body(request, dialect, action)
    directives = NO_DIRECTIVES if mistake else read_directives(asked.last_user_text)
    if any(is_foreign(signature, caller.key) for signature in asked.signatures):
        mistake = "The sealed thinking is from another organisation: invalid signature or encrypted content."
    behaviour = caller.refusal or directives.behaviour or state.failures.of_request(caller.key)
    return Call(caller, request, dialect, asked, mistake, directives, behaviour)


def _read_body(request: Request, dialect: Dialect, action: str) -> tuple[Asked, str]:
    """Return what the body asks for, and what is wrong with it."""
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        return Asked(), "The body is not JSON."
    if not isinstance(body, dict):
        return Asked(), "The body is not a JSON object."
    try:
        return dialect.read(body, request, action), ""
    except Unacceptable as mistake:
        name = body.get("model")
        asked = Asked(model=name if isinstance(name, str) else "", is_streamed=body.get("stream") is True)
        return asked, str(mistake)


def _refusal_kind(call: Call) -> str | None:
    """Return the kind of refusal, or None; like real providers, the key is checked before the body."""
    if call.caller.refusal:
        return call.caller.refusal
    if call.directives.status is not None:
        return str(call.directives.status)
    if call.behaviour in REFUSALS or call.behaviour == "invalid":
        return call.behaviour
    return "400" if call.mistake else None


# --- refusals -----------------------------------------------------------------------------------------------------


def _refused(state: State, call: Call, kind: str) -> Answer:
    occasion = Occasion(
        call.caller.provider,
        kind,
        key=call.caller.key,
        model=call.asked.model,
        text=call.mistake if kind == "400" else "",
        native=call.caller.native,
    )
    refusal = refuse(occasion)
    entry = _entry(call, behaviour=kind, status=refusal.status)
    state.journal.append(entry)
    return answer_refusal(refusal, delay=_delay(state, call), entry=entry)


def answer_refusal(refusal: Refusal, *, delay: float = 0.0, entry: Entry | None = None) -> Answer:
    body = encoded(refusal.body)
    return Answer(refusal.status, [body], len(body), headers=refusal.headers, delay=delay, entry=entry)


def _entry(call: Call, *, behaviour: str, status: int | None) -> Entry:
    return Entry(
        provider=call.caller.provider,
        path=call.request.path,
        key_tail=call.caller.key[-8:],
        model=call.asked.model or None,
        stream=call.asked.is_streamed,
        behaviour=behaviour,
        status=status,
        request_id=call.request.headers.get("x-client-request-id"),
        prefix=call.dialect.prefix,
    )


# --- generations --------------------------------------------------------------------------------------------------


def _generated(state: State, call: Call, generation: Generation) -> Answer:
    entry = _billed(state, call, generation)
    created = int(entry.time.timestamp())
    reply = Reply(call.caller.provider, entry.generation_id, created, generation, call.asked, call.behaviour)
    if call.behaviour in _WITHOUT_MODEL_TEXT:
        answer = _WITHOUT_MODEL_TEXT[call.behaviour]()
    else:
        answer = _streamed(state, call, reply) if call.asked.is_streamed else _not_streamed(call, reply)
    answer.entry = entry
    answer.headers[_ID_HEADERS[call.caller.provider]] = entry.generation_id
    answer.delay = _delay(state, call)
    return answer


_ID_HEADERS = {
    "openrouter": "X-Generation-Id",
    "openai": "x-request-id",
    "anthropic": "request-id",
    "google": "X-Simulated-Id",
}


def _billed(state: State, call: Call, generation: Generation) -> Entry:
    """Bill the whole generation, even if sending its answer fails: the worst that a provider may do.

    Three things are free: counting, an answer that reports no usage, and a 200 whose whole body is an error.
    """
    entry = _entry(call, behaviour=call.behaviour, status=None if call.behaviour == "hang" else 200)
    is_error = call.behaviour == "miderror" and not call.asked.is_streamed
    entry.billed = call.asked.kind != "count" and not is_error
    if entry.billed and call.behaviour != "zerousage":
        entry.prompt_tokens, entry.completion_tokens = generation.tokens.prompt, generation.tokens.completion
        entry.cost = generation.cost
        state.spent[call.caller.key] += generation.cost
    state.journal.append(entry)
    return entry


def _delay(state: State, call: Call) -> float:
    if call.behaviour == "hang" and call.directives.status is None:
        return FOREVER
    if call.behaviour == "slow":
        return SLOW_SECONDS
    given = call.directives.delay_ms
    return (state.latency_ms if given is None else given) / 1000


_WITHOUT_MODEL_TEXT = {
    "html": lambda: Answer(200, [WEB_PAGE], len(WEB_PAGE), content_type="text/html; charset=utf-8"),
    "empty": lambda: Answer(200, [], 0),
}


def _not_streamed(call: Call, reply: Reply) -> Answer:
    is_error = call.behaviour == "miderror"
    body = encoded(call.dialect.error_inside(reply) if is_error else call.dialect.whole(reply))
    if call.behaviour == "malformed":
        body = body[: len(body) // 2]
    half = body[: len(body) // 2]
    match call.behaviour:
        case "cut":
            parts: list[Part] = [half, BEFORE_RESET_SECONDS, End.RESET]
        case "stall":
            parts = [half, FOREVER]
        case _:
            parts = [body]
    return Answer(200, parts, len(body))


def _streamed(state: State, call: Call, reply: Reply) -> Answer:
    given = call.directives.chunk_delay_ms
    pause = (state.chunk_delay_ms if given is None else given) / 1000
    values = _stream_values(call, call.dialect.stream(reply), reply, pause)
    content_type = "application/json" if call.asked.is_array else call.dialect.stream_type
    parts = list(_written(values, call.dialect, reply))
    return Answer(200, parts, None, content_type=content_type, headers={"Cache-Control": "no-cache"})


class _Broken:
    """Marks an event whose JSON is cut off."""


def _stream_values(call: Call, stream: Stream, reply: Reply, pause: float) -> list[Any]:
    """Return what is sent, in order: events, pauses in seconds, a reset."""
    contents = _paced(stream.contents, pause)
    begun = [*stream.opening, *_paced(stream.contents[:CHUNKS_BEFORE_TROUBLE], pause)]
    match call.behaviour:
        case "cut":
            return [*begun, BEFORE_RESET_SECONDS, End.RESET]
        case "stall":
            return [*begun, FOREVER]
        case "miderror":
            return [*begun, call.dialect.error_event(reply), *([b"]"] if call.asked.is_array else [])]
        case "noend":
            return [*stream.opening, *contents]
        case "malformed":
            return [*stream.opening, *contents, _Broken(), *stream.closing]
        case _:
            return [*stream.opening, *contents, *stream.closing]


def _paced(events: list[Any], pause: float) -> list[Any]:
    """Return the events with pauses between them."""
    if not pause:
        return list(events)
    values: list[Any] = []
    for one in events:
        values += [one, pause]
    return values[:-1]


def _written(values: list[Any], dialect: Dialect, reply: Reply) -> Iterator[Part]:
    first = True
    for value in values:
        if isinstance(value, float | End):
            yield value
            continue
        yield (
            dialect.broken(reply, first=first)
            if isinstance(value, _Broken)
            else dialect.written(value, reply, first=first)
        )
        first = False
