"""POST …/chat/completions: from a request to the answer, good or as bad as its key asks for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .auth import Caller
from .behaviour import NO_DIRECTIVES, REFUSALS, Directives, last_user_text, read_directives
from .bodies import Reply, Stream, error_event, error_inside, event, stream_of, whole
from .generation import Generation, Unacceptable, generate
from .http import FOREVER, Answer, End, Part, Request
from .journal import Entry
from .prices import find_model
from .refusals import Occasion, Refusal, refuse
from .state import State
from .wire import encoded

SLOW_SECONDS = 2.0
# What was sent before a reset must have reached the reader, or the reset would be all it sees.
BEFORE_RESET_SECONDS = 0.05
CHUNKS_BEFORE_TROUBLE = 2
WEB_PAGE = b"<!doctype html><title>simulated</title><p>simulated: this is a web page and no answer of a model.</p>"


@dataclass(slots=True)
class Chat:
    """One chat request as far as it could be read; `mistake` says what is wrong with its body."""

    caller: Caller
    request: Request
    body: dict[str, Any]
    mistake: str
    directives: Directives
    behaviour: str

    @property
    def model_name(self) -> str:
        return self.body["model"] if isinstance(self.body.get("model"), str) else ""

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    @property
    def include_usage(self) -> bool:
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True


def answer_chat(state: State, caller: Caller, request: Request) -> Answer:
    """Answer a chat request and put it into the journal before anything of the answer exists on the wire."""
    chat = _read(state, caller, request)
    kind = _refusal_kind(chat)
    if kind is not None:
        return _refused(state, chat, kind)
    model = find_model(provider=caller.provider, name=chat.model_name)
    if model is None:
        return _refused(state, chat, "404")
    try:
        generation = generate(
            provider=caller.provider,
            model=model,
            model_name=chat.model_name,
            body=chat.body,
            directives=chat.directives,
        )
    except Unacceptable as mistake:
        chat.mistake = str(mistake)
        return _refused(state, chat, "400")
    return _generated(state, chat, generation)


def _read(state: State, caller: Caller, request: Request) -> Chat:
    body, mistake = _read_body(request.body)
    directives = NO_DIRECTIVES if mistake else read_directives(last_user_text(body["messages"]))
    behaviour = caller.refusal or directives.behaviour or state.failures.of_chat(caller.key)
    return Chat(caller, request, body, mistake, directives, behaviour)


def _read_body(raw: bytes) -> tuple[dict[str, Any], str]:
    """The body and what is wrong with it; OpenRouter's list of models stands in for a missing model."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return {}, "The body is not JSON."
    if not isinstance(body, dict):
        return {}, "The body is not a JSON object."
    if "model" not in body and isinstance(body.get("models"), list) and body["models"]:
        body["model"] = body["models"][0]
    if not isinstance(body.get("model"), str) or not body["model"]:
        return body, "The model is missing."
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        return body, "The messages are missing."
    return body, ""


def _refusal_kind(chat: Chat) -> str | None:
    """Real providers look at the key first, then at the body."""
    if chat.caller.refusal:
        return chat.caller.refusal
    if chat.directives.status is not None:
        return str(chat.directives.status)
    if chat.behaviour in REFUSALS or chat.behaviour == "invalid":
        return chat.behaviour
    return "400" if chat.mistake else None


# --- refusals -----------------------------------------------------------------------------------------------------


def _refused(state: State, chat: Chat, kind: str) -> Answer:
    occasion = Occasion(
        chat.caller.provider,
        kind,
        key=chat.caller.key,
        model=chat.model_name,
        text=chat.mistake if kind == "400" else "",
    )
    refusal = refuse(occasion)
    entry = _entry(chat, behaviour=kind, status=refusal.status)
    state.journal.append(entry)
    return answer_refusal(refusal, delay=_delay(state, chat), entry=entry)


def answer_refusal(refusal: Refusal, *, delay: float = 0.0, entry: Entry | None = None) -> Answer:
    body = encoded(refusal.body)
    return Answer(refusal.status, [body], len(body), headers=refusal.headers, delay=delay, entry=entry)


def _entry(chat: Chat, *, behaviour: str, status: int | None) -> Entry:
    return Entry(
        provider=chat.caller.provider,
        path=chat.request.path,
        key_tail=chat.caller.key[-8:],
        model=chat.model_name or None,
        stream=chat.stream,
        behaviour=behaviour,
        status=status,
        request_id=chat.request.headers.get("x-client-request-id"),
    )


# --- generations --------------------------------------------------------------------------------------------------


def _generated(state: State, chat: Chat, generation: Generation) -> Answer:
    entry = _billed(state, chat, generation)
    reply = Reply(chat.caller.provider, entry.generation_id, int(entry.time.timestamp()), generation, chat.behaviour)
    if chat.behaviour in _WITHOUT_MODEL_TEXT:
        answer = _WITHOUT_MODEL_TEXT[chat.behaviour]()
    else:
        answer = _streamed(state, chat, reply) if chat.stream else _not_streamed(chat, reply)
    answer.entry = entry
    answer.headers[_ID_HEADERS[chat.caller.provider]] = entry.generation_id
    answer.delay = _delay(state, chat)
    return answer


_ID_HEADERS = {
    "openrouter": "X-Generation-Id",
    "openai": "x-request-id",
    "anthropic": "request-id",
    "google": "X-Simulated-Id",
}


def _billed(state: State, chat: Chat, generation: Generation) -> Entry:
    """Bill the whole generation, however badly its answer goes out: the worst that a provider may do.

    Two cost nothing: an answer that says it used nothing, and a 200 whose whole body is an error.
    """
    entry = _entry(chat, behaviour=chat.behaviour, status=None if chat.behaviour == "hang" else 200)
    entry.billed = not (chat.behaviour == "miderror" and not chat.stream)
    if entry.billed and chat.behaviour != "zerousage":
        entry.prompt_tokens, entry.completion_tokens = generation.tokens.prompt, generation.tokens.completion
        entry.cost = generation.cost
        state.spent[chat.caller.key] += generation.cost
    state.journal.append(entry)
    return entry


def _delay(state: State, chat: Chat) -> float:
    if chat.behaviour == "hang" and chat.directives.status is None:
        return FOREVER
    if chat.behaviour == "slow":
        return SLOW_SECONDS
    given = chat.directives.delay_ms
    return (state.latency_ms if given is None else given) / 1000


_WITHOUT_MODEL_TEXT = {
    "html": lambda: Answer(200, [WEB_PAGE], len(WEB_PAGE), content_type="text/html; charset=utf-8"),
    "empty": lambda: Answer(200, [], 0),
}


def _not_streamed(chat: Chat, reply: Reply) -> Answer:
    body = encoded(error_inside(reply) if chat.behaviour == "miderror" else whole(reply))
    if chat.behaviour == "malformed":
        body = body[: len(body) // 2]
    half = body[: len(body) // 2]
    match chat.behaviour:
        case "cut":
            parts: list[Part] = [half, BEFORE_RESET_SECONDS, End.RESET]
        case "stall":
            parts = [half, FOREVER]
        case _:
            parts = [body]
    return Answer(200, parts, len(body))


def _streamed(state: State, chat: Chat, reply: Reply) -> Answer:
    given = chat.directives.chunk_delay_ms
    pause = (state.chunk_delay_ms if given is None else given) / 1000
    stream = stream_of(reply, include_usage=chat.include_usage)
    parts = _stream_parts(chat.behaviour, stream, reply, pause)
    return Answer(200, parts, None, content_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _stream_parts(behaviour: str, stream: Stream, reply: Reply, pause: float) -> list[Part]:
    contents = _paced(stream.contents, pause)
    begun = [*stream.opening, *_paced(stream.contents[:CHUNKS_BEFORE_TROUBLE], pause)]
    match behaviour:
        case "cut":
            return [*begun, BEFORE_RESET_SECONDS, End.RESET]
        case "stall":
            return [*begun, FOREVER]
        case "miderror":
            return [*begun, error_event(reply)]
        case "noend":
            return [*stream.opening, *contents]
        case "malformed":
            broken = event({"id": reply.id, "choices": []})[:-4] + b"\n\n"
            return [*stream.opening, *contents, broken, *stream.closing]
        case _:
            return [*stream.opening, *contents, *stream.closing]


def _paced(events: list[bytes], pause: float) -> list[Part]:
    """The same events with a pause between each two."""
    if not pause:
        return list(events)
    parts: list[Part] = []
    for one in events:
        parts += [one, pause]
    return parts[:-1]
