"""The door: which application answers which address, and what begins and ends with a worker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from refactai_site import asgi
from tests.site.exchange import Exchange


class Named:
    """An application that answers with its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.name.encode()})


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("health", "gateway", "pages", "waiting_pages"):
        monkeypatch.setattr(asgi, name, Named(name))


def answered_by(method: str, path: str, **headers: str) -> str:
    exchange = Exchange(method=method, path=path, headers=headers)
    return asyncio.run(exchange.run(asgi.Application())).body.decode()


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/healthz", "health"),
        ("HEAD", "/readyz", "health"),
        ("POST", "/v1/chat/completions", "gateway"),
        ("OPTIONS", "/v1/chat/completions", "gateway"),
        ("GET", "/v1", "gateway"),
        ("GET", "/v1/models", "gateway"),
        ("POST", "//v1//messages", "gateway"),
        ("POST", "/v1beta/models/gemini-3.8-flash:generateContent", "gateway"),
        ("GET", "/v1x", "pages"),
        ("GET", "/", "pages"),
        ("POST", "/login", "pages"),
        ("GET", "/llm-settings", "pages"),
        ("GET", "//llm-settings", "pages"),
        ("POST", "/api/llm/keys", "pages"),
        ("GET", "/metrics", "pages"),
        ("GET", "/nothing-here", "pages"),
        ("POST", "/chat/completions", "gateway"),
        ("POST", "/llm-settings/playground/run", "waiting_pages"),
        ("GET", "/llm-settings/playground", "waiting_pages"),
        ("POST", "/api/llm/keys/key-1/test", "waiting_pages"),
        ("POST", "/llm-settings/keys/try", "waiting_pages"),
        ("GET", "/llm-settings/health", "waiting_pages"),
        ("POST", "/llm-settings/health/alert-test", "waiting_pages"),
        ("POST", "/llm-settings/health/alert-seen", "pages"),
        ("POST", "/admin/llmkeys/apikey/", "waiting_pages"),
        ("GET", "/admin/llmkeys/apikey/", "pages"),
    ],
)
def test_each_address_has_its_application(method, path, name):
    assert answered_by(method, path) == name


@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "x-goog-api-key"])
def test_a_program_with_a_token_meets_the_gateway_where_nothing_is(header):
    assert answered_by("GET", "/models", **{header: "rfk_x"}) == "gateway"


def test_a_program_with_a_token_meets_the_page_where_there_is_one():
    assert answered_by("GET", "/metrics", Authorization="Bearer rfk_x") == "pages"


# --- Beginning and end -----------------------------------------------------------------------------------------------


class Worker:
    """A worker's life as the web server leads it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *lifespans: asgi.Lifespan) -> None:
        monkeypatch.setattr(asgi, "LIFESPANS", list(lifespans))
        self.application = asgi.Application()
        self.said: list[str] = []
        self._messages: asyncio.Queue[str] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._life = asyncio.create_task(self.application({"type": "lifespan"}, self._receive, self._send))

    async def _receive(self) -> dict[str, str]:
        return {"type": await self._messages.get()}

    async def _send(self, message: Any) -> None:
        self.said.append(message["type"])
        self._changed.set()

    async def start(self) -> None:
        self._messages.put_nowait("lifespan.startup")
        await self._changed.wait()

    async def end(self) -> None:
        """Its last request has ended."""
        self._messages.put_nowait("lifespan.shutdown")
        await self._life


def lifespan_of(name: str, noted: list[str], *, patient: bool = False) -> asgi.Lifespan:
    @contextlib.asynccontextmanager
    async def lifespan(seconds_left: Callable[[], float]) -> AsyncIterator[None]:
        noted.append(f"{name} begins, {seconds_left()} s left")
        yield
        if patient:
            await asyncio.wait([asyncio.create_task(asyncio.Event().wait())], timeout=seconds_left())
        noted.append(f"{name} ends")

    return lifespan


def test_what_lives_with_a_worker_begins_in_order_and_ends_in_reverse(monkeypatch):
    noted: list[str] = []

    async def live() -> Worker:
        worker = Worker(monkeypatch, lifespan_of("writer", noted), lifespan_of("gateway", noted))
        await worker.start()
        await worker.end()
        return worker

    assert asyncio.run(live()).said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert noted == ["writer begins, inf s left", "gateway begins, inf s left", "gateway ends", "writer ends"]


def test_a_worker_that_cannot_begin_says_so(monkeypatch, caplog):
    @contextlib.asynccontextmanager
    async def broken(seconds_left: Callable[[], float]) -> AsyncIterator[None]:
        raise RuntimeError("no room")
        yield

    async def live() -> Worker:
        worker = Worker(monkeypatch, broken)
        await worker.start()
        return worker

    assert asyncio.run(live()).said == ["lifespan.startup.failed"]
    assert "no room" in caplog.text


def test_what_goes_on_at_the_end_is_cut_when_the_time_for_it_is_over(monkeypatch, settings):
    settings.STOP_SECONDS = 0.2
    noted: list[str] = []

    async def live() -> float:
        worker = Worker(monkeypatch, lifespan_of("gateway", noted, patient=True))
        await worker.start()
        began = time.monotonic()
        worker.application.stop()
        await worker.end()
        return time.monotonic() - began

    assert 0.2 <= asyncio.run(live()) < 30  # the setting's own value
    assert noted[-1] == "gateway ends"


def test_what_lives_with_a_worker_ends_in_time_though_a_request_goes_on(monkeypatch, settings):
    """The web server tells of the end only when the last request has ended: that may be never."""
    settings.STOP_SECONDS = 0.1
    ended = asyncio.Event()

    @contextlib.asynccontextmanager
    async def gateway(seconds_left: Callable[[], float]) -> AsyncIterator[None]:
        yield
        assert seconds_left() == 0
        ended.set()

    async def live() -> Exchange:
        worker = Worker(monkeypatch, gateway)
        await worker.start()
        worker.application.stop()
        await asyncio.wait_for(ended.wait(), 30)
        late = await Exchange(path="/login").run(worker.application)
        await worker.end()
        return late

    assert asyncio.run(live()).status == 503


def test_requests_in_progress_are_counted(monkeypatch):
    counts = [7, 0]

    async def live() -> tuple[int, int]:
        until, begun = asyncio.Event(), asyncio.Event()

        async def page(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await until.wait()

        monkeypatch.setattr(asgi, "pages", page)
        application = asgi.Application()
        application.configure(threads=1, in_progress=counts, place=1)
        requests = [asyncio.create_task(Exchange().run(application)) for _ in range(3)]
        await begun.wait()
        during = counts[1]
        until.set()
        await asyncio.gather(*requests)
        return during, counts[1]

    assert asyncio.run(live()) == (3, 0)
    assert counts[0] == 7
