"""The server: an asyncio protocol with keep-alive connections, which sends answers part by part."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from .http import FOREVER, Answer, BadRequest, End, Part, Request, RequestParser
from .journal import Journal
from .routes import answer
from .state import State
from .wire import encoded

# The most that is read from a client that keeps sending while it is being answered.
MAX_PENDING_BYTES = 64 * 1024
STOP_GRACE_SECONDS = 2.0


class Simulator:
    """All providers on one port; `start` and `stop` must run on the same event loop.

    Delays are in milliseconds. `start` raises OSError if the address cannot be bound.
    """

    def __init__(self, *, latency_ms: int = 0, chunk_delay_ms: int = 0, journal_file: Path | None = None) -> None:
        self.state = State(
            journal=Journal(journal_file),
            latency_ms=latency_ms,
            chunk_delay_ms=chunk_delay_ms,
        )
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port, which the system chooses for port 0."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, host, port, backlog=1024)
        return self._server.sockets[0].getsockname()[1]

    def _connect(self) -> Connection:
        return Connection(self.state, self._connections)

    async def stop(self, *, grace: float = STOP_GRACE_SECONDS) -> None:
        """Accept no more connections, wait up to `grace` seconds for answers to end, then close everything."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close_when_idle()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        while self._connections and loop.time() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)
        self.state.journal.close()


class Connection(asyncio.Protocol):
    """A client connection; requests are answered one after the other, even pipelined ones."""

    def __init__(self, state: State, connections: set[Connection]) -> None:
        self._state = state
        self._connections = connections
        self._parser = RequestParser()
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self._answer: Answer | None = None
        self._parts: Iterator[Part] = iter(())
        self._timer: asyncio.TimerHandle | None = None
        self._pending = 0
        self._paused = self._waiting = self._last = False

    # --- called by asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # With no write buffer "written" means handed to the kernel, so that `completed` is true only then.
        transport.set_write_buffer_limits(high=0)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if self._answer is not None:
            self._end_answer(completed=False)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        if self._answer is None:
            self._advance()
            return
        self._pending += len(data)
        if self._pending > MAX_PENDING_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._answer is not None and not self._waiting:
            self._play()
            self._advance()

    # --- stopping ---

    def close_when_idle(self) -> None:
        self._last = True
        if self._answer is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- one request after the other ---

    def _advance(self) -> None:
        """Answer complete requests until one takes time or none is left."""
        while self._answer is None and self._transport is not None and not self._transport.is_closing():
            try:
                request = self._parser.next()
            except BadRequest as mistake:
                self._refuse(mistake)
                return
            if request is None:
                self._invite_body()
                return
            self._begin(request)

    def _invite_body(self) -> None:
        if self._parser.expects_continue and self._transport is not None:
            self._parser.expects_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, mistake: BadRequest) -> None:
        assert self._transport is not None
        body = encoded({"error": f"simulated: {mistake}"})
        reply = Answer(mistake.status, [body], len(body))
        self._transport.write(reply.head(version="HTTP/1.1", keep_alive=False) + body)
        self._transport.close()

    def _begin(self, request: Request) -> None:
        self._request = request
        self._answer = reply = answer(self._state, request)
        if reply.delay:
            self._wait(reply.delay)
        else:
            self._send_head()

    def _wait(self, seconds: float) -> None:
        self._waiting = True
        if seconds < FOREVER:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._timer, self._waiting = None, False
        if self._request is not None:
            self._send_head()
        else:
            self._play()
        self._advance()

    def _send_head(self) -> None:
        """Send the headers, together with the body if it has only one part."""
        assert self._answer is not None and self._request is not None and self._transport is not None
        request, reply, self._request = self._request, self._answer, None
        self._last = self._last or not request.keep_alive
        if reply.length is None and request.version == "HTTP/1.0":
            self._last = True
        head = reply.head(version=request.version, keep_alive=not self._last)
        if request.method == "HEAD":
            reply.parts = []
        parts = list(reply.parts)
        if reply.length is not None and parts and isinstance(parts[0], bytes):
            head += parts[0]
            del parts[0]
        elif reply.length is None and request.version != "HTTP/1.0":
            parts = [_framed(part) for part in parts] + [b"0\r\n\r\n"]
        self._parts = iter(parts)
        self._transport.write(head)
        self._play()

    def _play(self) -> None:
        """Send parts until one has to wait; the events of a stream are sent one by one.

        If the transport is closing, the client is gone, and connection_lost will end the answer as not completed.
        """
        while not self._paused and self._answer is not None and self._transport is not None:
            if self._transport.is_closing():
                return
            part = next(self._parts, None)
            if part is None:
                self._end_answer(completed=True)
            elif isinstance(part, bytes):
                self._transport.write(part)
            elif part is End.RESET:
                self._reset()
            else:
                self._wait(part)
                return

    def _reset(self) -> None:
        """Break the connection with an RST, like a crashed peer."""
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        self._end_answer(completed=False)

    def _end_answer(self, *, completed: bool) -> None:
        reply, self._answer, self._request = self._answer, None, None
        if reply is not None and reply.entry is not None:
            self._state.journal.finished(reply.entry, completed=completed)
        if self._transport is None:
            return
        if self._last:
            self._transport.close()
        elif self._pending > MAX_PENDING_BYTES:
            self._transport.resume_reading()
        self._pending = 0


def _framed(part: Part) -> Part:
    return b"%x\r\n%b\r\n" % (len(part), part) if isinstance(part, bytes) else part
