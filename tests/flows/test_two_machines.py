"""Two machines on one PostgreSQL: one budget, one set of books, and one that goes on when the other is gone."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from django.conf import settings

from llmkeys.lib.money import nano_to_usd
from llmkeys.simulator.thread import SimulatorThread
from llmkeys.vault.crypto import new_master_key
from tests.flows.crowd import Crowd, Said, ask
from tests.flows.product import Product, Program, Sampler, chat, run_together
from tests.flows.scale import size
from tests.serving import wait_for

pytestmark = pytest.mark.proof
PROGRAMS = size("PROGRAMS", short=16, long=64)
ROOM_FOR = size("ROOM_FOR", short=60, long=600)
SHARED = 8  # keys, and access tokens, each of which three of the keys serve
SECONDS = size("SECONDS", short=5, long=60)
LONGEST_WAIT_SECONDS = 2
IN_FLIGHT = 6
WORKERS = 2  # web processes of each machine
COST_NANO = 600_000  # 100 tokens in and 100 out of claude-haiku-4.5: 100 × $1 + 100 × $5 a million
BODY = chat("[[prompt_tokens=100 completion_tokens=100 delay_ms=30]]", max_tokens=2000)
SLOW = chat("[[prompt_tokens=100 completion_tokens=100 delay_ms=60000]]", max_tokens=2000)


@pytest.fixture
def machines(tmp_path: Path, simulator: SimulatorThread, postgres_url: str) -> Iterator[list[Product]]:
    """Each has a data directory of its own; the database and the master key are one. The first has the scheduler."""
    shared = {"DATABASE_URL": postgres_url, "REFACTAI_ENCRYPTION_KEYS": new_master_key()}
    with ExitStack() as stack:
        first = stack.enter_context(Product(tmp_path / "first" / "data", simulator, **shared))
        second = stack.enter_context(Product(tmp_path / "second" / "data", simulator, "--no-scheduler", **shared))
        yield [first, second]


@pytest.fixture(autouse=True)
def _directories(tmp_path: Path) -> None:
    for name in ("first", "second"):  # where each one's output is written, beside its data
        (tmp_path / name).mkdir()


def rows(product: Product, query: str) -> list[tuple]:
    with product.books as books:
        return books.rows(query)


def of_key(product: Product, key: str) -> tuple[int, int]:
    """Return what is spent and what is held."""
    ((spent, held),) = rows(product, f"SELECT spent_day_nano, held_nano FROM llmkeys_apikey WHERE id = '{key}'")
    return spent, held


def ask_until_told_the_limit(product: Product, told: Counter[tuple[int, str]]) -> None:
    with closing(product.program()) as program:
        said = Said(0, 0)
        while said.code != "all_keys_at_limit":
            said = ask(program, BODY)
            told[product.served.port, said.code or "served"] += said.status in (200, 429)
            assert said.status == 200 or said.code in ("budget_busy", "all_keys_at_limit"), said


def test_they_serve_exactly_what_one_budget_has_room_for(machines, capsys):
    first, second = machines
    hold, cost = first.probe(BODY)
    assert cost == COST_NANO < hold
    limit = (ROOM_FOR - 1) * cost + hold
    key = first.add_key("One", dailyLimit=float(nano_to_usd(limit)), monthlyLimit=0, totalLimit=0)
    told: Counter[tuple[int, str]] = Counter()
    with Sampler(first) as sampler:
        run_together(PROGRAMS, lambda number: ask_until_told_the_limit(machines[number % 2], told))
    with capsys.disabled():
        print(f"\n{dict(told)}; {sampler.looks} looks, most held at once: {sampler.most_held // hold} requests")
    served = [told[machine.served.port, "served"] for machine in machines]
    assert sum(served) == ROOM_FOR and min(served) > 0
    assert first.states(key) == {"SETTLED": ROOM_FOR}
    assert of_key(second, key) == (ROOM_FOR * cost, 0)
    assert sampler.broken == []
    assert len(first.simulator.journal()) == ROOM_FOR + 1  # and the probe
    assert all("The books are right" in machine.command("audit") for machine in machines)


@pytest.mark.alone
def test_many_keys_and_tokens_share_the_database_without_a_refusal(machines, capsys):
    """Each token's keys are others' too, in another order: groups that lock rows as they come would deadlock."""
    first = machines[0]
    keys = [first.add_key(f"Key {number}", dailyLimit=1000, monthlyLimit=0, totalLimit=0) for number in range(SHARED)]
    allowed = [{keys[(number + step) % SHARED] for step in (0, 1, 3)} for number in range(SHARED)]
    tokens = [
        first.api("POST", "/tokens", {"name": f"token-{number}", "keyIds": sorted(its_keys)})["token"]
        for number, its_keys in enumerate(allowed)
    ]
    until, seconds, statuses = time.monotonic() + SECONDS, [], Counter()

    def work(number: int) -> None:
        port = machines[number % 2].served.port
        with closing(Program(port, tokens[number // 2 % SHARED])) as program:
            while time.monotonic() < until:
                said = ask(program, BODY)
                statuses[said.status, said.code] += 1
                seconds.append(said.seconds)

    run_together(PROGRAMS, work)
    with capsys.disabled():
        print(f"\n{dict(statuses)} in {SECONDS} s; the slowest after {max(seconds):.2f} s")
    assert statuses.keys() == {(200, "")}
    assert max(seconds) < LONGEST_WAIT_SECONDS
    served = rows(first, "SELECT token_name, key_id, state, cost_nano FROM llmkeys_usagerecord")
    assert len(served) == statuses[200, ""] == len(first.simulator.journal())
    assert {(state, cost) for _, _, state, cost in served} == {("SETTLED", COST_NANO)}
    by_token = {name: {key for one, key, _, _ in served if one == name} for name, *_ in served}
    assert len(by_token) == min(SHARED, PROGRAMS // 2)
    assert all(by_token[f"token-{number}"] <= allowed[number] for number in range(len(by_token)))
    assert len(set.union(*by_token.values())) > 2, "the tokens met on one key: this proves less than it should"
    assert all("The books are right" in machine.command("audit") for machine in machines)


def test_one_settles_what_the_other_left_when_it_died(machines):
    first, second = machines
    hold, _ = first.probe(BODY)
    key = first.add_key("One", dailyLimit=1000, monthlyLimit=0, totalLimit=0)
    broken = leave_in_flight(second, key)  # before others ask, whose requests would be counted as these
    with Crowd([first], count=4) as crowd:
        second.served.process.kill()  # and with it all its processes
        wait_for(lambda: not second.served.pids(), what="the machine is gone")
        for thread in broken:
            thread.join(30)
        crowd.is_served()
    assert crowd.refused() == []
    wait_for(lambda: first.states(key)["HELD"] == IN_FLIGHT, what="only the dead machine's holds are open")
    spent, held = of_key(first, key)
    # Room for all that is held and almost one more: whoever asks meets the holds of the dead.
    first.api("PATCH", f"/keys/{key}", {"dailyLimit": float(nano_to_usd(spent + held + hold - 1))})
    with closing(first.program()) as program:
        assert ask(program, BODY).code == "budget_busy"
        end_leases(first)
        assert ask(program, BODY).code == "all_keys_at_limit"
        assert first.states(key)["LOST"] == IN_FLIGHT
        assert of_key(first, key) == (spent + held, 0)
        assert "The books are right" in first.command("audit")
        first.command("void", "--lost", "--yes")
        assert of_key(first, key) == (spent, 0)
        assert ask(program, BODY).status == 200
    assert "The books are right" in first.command("audit")


def leave_in_flight(product: Product, key: str) -> list[threading.Thread]:
    """Start requests that the provider answers in a minute, and return when each has its hold."""

    def slow() -> None:
        with closing(product.program()) as program, pytest.raises((OSError, http.client.HTTPException)):
            program.chat(SLOW)

    threads = [threading.Thread(target=slow) for _ in range(IN_FLIGHT)]
    for thread in threads:
        thread.start()
    journal = product.simulator.journal
    wait_for(lambda: sum(not entry["completed"] for entry in journal()) >= IN_FLIGHT, what="requests in flight")
    return threads


def end_leases(product: Product) -> None:
    """Move the ends of the leases that nobody renews into the past, so that the test need not wait a minute."""
    with product.books.writing() as books:
        books.change("UPDATE llmkeys_usagerecord SET lease_until = '2020-01-01 00:00:00+00' WHERE state = 'HELD'")


def test_a_machine_has_no_more_connections_than_it_may(machines, capsys):
    """Many threads wait for a provider, others read long lists: none keeps a connection that it does not use."""
    first = machines[0]
    first.add_key("One", dailyLimit=0, monthlyLimit=0, totalLimit=0)
    web = WORKERS * (settings.POSTGRES_POOL["max_size"] + 1)
    # Longer than anyone waits for a connection, in more threads than there are connections.
    slow = chat("[[prompt_tokens=10 completion_tokens=10 delay_ms=4000]]", max_tokens=20)
    waiting = 2 * WORKERS * (settings.POSTGRES_POOL["max_size"] + 6)

    def work(number: int) -> None:
        product = machines[number % 2]
        if number >= waiting:
            return read_lists(product)
        with closing(product.program()) as program:
            said = ask(program, slow)
        assert said.status == 200, said

    run_together(waiting + 8, work)
    ((kept,),) = rows(
        first,
        """SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
              AND backend_type = 'client backend'""",
    )
    with capsys.disabled():
        print(f"\n{waiting} requests at once: {kept} connections, {2 * web + 8} are allowed")
    assert kept <= 2 * web + 8  # and the scheduler's and `serve`'s own


def read_lists(product: Product) -> None:
    with closing(product.program()) as program:
        for path in ("/api/llm/keys", "/api/llm/usage?format=csv", "/v1/models", "/metrics", "/readyz", "/login"):
            assert program.call("GET", path).status == 200, path
