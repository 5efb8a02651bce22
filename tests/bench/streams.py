"""Many open streams on one `serve`: do all complete, and what do they cost others in time and the machine in memory?"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import uvloop

from tests.bench.load import Connection, Target, percentile

BODY_BYTES = 77_000  # what a coding agent sends
OPENED_PER_SECOND = 100
PROBE_SECONDS = 0.1
PATIENCE_SECONDS = 300


@dataclass
class Open:
    """What happened while the streams were open. Times in seconds, memory in kB for all processes together."""

    outcomes: Counter[str] = field(default_factory=Counter)
    begun: int = 0
    begin_seconds: list[float] = field(default_factory=list)  # until the first content of each stream
    first_bytes: list[float] = field(default_factory=list)  # of new requests meanwhile
    pages: list[float] = field(default_factory=list)
    memory_before: int = 0
    memory_open: int = 0

    def memory_of_each(self) -> float:
        return (self.memory_open - self.memory_before) / max(1, self.begun)


def stream_body(model: str, seconds: int) -> dict[str, Any]:
    """Return a request of 77 kB whose answer comes in one piece a second."""
    directives = f"[[completion_tokens={seconds} chunks={seconds} chunk_delay_ms=1000]]"
    filler = "All work and no play makes Jack a dull boy. "
    text = (filler * (BODY_BYTES // len(filler) + 1))[: BODY_BYTES - 250 - len(directives)] + directives
    return {"model": model, "max_tokens": 500, "stream": True, "messages": [{"role": "user", "content": text}]}


def hold_open(
    target: Target, *, count: int, seconds: int, model: str, page: str, small: dict[str, Any], memory: Callable[[], int]
) -> Open:
    """Open `count` streams of about `seconds`; ask for `small` and for a page meanwhile; return when all have ended."""
    found = Open(memory_before=memory())
    uvloop.run(_hold_open(target, count, target.chat(stream_body(model, seconds)), page, small, memory, found))
    return found


async def _hold_open(
    target: Target, count: int, message: bytes, page: str, small: dict[str, Any], memory: Callable[[], int], found: Open
) -> None:
    all_begun, over = asyncio.Event(), asyncio.Event()
    streams = (_stream(target.port, message, number, count, all_begun, found) for number in range(count))
    asked = ((target.chat(small), found.first_bytes), (target.get(page), found.pages))
    probes = [asyncio.create_task(_probe(target.port, request, times, all_begun, over)) for request, times in asked]
    ended = asyncio.gather(*streams)
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            waiting = asyncio.create_task(all_begun.wait())
            await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
            found.memory_open = await asyncio.to_thread(memory)
            waiting.cancel()
            await ended
    over.set()
    await asyncio.gather(*probes, return_exceptions=True)


async def _stream(port: int, message: bytes, number: int, count: int, all_begun: asyncio.Event, found: Open) -> None:
    await asyncio.sleep(number / OPENED_PER_SECOND)
    try:
        connection = await Connection.open(port)
        started = time.perf_counter()
        answer, began = connection.send(message, awaited=b'"content"')
        await asyncio.wait([answer, began], return_when=asyncio.FIRST_COMPLETED)
        if began.done() and not began.exception():
            found.begin_seconds.append(time.perf_counter() - started)
            found.begun += 1
        if found.begun == count:
            all_begun.set()
        status = await answer
        whole = status == 200 and b"[DONE]" in connection.tail
        found.outcomes["complete" if whole else f"status {status}" if status != 200 else "cut"] += 1
        connection.close()
    except OSError as error:
        found.outcomes[type(error).__name__] += 1


async def _probe(port: int, message: bytes, times: list[float], begin: asyncio.Event, over: asyncio.Event) -> None:
    """Ask again and again on a new connection while all streams are open, and note when the first byte came."""
    await begin.wait()
    while not over.is_set():
        started = time.perf_counter()
        connection = await Connection.open(port)
        answer, first = connection.send(message)
        await first
        times.append(time.perf_counter() - started)
        await answer
        connection.close()
        await asyncio.sleep(PROBE_SECONDS)


def report(found: Open, count: int) -> list[str]:
    def p95(times: list[float]) -> str:
        return f"p95 {1000 * percentile(times, 0.95):.0f} ms of {len(times)}" if times else "none"

    return [
        f"{count} streams with bodies of {BODY_BYTES // 1000} kB: {dict(found.outcomes)}",
        f"first content of each: {p95(found.begin_seconds)}",
        f"while all are open: first byte of a new request {p95(found.first_bytes)}; a page {p95(found.pages)}",
        f"memory: {found.memory_of_each():.0f} kB for each of {found.begun} open streams (proportional set size)",
    ]
