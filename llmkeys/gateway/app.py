"""The gateway as one ASGI application: the dialects' addresses and the model lists."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode

from django.conf import settings
from django.utils import timezone
from starlette.datastructures import Headers
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from llmkeys import dialects, providers
from llmkeys.database import reader, writer
from llmkeys.dialects import Dialect, Door
from llmkeys.dialects.base import dump
from llmkeys.exceptions import ClientGone, LLMKeysError, RecordingUnavailable
from llmkeys.gateway import bodies
from llmkeys.gateway.callers import authenticate
from llmkeys.gateway.errors import GatewayError, Overloaded, Refused, refused
from llmkeys.gateway.program import Program
from llmkeys.ledger import leases
from llmkeys.lib.bodies import Disconnected, Taken, discard
from llmkeys.lib.money import nano_to_usd
from llmkeys.providers.names import is_valid
from llmkeys.relay import background, inside, relay
from llmkeys.relay.candidates import Stored, refresh_catalogue
from llmkeys.relay.models import servable_models
from llmkeys.relay.requests import Answer, RelayRequest, Tracked, models_for
from llmkeys.tokens.rights import Caller, spellings
from llmkeys.upstream import relayed

logger = logging.getLogger(__name__)

MOST_REQUESTS = 2000  # in progress on this worker
# Credentials, and what selects the fields of Google's answers, which would then lack the usage.
_NOT_PASSED_ON = frozenset({"key", "access_token", "api_key", "token", "fields", "$fields"})
_BASE_URLS = "The base URL is {origin}/v1 for OpenAI clients, {origin} for Anthropic and Google clients."
# What clients may ask for that is not served, and why; `docs/clients.md` has the same table.
NOT_SERVED = {
    "/v1/completions": "Legacy completions are not served: use POST /v1/chat/completions.",
    "/v1/images": "Image generation is not served: its cost has no upper bound before the images are made.",
    "/v1/audio": "Speech and transcription are not served: their cost has no upper bound before they are made.",
    "/v1/batches": "Batches are not served: their cost is only known a day later, so no hold could cover it.",
    "/v1/files": "Files are not served: one key’s account would store them, and no other key could use them.",
    "/v1/moderations": "Moderations are not served.",
    "/v1/messages/batches": "Batches are not served: their cost is only known a day later, so no hold could cover it.",
    "/v1/responses/": "Stored responses are not served: they stay in one key’s account. Send the whole conversation.",
    "/v1/conversations": "Stored conversations are not served: they stay in one key’s account.",
    "/v1/realtime": "Realtime sessions are not served.",
    "/v1/mcp": "MCP servers are not served.",
    "/v1beta/interactions": "Interactions are not served: use POST /v1beta/models/{model}:generateContent.",
    "/v1beta/files": "Files are not served: one key’s account would store them, and no other key could use them.",
    "/v1beta/cachedContents": "Explicit caches are not served: they are billed by the hour, which no answer reports.",
    "/v1beta/batches": "Batches are not served: their cost is only known a day later, so no hold could cover it.",
}
_FAILED = "The gateway failed while this request was in progress. What it may have cost is recorded."

_in_progress = 0


@contextlib.asynccontextmanager
async def lifespan(seconds_left: Callable[[], float]) -> AsyncIterator[None]:
    """Open what the gateway needs on this event loop; at the end wait for what is in progress, then close it."""
    async with relayed.opened():
        inside.use(asyncio.get_running_loop())
        with contextlib.suppress(RecordingUnavailable):  # `readyz` reports it; the next renewal retries
            await leases.start()
        try:
            yield
        finally:
            inside.use(None)
            await background.finish(min(seconds_left(), float(settings.STOP_SECONDS)))
            await asyncio.to_thread(writer.forget)
            await asyncio.to_thread(reader.forget)


class Exchange:
    """One request of a program, and the means to answer it in the form of its dialect."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, dialect: Dialect):
        self.scope, self.dialect = scope, dialect
        self.headers = Headers(scope=scope)
        self.program = Program(receive, send)
        self.receive = receive
        self.origin_headers = _cors_headers(self.headers.get("origin"))

    async def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        given = {"content-type": "application/json"} | (headers or {}) | self.origin_headers
        await self.program.answer(status, given.items(), body, head_only=self.scope["method"] == "HEAD")

    async def refuse(self, error: Refused) -> None:
        """Report an error, unless an answer has begun."""
        if self.program.has_begun:
            return
        body = self.dialect.error_body(error.status, error.code, error.message, error.param)
        await self.answer(error.status, body, error.headers)


Handler = Callable[[Exchange, Caller, Stored], Awaitable[None]]


class Endpoint:
    """An address: checks the method and the token, then calls the handler; errors take the dialect's own form."""

    def __init__(self, dialect: Dialect | Callable[[Scope], Dialect], methods: tuple[str, ...], handler: Handler):
        self.dialect, self.methods, self.handler = dialect, methods, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        global _in_progress
        dialect = self.dialect if isinstance(self.dialect, Dialect) else self.dialect(scope)
        exchange = Exchange(scope, receive, send, dialect)
        _in_progress += 1
        try:
            await self._serve(exchange)
        except (ClientGone, Disconnected):
            pass
        except LLMKeysError as error:
            await exchange.refuse(refused(error))
            await discard(receive)  # a program that is cut off while it sends never reads the refusal
        except Exception:
            logger.exception("A request to the gateway failed")
            headers = {"x-should-retry": "false"}  # an attempt may have been charged
            await exchange.refuse(Refused(500, "internal_error", _FAILED, headers=headers))
        finally:
            _in_progress -= 1
            exchange.program.close()

    async def _serve(self, exchange: Exchange) -> None:
        method = exchange.scope["method"]
        if method == "OPTIONS" and exchange.headers.get("access-control-request-method"):
            await _preflight(exchange, self.methods)
            return
        if method not in self.methods:
            raise _wrong_method(method, self.methods)
        if _in_progress > MOST_REQUESTS:
            raise Overloaded("This server is handling as many requests as it can. Try again in a second.")
        await self.handler(exchange, *await authenticate(exchange.headers, exchange.scope))


def _wrong_method(method: str, methods: tuple[str, ...]) -> GatewayError:
    allowed = ", ".join(methods)
    words = f"This address accepts only {' and '.join(methods)}."
    if method == "OPTIONS":
        words += " Browsers may call it from the origins that REFACTAI_CORS_ORIGINS lists."
    return GatewayError(405, "method_not_allowed", words, {"Allow": allowed})


# --- browsers --------------------------------------------------------------------------------------------------------


def _cors_headers(origin: str | None) -> dict[str, str]:
    if not origin or not _is_listed(origin):
        return {}
    return {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": "*",
        "vary": "Origin",
    }


def _is_listed(origin: str) -> bool:
    return "*" in settings.CORS_ORIGINS or origin.rstrip("/") in settings.CORS_ORIGINS


async def _preflight(exchange: Exchange, methods: tuple[str, ...]) -> None:
    if not exchange.origin_headers:
        raise _wrong_method("OPTIONS", methods)
    asked = exchange.headers.get("access-control-request-headers", "")
    headers = {
        **exchange.origin_headers,
        "access-control-allow-methods": ", ".join(methods),
        "access-control-allow-headers": asked,
        "access-control-max-age": "600",
    }
    await exchange.program.answer(204, headers.items(), b"")


# --- relayed requests ------------------------------------------------------------------------------------------------


async def _relayed(door: Door, exchange: Exchange, caller: Caller, stored: Stored) -> None:
    """Read, check and relay a request; the work continues to its end even if the program goes or the server stops."""
    with bodies.taking() as taken:
        request = RelayRequest(await _request(door, exchange, taken), caller)
        exchange.program.listen_soon()
        work = _stream(exchange, request, taken, stored) if request.streamed else _whole(exchange, request, stored)
        del stored  # an open stream would keep all of it in memory
        await asyncio.shield(background.start(work))


async def _request(door: Door, exchange: Exchange, taken: Taken) -> dialects.Request:
    """Return the validated request. Raises GatewayError and InvalidInput."""
    raw = await bodies.read(exchange.receive, exchange.headers, taken)
    request = dialects.Request(
        dialect=exchange.dialect,
        door=door,
        body=await bodies.parsed(raw),
        raw=raw,
        path_model=exchange.scope.get("path_params", {}).get("model", ""),
        query=_query(exchange.scope["query_string"].decode("latin-1")),
        headers=_passed_on(exchange.headers, exchange.dialect),
    )
    if len(raw) > background.LARGE_BYTES:
        await background.in_parser(exchange.dialect.validate, request)
    else:
        exchange.dialect.validate(request)
    return request


def _passed_on(headers: Headers, dialect: Dialect) -> dict[str, str]:
    """Return the headers that go along; several lines of one name mean the same as one with commas."""
    joined = {name: ", ".join(headers.getlist(name)) for name in headers if dialect.passes(name)}
    return {name: value for name, value in joined.items() if value.isprintable()}


def _query(query: str) -> str:
    if not query:
        return ""
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name not in _NOT_PASSED_ON]
    return urlencode(kept)


async def _whole(exchange: Exchange, request: RelayRequest, stored: Stored) -> None:
    tracked = Tracked()
    try:
        answer = await relay(request, exchange.program, tracked, stored)
    except ClientGone:
        return
    except LLMKeysError as error:
        await exchange.refuse(refused(error, request_id=request.id))
        return
    assert isinstance(answer.content, bytes)
    await exchange.answer(answer.status, answer.content, _headers(answer, tracked))


async def _stream(exchange: Exchange, request: RelayRequest, taken: Taken, stored: Stored | None) -> None:
    """Relay a stream. The first keep-alive sends the status; an error after that is sent inside the stream."""
    tracked = Tracked()
    program, dialect = exchange.program, request.dialect
    stream_headers = {
        "content-type": dialect.stream_type(request.request),
        **_STREAM_HEADERS,
        **exchange.origin_headers,
    }
    program.keep_alive(
        dialect.keep_alive(request.request),
        lambda: (200, (stream_headers | _tracked_headers(request.id, tracked)).items()),
    )
    try:
        answer = await relay(request, program, tracked, stored)
    except ClientGone:
        return
    except LLMKeysError as error:
        refusal = refused(error, request_id=request.id)
        if program.has_begun:
            await program.write(
                dialect.first_error_event(refusal.status, refusal.code, refusal.message, request.request)
            )
            await program.end()
        else:
            await exchange.refuse(refusal)
        return
    if not isinstance(answer.content, bytes):
        headers = stream_headers | _headers(answer, tracked)
        program.answers_with(lambda: (answer.status, headers.items()))
        stored = None
        request.request.let_go()
        taken.give_back()
        await program.start()
        try:
            await answer.content.run()
        finally:
            await program.end()
    elif program.has_begun:  # a whole answer after a keep-alive: a client's mistake, or a server without streams
        await program.write(dialect.as_event(answer.content, request.request))
        await program.end()
    else:
        await exchange.answer(answer.status, answer.content, _headers(answer, tracked))


_STREAM_HEADERS = {
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # a proxy in front must not buffer the stream
}


def _tracked_headers(request_id: str, tracked: Tracked) -> dict[str, str]:
    headers = {"X-LLM-Request-Id": request_id}
    if tracked.key_id:
        headers |= {"X-LLM-Key-Id": tracked.key_id, "X-LLM-Attempts": str(tracked.attempts)}
    if tracked.max_tokens is not None:
        headers["X-LLM-Max-Tokens"] = str(tracked.max_tokens)
    return headers


def _headers(answer: Answer, tracked: Tracked) -> dict[str, str]:
    headers = {
        "content-type": answer.content_type,
        **answer.headers,
        "X-LLM-Request-Id": answer.request_id,
        "X-LLM-Key-Id": answer.key_id,
        "X-LLM-Attempts": str(answer.attempts),
    }
    if answer.cost_nano is not None:
        headers["X-LLM-Cost-USD"] = f"{nano_to_usd(answer.cost_nano):f}"
    if answer.remaining_day_nano is not None:
        headers["X-LLM-Remaining-Daily-USD"] = f"{nano_to_usd(answer.remaining_day_nano):f}"
    if tracked.max_tokens is not None:
        headers["X-LLM-Max-Tokens"] = str(tracked.max_tokens)
    if answer.status >= 400 and tracked.may_be_billed:
        headers["x-should-retry"] = "false"
    return headers


# --- model lists -----------------------------------------------------------------------------------------------------


async def _models(exchange: Exchange, caller: Caller, _stored: Stored) -> None:
    """GET /v1/models, GET /v1beta/models"""
    await exchange.answer(200, dump(exchange.dialect.model_list(await _servable(exchange.dialect, caller))))


async def _model(exchange: Exchange, caller: Caller, _stored: Stored) -> None:
    """GET /v1/models/{id}, GET /v1beta/models/{id}"""
    name = exchange.scope["path_params"]["model"].removeprefix("models/")
    entry = _entry_of(name, await _servable(exchange.dialect, caller))
    if entry is None:
        await refresh_catalogue()
        models_for(name, caller)
        words = f"No stored key can serve model “{name[:200]}”. GET /v1/models lists what can be served."
        raise GatewayError(404, "model_not_available", words)
    await exchange.answer(200, dump(exchange.dialect.model(entry)))


def _entry_of(name: str, found: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the entry of the model that a request with this name would get: the one with the most names in common."""
    if not is_valid(name):
        return None
    names = spellings(name)
    entry = max(found, key=lambda one: (one["id"] == name, len(names & spellings(one["id"]))), default=None)
    return entry if entry is not None and names & spellings(entry["id"]) else None


class ModelEndpoint(Endpoint):
    """One model: GET describes it; a POST is one of Google's methods that are not served."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, has_method, method = scope["path_params"]["model"].rpartition(":")
        if scope["method"] == "POST" and has_method:
            await _not_found(scope, receive, send, f"The method “{method[:80]}” is not served.")
        else:
            await super().__call__(scope, receive, send)


async def _servable(dialect: Dialect, caller: Caller) -> list[dict[str, Any]]:
    """Return the models that the caller's keys can serve; for a vendor's own dialect, those served in that dialect."""
    found = await servable_models(caller, at=timezone.now())
    if dialect is _CHAT:
        return found
    return [one for one in found if any(providers.get(name).serves(dialect.name) for name in one["providers"])]


def _list_dialect(scope: Scope) -> Dialect:
    """Return the dialect of a model list, which the address or the program's headers determine.

    `x-goog-api-key` says nothing: it is one of the three headers in which a program of any dialect may send its token.
    """
    headers = Headers(scope=scope)
    if scope["path"].startswith("/v1beta/"):
        return _GOOGLE
    if "anthropic-version" in headers:
        return _ANTHROPIC
    return _GOOGLE if "x-goog-api-client" in headers else _CHAT


# --- addresses -------------------------------------------------------------------------------------------------------

_CHAT, _GOOGLE, _ANTHROPIC = map(dialects.get, ("openai-chat", "google-generate", "anthropic-messages"))
_READ = ("GET", "HEAD")


def _doors() -> list[Route]:
    return [
        Route(door.path, Endpoint(dialect, (door.method,), partial(_relayed, door)))
        for dialect in dialects.DIALECTS
        for door in dialect.doors
    ]


async def _not_found(scope: Scope, receive: Receive, send: Send, why: str = "") -> None:
    """Answer a request to an unknown address with an error that a program can show: JSON, with the base URL to use."""
    path = scope["path"]
    exchange = Exchange(scope, receive, send, _GOOGLE if path.startswith("/v1beta") else _CHAT)
    origin = f"{scope.get('scheme', 'http')}://{exchange.headers.get('host', 'HOST:8080')}"
    why = why or next((words for part, words in NOT_SERVED.items() if path.startswith(part)), "No such address.")
    words = f"{scope['method']} {path[:200]}: {why} {_BASE_URLS.format(origin=origin)}"
    await exchange.refuse(Refused(404, "not_found", words))
    await discard(receive)
    exchange.program.close()


_router = Router(
    [
        *_doors(),
        *(
            Route(f"/{version}/models{rest}", endpoint)
            for version in ("v1", "v1beta")
            for rest, endpoint in (
                ("", Endpoint(_list_dialect, _READ, _models)),
                ("/{model:path}", ModelEndpoint(_list_dialect, _READ, _model)),
            )
        ),
    ],
    redirect_slashes=False,
    default=_not_found,
)
_SLASHES = re.compile(r"/{2,}")


async def app(scope: Scope, receive: Receive, send: Send) -> Any:
    """Serve one request; repeated slashes count as one, and a trailing one is ignored."""
    path = scope["path"]
    plain = _SLASHES.sub("/", path).rstrip("/") or "/"
    await _router({**scope, "path": plain} if plain != path else scope, receive, send)
