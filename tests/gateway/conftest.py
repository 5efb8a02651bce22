"""A program at the front door of a real web server, a stopped clock, and the proof after each test that the books
balance.

What is the product's is imported inside: pytest reads this file before Django is set up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _database(transactional_db: None) -> None:
    """The web server's threads see only what is committed."""


@pytest.fixture(autouse=True)
def _stopped(frozen: Any) -> None:
    """Stop the clock and forget what is cached."""
    from llmkeys.prices import catalogue
    from llmkeys.relay import model_lists

    catalogue.forget()
    model_lists.forget()


@pytest.fixture
def user(_database: None) -> Any:
    from tests.helpers import make_user

    return make_user("worker", "use_gateway")


@pytest.fixture
def client(user: Any) -> Iterator[Any]:
    """A program with a token of scope `gateway`; afterwards the books balance."""
    from tests.gateway import door
    from tests.helpers import make_token
    from tests.web import Program

    yield Program(make_token(user, "gateway", name="worker"))
    door.books_balance()


@pytest.fixture
def provider(provider: Any) -> Iterator[Any]:
    """The scripted provider; it stays until nothing asks it any more."""
    from tests.gateway import door

    yield provider
    door.done()


@pytest.fixture
def sends(provider: Any) -> Callable[..., list[Any]]:
    """Let the provider answer with these, one for each request; return those that are left."""
    return provider.sends


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every statement that any thread of this process sends to the database."""
    from tests.gateway.statements import watched

    with watched() as seen:
        yield seen


# --- intervals and constants of the product --------------------------------------------------------------------------


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before retries, which are noted and not made. There is no setting for them: the clock of the module
    that makes them is another one."""
    made: list[float] = []

    async def pause(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr("llmkeys.relay.turns.pause", pause)
    return made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let requests wait this many seconds for open holds, and for the verdict of another request; none at first."""

    def wait(seconds: float) -> None:
        monkeypatch.setattr("llmkeys.relay.turns.ROOM_SECONDS", seconds)

    wait(0)
    return wait


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> int:
    """The worker may have 200 kB of bodies in hand; return that."""
    from llmkeys.lib.bodies import Room

    monkeypatch.setattr("llmkeys.gateway.bodies._room", Room(free=200_000))
    return 200_000


@pytest.fixture
def larger_than_the_room(monkeypatch: pytest.MonkeyPatch, settings: Any) -> int:
    """Let one body have 3 MB, and the worker at least 1 MB for all of them; return how much one may have."""
    from llmkeys.gateway import bodies

    monkeypatch.setattr(bodies, "LEAST_ROOM_MB", 1)
    settings.MAX_BODY_MB = 3
    monkeypatch.setattr(bodies, "_room", bodies.whole_room())
    return 3 * 1024 * 1024


@pytest.fixture
def fast_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the usage only a moment after the client has gone."""
    monkeypatch.setattr("llmkeys.relay.stream.DRAIN_SECONDS", 0.2)


@pytest.fixture
def hardly_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a connection that ends after 0.2 s for one that ends after the provider has worked."""
    monkeypatch.setattr("llmkeys.upstream.relayed.AT_ONCE_SECONDS", 0.2)


@pytest.fixture
def rested_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every connection that has served for one that has rested."""
    monkeypatch.setattr("llmkeys.upstream.relayed.RESTED_SECONDS", 0.0)


@pytest.fixture
def pool_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass for the connections to providers: their pool has a clock of its own."""
    import time

    passed = [0.0]
    for name in ("aiohttp.connector.monotonic", "llmkeys.upstream.relayed.monotonic"):
        monkeypatch.setattr(name, lambda: time.monotonic() + passed[0])

    def let_pass(seconds: float) -> None:
        passed[0] += seconds

    return let_pass


@pytest.fixture
def quick_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait half a second for the whole body of a request."""
    monkeypatch.setattr("llmkeys.gateway.bodies.BODY_SECONDS", 0.5)


@pytest.fixture
def short_busy(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give up soon on an SQLite database that is locked; return what sets for how many seconds a request waits for
    it: half a second is short while it is locked, and too short for what must succeed on a busy machine."""
    from django.db import connection

    from llmkeys.database import queues, reader, writer

    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "timeout", 0.1)
    writer.forget()  # a new connection, which has this timeout
    reader.forget()
    return lambda seconds: monkeypatch.setattr(queues, "PATIENCE_SECONDS", seconds)


@pytest.fixture
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forget which alerts this process has given, as another process would not know of them; call it for once more."""
    from llmkeys.alerts import outbox

    monkeypatch.setattr(outbox, "_reported", {})
    return lambda: outbox._reported.clear()
