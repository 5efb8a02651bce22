"""The program at the other end of a connection.

It gets its answer as fast as it reads, is kept alive meanwhile, and is noticed when it disconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from starlette.types import Receive, Send

from llmkeys.relay import background

PIECE_BYTES = 65_536  # what is written at once: a client that reads this much within the idle limit has not gone
LISTEN_AFTER_SECONDS = 1.0  # most answers arrive sooner, without the cost of listening for a disconnect

Headers = Iterable[tuple[str, str]]


class Program:
    """A `relay.Client` at the gateway."""

    def __init__(self, receive: Receive, send: Send):
        self._receive, self._send = receive, send
        self.has_begun = self.has_gone = self._is_over = False
        self._on_gone: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._listener: asyncio.Task[Any] | None = None
        self._listen_later: asyncio.TimerHandle | None = None
        self._written_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._head = _plain_head
        self._message = b""

    # --- leaving -----------------------------------------------------------------------------------------------------

    def when_gone(self, call: Callable[[], None]) -> None:
        """Call this as soon as the program has gone; only the last callback given is called."""
        self._on_gone = call
        if self.has_gone:
            call()

    def listen_soon(self) -> None:
        """Listen for a disconnect, starting soon, or when an answer begins.

        Call this only once the body has been read, because listening consumes what still arrives.
        """
        self._listen_later = self._loop.call_later(LISTEN_AFTER_SECONDS, self._listen)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = asyncio.ensure_future(self._wait_for_leaving())

    async def _wait_for_leaving(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        if not self.has_gone:
            self.has_gone = True
            if self._on_gone is not None:
                self._on_gone()

    # --- a stream ----------------------------------------------------------------------------------------------------

    def keep_alive(self, message: bytes, head: Callable[[], tuple[int, Headers]]) -> None:
        """Send a keep-alive whenever nothing was written for REFACTAI_KEEPALIVE_SECONDS.

        The first one sends the status and headers that `head` returns.
        """
        self._message, self._head = message, head
        self._written_at = self._loop.time()  # the silence begins here, however long the body took
        if settings.KEEPALIVE_SECONDS:
            self._timer = self._loop.call_later(settings.KEEPALIVE_SECONDS, self._look)

    def _look(self) -> None:
        due = self._written_at + settings.KEEPALIVE_SECONDS
        if self.has_gone or self._timer is None:
            return
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
            return
        self._timer = self._loop.call_later(settings.KEEPALIVE_SECONDS, self._look)
        if not self._lock.locked():  # a program that is not reading needs no keep-alive
            background.start(self.write(self._message))

    def answers_with(self, head: Callable[[], tuple[int, Headers]]) -> None:
        """Use this for the status and headers, unless they were sent already."""
        self._head = head

    async def start(self) -> None:
        """Send the status and headers of a stream now."""
        async with self._lock:
            await self._begin()

    async def _begin(self) -> None:
        """Send the status and headers of a stream, unless a keep-alive has."""
        if not self.has_begun:
            self.has_begun = True
            self._listen()
            status, headers = self._head()
            await self._send({"type": "http.response.start", "status": status, "headers": encoded(headers)})

    async def write(self, piece: bytes) -> None:
        """Send a piece to the program, as fast as it reads; do nothing if it has gone.

        One that reads nothing for REFACTAI_STREAM_IDLE_SECONDS counts as gone.
        """
        if self.has_gone:
            return
        async with self._lock:
            if self._is_over:  # a keep-alive that became due while the answer was being sent
                return
            await self._begin()
            for at in range(0, len(piece), PIECE_BYTES):
                if not self.has_gone:
                    part = piece[at : at + PIECE_BYTES]
                    await self._give({"type": "http.response.body", "body": part, "more_body": True})
            self._written_at = self._loop.time()

    async def end(self) -> None:
        """End the stream."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        async with self._lock:
            self._is_over = True
            if not self.has_gone:
                await self._give({"type": "http.response.body", "body": b"", "more_body": False})

    # --- a whole answer ----------------------------------------------------------------------------------------------

    async def answer(self, status: int, headers: Headers, body: bytes, *, head_only: bool = False) -> None:
        """Send a whole answer; with `head_only` without the body, whose length is stated all the same."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.has_begun = self._is_over = True
        length = () if status == 204 else (("content-length", str(len(body))),)  # a 204 has no body and no length
        await self._send({"type": "http.response.start", "status": status, "headers": encoded([*headers, *length])})
        await self._send({"type": "http.response.body", "body": b"" if head_only else body, "more_body": False})

    async def _give(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(settings.STREAM_IDLE_SECONDS):
                await self._send(message)
        except (TimeoutError, OSError):
            self._leave()

    def close(self) -> None:
        """Stop listening: the exchange is over. Nothing refers to this object then, so that the server can free it."""
        for awaited in (self._listen_later, self._timer, self._listener):
            if awaited is not None:
                awaited.cancel()
        self._on_gone, self._head = None, _plain_head


def _plain_head() -> tuple[int, Headers]:
    return 200, ()


def encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
