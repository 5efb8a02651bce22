"""A client at the front door, a stopped clock, and the proof after each test that the books balance.

What is the product's is imported inside: pytest reads this file before Django is set up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import responses


@pytest.fixture(autouse=True)
def _stopped(frozen: Any) -> None:
    """Stop the clock and forget what is cached."""
    from llmkeys.prices import catalogue
    from llmkeys.relay import model_lists

    catalogue.forget()
    model_lists.forget()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before retries, which are noted and not made."""
    made: list[float] = []

    class Clock:
        from time import monotonic

        sleep = made.append

    monkeypatch.setattr("llmkeys.relay.turns.time", Clock)
    return made


@pytest.fixture
def user(db: None) -> Any:
    from tests.helpers import make_user

    return make_user("worker")


@pytest.fixture
def client(user: Any) -> Iterator[Any]:
    """A program with a token of scope `gateway`; afterwards the books balance."""
    from tests.gateway import door
    from tests.helpers import JsonClient, make_token

    yield JsonClient(make_token(user, "gateway", name="worker"))
    door.books_balance()


@pytest.fixture
def provider() -> Iterator[responses.RequestsMock]:
    """Answers instead of the network; what is not registered is refused, and what is registered must be asked."""
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def simulator(settings: Any) -> Iterator[Any]:
    """Four simulated providers behind a real socket."""
    from llmkeys.simulator.thread import SimulatorThread

    with SimulatorThread() as running:
        settings.PROVIDER_BASE_URLS = running.urls
        yield running


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Let the provider answer with these streams, one for each request; return those that are left."""

    def answer(*streams: Any) -> list[Any]:
        waiting = list(streams)
        monkeypatch.setattr("llmkeys.upstream.asked.send_chat", lambda *a, **k: waiting.pop(0))
        return waiting

    return answer
