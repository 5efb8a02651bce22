"""Limits on access tokens and keys at once, two servers on one database: neither is ever above, whatever is killed.

In `make proof` with more room, more kills, and the turn of a real minute.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llmkeys.lib.money import nano_to_usd
from llmkeys.lib.windows import WINDOWS
from llmkeys.simulator.thread import SimulatorThread
from llmkeys.vault.crypto import new_master_key
from tests.flows.crowd import Said, ask
from tests.flows.product import Product, Program, chat, run_together
from tests.flows.scale import seeded, size
from tests.flows.test_killed_worker import SETTLE, end_all_leases, web_workers
from tests.postgres import new_database
from tests.serving import wait_for

pytestmark = pytest.mark.proof
PROGRAMS, ACCOUNTS = 64, 8
ROOM_FOR = size("ROOM_FOR", short=6, long=60)  # requests, of each key; a token has a little more
KILLS = size("KILLS", short=6, long=50)
PACE = 60
COST_NANO = 600_000  # 100 tokens in and 100 out of claude-haiku-4.5: 100 × $1 + 100 × $5 a million
BODY = chat("[[prompt_tokens=100 completion_tokens=100 delay_ms=30]]", max_tokens=2000)
LIMITS = ("dailyLimit", "monthlyLimit", "totalLimit")
FULL = ("token_at_limit", "all_keys_at_limit")


@dataclass
class Site:
    """Two servers, and what `BODY` holds at either."""

    servers: list[Product]
    hold: int


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def site(request, tmp_path_factory) -> Iterator[Site]:
    """Each has a data directory of its own; the database and the master key are one. The first has the scheduler."""
    path: Path = tmp_path_factory.mktemp("servers")
    for name in ("first", "second"):  # where each one's output is written, beside its data
        (path / name).mkdir()
    with ExitStack() as stack:
        url = f"sqlite:///{path}/shared.sqlite3"
        if request.param == "postgres":
            url = stack.enter_context(new_database(request.getfixturevalue("postgres_server")))
        simulator = stack.enter_context(SimulatorThread())
        shared = {"DATABASE_URL": url, "REFACTAI_ENCRYPTION_KEYS": new_master_key()}
        first = stack.enter_context(Product(path / "first" / "data", simulator, **shared))
        second = stack.enter_context(Product(path / "second" / "data", simulator, "--no-scheduler", **shared))
        hold, cost = first.probe(BODY)
        assert cost == COST_NANO < hold
        yield Site([first, second], hold)


_ACCOUNTS = " UNION ALL ".join(
    f"SELECT '{table}', CAST(id AS TEXT), held_nano, "
    + ", ".join(f"{window.spent}, {window.limit}" for window in WINDOWS)
    + f" FROM llmkeys_{table} WHERE {' + '.join(window.limit for window in WINDOWS)} > 0"
    for table in ("apikey", "accesstoken")
)


@dataclass
class Watch:
    """Looks at all limited accounts every few milliseconds, each look one statement, and keeps what was above."""

    product: Product
    looks: int = 0
    above: list[tuple] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _look(self) -> None:
        with self.product.books as books:
            while not self._stop.wait(0.004):
                self.above += [row for row in books.rows(_ACCOUNTS) if room(row) < 0 or row[2] < 0]
                self.looks += 1


def room(row: tuple) -> int:
    """Return what the tightest of its limits leaves."""
    _, _, held, *pairs = row
    return min(limit - spent - held for spent, limit in zip(pairs[::2], pairs[1::2], strict=True) if limit)


@dataclass
class Account:
    """A token, and the ids of the keys that it may use."""

    id: str
    text: str
    keys: set[str]


def make_accounts(site: Site, *, room_for: int, name: str) -> list[Account]:
    """Store eight keys and eight tokens with three limits each, another one of them the tightest in turn.

    Every other token may use three of the keys only, which are others' too, and has more room than they; the rest of
    the tokens has less.
    """
    product = site.servers[0]

    def limits(number: int, requests: int) -> dict[str, float]:
        tightest = (requests - 1) * COST_NANO + site.hold
        return {
            field: float(nano_to_usd(tightest + (0 if place == number % 3 else COST_NANO)))
            for place, field in enumerate(LIMITS)
        }

    keys = [product.add_key(f"{name} {n}", **limits(n, room_for)) for n in range(ACCOUNTS)]
    made = []
    for n in range(ACCOUNTS):
        allowed = {keys[(n + step) % ACCOUNTS] for step in (0, 1, 3)} if n % 2 else set(keys)
        own = limits(n + 1, 2 * room_for if n % 2 else room_for // 2)
        token = product.api("POST", "/tokens", {"name": f"{name} {n}", "keyIds": sorted(allowed), **own})
        made.append(Account(str(token["id"]), token["token"], allowed))
    return made


def program(site: Site, number: int, tokens: list[Account]) -> Program:
    return Program(site.servers[number % 2].served.port, tokens[number // 2 % ACCOUNTS].text)


def test_neither_keys_nor_tokens_are_ever_above_a_limit(site, capsys):
    first = site.servers[0]
    tokens = make_accounts(site, room_for=ROOM_FOR, name="capped")
    told: Counter[str] = Counter()

    def work(number: int) -> None:
        with closing(program(site, number, tokens)) as mine:
            said = Said(0, 0)
            while said.code not in FULL:
                said = ask(mine, BODY)
                told[said.code or str(said.status)] += 1
                assert said.status == 200 or said.code in ("budget_busy", *FULL), said

    with Watch(first) as watch:
        run_together(PROGRAMS, work)
    with first.books as books:
        left = {(row[0], row[1]): room(row) for row in books.rows(_ACCOUNTS)}
        states = dict(
            books.rows("SELECT state, COUNT(*) FROM llmkeys_usagerecord WHERE token_name LIKE 'capped%' GROUP BY 1")
        )
    with capsys.disabled():
        print(f"\n{dict(told)}; {watch.looks} looks")
    assert watch.above == [] and watch.looks > 50
    assert states == {"SETTLED": told["200"]}
    assert told["token_at_limit"] and told["all_keys_at_limit"], "only one kind was full: this proves less"
    for token in tokens:
        most = max(left["apikey", key] for key in token.keys)
        assert min(left["accesstoken", token.id], most) < site.hold, "room was left unused"
    assert all("The books are right" in server.command("audit") for server in site.servers)


def test_kills_leave_no_hold_open_on_either(site, capsys):
    first = site.servers[0]
    tokens = make_accounts(site, room_for=2000, name="killed")
    told: Counter[str] = Counter()
    stop, chance = threading.Event(), seeded()

    def work(number: int) -> None:
        with closing(program(site, number, tokens)) as mine:
            while not stop.is_set():
                said = ask(mine, BODY)
                told[said.code or str(said.status)] += 1
                if said.status != 200:
                    stop.wait(0.05)

    def kill(_: int) -> None:
        try:
            for number in range(KILLS):
                served = 20 * (number + 1)
                wait_for(lambda served=served: told["200"] > served, what="traffic")
                os.kill(chance.choice(web_workers(site.servers[number % 2].served)), signal.SIGKILL)
        finally:
            stop.set()

    with Watch(first) as watch:
        run_together(17, lambda number: work(number) if number else kill(number))
    wait_for(lambda: first.simulator.summary()["inFlight"] == 0, what="the provider is idle")
    left = end_all_leases(first)
    first.command("shell", "-v", "0", "-c", SETTLE)
    with first.books as books:
        held = [books.rows(f"SELECT SUM(held_nano) FROM llmkeys_{table}") for table in ("apikey", "accesstoken")]
        states = dict(books.rows("SELECT state, COUNT(*) FROM llmkeys_usagerecord GROUP BY 1"))
    with capsys.disabled():
        print(f"\n{KILLS} kills: {dict(told)}; {left} holds left open; {states}")
    assert [int(amount) for ((amount,),) in held] == [0, 0] and "HELD" not in states
    assert watch.above == []
    assert not [code for code in told if code not in ("200", "0", "budget_busy")], told
    assert all("The books are right" in server.command("audit") for server in site.servers)


def test_sixty_requests_of_a_minute_and_not_one_more(site, capsys):
    first = site.servers[0]
    key = first.add_key("Paced", dailyLimit=0, monthlyLimit=0, totalLimit=0)
    token = first.api("POST", "/tokens", {"name": "paced", "keyIds": [key], "requestsPerMinute": PACE})["token"]
    before = len(first.simulator.journal())
    answers: list[tuple[Said, float, float]] = []

    def burst() -> None:
        begin = threading.Barrier(PACE + 1)

        def one(number: int) -> None:
            with closing(Program(site.servers[number % 2].served.port, token)) as program:
                begin.wait(30)
                asked_at = time.time()
                answers.append((ask(program, BODY), asked_at, time.time()))

        answers.clear()
        run_together(PACE + 1, one)

    wait_for(lambda: time.time() % 60 < 40, seconds=25, what="a minute with time left")
    turns = 2 if os.environ.get("PROOF") else 1
    for turn in range(turns):
        burst()
        ((refused, asked_at, answered_at),) = [answer for answer in answers if answer[0].status != 200]
        assert (refused.status, refused.code) == (429, "too_many_requests"), refused
        end_of_the_minute = asked_at - asked_at % 60 + 60
        assert end_of_the_minute - answered_at <= int(refused.retry_after) <= end_of_the_minute - asked_at + 1
        if turn + 1 < turns:
            threading.Event().wait(int(refused.retry_after))
    with capsys.disabled():
        print(f"\n{turns} minutes of {PACE}: {refused.message}")
    assert len(first.simulator.journal()) - before == turns * PACE
    assert "The books are right" in first.command("audit")
