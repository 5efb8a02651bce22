"""A clock that steps back and ahead while keys are used: never more than one limit per window, and no key stuck."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.db.models import Case, F, Sum, When
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkeys import ledger
from llmkeys.ledger import Attempt, Bid, Outcome, audit
from llmkeys.models import ApiKey, UsageRecord

pytestmark = pytest.mark.django_db

TRUE_TIME = datetime(2026, 11, 29, 22, 30, tzinfo=UTC)  # the end of a day and of a month are near
DAY_LIMIT, MONTH_LIMIT, TOTAL_LIMIT = 5, 12, 1_000
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class World:
    """One key, a clock that may be wrong, and the requests of some programs."""

    def __init__(self) -> None:
        self.true_time, self.error, self.number, self.open = TRUE_TIME, timedelta(0), 0, []
        self.key = ApiKey.objects.create(
            provider="openrouter", name="Key", day=TRUE_TIME.date(), month=date(2026, 11, 1),
            daily_limit_nano=DAY_LIMIT, monthly_limit_nano=MONTH_LIMIT, total_limit_nano=TOTAL_LIMIT,
        )  # fmt: skip

    @property
    def at(self) -> datetime:
        return self.true_time + self.error

    def ask(self, nano: int) -> bool:
        self.number += 1
        attempt = Attempt(f"req-{self.number}", 1, self.at, "openai-chat", "m", "m", False, "me")
        bid = Bid(self.key.id, "openrouter", "m", nano)
        with transaction.atomic(), connection.cursor() as cursor:
            placed = ledger.place_hold(cursor, [bid], attempt)
        if placed.hold is not None:
            self.open.append(placed.hold)
        return placed.hold is not None

    def answer(self, share: float) -> None:
        """End the oldest request under way, at this share of its hold."""
        if not self.open:
            return
        hold = self.open.pop(0)
        cost = int(share * hold.amount_nano)
        outcome = Outcome(state="SETTLED", at=self.at, success=True, cost_nano=cost, cost_source="provider")
        with transaction.atomic(), connection.cursor() as cursor:
            ledger.finish(cursor, hold.usage_id, outcome)

    def renew(self) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            ledger.renew_leases(cursor, "me", self.at)

    def take(self, step: tuple[str, float]) -> None:
        what, amount = step
        if what == "ask":
            self.ask(int(amount))
        elif what == "answer":
            self.answer(amount)
        elif what == "pass":
            self.true_time += timedelta(seconds=amount)
        else:
            self.error = timedelta(seconds=amount)
        if what in ("pass", "error"):
            self.renew()  # the process is alive, and its beat comes

    def no_window_is_over_its_limit(self) -> None:
        taken = Sum(Case(When(state="HELD", then=F("hold_nano")), default=F("cost_nano")))
        rows = UsageRecord.objects.order_by()
        for window, limit in (("day", DAY_LIMIT), ("month", MONTH_LIMIT)):
            over = rows.values(window).annotate(taken=taken).filter(taken__gt=limit)
            assert not over, (window, list(over))

    def taken_in(self, **window: date) -> int:
        return UsageRecord.objects.filter(**window).aggregate(nano=Sum("cost_nano"))["nano"] or 0

    def books_balance(self) -> None:
        with connection.cursor() as cursor:
            assert audit.audit_through(cursor).differences == []


STEPS = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, DAY_LIMIT)),
    st.tuples(st.just("ask"), st.integers(1, DAY_LIMIT)),
    st.tuples(st.just("answer"), st.sampled_from([0, 0.5, 1, 1])),
    st.tuples(st.just("pass"), st.sampled_from([1, 50, 3600, 86_400])),
    st.tuples(st.just("error"), st.sampled_from([0, 0, -3600, -86_400, 30 * 86_400])),
)


@settings(max_examples=120, database=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, min_size=5, max_size=30))
def test_no_window_takes_more_than_its_limit_and_no_key_is_stuck(steps):
    with transaction.atomic():
        _live_through(World(), steps)
        transaction.set_rollback(True)  # the next example finds nothing of this one


def _live_through(world: World, steps: list[tuple[str, float]]) -> None:
    for step in steps:
        world.take(step)
        world.no_window_is_over_its_limit()
    while world.open:
        world.answer(1)
    world.books_balance()
    # The clock is right again, and two days later nothing that it did wrong stands in the way.
    world.error = timedelta(0)
    world.true_time += 2 * DAY
    today = world.at.date()
    room = min(DAY_LIMIT - world.taken_in(day=today), MONTH_LIMIT - world.taken_in(month=today.replace(day=1)))
    assert world.ask(1) == (room >= 1), (today, room)
    world.answer(1)
    world.no_window_is_over_its_limit()
    world.books_balance()


@pytest.mark.parametrize("error", [-HOUR, -DAY, 30 * DAY])
def test_a_full_key_gets_no_second_limit_by_a_step_and_back(error):
    world = World()
    assert world.ask(DAY_LIMIT)
    world.answer(1)
    world.error = error
    served_meanwhile = world.ask(DAY_LIMIT)
    world.answer(1)
    assert served_meanwhile == (error > DAY)  # another window; a step back opens none
    world.error = timedelta(0)
    assert not world.ask(1), "today's limit is spent"
    world.no_window_is_over_its_limit()
    world.true_time += DAY
    assert world.ask(DAY_LIMIT)
    world.answer(1)
    world.books_balance()


@pytest.mark.parametrize("error", [-HOUR, -DAY, 30 * DAY])
def test_a_request_under_way_is_charged_once_whatever_the_clock_does(error):
    world = World()
    assert world.ask(DAY_LIMIT)
    world.error = error
    world.renew()
    with transaction.atomic(), connection.cursor() as cursor:
        assert ledger.dead_rows(cursor, world.at) == []
    world.answer(1)
    world.error = timedelta(0)
    assert world.taken_in(day=TRUE_TIME.date()) == DAY_LIMIT
    assert not world.ask(1)
    world.books_balance()
