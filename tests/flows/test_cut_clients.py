"""Clients that go away at every point of a stream, in every dialect: what the provider served is charged, each time.

`PROOF_CUTS=50` is how often each point is cut in each dialect.
"""

from __future__ import annotations

import json
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmkeys.simulator.thread import SimulatorThread
from tests.flows.product import Product
from tests.flows.scale import size
from tests.serving import wait_for
from tests.spoken import SPOKEN, Spoken

CUTS = size("CUTS", short=2, long=50)
POINTS = range(10)  # before the first byte, after the head, after the first piece of text, after the second …
TEXT = "[[prompt_tokens=100 completion_tokens=40 chunks=8 chunk_delay_ms=15{}]]"
AT_ONCE = 20
TOKENS: dict[str, str] = {}  # each may use the key of one provider


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with SimulatorThread() as simulator, Product(tmp_path_factory.mktemp("cuts") / "data", simulator) as running:
        for provider in simulator.urls:
            key = running.add_key(provider, provider=provider, dailyLimit=0, monthlyLimit=0, totalLimit=0)
            TOKENS[provider] = running.token_for(key)
        yield running
        running.check_books()


def send(product: Product, spoken: Spoken, body: dict[str, Any], *, stream: bool) -> socket.socket:
    """Send a request that only keys of this provider may serve."""
    data = json.dumps(body).encode()
    head = (
        f"POST {spoken.path(stream=stream)} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {TOKENS[spoken.provider]}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", product.served.port), timeout=30)
    connection.sendall(head.encode() + data)
    return connection


def leave_a_stream(product: Product, spoken: Spoken, body: dict[str, Any], *, point: int, by_reset: bool) -> None:
    """Send a request, read up to this point of the answer, and hang up."""
    with send(product, spoken, body, stream=True) as connection:
        received = b""
        # The head is one sign, each piece of text another: "simulated" and four words, or five words.
        while point and (b"\r\n\r\n" in received) + (received.count(b"word") + 1) // 5 < point:
            more = connection.recv(65_536)
            if not more:
                break
            received += more
        if by_reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def check_books(product: Product, begun: int) -> Counter[str]:
    """Every request that the simulator served since has a row with a cost; return how many rows ended how."""
    journal = product.simulator.journal(after=begun)
    with product.books as books:

        def ended() -> bool:
            return books.rows("SELECT COUNT(*) FROM llmkeys_usagerecord WHERE state = 'HELD'") == [(0,)]

        wait_for(ended, seconds=60, what="all holds have ended")
        query = "SELECT request_id, cost_nano, hold_nano, state, cost_source FROM llmkeys_usagerecord"
        rows = {request: row for request, *row in books.rows(query)}
    served = [entry["requestId"] for entry in journal if entry["billed"]]
    assert served
    free = [request for request in served if rows[request][0] <= 0]
    assert not free, f"{len(free)} of {len(served)} were served for nothing"
    assert all(rows[request][0] <= rows[request][1] for request in served), "more than was held"
    return Counter(f"{state} {source}" for _, _, state, source in map(rows.__getitem__, served))


@pytest.mark.proof
@pytest.mark.parametrize("name", list(SPOKEN))
def test_every_stream_that_is_left_is_charged(product: Product, name: str, capsys: pytest.CaptureFixture[str]):
    spoken = SPOKEN[name]
    begun = max((entry["n"] for entry in product.simulator.journal()), default=0)
    plans = [(point, time) for point in POINTS for time in range(CUTS)]

    def cut(plan: tuple[int, int]) -> None:
        point, time = plan
        told = " behaviour=nousage" if time % 2 else ""
        body = spoken.asked(TEXT.format(told), stream=True)
        leave_a_stream(product, spoken, body, point=point, by_reset=time % 4 > 1)

    with ThreadPoolExecutor(AT_ONCE) as programs:
        list(programs.map(cut, plans))
    ends = check_books(product, begun)
    with capsys.disabled():
        print(f"\n{name}: {len(plans)} streams left at {len(POINTS)} points: {dict(ends)}")


@pytest.mark.parametrize("name", list(SPOKEN))
def test_every_whole_answer_that_nobody_waits_for_is_charged(product: Product, name: str):
    spoken = SPOKEN[name]
    begun = max((entry["n"] for entry in product.simulator.journal()), default=0)
    body = spoken.asked("[[prompt_tokens=100 completion_tokens=40 delay_ms=100]]")
    with send(product, spoken, body, stream=False):
        wait_for(lambda: product.simulator.journal(after=begun), what="the provider has the request")
    check_books(product, begun)
