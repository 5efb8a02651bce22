"""Django behind ASGI: pages, admin and REST API, in their own threads, which never wait for a client's network.

The body is read on the event loop before a thread is taken, and the answer is sent on the loop after the thread is
free again, so that slow clients, however many, occupy none. Django's own ASGI handler is not used, because it runs
synchronous views in one thread or in as many as there are requests, and collects a synchronous iterator into a list.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.core import signals
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.db import close_old_connections, connections
from django.http import FileResponse, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix
from starlette.types import Receive, Scope, Send

from llmkeys.lib import bodies

BODY_SECONDS = 30.0
BODY_ROOM_BYTES = 64 * 1024 * 1024  # for the bodies of all pages that one worker has in memory
PIECE_BYTES = 65_536
GATHER_SECONDS = 0.02
# Django's own limit for forms; the REST API and the import of keys stay below it.
BODY_LIMIT_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE

_NOT_ASCII = re.compile(rb"[^\x21-\x7e]+")

logger = logging.getLogger(__name__)


class Handler(BaseHandler):
    """Django with its middleware, for one request in one thread."""

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware()

    def answer(self, scope: Scope, body: bytes) -> HttpResponseBase:
        set_script_prefix("/")
        signals.request_started.send(sender=self.__class__, scope=scope)
        response = self.get_response(ASGIRequest(scope, BytesIO(body)))
        response._handler_class = self.__class__  # type: ignore[attr-defined]  # sender of the signal at its end
        return response


class Pages:
    """An ASGI application that runs a handler in `threads` threads, which `lifespan` starts in the worker.

    `limit` is for one body, `room` for all bodies in memory (bytes).
    """

    def __init__(
        self,
        handler: Handler,
        *,
        name: str = "page",
        limit: int = BODY_LIMIT_BYTES,
        room: int = BODY_ROOM_BYTES,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self.threads = 8
        self.handler = handler
        self._name, self._limit, self._room, self._gather_seconds = name, limit, bodies.Room(room), gather_seconds
        self._executor: ThreadPoolExecutor | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, seconds_left: Callable[[], float]) -> AsyncIterator[None]:
        executor = self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix=self._name)
        try:
            yield
        finally:
            self._executor = None
            together = threading.Barrier(self.threads)
            for _ in range(self.threads):
                executor.submit(_close_connections, together)
            executor.shutdown(wait=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._room.taken() as taken:
            try:
                body = await self._body(scope, receive, taken)
            except bodies.BodyRefused as refusal:
                if refusal.status == 413 and not any(name == b"expect" for name, _ in scope["headers"]):
                    await bodies.discard(receive)
                await self._send(scope, send, refused(scope, refusal), asyncio.Event())
                return
            except bodies.Disconnected:
                return
            gone = asyncio.Event()
            listener = asyncio.create_task(_listen(receive, gone))
            try:
                response = await self._in_thread(self.handler.answer, _for_django(scope, body), body)
                try:
                    await self._send(scope, send, response, gone)
                finally:
                    await self._in_thread(response.close)
            finally:
                listener.cancel()

    async def _body(self, scope: Scope, receive: Receive, taken: bodies.Taken) -> bytes:
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        raw = await bodies.read(
            receive,
            limit=self._limit,
            seconds=BODY_SECONDS,
            taken=taken,
            declared=int(declared) if declared.isdigit() else None,
        )
        encoding = headers.get(b"content-encoding", b"").decode("latin-1")
        if not encoding:
            return raw
        body = bodies.decoded(raw, encoding, limit=self._limit)
        taken.more(len(body))
        return body

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    async def _send(self, scope: Scope, send: Send, response: HttpResponseBase, gone: asyncio.Event) -> None:
        """Send the response in pieces, each after the client has read the one before."""
        await send({"type": "http.response.start", "status": response.status_code, "headers": _headers_of(response)})
        if response.streaming and scope["method"] != "HEAD":
            async for piece in self._pieces(response):
                if gone.is_set() or not await _taken(send, {"body": piece, "more_body": True}):
                    return
        content = response.content if isinstance(response, HttpResponse) else b""
        await _taken(send, {"body": content, "more_body": False})

    async def _pieces(self, response: Any) -> AsyncIterator[bytes]:
        """Yield the response in pieces; one that waits for something is an asynchronous iterator, without a thread."""
        if response.is_async:
            async for piece in response:
                yield piece
            return
        if isinstance(response, FileResponse):
            response.block_size = PIECE_BYTES
        pieces = iter(response)
        while piece := await self._in_thread(self._next, pieces):
            yield piece

    def _next(self, pieces: Iterator[bytes]) -> bytes:
        """Return what the iterator yields within `gather_seconds`, because single lines are short; b"" at the end."""
        gathered, size, until = [], 0, time.monotonic() + self._gather_seconds
        try:
            for piece in pieces:
                gathered.append(piece)
                size += len(piece)
                if size and (size >= PIECE_BYTES or time.monotonic() >= until):
                    break
            return b"".join(gathered)
        finally:
            close_old_connections()  # the next piece may be made in another thread


def refused(scope: Scope, refusal: bodies.BodyRefused) -> HttpResponse:
    """Return the response to a refused body: JSON for the REST API, otherwise a sentence."""
    response: HttpResponse
    if scope["path"].startswith("/api/"):
        response = JsonResponse({"detail": str(refusal)}, status=refusal.status)
    else:
        response = HttpResponse(f"{refusal}\n", status=refusal.status, content_type="text/plain; charset=utf-8")
    response["Content-Length"] = str(len(response.content))
    if refusal.status == 503:
        response["Retry-After"] = "1"
    return response


async def _listen(receive: Receive, gone: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


async def _taken(send: Send, message: dict[str, Any]) -> bool:
    """Send a piece; return False if the client has read nothing for so long that it counts as gone."""
    try:
        async with asyncio.timeout(settings.STREAM_IDLE_SECONDS):
            await send({"type": "http.response.body", **message})
    except TimeoutError:
        return False
    return True


def _for_django(scope: Scope, body: bytes) -> Scope:
    """Return the scope in the form that Django expects: the body's length, one Cookie header, an ASCII query."""
    left_out = {b"content-length", b"transfer-encoding", b"content-encoding", b"cookie"}
    headers = [(name, value) for name, value in scope["headers"] if name not in left_out]
    cookies = [value for name, value in scope["headers"] if name == b"cookie"]  # HTTP/2 sends several
    if cookies:
        headers.append((b"cookie", b"; ".join(cookies)))
    if body:
        headers.append((b"content-length", str(len(body)).encode()))
    query = _NOT_ASCII.sub(lambda found: quote(found[0]).encode(), scope["query_string"])
    return {**scope, "headers": headers, "query_string": query}


def _headers_of(response: HttpResponseBase) -> list[tuple[bytes, bytes]]:
    headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
    return headers + [
        (b"set-cookie", cookie.output(header="").strip().encode()) for cookie in response.cookies.values()
    ]


def _close_connections(together: threading.Barrier) -> None:
    """Close this thread's connections; run once in each thread of the pool."""
    with contextlib.suppress(threading.BrokenBarrierError):
        together.wait(1)
    connections.close_all()
