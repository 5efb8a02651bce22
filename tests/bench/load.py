"""A load of keep-alive connections from one process: each sends its next request when the last one is answered."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field


@dataclass
class Result:
    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Return milliseconds."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run(port: int, *, connections: int, requests: int, body: bytes, token: str) -> Result:
    """Send `requests` requests over `connections` connections and return what came back."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    return asyncio.run(_run(port, connections, requests, head + body))


async def _run(port: int, connections: int, requests: int, message: bytes) -> Result:
    result, left = Result(), iter(range(requests))
    started = time.perf_counter()
    await asyncio.gather(*(_connection(port, message, left, result) for _ in range(connections)))
    result.seconds = time.perf_counter() - started
    return result


async def _connection(port: int, message: bytes, left, result: Result) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in left:
        started = time.perf_counter()
        writer.write(message)
        status = await _answer(reader)
        result.latencies.append(time.perf_counter() - started)
        result.statuses[status] = result.statuses.get(status, 0) + 1
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" in head:
        while (size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)) > 0:
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    else:
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    return status
