"""64 programs, two web processes, one key with room for exactly 100 requests: never a cent more, never one less.

In `make proof` with room for 1,000.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from llmkeys.lib.money import nano_to_usd
from llmkeys.simulator.thread import SimulatorThread
from tests.bench.load import percentile
from tests.flows.product import Product, Reply, Sampler, chat, run_together
from tests.flows.scale import size

pytestmark = [pytest.mark.proof, pytest.mark.alone]
PROGRAMS = size("PROGRAMS", short=64, long=64)
ROOM_FOR = size("ROOM_FOR", short=100, long=1000)
PROVIDER_MS = 100
ROOMY_REQUESTS = size("REQUESTS", short=640, long=20_000)
SLOWEST_SECONDS = 1.0
# The hold is some twenty times the cost: few fit in at once, and most programs have to come back.
# 100 tokens in and 100 out of claude-haiku-4.5: 100 × 1 + 100 × 5 = 600 millionths of a dollar.
BODY = chat(f"[[prompt_tokens=100 completion_tokens=100 delay_ms={PROVIDER_MS}]]", max_tokens=2000)
COST_NANO = 600_000


@dataclass
class Tally:
    """What all programs together were told."""

    served: list[tuple[str, float, float]] = field(default_factory=list)  # request id, begin, end of the last try
    codes: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, reply: Reply, begin: float, end: float) -> str:
        """Return "served", or the error's code."""
        code = "served" if reply.status == 200 else reply.code
        with self.lock:
            self.codes[code] = self.codes.get(code, 0) + 1
            if code == "served":
                self.served.append((reply.headers["x-llm-request-id"], begin, end))
        assert reply.status < 500, (reply.status, reply.body)
        return code


def ask(program: Any, tally: Tally) -> tuple[str, Reply]:
    begin = time.time()
    reply = program.chat(BODY)
    return tally.note(reply, begin, time.time()), reply


def ask_until_told_the_limit(product: Product, tally: Tally) -> None:
    """One program: asks again and again; where only others' holds stand in the way it comes back as it is told."""
    with closing(product.program()) as program:
        while True:
            code, reply = ask(program, tally)
            if code == "budget_busy":
                threading.Event().wait(float(reply.headers["retry-after"]))
            elif code != "served":
                assert code == "all_keys_at_limit"
                return


def instant(value: Any) -> float:
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def seconds_beside_the_provider(product: Product, tally: Tally) -> list[float]:
    """How long each served request took from its admission to its last byte, without the provider's own time."""
    with product.books as books:
        admitted = dict(books.rows("SELECT request_id, created_at FROM llmkeys_usagerecord"))
    return [end - instant(admitted[request]) - PROVIDER_MS / 1000 for request, _, end in tally.served]


@pytest.fixture
def product(data_dir, simulator: SimulatorThread, database):
    with Product(data_dir, simulator, "--workers", "2", **database) as running:
        yield running


def report(name: str, seconds: list[float]) -> None:
    figures = ", ".join(f"p{100 * share:.0f} {1000 * percentile(seconds, share):.0f} ms" for share in (0.5, 0.9, 0.99))
    print(f"{name}: {len(seconds)} served; beside the provider's {PROVIDER_MS} ms: {figures}")


def test_it_serves_exactly_what_the_budget_has_room_for(product, capsys):
    hold, cost = product.probe(BODY)
    assert cost == COST_NANO < hold
    limit = (ROOM_FOR - 1) * cost + hold
    key = product.add_key("One", dailyLimit=float(nano_to_usd(limit)), monthlyLimit=0, totalLimit=0)
    tally = Tally()
    with Sampler(product) as sampler:
        run_together(PROGRAMS, lambda _: ask_until_told_the_limit(product, tally))
    with product.books as books:
        ((stored_limit, spent, held),) = books.rows(
            f"SELECT daily_limit_nano, spent_day_nano, held_nano FROM llmkeys_apikey WHERE id = '{key}'"
        )
        states = dict(books.rows(f"SELECT state, COUNT(*) FROM llmkeys_usagerecord WHERE key_id = '{key}' GROUP BY 1"))
    seconds = seconds_beside_the_provider(product, tally)
    with capsys.disabled():
        report(f"\none key full to the brim (hold {hold}, cost {cost} nano-dollars)", seconds)
        print(f"told: {tally.codes}; {sampler.looks} looks, most held at once: {sampler.most_held // hold} requests")
    assert (stored_limit, spent, held) == (limit, ROOM_FOR * cost, 0)
    assert states == {"SETTLED": ROOM_FOR} and tally.codes["served"] == ROOM_FOR
    assert tally.codes["budget_busy"] > 0, "nobody had to wait: this proves less than it should"
    assert sampler.looks > 50 and sampler.broken == []
    assert percentile(seconds, 0.99) < SLOWEST_SECONDS
    assert len(product.simulator.journal()) == ROOM_FOR + 1  # and the probe: nothing was sent that was not recorded
    assert "The books are right" in product.command("audit")


def test_it_answers_64_programs_at_once_without_delay(product, capsys):
    """With room for all: from the first byte of the request to the last of the answer, nothing left out."""
    product.add_key("Roomy", dailyLimit=1000, monthlyLimit=0, totalLimit=0)
    tally, left = Tally(), iter(range(ROOMY_REQUESTS))

    def work(_: int) -> None:
        with closing(product.program()) as program:
            for _turn in left:
                assert ask(program, tally)[0] == "served"

    begin = time.time()
    with Sampler(product) as sampler:
        run_together(PROGRAMS, work)
    duration = time.time() - begin
    seconds = [end - begin - PROVIDER_MS / 1000 for _, begin, end in tally.served]
    with capsys.disabled():
        report(f"\nroom for all, {ROOMY_REQUESTS / duration:.0f} requests/s", seconds)
    assert tally.codes == {"served": ROOMY_REQUESTS} and sampler.broken == []
    assert percentile(seconds, 0.99) < SLOWEST_SECONDS
    with product.books as books:
        ((count, cost),) = books.rows("SELECT COUNT(*), SUM(cost_nano) FROM llmkeys_usagerecord WHERE state='SETTLED'")
    assert (count, int(cost)) == (ROOMY_REQUESTS, ROOMY_REQUESTS * COST_NANO)
    assert "The books are right" in product.command("audit")
