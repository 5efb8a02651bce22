"""Health checks for load balancers: without authentication or details, and not on a thread that serves pages.

Any Host header is accepted, because probes use the address.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from django.db import Error, close_old_connections, connection, connections
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from llmkeys.database import sqlite
from llmkeys.exceptions import LLMKeysError
from llmkeys.vault import keyring

PATIENCE_SECONDS = 8.0  # a database that has not answered by then cannot serve


class Health:
    """GET /healthz and /readyz. Concurrent probes share one check of the database, in a thread of its own."""

    paths = ("/healthz", "/readyz")

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._looking: asyncio.Future[bool] | None = None

    @asynccontextmanager
    async def lifespan(self, seconds_left: Callable[[], float]) -> AsyncIterator[None]:
        thread = self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        try:
            yield
        finally:
            self._thread = None
            thread.submit(connections.close_all)
            thread.shutdown(wait=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            answer = JSONResponse({"status": "method not allowed"}, 405, {"Allow": "GET, HEAD"})
        elif scope["path"] == "/healthz" or await self._is_ready():
            answer = JSONResponse({"status": "ok"})
        else:
            answer = JSONResponse({"status": "unavailable"}, 503)
        answer.headers["Cache-Control"] = "no-store"
        await answer(scope, receive, send)

    async def _is_ready(self) -> bool:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().run_in_executor(self._thread, is_ready)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await asyncio.shield(self._looking)
        except TimeoutError:
            return False


def is_ready() -> bool:
    """Return whether the database answers and the stored secrets decrypt."""
    try:
        sqlite.require_same_file()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM llmkeys_apikey WHERE 1 = 0")
        keyring.verify()
    except (Error, LLMKeysError):
        return False
    finally:
        close_old_connections()
    return True
