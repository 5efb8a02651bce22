"""The ASGI entry point: which application answers which address, and what lives as long as a worker.

`LIFESPANS` are asynchronous context managers: they are entered in this order before a worker takes its first request
(never before a fork), and left in reverse order when its last request has ended, or the time for that is over.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import time
from collections.abc import Callable, MutableSequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "refactai_site.settings")

import django
from django.apps import apps

if not apps.ready:  # in a spawned worker, or under another web server
    django.setup()

from django.conf import settings
from django.urls import Resolver404, resolve
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from llmkeys.gateway.app import app as gateway
from llmkeys.gateway.app import lifespan as gateway_lifespan
from llmkeys.gateway.health import Health
from refactai_site.pages import Handler, Pages

health = Health()
pages = Pages(Handler())
# For pages that wait for a provider or a target of alerts: they may use up their own threads, but not those of others.
waiting_pages = Pages(pages.handler, name="waiting-page", gather_seconds=0)

Lifespan = Callable[[Callable[[], float]], AbstractAsyncContextManager[None]]
# Each gets a function that returns the seconds left until what is still in progress is cut off: infinity while the
# worker has not been asked to stop.
LIFESPANS: list[Lifespan] = [health.lifespan, pages.lifespan, waiting_pages.lifespan, gateway_lifespan]

_GATEWAY = re.compile(r"/v1(beta)?(/|$)")
# The actions of the admin's list of keys have one address; one of them tests keys.
_WAITING = re.compile(
    r" /llm-settings/(playground(/run)?|health(/alert-test)?)$|/(test|try)$|^POST /admin/llmkeys/apikey/$"
)
logger = logging.getLogger("refactai_site.asgi")
_TOKEN_HEADERS = {b"authorization", b"x-api-key", b"x-goog-api-key"}


class Application:
    """The whole product as one ASGI application."""

    def __init__(self) -> None:
        self._in_progress: MutableSequence[int] = [0]
        self._place = 0
        self._stop_at: float | None = None
        self._is_over = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif scope["type"] == "http":
            self._in_progress[self._place] += 1
            try:
                await self._application_of(scope)(scope, receive, send)
            finally:
                self._in_progress[self._place] -= 1

    def configure(self, *, threads: int, in_progress: MutableSequence[int], place: int) -> None:
        """Set the threads for pages, and where requests in progress are counted: memory shared with `serve`."""
        pages.threads = waiting_pages.threads = threads
        self._in_progress, self._place = in_progress, place
        in_progress[place] = 0  # left over from an earlier worker that was killed

    def stop(self) -> None:
        """Begin to stop: requests in progress have `REFACTAI_STOP_SECONDS` left. Called on the event loop."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + settings.STOP_SECONDS
            self._stopping.set()

    def seconds_left(self) -> float:
        return math.inf if self._stop_at is None else max(0.0, self._stop_at - time.monotonic())

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        self._stop_at, self._is_over, self._stopping = None, False, asyncio.Event()
        phase = "startup"
        await receive()
        try:
            async with AsyncExitStack() as stack:
                for lifespan in LIFESPANS:
                    await stack.enter_async_context(lifespan(self.seconds_left))
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                all_ended = asyncio.create_task(_next_message(receive))
                await self._wait_for_the_end(all_ended)
        except Exception:
            # Reported as failed: the web server would otherwise go on without what should have been set up here.
            logger.exception("The %s of a worker failed.", phase)
            await send({"type": f"lifespan.{phase}.failed"})
            return
        self._is_over = True
        await all_ended
        await send({"type": "lifespan.shutdown.complete"})

    async def _wait_for_the_end(self, all_ended: asyncio.Task[None]) -> None:
        """Wait until a stop is requested and the last request has ended, or the time for that is over."""
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((all_ended, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        self.stop()
        await asyncio.wait((all_ended,), timeout=self.seconds_left())

    def _application_of(self, scope: Scope) -> ASGIApp:
        scope["path"] = path = re.sub("/{2,}", "/", scope["path"])
        if self._is_over:
            return PlainTextResponse("The server is stopping.\n", 503, {"Retry-After": "5"})
        if path in Health.paths:
            return health
        if _GATEWAY.match(path) or (_is_of_a_program(scope) and not _is_known(path)):
            return gateway
        return waiting_pages if _WAITING.search(f"{scope['method']} {path}") else pages


def _is_of_a_program(scope: Scope) -> bool:
    """Return whether a request to an unknown address comes from a program: browsers only send GET, without a token."""
    return scope["method"] not in ("GET", "HEAD") or any(name in _TOKEN_HEADERS for name, _ in scope["headers"])


def _is_known(path: str) -> bool:
    try:
        resolve(path)
    except Resolver404:
        return False
    return True


async def _next_message(receive: Receive) -> None:
    await receive()


application = Application()
