"""The clock, with real processes: budgets begin anew in their time, a rest ends to the second, late jobs run once."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.flows.product import Product, Reply, chat, run_together
from tests.flows.test_three_keys import Clock
from tests.serving import wait_for

pytestmark = pytest.mark.proof
BODY = chat("[[prompt_tokens=100 completion_tokens=100]]", max_tokens=200)  # 600,000 nano-dollars
# The scheduler's tick, 30 s, ten times as fast. Python's own sleep fails under libfaketime: it names an absolute end.
FAST_TICK = """
import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds)
django.setup()
from django_q import cluster

def guard(self, stock=cluster.Sentinel.guard):
    wait = self.stop_event.wait
    self.stop_event.wait = lambda seconds: wait(seconds / 10)
    stock(self)

cluster.Sentinel.guard = guard
"""
NOON = timedelta(hours=12)


def tenth_of_next_month() -> datetime:
    first = (datetime.now(UTC).replace(day=1) + timedelta(days=32)).replace(hour=0, minute=0, second=0, microsecond=0)
    return first.replace(day=10) + NOON


def first_after(day: datetime) -> datetime:
    return (day.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=1)


class Operator:
    """Looks at the keys through the API, and lets programs use them up."""

    def __init__(self, product: Product, clock: Clock) -> None:
        self.product, self.clock, self.program = product, clock, product.program()

    def move_to(self, at: datetime) -> None:
        """Move the clock of all processes, and wait until they have seen it."""
        self.clock.move(at - self.clock.now())
        threading.Event().wait(2.2)  # libfaketime looks at its file when a whole second has passed

    def statuses(self) -> dict[str, str]:
        return {key["name"]: key["status"] for key in self.product.api("GET", "/keys")}

    def use_up(self) -> Reply:
        while (reply := self.program.chat(BODY)).status == 200:
            pass
        assert (reply.status, reply.code) == (429, "all_keys_at_limit")
        return reply

    def is_served_soon_after(self, end: datetime) -> None:
        """All is refused until the end of the window, and nothing that is asked a second after it."""
        self.move_to(end - timedelta(seconds=15))
        assert self.use_up().status == 429 and self.clock.now() < end
        refused: list[datetime] = []

        def is_served() -> bool:
            begun = self.clock.now()
            if self.program.chat(BODY).status == 200:
                return True
            refused.append(begun)
            return False

        wait_for(is_served, seconds=25, what=f"served from {end} on")
        assert self.clock.now() >= end >= max(refused, default=end) - timedelta(seconds=1)


def names_and_figures(product: Product) -> dict[str, tuple[str, bool]]:
    """Return each key's status and whether its costs of the day are 0."""
    return {key["name"]: (key["status"], key["currentDailyCost"] == 0) for key in product.api("GET", "/keys")}


def task_runs(data_dir: Path) -> Counter[str]:
    with closing(sqlite3.connect(data_dir / "llmkeys.sqlite3")) as database:
        rows = database.execute("SELECT func, success FROM django_q_task").fetchall()
    assert all(success for _, success in rows), rows
    return Counter(func.rpartition(".")[2] for func, _ in rows)


def late_jobs_are_done(data_dir: Path, now: datetime) -> bool:
    """Every schedule has its next run ahead, and no task waits."""
    with closing(sqlite3.connect(data_dir / "llmkeys.sqlite3")) as database:
        query = "SELECT (SELECT COUNT(*) FROM django_q_schedule WHERE next_run < ?), COUNT(*) FROM django_q_ormq"
        return database.execute(query, [f"{now:%Y-%m-%d %H:%M:00}"]).fetchone() == (0, 0)


@pytest.mark.long_wait
def test_each_budget_begins_anew_in_its_time_and_late_jobs_run_once(data_dir, simulator, tmp_path):
    clock = Clock(tmp_path / "clock")
    noon = tenth_of_next_month()
    clock.move(noon - clock.now())
    more = clock.environment() | {"REFACTAI_TIME_ZONE": "UTC"}
    with Product(data_dir, simulator, "--no-scheduler", **more) as product:
        no_limit = {"dailyLimit": 0, "monthlyLimit": 0, "totalLimit": 0}
        for name, limit in (("Day", "dailyLimit"), ("Month", "monthlyLimit"), ("Total", "totalLimit")):
            product.add_key(name, **no_limit | {limit: 0.0025})
        operator = Operator(product, clock)
        operator.use_up()
        assert set(operator.statuses().values()) == {"LIMIT_REACHED"}

        midnight = noon + NOON
        operator.is_served_soon_after(midnight)
        assert operator.statuses() == {"Day": "ACTIVE", "Month": "LIMIT_REACHED", "Total": "LIMIT_REACHED"}

        first = first_after(midnight)
        operator.is_served_soon_after(first)
        assert operator.statuses() == {"Day": "ACTIVE", "Month": "ACTIVE", "Total": "LIMIT_REACHED"}

        operator.use_up()
        operator.move_to(first + timedelta(days=3) + NOON)
        assert operator.statuses() == {"Day": "ACTIVE", "Month": "LIMIT_REACHED", "Total": "LIMIT_REACHED"}
        assert {key["currentDailyCost"] for key in product.api("GET", "/keys")} == {0}
        assert operator.program.chat(BODY).status == 200
        assert task_runs(data_dir) == {}  # all of this without a job
        assert "The books are right" in product.command("audit")
        before = names_and_figures(product)
        assert product.served.stop() == 0

    with Product(data_dir, simulator, prelude=FAST_TICK, **more) as product:
        wait_for(lambda: late_jobs_are_done(data_dir, clock.now()), what="the late jobs are done")
        runs = task_runs(data_dir)
        assert len(runs) >= 8 and set(runs.values()) == {1}, runs
        assert names_and_figures(product) == before
        assert product.served.stop() == 0


LIMITED_SECONDS = 7


@pytest.mark.long_wait
def test_it_lets_a_limited_key_rest_then_asks_once_then_goes_on(data_dir, simulator, database):
    """The provider's first answer is a 429 with Retry-After 7; two keys of one account share the limit."""
    with Product(data_dir, simulator, "--no-scheduler", **database) as product, closing(product.program()) as program:
        product.add_key("Limited", ending="429x1", billingGroup="team")
        product.add_key("Other", billingGroup="team")
        refusal = program.chat(BODY)
        begun = time.monotonic()
        assert (refusal.status, refusal.code, refusal.headers["retry-after"]) == (503, "all_keys_cooling", "7")
        while time.monotonic() < begun + LIMITED_SECONDS - 3:
            assert program.chat(BODY).code == "all_keys_cooling"
            threading.Event().wait(0.2)
        assert len(simulator.journal()) == 1

        threading.Event().wait(max(0.0, begun + LIMITED_SECONDS + 0.1 - time.monotonic()))
        slow, replies = chat("[[delay_ms=900]]", max_tokens=20), []

        def ask(_: int) -> None:
            with closing(product.program()) as mine:
                replies.append(mine.chat(slow).status)

        run_together(8, ask)
        assert replies == [200] * 8
        probe, *others = (datetime.fromisoformat(entry["time"]) for entry in simulator.journal()[1:])
        assert len(others) == 7 and min(others) - probe >= timedelta(milliseconds=900), "one asks, the others wait"
        assert max(others) - min(others) < timedelta(seconds=3), "then all go at once"
        assert "The books are right" in product.command("audit")
