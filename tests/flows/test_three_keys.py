"""Three keys with small daily limits: one is used until it is full, then the next; at midnight all serve again."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from llmkeys.lib.money import nano_to_usd
from llmkeys.simulator.thread import SimulatorThread
from tests.flows.product import Product, Program, Reply, Sampler, chat, run_together
from tests.serving import far_from_midnight, wait_for

# 100 tokens in and 100 out of claude-haiku-4.5: 100 × $1 + 100 × $5 a million.
BODY = chat("[[prompt_tokens=100 completion_tokens=100]]", max_tokens=200)
COST_NANO = 600_000
NAMES = ("First", "Second", "Third")
LIMITS_NANO = (5_000_000, 6_500_000, 4_000_000)


def seconds_to_midnight(zone: str, now: datetime) -> int:
    local = now.astimezone(ZoneInfo(zone))
    tomorrow = (local + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return math.ceil(tomorrow.timestamp() - now.timestamp())


def seconds_since_midnight(zone: str, now: datetime) -> float:
    local = now.astimezone(ZoneInfo(zone))
    return now.timestamp() - local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def add_three_keys(product: Product) -> dict[str, str]:
    """Return name by id; the first added is the default, the others follow by age."""
    return {
        product.add_key(name, dailyLimit=float(nano_to_usd(limit)), monthlyLimit=0, totalLimit=0): name
        for name, limit in zip(NAMES, LIMITS_NANO, strict=True)
    }


def use_up(program: Program, served_by: list[str]) -> Reply:
    """Send one request after the other until one is refused; note who served, return the refusal."""
    while True:
        reply = program.chat(BODY)
        if reply.status != 200:
            return reply
        served_by.append(reply.headers["x-llm-key-id"])


def counters(product: Product) -> dict[str, tuple[int, int, int]]:
    """Return spent today, held and limit by the key's name."""
    with product.books as books:
        rows = books.rows("SELECT name, spent_day_nano, held_nano, daily_limit_nano FROM llmkeys_apikey")
    return {name: figures for name, *figures in rows}


def hold_of(product: Product) -> int:
    with product.books as books:
        return books.rows("SELECT MAX(hold_nano) FROM llmkeys_usagerecord")[0][0]


def assert_all_full(product: Product) -> None:
    """Nothing above the limit, nothing held, and less left than one request may cost."""
    hold = hold_of(product)
    for name, (spent, held, limit) in counters(product).items():
        assert spent <= limit and held == 0, name
        assert limit - spent < hold, f"{name} could have served one more"


def assert_told_the_limit(refusal: Reply, seconds: int) -> None:
    assert (refusal.status, refusal.code) == (429, "all_keys_at_limit")
    assert refusal.headers["x-should-retry"] == "false"
    assert refusal.json["error"]["message"].startswith("All keys have reached their limits")
    assert abs(int(refusal.headers["retry-after"]) - seconds) <= 2


def assert_no_job_ran(product: Product) -> None:
    with product.books as books:
        assert books.rows("SELECT COUNT(*) FROM django_q_task") == [(0,)]


@pytest.fixture
def zone() -> str:
    return far_from_midnight()


@pytest.fixture
def product(data_dir, simulator: SimulatorThread, zone):
    with Product(data_dir, simulator, "--no-scheduler", REFACTAI_TIME_ZONE=zone) as running:
        yield running


def test_it_uses_one_key_after_the_other_until_all_are_full(product, zone, capsys):
    names, served_by = add_three_keys(product), []
    with Sampler(product) as sampler, closing(product.program()) as program:
        refusal = use_up(program, served_by)
        assert_told_the_limit(refusal, seconds_to_midnight(zone, datetime.now(UTC)))
    turns = [(names[key], len(list(group))) for key, group in groupby(served_by)]
    with capsys.disabled():
        print(f"\nserved by {turns}; {counters(product)}; hold {hold_of(product)}; {sampler.looks} looks")
    assert [name for name, _ in turns] == list(NAMES)
    assert sampler.broken == []
    assert_all_full(product)
    assert {name: figures[0] for name, figures in counters(product).items()} == {
        name: count * COST_NANO for name, count in turns
    }
    assert {key["status"] for key in product.api("GET", "/keys")} == {"LIMIT_REACHED"}
    rotations = [event["message"] for event in product.api("GET", "/events")["results"] if event["kind"] == "rotated"]
    assert len(rotations) == 2, rotations
    assert "The books are right" in product.command("audit")


def test_it_fills_all_keys_to_the_brim_under_many_programs(product):
    names, served_by = add_three_keys(product), []

    def work(_: int) -> None:
        with closing(product.program()) as program:
            while use_up(program, served_by).code == "budget_busy":
                pass

    with Sampler(product) as sampler:
        run_together(16, work)
    assert sampler.broken == [] and set(served_by) == set(names)
    assert_all_full(product)
    assert "The books are right" in product.command("audit")


# --- midnight ---------------------------------------------------------------------------------------------------------


def shift_clock_library() -> str:
    """The library that shifts a process's clock, or a skip that says what to install."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed (on Debian: the package faketime); the next test moves the day back")
    return str(found[0])


class Clock:
    """The clock of a whole process tree, moved while it runs: libfaketime reads the file again every second."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._shift = 0.0
        self.move(timedelta(0))

    def move(self, by: timedelta) -> None:
        self._shift += by.total_seconds()
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{self._shift:+.3f}\n")
        beside.replace(self._file)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._shift)

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": shift_clock_library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # waits and timeouts go by the real one
            "NO_FAKE_STAT": "1",
        }


def test_it_serves_again_from_midnight_on_by_the_clock_alone(data_dir, simulator, tmp_path, zone, capsys):
    """The same processes before and after midnight; no scheduler, no restart."""
    clock = Clock(tmp_path / "clock")
    more = clock.environment() | {"REFACTAI_TIME_ZONE": zone}
    with Product(data_dir, simulator, "--no-scheduler", **more) as product, closing(product.program()) as program:
        names, before, after = add_three_keys(product), [], []
        assert_told_the_limit(use_up(program, before), seconds_to_midnight(zone, clock.now()))
        workers = product.served.pids()
        clock.move(timedelta(seconds=seconds_to_midnight(zone, clock.now()) - 4))
        wait_for(lambda: int(program.chat(BODY).headers.get("retry-after", 0)) <= 4, seconds=5, what="the clock moved")
        assert_told_the_limit(program.chat(BODY), seconds_to_midnight(zone, clock.now()))
        reopened = wait_for(lambda: (reply := program.chat(BODY)).status == 200 and reply, seconds=15, what="midnight")
        late = seconds_since_midnight(zone, clock.now())
        with capsys.disabled():
            print(f"\nserved again {late:.1f} s after midnight, {len(before)} requests on the day before")
        assert late <= 2
        after.append(reopened.headers["x-llm-key-id"])
        assert_told_the_limit(use_up(program, after), seconds_to_midnight(zone, clock.now()))
        assert product.served.pids() == workers
        assert after == before and [names[key] for key, _ in groupby(after)] == list(NAMES)
        assert_all_full(product)
        assert_no_job_ran(product)
        assert "The books are right" in product.command("audit")


_YESTERDAY = """
UPDATE llmkeys_apikey SET day = date(day, '-1 day'), month = date(day, '-1 day', 'start of month'),
  refused_day = date(refused_day, '-1 day');
UPDATE llmkeys_accesstoken SET day = date(day, '-1 day'), month = date(day, '-1 day', 'start of month'),
  refused_day = date(refused_day, '-1 day');
UPDATE llmkeys_usagerecord SET day = date(day, '-1 day'), month = date(day, '-1 day', 'start of month');
UPDATE llmkeys_dailyusage SET day = date(day, '-1 day');
"""


def test_it_serves_again_on_the_next_day(data_dir, simulator, zone):
    """All that was written is moved one day back, which is the same as a clock that moved on by one."""
    names, before, after = {}, [], []
    arguments, more = ("--no-scheduler",), {"REFACTAI_TIME_ZONE": zone}
    with Product(data_dir, simulator, *arguments, **more) as product, closing(product.program()) as program:
        names = add_three_keys(product)
        use_up(program, before)
        assert product.served.stop() == 0
    with closing(sqlite3.connect(data_dir / "llmkeys.sqlite3")) as database, database:
        database.executescript(_YESTERDAY)
    with Product(data_dir, simulator, *arguments, **more) as product, closing(product.program()) as program:
        assert {key["status"] for key in product.api("GET", "/keys")} == {"ACTIVE"}
        assert {key["currentDailyCost"] for key in product.api("GET", "/keys")} == {0}
        assert_told_the_limit(use_up(program, after), seconds_to_midnight(zone, datetime.now(UTC)))
        assert after == before and [names[key] for key, _ in groupby(after)] == list(NAMES)
        assert_all_full(product)
        assert_no_job_ran(product)
        assert "The books are right" in product.command("audit")
