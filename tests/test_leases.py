"""The ends of attempts are written whatever happens, and leases go by the database's clock."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from django.db import IntegrityError, OperationalError, connection

from llmkeys import ledger
from llmkeys.database import outages, sql, writer
from llmkeys.database.sql import is_sqlite, server_clock
from llmkeys.exceptions import RecordingUnavailable
from llmkeys.ledger import Attempt, Bid, End, Outcome, leases
from llmkeys.models import Adjustment, ApiKey, UsageRecord
from tests.helpers import NOW, make_key

pytestmark = pytest.mark.django_db(transaction=True)  # the writer has a connection of its own

DOLLAR = 10**9


@pytest.fixture(autouse=True)
def _own_process(monkeypatch):
    """A process that has no overdue ends, and whose thread does nothing by itself."""
    monkeypatch.setattr(outages, "_current", outages._Outage())
    monkeypatch.setattr(leases._Process, "start", lambda self: self)
    monkeypatch.setattr(leases, "_process", None)


def place(key: ApiKey, number: int = 1, **options) -> ledger.Hold:
    attempt = Attempt(f"req-{number}", 1, NOW, "openai-chat", "asked", "worker", False, leases.owner(), **options)
    placed = asyncio.run(leases.place([Bid(key.id, key.provider, "model", DOLLAR)], attempt))
    assert placed.hold is not None
    return placed.hold


def finish(end: End) -> ledger.Finished | None:
    return asyncio.run(leases.finish(end))


def settled(hold: ledger.Hold, nano: int = 5) -> End:
    return End(hold, Outcome(state="SETTLED", at=NOW, success=True, cost_nano=nano, cost_source="provider"))


def refused_by_the_database(monkeypatch, *usage_ids: int, error: type[Exception] = IntegrityError, times: int = 999):
    """Let the ends of these rows fail so many times."""
    finish_all, left = ledger.settling.finish_all, dict.fromkeys(usage_ids, times)

    def failing(cursor, ends):
        for usage_id, outcome in ends:
            if left.get(usage_id, 0) > 0 and outcome.state == "SETTLED":
                left[usage_id] -= 1
                raise error("could not serialize access due to concurrent update")
        return finish_all(cursor, ends)

    monkeypatch.setattr(ledger.settling, "finish_all", failing)


def states() -> list[str]:
    return list(UsageRecord.objects.order_by("id").values_list("state", flat=True))


@pytest.mark.parametrize("error", [IntegrityError, OperationalError, ValueError])
def test_an_end_that_cannot_be_written_is_written_later(monkeypatch, error):
    hold = place(make_key())
    refused_by_the_database(monkeypatch, hold.usage_id, error=error, times=2)
    assert finish(settled(hold)) is None
    assert states() == ["HELD"]
    leases.this_process().catch_up()
    assert states() == ["HELD"]
    leases.this_process().catch_up()
    assert states() == ["SETTLED"]
    assert not leases.this_process().overdue


def test_one_bad_row_does_not_block_those_behind_it(monkeypatch):
    key = make_key()
    bad, good = place(key, 1), place(key, 2)
    with monkeypatch.context() as patch:
        refused_by_the_database(patch, bad.usage_id, good.usage_id)
        finish(settled(bad)), finish(settled(good))
    refused_by_the_database(monkeypatch, bad.usage_id)
    leases.this_process().catch_up()
    assert states() == ["HELD", "SETTLED"]


def test_a_row_that_is_refused_for_good_is_lost_and_charged_at_its_hold(monkeypatch):
    key = make_key()
    hold = place(key)
    refused_by_the_database(monkeypatch, hold.usage_id)
    finish(settled(hold))
    for _ in range(leases.MOST_TRIES + 1):
        leases.this_process().catch_up()
    assert states() == ["LOST"]
    key.refresh_from_db()
    assert (key.spent_total_nano, key.held_nano) == (DOLLAR, 0)
    assert not leases.this_process().overdue


def test_a_row_of_which_nothing_can_be_written_keeps_no_lease(monkeypatch):
    hold = place(make_key())
    monkeypatch.setattr(ledger.settling, "finish_all", lambda *_: 1 / 0)
    finish(settled(hold))
    for _ in range(leases.MOST_TRIES + 1):
        leases.this_process().catch_up()
    assert not leases.this_process().overdue
    UsageRecord.objects.update(lease_until=NOW)
    writer.run_now(leases.this_process()._renew)
    assert UsageRecord.objects.get().lease_until == NOW


def test_an_outage_is_not_counted_against_the_row(monkeypatch):
    hold = place(make_key())
    with monkeypatch.context() as patch:
        refused_by_the_database(patch, hold.usage_id, error=OperationalError)
        finish(settled(hold))
        for _ in range(3 * leases.MOST_TRIES):
            leases.this_process().catch_up()
    leases.this_process().catch_up()
    assert states() == ["SETTLED"]


class Over(Exception):
    """The time of a beat is over."""


class Beat(threading.Event):
    """The thread that renews leases, on a clock that moves only while the thread waits."""

    def __init__(self, monkeypatch, *, seconds: float) -> None:
        super().__init__()
        self.clock, self.end, self.renewed = 0.0, seconds, []
        monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: self.clock))
        monkeypatch.setattr(leases, "RENEW_SECONDS", 15.0)
        self.looks = 0
        self.process = leases.this_process()
        self.process.wake = self

    def wait(self, timeout: float | None = None) -> bool:
        self.looks += 1
        if not self.is_set():
            self.clock += timeout or 0.0
        if self.clock > self.end or self.looks > 100:
            raise Over
        return self.is_set()

    def run(self, renew) -> None:
        def renewal(cursor) -> None:
            self.renewed.append(self.clock)
            renew()

        self.process._renew = renewal
        with pytest.raises(Over):
            self.process._beat()


def test_an_end_that_comes_during_a_renewal_is_written_and_the_thread_rests(monkeypatch):
    hold = place(make_key())
    beat = Beat(monkeypatch, seconds=50)
    beat.run(lambda: beat.process.try_later(settled(hold)) if len(beat.renewed) == 1 else None)
    assert states() == ["SETTLED"]
    assert beat.renewed == [15, 30, 45]
    assert beat.looks < 8


def test_a_renewal_that_fails_is_tried_again_in_a_second(monkeypatch):
    def fail_twice() -> None:
        if len(beat.renewed) <= 2:
            raise RecordingUnavailable(outages.UNAVAILABLE)

    beat = Beat(monkeypatch, seconds=40)
    beat.run(fail_twice)
    assert beat.renewed == [15, 16, 17, 32]


def test_an_end_returns_what_remains_of_the_budget():
    finished = finish(settled(place(make_key(daily_limit_nano=10 * DOLLAR)), DOLLAR))
    assert finished.remaining_day_nano == 9 * DOLLAR
    assert states() == ["SETTLED"]


def test_the_end_of_a_cancelled_coroutine_is_written_all_the_same():
    hold = place(make_key())

    async def work():
        ending = asyncio.create_task(leases.finish(settled(hold)))
        await asyncio.sleep(0)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending

    asyncio.run(work())
    leases.this_process().catch_up()
    assert states() == ["SETTLED"]


def test_a_hold_of_a_cancelled_coroutine_is_released():
    key = make_key()
    attempt = Attempt("req-1", 1, NOW, "openai-chat", "asked", "worker", False, leases.owner())

    def wait_for_the_row():
        deadline, pause = time.monotonic() + 10, threading.Event()
        while not UsageRecord.objects.exists() and time.monotonic() < deadline:
            pause.wait(0.002)
        connection.close()

    async def work():
        placing = asyncio.create_task(leases.place([Bid(key.id, key.provider, "model", DOLLAR)], attempt))
        await asyncio.sleep(0)
        looking = threading.Thread(target=wait_for_the_row)
        looking.start()
        looking.join(10)  # the loop is blocked meanwhile, and does not hear of it
        placing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await placing

    asyncio.run(work())
    writer.forget()  # after what is queued
    assert states() == ["RELEASED"]
    key.refresh_from_db()
    assert key.held_nano == 0


def test_who_waits_for_room_is_woken_by_an_end():
    hold = place(make_key())

    async def work():
        waiting = asyncio.create_task(leases.wait_for_room(10))
        await asyncio.sleep(0)
        await leases.finish(settled(hold))
        await asyncio.wait_for(waiting, 5)

    asyncio.run(work())
    asyncio.run(leases.wait_for_room(0.001))  # nobody ends: it goes on after that time


class TestClock:
    """The server's clock is the one by which leases end, whatever the machine's says."""

    SERVER = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    @pytest.fixture(autouse=True)
    def _server(self, monkeypatch, frozen):
        monkeypatch.setattr(sql, "server_clock", lambda cursor: self.SERVER)
        asyncio.run(leases.start())

    def test_a_machine_that_is_ahead_takes_nobodys_hold(self):
        place(make_key(), leased_at=self.SERVER)  # of another machine; ours is 8.5 hours ahead
        assert leases.settle_dead(NOW) == 0
        assert states() == ["HELD"]

    def test_its_own_holds_end_by_the_servers_clock(self):
        place(make_key(), leased_at=leases.now())
        until = UsageRecord.objects.get().lease_until
        assert timedelta(0) <= until - (self.SERVER + timedelta(seconds=60)) < timedelta(seconds=30)

    def test_what_nobody_renews_ends(self, monkeypatch):
        place(make_key(), leased_at=self.SERVER)
        monkeypatch.setattr(sql, "server_clock", lambda cursor: self.SERVER + timedelta(seconds=61))
        assert leases.settle_dead(NOW) == 1
        assert states() == ["LOST"]

    def test_a_release_after_that_gives_the_charge_back(self, monkeypatch):
        key = make_key()
        hold = place(key, leased_at=self.SERVER)
        monkeypatch.setattr(sql, "server_clock", lambda cursor: self.SERVER + timedelta(seconds=61))
        leases.settle_dead(NOW)
        finish(End(hold, Outcome(state="RELEASED", at=NOW, success=False, error="Connection refused.")))
        key.refresh_from_db()
        assert (key.spent_total_nano, Adjustment.objects.get().kind) == (0, "late")


def test_a_server_has_a_clock_and_a_file_has_none():
    seen = writer.run_now(server_clock)
    assert seen is None if is_sqlite() else seen.tzinfo is not None


def test_dead_holds_that_stand_in_the_way_are_settled_first(frozen):
    small, other = make_key(daily_limit_nano=2 * DOLLAR, total_limit_nano=0, monthly_limit_nano=0), make_key()
    place(small, 1), place(small, 2), place(other, 3)
    UsageRecord.objects.exclude(request_id="req-2").update(lease_until=NOW - timedelta(days=1))
    attempt = Attempt("req-4", 1, NOW, "openai-chat", "asked", "worker", False, "me")
    placed = asyncio.run(leases.place([Bid(small.id, small.provider, "model", DOLLAR)], attempt))
    assert placed.hold is None and placed.refusals[0].room_nano == 0
    assert dict(UsageRecord.objects.values_list("request_id", "state")) == {
        "req-1": "LOST", "req-2": "HELD", "req-3": "HELD",
    }  # fmt: skip
    UsageRecord.objects.filter(state="HELD").update(lease_until=NOW - timedelta(days=1))
    ApiKey.objects.update(daily_limit_nano=10 * DOLLAR)
    asyncio.run(leases.place([Bid(small.id, small.provider, "model", DOLLAR)], attempt))  # there is room
    assert UsageRecord.objects.filter(state="LOST").count() == 1


def test_dead_holds_are_settled_each_by_itself(monkeypatch):
    key = make_key()
    bad, good = place(key, 1), place(key, 2)
    finish_all = ledger.settling.finish_all

    def failing(cursor, ends):
        if bad.usage_id in dict(ends):
            raise IntegrityError("no")
        return finish_all(cursor, ends)

    monkeypatch.setattr(ledger.settling, "finish_all", failing)
    UsageRecord.objects.update(lease_until=NOW - timedelta(days=1))
    assert leases.settle_dead(NOW) == 1
    assert dict(UsageRecord.objects.values_list("id", "state")) == {bad.usage_id: "HELD", good.usage_id: "LOST"}
