"""Relaying for callers in threads of this process: the playground and the `chat` command.

In a web worker they use its event loop; elsewhere a loop is started in its own thread at the first request.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from llmkeys.database import sql
from llmkeys.relay import background, relay
from llmkeys.relay.requests import Answer, RelayRequest, Stream
from llmkeys.upstream import relayed

MOST_PIECES = 64  # buffered for a slow reader; while the buffer is full, nothing is read from the provider

_worker_loop: asyncio.AbstractEventLoop | None = None
_own: _OwnLoop | None = None
_starting = threading.Lock()


def use(loop: asyncio.AbstractEventLoop | None) -> None:
    """Set the event loop on which this process serves programs; None when it stops."""
    global _worker_loop
    _worker_loop = loop


class _OwnLoop:
    """An event loop in its own thread, with its own pool of connections."""

    def __init__(self) -> None:
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="llmkeys-relay", daemon=True)
        self._thread.start()
        self.loop = self._ready.result(10)

    async def _serve(self) -> None:
        async with relayed.opened():
            self._ready.set_result(asyncio.get_running_loop())
            await self._stop.wait()

    def finish(self, seconds: float) -> None:
        asyncio.run_coroutine_threadsafe(background.finish(seconds), self.loop).result(seconds + 10)
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


def finish(seconds: float) -> None:
    """Wait for what is in progress on our own loop and close it; for a command before its process ends."""
    global _own
    with _starting:
        if _own is not None:
            _own.finish(seconds)
            _own = None


def _loop() -> asyncio.AbstractEventLoop:
    global _own
    if _worker_loop is not None:
        return _worker_loop
    with _starting:
        if _own is None:
            _own = _OwnLoop()
        return _own.loop


class _Reader:
    """A `Client` whose stream another thread reads, piece by piece."""

    def __init__(self) -> None:
        self.has_begun = self.has_gone = False
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue(MOST_PIECES)
        self._call: Callable[[], None] = lambda: None

    def when_gone(self, call: Callable[[], None]) -> None:
        self._call = call
        if self.has_gone:
            call()

    async def write(self, piece: bytes) -> None:
        self.has_begun = True
        if not self.has_gone:
            await self.pieces.put(piece)

    def leave(self) -> None:
        self.has_gone = True
        while not self.pieces.empty():  # lets a `write` that waits for space continue
            self.pieces.get_nowait()
        self._call()


class Conversation:
    """One request and its answer, for one thread. After `close` the relay reads the rest of a stream for its cost."""

    def __init__(self, request: RelayRequest):
        self._loop = _loop()
        self._request = request
        self._reader = _Reader()
        self.is_streaming = False  # the provider's stream has not ended

    def answer(self) -> Answer:
        """Block until the answer, or the first content of its stream, has arrived. Raises what `relay` raises."""
        return self._call(self._begin())

    async def _begin(self) -> Answer:
        answer = await background.start(relay(self._request, self._reader), is_awaited=True)
        if not isinstance(answer.content, bytes):
            self.is_streaming = True
            background.start(self._run(answer.content))
        return answer

    async def _run(self, stream: Stream) -> None:
        try:
            await stream.run()
        finally:
            self.is_streaming = False
            if not self._reader.has_gone:
                await self._reader.pieces.put(None)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces of a stream."""
        while (piece := self._call(self._reader.pieces.get())) is not None:
            yield piece

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._reader.leave)

    def _call(self, work: Any) -> Any:
        sql.release()  # the provider may take minutes
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
