"""A load of keep-alive connections from one process: each sends its next request when the last one is answered.

Plain protocols on uvloop, because the two cores are shared with what is measured: a request costs this process some
30 µs. It speaks to loopback alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import uvloop

PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Target:
    """Where requests go, and under which token."""

    port: int
    path: str
    token: str

    def chat(self, body: dict[str, Any]) -> bytes:
        """Return the request as it goes over the wire."""
        return self._message("POST", self.path, json.dumps(body).encode())

    def get(self, path: str) -> bytes:
        return self._message("GET", path, b"")

    def _message(self, method: str, path: str, body: bytes) -> bytes:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass
class Result:
    seconds: float = 0.0
    own_cpu_seconds: float = 0.0  # of this process
    statuses: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Return milliseconds."""
        return 1000 * percentile(self.latencies, share)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Connection(asyncio.Protocol):
    """One connection, one request at a time. `ask` returns the status when the whole answer has arrived."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self._status = 0
        self._left: int | None = None  # bytes of the body still to come; None: it comes in chunks
        self._in_body = False
        self._awaited = b""
        self._seen: asyncio.Future[None] | None = None
        self.tail = b""  # the end of the last body

    @classmethod
    async def open(cls, port: int) -> Connection:
        _, protocol = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return protocol

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def send(self, message: bytes, *, awaited: bytes = b"") -> tuple[asyncio.Future[int], asyncio.Future[None]]:
        """Send a request; return what is done with its whole answer, and with the first byte or what is `awaited`."""
        loop = asyncio.get_running_loop()
        self._answer, self._seen, self._awaited, self.tail = loop.create_future(), loop.create_future(), awaited, b""
        assert self._transport is not None
        self._transport.write(message)
        return self._answer, self._seen

    async def ask(self, message: bytes) -> int:
        return await self.send(message)[0]

    # --- what asyncio calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        for future in (self._answer, self._seen):
            if future is not None and not future.done():
                future.set_exception(ConnectionResetError("The connection ended before the answer did."))
                future.exception()  # whoever does not await it need not be told of it

    def data_received(self, data: bytes) -> None:
        if self._seen is not None and not self._seen.done() and self._awaited in data:
            self._seen.set_result(None)
        self._received += data
        if not self._in_body and not self._read_head():
            return
        if self._left is None:
            self._read_chunks()
        elif len(self._received) >= self._left:
            self._done(self._left)

    def _read_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._received[:end]).lower()
        del self._received[: end + 4]
        self._status, self._in_body = int(head[9:12]), True
        chunked = b"transfer-encoding: chunked" in head
        self._left = None if chunked else int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        return True

    def _read_chunks(self) -> None:
        while (end := self._received.find(b"\r\n")) >= 0:
            size = int(self._received[:end].split(b";")[0], 16)
            if len(self._received) < end + size + 4:
                return
            if size == 0:
                return self._done(end + 4)
            self.tail = (self.tail + bytes(self._received[end + 2 : end + 2 + size]))[-200:]
            del self._received[: end + size + 4]

    def _done(self, length: int) -> None:
        del self._received[:length]
        self._in_body = False
        assert self._answer is not None
        self._answer.set_result(self._status)


def run(target: Target, *, connections: int, requests: int, body: dict[str, Any]) -> Result:
    """Send `requests` requests over `connections` connections and return what came back."""
    return uvloop.run(_run(target.port, connections, requests, target.chat(body)))


async def _run(port: int, connections: int, requests: int, message: bytes) -> Result:
    result, left = Result(), iter(range(requests))
    opened = [await Connection.open(port) for _ in range(connections)]
    started, cpu = time.perf_counter(), time.process_time()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(_ask_on(connection, message, left, result) for connection in opened))
    result.seconds, result.own_cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    for connection in opened:
        connection.close()
    return result


async def _ask_on(connection: Connection, message: bytes, left: Iterator[int], result: Result) -> None:
    for _ in left:
        started = time.perf_counter()
        status = await connection.ask(message)
        result.latencies.append(time.perf_counter() - started)
        result.statuses[status] = result.statuses.get(status, 0) + 1
