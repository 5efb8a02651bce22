"""The journal of simulated requests and their bills, with which tests compare the product's figures."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from .wire import dumps, plain


@dataclass(slots=True)
class Entry:
    """A request to a model that reached a provider.

    `billed` is False for a refusal; `status` is None if no answer ever comes; `cost` is USD.
    """

    provider: str
    path: str
    key_tail: str
    model: str | None
    stream: bool
    behaviour: str
    status: int | None
    request_id: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Decimal = Decimal(0)
    billed: bool = False
    prefix: str = "chatcmpl-"
    n: int = 0
    generation_id: str = ""
    time: datetime = datetime.min
    completed: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "time": self.time.isoformat(),
            "provider": self.provider,
            "path": self.path,
            "keyTail": self.key_tail,
            "model": self.model,
            "stream": self.stream,
            "promptTokens": self.prompt_tokens,
            "completionTokens": self.completion_tokens,
            "cost": plain(self.cost),
            "status": self.status,
            "billed": self.billed,
            "behaviour": self.behaviour,
            "requestId": self.request_id,
            "generationId": self.generation_id,
            "completed": self.completed,
        }


class Journal:
    """The entries in memory and, if a file is given, also as JSON lines, flushed before the answer begins.

    Written by the server's thread and read by any thread. Lines in the file do not say whether the answer was fully
    sent: `completed` is known later, and only in memory.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._generations: dict[str, Entry] = {}
        self._in_flight = 0
        self._max_concurrent = 0
        self._last_n = 0
        self._file: TextIO | None = file.open("a", encoding="utf-8") if file else None

    def append(self, entry: Entry) -> None:
        """Store an entry with its number and time, and count its request as being in flight."""
        with self._lock:
            self._last_n += 1
            entry.n, entry.time = self._last_n, datetime.now(UTC)
            entry.generation_id = generation_id(entry)
            self._entries.append(entry)
            if entry.billed:
                self._generations[entry.generation_id] = entry
            self._in_flight += 1
            self._max_concurrent = max(self._max_concurrent, self._in_flight)
            self._write(entry)

    def _write(self, entry: Entry) -> None:
        if self._file is None:
            return
        line = entry.as_json()
        del line["completed"]
        self._file.write(dumps(line) + "\n")
        self._file.flush()

    def finished(self, entry: Entry, *, completed: bool) -> None:
        """Record that the answer was fully sent (`completed`), or never will be."""
        with self._lock:
            entry.completed = completed
            self._in_flight = max(self._in_flight - 1, 0)

    def generation(self, generation: str) -> Entry | None:
        return self._generations.get(generation)

    def entries(self, *, after: int = 0) -> list[dict[str, Any]]:
        with self._lock:
            chosen = [entry for entry in self._entries if entry.n > after]
        return [entry.as_json() for entry in chosen]

    def summary(self) -> dict[str, Any]:
        """Return counts and the sum of all costs, in USD as a string."""
        with self._lock:
            return {
                "count": len(self._entries),
                "billed": sum(entry.billed for entry in self._entries),
                "completed": sum(entry.completed for entry in self._entries),
                "cost": plain(sum((entry.cost for entry in self._entries), Decimal(0))),
                "inFlight": self._in_flight,
                "maxConcurrent": self._max_concurrent,
            }

    def clear(self) -> None:
        """Delete all entries; numbering continues, so that a reader's `after` stays valid."""
        with self._lock:
            self._entries = []
            self._generations = {}
            self._max_concurrent = self._in_flight

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def generation_id(entry: Entry) -> str:
    """Return the id of an answer, in the format of its provider."""
    if entry.provider == "openrouter":
        return f"gen-{int(entry.time.timestamp())}-simulated{entry.n:06d}"
    return f"{entry.prefix}simulated{entry.n:06d}"
