"""The simulator in a thread of its own, on a free port, for tests and the demo."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

from .server import Simulator

PATIENCE_SECONDS = 30.0


class SimulatorThread:
    """A running simulator: `with SimulatorThread() as simulator: … simulator.base_url …`.

    `base_url` has no path: OpenRouter is at `base_url + "/api/v1"`, OpenAI at `"/openai/v1"`, Anthropic at
    `"/anthropic"`, Google at `"/google"` (`urls` has all four). Raises OSError if the port cannot be bound.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency_ms: int = 0,
        chunk_delay_ms: int = 0,
        journal_file: Path | None = None,
    ) -> None:
        self._simulator = Simulator(latency_ms=latency_ms, chunk_delay_ms=chunk_delay_ms, journal_file=journal_file)
        self._host, self._wanted_port = host, port
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self.port = 0

    def __enter__(self) -> SimulatorThread:
        return self.start()

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> SimulatorThread:
        self._thread.start()
        if not self._ready.wait(PATIENCE_SECONDS):
            raise TimeoutError("The simulator did not start.")
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        """Close the port and all connections at once; does nothing if already stopped."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(PATIENCE_SECONDS)

    @property
    def base_url(self) -> str:
        return f"http://{self._host}:{self.port}"

    @property
    def urls(self) -> dict[str, str]:
        """The base URL of each provider, as for the product's `…_BASE_URL` variables."""
        return {
            "openrouter": f"{self.base_url}/api/v1",
            "openai": f"{self.base_url}/openai/v1",
            "anthropic": f"{self.base_url}/anthropic",
            "google": f"{self.base_url}/google",
        }

    def journal(self, *, after: int = 0) -> list[dict[str, Any]]:
        """Return the journal's entries, oldest first, as in GET /_journal."""
        return self._between_events(lambda: self._simulator.state.journal.entries(after=after))

    def summary(self) -> dict[str, Any]:
        return self._between_events(self._simulator.state.journal.summary)

    def wait_for_entries(self, count: int, *, seconds: float = PATIENCE_SECONDS) -> list[dict[str, Any]]:
        """Wait until the journal has this many entries and return them. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while len(entries := self.journal()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"The journal has {len(entries)} entries, not {count}.")
            pause.wait(0.005)
        return entries

    def reset(self) -> None:
        """Clear the journal, the used-up failures and the sums of each key."""
        self._between_events(self._simulator.state.reset)

    def _between_events(self, read: Callable[[], Any]) -> Any:
        """Call `read` in the server's thread, or here if that has ended, and return its result.

        The last byte of an answer is sent in the same loop event that sets `completed`, so that a client that has read
        the byte sees both.
        """
        if self._loop is None or not self._thread.is_alive():
            return read()
        result: Future[Any] = Future()
        self._loop.call_soon_threadsafe(lambda: result.set_result(read()))
        return result.result(PATIENCE_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:
            # It is raised again in the thread that waits in start().
            self._failure = failure
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.port = await self._simulator.start(self._host, self._wanted_port)
        self._ready.set()
        await self._stop.wait()
        await self._simulator.stop(grace=0)
