"""Web processes killed with SIGKILL at every point of a request: what a provider may bill is in the books."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmkeys.lib.money import nano_to_usd
from llmkeys.simulator.thread import SimulatorThread
from tests.bench.load import percentile
from tests.flows.product import Product, chat
from tests.flows.scale import SEED, seeded, size
from tests.serving import Served, wait_for

pytestmark = pytest.mark.proof
KILLS = size("KILLS", short=36, long=204)
PROGRAMS = size("PROGRAMS", short=16, long=32)
WHOLE = chat("[[prompt_tokens=100 completion_tokens=100 delay_ms=80]]", max_tokens=200)
STREAM = chat("[[prompt_tokens=100 completion_tokens=100 chunks=5 chunk_delay_ms=20]]", max_tokens=200, stream=True)
COST_NANO = 600_000  # 100 × $1 + 100 × $5 a million
BROKEN = (OSError, http.client.HTTPException)


@dataclass
class Traffic:
    """Programs that ask without a pause until they are told to stop; each third one streams."""

    product: Product
    outcomes: Counter[str] = field(default_factory=Counter)
    answered_at: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        for number in range(PROGRAMS):
            thread = threading.Thread(target=self._ask, args=(STREAM if number % 3 == 0 else WHOLE,))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads), "a program hangs"

    def _ask(self, body: dict[str, Any]) -> None:
        with closing(self.product.program(seconds=20)) as program:
            while not self._stop.is_set():
                self._note(self._one(program, body))

    def _one(self, program: Any, body: dict[str, Any]) -> str:
        try:
            reply = program.chat(body)
        except BROKEN as broken:
            self._stop.wait(0.05)  # a program pauses a little before it connects again
            return type(broken).__name__
        if reply.status != 200:
            return f"{reply.status} {reply.code}"
        return "served" if not body.get("stream") or b"[DONE]" in reply.body else "stream cut"

    def _note(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1
            if outcome == "served":
                self.answered_at.append(time.monotonic())

    def served(self) -> int:
        return self.outcomes["served"]


def web_workers(served: Served) -> list[int]:
    """The web processes of the tree, whether or not its web server has just been started anew."""
    mains = served.children_of(served.process.pid)
    return [worker for main in mains for worker in served.children_of(main)]


# --- one request and the six points at which its process dies --------------------------------------------------------

# It costs the same as all others, and is known in the provider's journal by its tokens: 200 × $1 + 80 × $5 a million.
VICTIM = chat("[[prompt_tokens=200 completion_tokens=80 delay_ms=60 chunks=5 chunk_delay_ms=20]]", stream=True)
POINTS = ("its body arrives", "its body is there", "it is at the provider", "it streams", "its last piece", "answered")


class Victim:
    """A streamed request on a connection of its own, brought to a point at which its process is then killed."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._socket = socket.create_connection(("127.0.0.1", product.served.port), timeout=20)

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def reach(self, point: str) -> None:
        body = json.dumps(VICTIM).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self._product.token}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        known = len(self._at_the_provider())
        self._socket.sendall(head + body[:40])
        self.process = wait_for(self._find_process, what="a process accepts the connection")
        if point == "its body arrives":
            return
        self._socket.sendall(body[40:])
        if point == "its body is there":
            return
        wait_for(lambda: len(self._at_the_provider()) > known, what=f"the provider is asked: {point}")
        awaited = {"it streams": b'"content"', "its last piece": b'"finish_reason":"stop"', "answered": b"0\r\n\r\n"}
        if point in awaited:
            self._read_until(awaited[point])

    def _at_the_provider(self) -> list[dict[str, Any]]:
        return [entry for entry in self._product.simulator.journal() if entry["promptTokens"] == 200]

    def _read_until(self, awaited: bytes) -> None:
        received = b""
        while awaited not in received.replace(b'": "', b'":"'):
            piece = self._socket.recv(65536)
            assert piece, received
            received += piece

    def _find_process(self) -> int:
        """The web process that has accepted the connection; 0 as long as none has."""
        ours = self._socket.getsockname()[1]
        links = {f"socket:[{inode}]" for inode in _server_sockets(self._product.served.port, ours)}
        return next((pid for pid in web_workers(self._product.served) if links & _open_files(pid)), 0)


def _server_sockets(port: int, peer: int) -> list[str]:
    """The inodes of the connections between our port and the peer's, as the kernel lists them at the server's end."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    wanted = (f":{port:04X}", f":{peer:04X}")
    return [fields[9] for fields in lines if fields[1].endswith(wanted[0]) and fields[2].endswith(wanted[1])]


def _open_files(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found.add(str(link.readlink()))
    return found


def kill_at(point: str, traffic: Traffic, product: Product) -> None:
    """Kill the process that serves a request when it has reached a point; wait until traffic goes on with two."""
    served = product.served
    wait_for(lambda: len(web_workers(served)) == 2, what="two workers")
    with Victim(product) as victim:
        victim.reach(point)
        os.kill(victim.process, signal.SIGKILL)
        wait_for(lambda: len(found := web_workers(served)) == 2 and victim.process not in found, what="a replacement")
    count = traffic.served()
    wait_for(lambda: traffic.served() > count + PROGRAMS, what="traffic goes on")


def rows(product: Product, query: str) -> list[tuple]:
    with product.books as books:
        return books.rows(query)


def end_all_leases(product: Product) -> int:
    """Move the ends of open leases into the past, so that the test need not wait a minute for them."""
    with product.books.writing() as books:
        return books.change("UPDATE llmkeys_usagerecord SET lease_until = '2020-01-01 00:00:00' WHERE state = 'HELD'")


SETTLE = "from llmkeys import tasks; print(tasks.settle_lost_holds())"


@pytest.fixture
def product(data_dir, simulator: SimulatorThread, database):
    with Product(data_dir, simulator, "--no-scheduler", "--workers", "2", **database) as running:
        yield running


def test_it_keeps_the_books_right_through_kills_at_every_point_of_a_request(product, capsys):
    points = [POINTS[number % len(POINTS)] for number in range(KILLS)]
    seeded().shuffle(points)
    key = product.add_key("One", dailyLimit=1000, monthlyLimit=0, totalLimit=0)
    begin = time.monotonic()
    with Traffic(product) as traffic:
        wait_for(lambda: traffic.served() > 2 * PROGRAMS, what="traffic")
        for point in points:
            kill_at(point, traffic, product)
        seconds = time.monotonic() - begin
    # What still streams in a worker ends by itself; what stays open was in flight when its worker was killed.
    moments = sorted(traffic.answered_at)
    wait_for(lambda: product.simulator.summary()["inFlight"] == 0, what="the provider is idle")
    open_holds = end_all_leases(product)
    settled = int(product.command("shell", "-v", "0", "-c", SETTLE))
    restarts = product.served.log.read_text().count("starting it again")
    with capsys.disabled():
        print(f"\n{KILLS} kills (seed {SEED}) in {seconds:.0f} s; what the programs saw: {dict(traffic.outcomes)}")
        gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
        print(f"longest time without any answer {max(gaps):.2f} s, p99.9 {percentile(gaps, 0.999):.3f} s")
        print(f"{open_holds} holds left open, {settled} declared lost; the web server was restarted {restarts} times")
    assert_the_books_are_right(product, key)
    assert settled <= open_holds
    failed = sum(traffic.outcomes.values()) - traffic.served()
    assert failed <= KILLS * PROGRAMS
    assert not [outcome for outcome in traffic.outcomes if outcome.startswith(("4", "5"))], traffic.outcomes


def assert_the_books_are_right(product: Product, key: str) -> None:
    """Everything that the provider served has its row, at its cost, or at the hold where its process died."""
    found = rows(product, "SELECT request_id, state, hold_nano, cost_nano FROM llmkeys_usagerecord")
    by_request = {request: (state, hold, cost) for request, state, hold, cost in found}
    journal = product.simulator.journal()
    assert journal and {entry["requestId"] for entry in journal} <= by_request.keys()
    assert {state for state, _, _ in by_request.values()} <= {"SETTLED", "LOST"}
    for state, hold, cost in by_request.values():
        assert cost == (hold if state == "LOST" else COST_NANO)
    ((held, spent),) = rows(product, f"SELECT held_nano, spent_total_nano FROM llmkeys_apikey WHERE id = '{key}'")
    assert (held, spent) == (0, sum(cost for _, _, cost in by_request.values()))
    assert "The books are right" in product.command("audit")


# --- one lease that really ends --------------------------------------------------------------------------------------

SLOW = chat("[[prompt_tokens=100 completion_tokens=100 delay_ms=70000]]", max_tokens=200)
QUICK = chat("[[prompt_tokens=100 completion_tokens=100]]", max_tokens=200)
LEASE_SECONDS = 60


@dataclass
class SlowRequest:
    """A request in flight for 70 s, which is longer than a lease."""

    product: Product
    outcome: str = ""

    def start(self) -> SlowRequest:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def _run(self) -> None:
        with closing(self.product.program(seconds=120)) as program:
            try:
                reply = program.chat(SLOW)
                self.outcome = "served" if reply.status == 200 else reply.code
            except BROKEN:
                self.outcome = "broken"


def holders(product: Product) -> Counter[str]:
    """Open holds by the process that holds them."""
    return Counter(
        dict(rows(product, "SELECT lease_owner, COUNT(*) FROM llmkeys_usagerecord WHERE state = 'HELD' GROUP BY 1"))
    )


def start_in_both_workers(product: Product) -> list[SlowRequest]:
    """Start slow requests until each of the two workers has one."""
    started: list[SlowRequest] = []
    while len(holders(product)) < 2:
        assert len(started) < 40, "one worker takes every connection"
        started.append(SlowRequest(product).start())
        wait_for(lambda: holders(product).total() == len(started), what="the hold")
    return started


@pytest.mark.alone
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_it_frees_the_holds_of_a_dead_process_when_their_lease_ends(product, capsys):
    """No job runs: a request that lacks room settles them. The other process renews its own, and serves to the end."""
    hold, _ = product.probe(QUICK)
    key = product.add_key("One", dailyLimit=1000, monthlyLimit=0, totalLimit=0)
    slow = start_in_both_workers(product)
    os.kill(seeded().choice(web_workers(product.served)), signal.SIGKILL)
    killed_at = time.monotonic()
    wait_for(lambda: any(one.outcome == "broken" for one in slow), seconds=5, what="broken connections")
    open_holds = holders(product).total()
    slow_hold = rows(product, f"SELECT MAX(hold_nano) FROM llmkeys_usagerecord WHERE key_id = '{key}'")[0][0]
    # Room for what is held and almost one more: a request has to wait for the holds, and never fits beside them.
    limit = open_holds * slow_hold + hold - 1
    product.api("PATCH", f"/keys/{key}", {"dailyLimit": float(nano_to_usd(limit))})
    with closing(product.program()) as program:
        first = program.chat(QUICK)
        assert (first.status, first.code, first.headers["retry-after"]) == (429, "budget_busy", "1")
        wait_for(
            lambda: program.chat(QUICK).status != 0 and product.states(key)["LOST"],
            seconds=LEASE_SECONDS + 20,
            what="the lease ends",
        )
        ended_after = time.monotonic() - killed_at
        # Leases that began later end later: each process renews all of its own at once, every 15 s.
        broken = sum(one.outcome == "broken" for one in slow)
        wait_for(
            lambda: program.chat(QUICK).status != 0 and product.states(key)["LOST"] == broken,
            seconds=20,
            what="the last lease ends",
        )
    for one in slow:
        one.thread.join(60)
    outcomes = Counter(one.outcome for one in slow)
    with capsys.disabled():
        print(f"\n{ended_after:.1f} s after the kill the holds were lost; the slow requests: {dict(outcomes)}")
    assert LEASE_SECONDS - 16 <= ended_after <= LEASE_SECONDS + 15  # renewed every 15 s while it lived
    states = product.states(key)
    assert (states["LOST"], states["HELD"]) == (outcomes["broken"], 0)
    assert outcomes["served"] == len(slow) - outcomes["broken"] > 0
    lost = rows(product, "SELECT id, hold_nano, cost_nano FROM llmkeys_usagerecord WHERE state = 'LOST'")
    assert all(hold == cost > 0 for _, hold, cost in lost)
    for number, _, _ in lost:
        product.api("POST", f"/usage/{number}/void", {"reason": "the provider's bill does not have it"})
    ((held, spent),) = rows(product, f"SELECT held_nano, spent_day_nano FROM llmkeys_apikey WHERE id = '{key}'")
    assert (held, spent) == (0, states["SETTLED"] * COST_NANO)
    assert "The books are right" in product.command("audit")


# --- workers that cannot live ----------------------------------------------------------------------------------------

NO_WORKER_LIVES = """
django.setup()
import os, granian.server.mp
granian.server.mp._asgi_call_wrap = lambda *_: os._exit(9)
"""


def test_it_gives_up_with_one_sentence_where_no_worker_can_start(data_dir):
    """Replacing killed workers for ever is no reason to try for ever what never works."""
    with Served(data_dir, "--no-scheduler", prelude=NO_WORKER_LIVES) as served:
        assert served.process.wait(60) == 1
        assert "The web server could not be started 3 times in a row; giving up." in served.log.read_text()
        assert served.pids() == []
