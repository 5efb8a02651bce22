"""The door of the web server: which application answers which address, and what lives as long as a worker.

`LIFESPANS` are asynchronous context managers: entered in this order before a worker takes its first request (never
before a fork), left in the reverse order when its last one has ended, or when the time for that is over.
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
# What waits for a provider while its page waits: it may take all its own threads, never those of the other pages.
waiting_pages = Pages(pages.handler, name="waiting-page", gather_seconds=0)

Lifespan = Callable[[Callable[[], float]], AbstractAsyncContextManager[None]]
# Each gets a function that tells how many seconds are left until whatever still goes on is cut: without end while
# nobody has asked the worker to stop.
LIFESPANS: list[Lifespan] = [health.lifespan, pages.lifespan, waiting_pages.lifespan, gateway_lifespan]

_GATEWAY = re.compile(r"/v1(beta)?(/|$)")
_WAITING = re.compile(r"/llm-settings/playground(/run)?$|/(test|try)$")
logger = logging.getLogger("refactai_site.asgi")
_TOKEN_HEADERS = {b"authorization", b"x-api-key", b"x-goog-api-key"}


class Application:
    """The whole product as one ASGI application."""

    def __init__(self) -> None:
        self._under_way: MutableSequence[int] = [0]
        self._place = 0
        self._stop_at: float | None = None
        self._is_over = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            self._under_way[self._place] += 1
            try:
                await self._application_of(scope)(scope, receive, send)
            finally:
                self._under_way[self._place] -= 1

    def configure(self, *, threads: int, under_way: MutableSequence[int], place: int) -> None:
        """Set the threads for pages, and where the requests under way are counted: memory shared with `serve`."""
        pages.threads = waiting_pages.threads = threads
        self._under_way, self._place = under_way, place
        under_way[place] = 0  # of a worker before this one, which was killed

    def stop(self) -> None:
        """Begin to stop: from now on requests under way have `REFACTAI_STOP_SECONDS`. Called on the loop."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + settings.STOP_SECONDS
            self._stopping.set()

    def seconds_left(self) -> float:
        return math.inf if self._stop_at is None else max(0.0, self._stop_at - time.monotonic())

    async def _live(self, receive: Receive, send: Send) -> None:
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
            # Left to the web server, it would go on without all that was to be made here.
            logger.exception("The %s of a worker failed.", phase)
            await send({"type": f"lifespan.{phase}.failed"})
            return
        self._is_over = True
        await all_ended
        await send({"type": "lifespan.shutdown.complete"})

    async def _wait_for_the_end(self, all_ended: asyncio.Task[None]) -> None:
        """Wait until the last request has ended after a stop was asked for, or until the time for that is over."""
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
        return waiting_pages if _WAITING.search(path) else pages


def _is_of_a_program(scope: Scope) -> bool:
    """A browser only reads addresses that do not exist, and never with a token."""
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
