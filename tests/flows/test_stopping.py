"""A server that is stopped in the middle of streams: they finish in its grace, or are charged as lost at its end."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from llmkeys.simulator.thread import SimulatorThread
from tests.bench.load import percentile
from tests.flows.product import Product, chat
from tests.serving import wait_for

STREAMS = 50
OPEN_STREAMS = 200


def streamed(seconds: float) -> dict:
    return chat(
        f"[[prompt_tokens=100 completion_tokens=100 chunks=10 chunk_delay_ms={int(seconds * 100)}]]", stream=True
    )


class Stream(threading.Thread):
    """One open stream of a program; `whole` where it came to its end."""

    def __init__(self, product: Product, body: dict) -> None:
        super().__init__()
        self.product, self.body = product, body
        self.has_begun = threading.Event()
        self.first_byte_seconds = 0.0
        self.whole = False

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.product.served.port, timeout=60)
        headers = {"Authorization": f"Bearer {self.product.token}", "Content-Type": "application/json"}
        began = time.monotonic()
        with closing(connection):
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(self.body), headers)
                answer = connection.getresponse()
                first = answer.read(1)
                self.first_byte_seconds = time.monotonic() - began
                self.has_begun.set()
                self.whole = (first + answer.read()).rstrip().endswith(b"data: [DONE]")
            except (OSError, http.client.HTTPException):
                self.has_begun.set()


def opened(product: Product, count: int, body: dict) -> list[Stream]:
    streams = [Stream(product, body) for _ in range(count)]
    for stream in streams:
        stream.start()
    for stream in streams:
        assert stream.has_begun.wait(30)
    return streams


def test_streams_finish_in_the_grace(data_dir: Path, simulator: SimulatorThread):
    with Product(data_dir, simulator) as product:
        product.add_key("One", dailyLimit=0, monthlyLimit=0, totalLimit=0)
        streams = opened(product, STREAMS, streamed(15))
        assert product.served.stop(signal.SIGTERM) == 0
        for stream in streams:
            stream.join(30)
        assert f"{STREAMS} requests in progress; waiting up to 30 s." in product.served.log.read_text()
        assert sum(stream.whole for stream in streams) == STREAMS
        assert product.states() == {"SETTLED": STREAMS}


def test_streams_that_outlast_the_grace_are_lost_and_never_left_held(data_dir: Path, simulator: SimulatorThread):
    with Product(data_dir, simulator, REFACTAI_STOP_SECONDS="1") as product:
        product.add_key("One", dailyLimit=0, monthlyLimit=0, totalLimit=0)
        streams = opened(product, STREAMS, streamed(60))
        assert product.served.stop(signal.SIGTERM) == 0
        for stream in streams:
            stream.join(30)
        assert not any(stream.whole for stream in streams)
        assert product.states() == {"LOST": STREAMS}


@pytest.mark.alone
def test_open_streams_hold_up_no_page(data_dir: Path, simulator: SimulatorThread, capsys):
    with Product(data_dir, simulator, "--threads", "2") as product, ExitStack() as stack:
        product.add_key("One", dailyLimit=0, monthlyLimit=0, totalLimit=0)
        streams = opened(product, OPEN_STREAMS, streamed(15))
        program = stack.enter_context(closing(product.program()))
        waits = []
        for _ in range(40):
            began = time.monotonic()
            assert program.call("GET", "/login").status == 200
            waits.append(time.monotonic() - began)
        assert all(stream.is_alive() for stream in streams), "some had ended before the last page came"
        for stream in streams:
            stream.join(60)
        slowest = percentile([stream.first_byte_seconds for stream in streams], 0.95)
        with capsys.disabled():
            print(f"\n{OPEN_STREAMS} streams: first byte p95 {slowest:.2f} s; page p95 {percentile(waits, 0.95):.3f} s")
        assert all(stream.whole for stream in streams)
        assert percentile(waits, 0.95) < 0.5
        wait_for(lambda: product.states() == {"SETTLED": OPEN_STREAMS}, what="all rows are settled")
