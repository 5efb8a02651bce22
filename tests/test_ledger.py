"""Hold → settle, release or lost, each once; windows, clocks and dead leases; and what the database refuses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import IntegrityError, connection, transaction

from llmkeys import ledger
from llmkeys.ledger import KEYS, Account, Attempt, Bid, Outcome, audit
from llmkeys.lib.windows import Windows
from llmkeys.models import Adjustment, ApiKey, Cooling, DailyUsage, KeyEvent, UsageRecord
from tests.helpers import NOW

pytestmark = pytest.mark.django_db

DOLLAR = 10**9
TODAY, MONTH = date(2026, 11, 23), date(2026, 11, 1)


def make(name: str = "Key", **columns) -> ApiKey:
    return ApiKey.objects.create(**{"provider": "openrouter", "name": name, "day": TODAY, "month": MONTH} | columns)


class Books:
    """The ledger's verbs, each in a transaction; `at` is the clock."""

    def __init__(self):
        self.at, self.number = NOW, 0

    def place(self, *keys: ApiKey, nano: int = DOLLAR, owner: str = "me", **options) -> ledger.Placed:
        self.number += 1
        attempt = Attempt(f"req-{self.number}", 1, self.at, "openai-chat", "asked", "worker", False, owner)
        bids = [Bid(key.id, key.provider, "model", nano) for key in keys]
        with transaction.atomic(), connection.cursor() as cursor:
            return ledger.place_hold(cursor, bids, attempt, **options)

    def hold(self, key: ApiKey, nano: int = DOLLAR, **options) -> int:
        placed = self.place(key, nano=nano, **options)
        assert placed.hold is not None, placed.refusals
        return placed.hold.usage_id

    def refused(self, key: ApiKey, nano: int = DOLLAR, **options) -> ledger.Refusal:
        placed = self.place(key, nano=nano, **options)
        assert placed.hold is None
        return placed.refusals[0]

    def end(self, row: int, state: str, nano: int = 0, **values) -> ledger.Finished | None:
        values = {"success": state == "SETTLED", "cost_source": "provider" if nano else ""} | values
        if values.get("sent", True):
            values = {"http_status": 200 if state == "SETTLED" else 500} | values
        with transaction.atomic(), connection.cursor() as cursor:
            return ledger.finish(cursor, row, Outcome(state=state, at=self.at, cost_nano=nano, **values))

    def void(self, row: int) -> int | None:
        with transaction.atomic(), connection.cursor() as cursor:
            return ledger.void_lost(cursor, row, self.at, by="anna", reason="not on the bill")

    def lose_dead(self) -> int:
        with transaction.atomic(), connection.cursor() as cursor:
            return sum(ledger.lose(cursor, row, self.at) for row in ledger.dead_rows(cursor, self.at))

    def balance(self) -> None:
        with connection.cursor() as cursor:
            assert audit.audit_through(cursor).differences == []


@pytest.fixture
def books():
    books = Books()
    yield books
    books.balance()


def money(key: ApiKey) -> tuple[int, int, int, int]:
    """Return spent today, this month, in all, and held."""
    key.refresh_from_db()
    return key.spent_day_nano, key.spent_month_nano, key.spent_total_nano, key.held_nano


def events(kind: str) -> list[str]:
    return list(KeyEvent.objects.filter(kind=kind).values_list("message", flat=True))


class TestHold:
    def test_it_works(self, books):
        key = make()
        row = UsageRecord.objects.get(pk=books.hold(key))
        assert money(key) == (0, 0, 0, DOLLAR)
        assert (row.state, row.hold_nano, row.cost_nano, row.key_id) == ("HELD", DOLLAR, 0, key.id)
        assert (row.day, row.month, row.lease_owner) == (TODAY, MONTH, "me")
        assert row.lease_until == NOW + timedelta(seconds=60)

    @pytest.mark.parametrize("limit", ["daily_limit_nano", "monthly_limit_nano", "total_limit_nano"])
    def test_it_takes_the_last_nano_and_not_one_more(self, books, limit):
        key = make(**{limit: 2 * DOLLAR})
        books.end(books.hold(key), "SETTLED", DOLLAR)
        assert books.refused(key, DOLLAR + 1).room_nano == DOLLAR
        books.hold(key, DOLLAR)
        assert books.refused(key, 1).only_holds

    def test_it_takes_the_first_bid_with_room_and_names_the_others(self, books):
        full, off, good = make("full", daily_limit_nano=1), make("off", enabled=False), make("good")
        placed = books.place(full, off, good)
        assert placed.hold.key_id == good.id
        assert [entry["keyId"] for entry in UsageRecord.objects.get().skipped] == [full.id, off.id]
        assert [refusal.reason for refusal in placed.refusals] == [
            "daily budget: needs $1.00, $0.000000001 left",
            "disabled",
        ]

    @pytest.mark.parametrize(
        ("columns", "reason"),
        [
            ({"enabled": False}, "disabled"),
            ({"secret_missing": True}, "disabled"),
            ({"deleted_at": NOW, "enabled": False}, "disabled"),
            ({"rejected_at": NOW}, "rejected by its provider"),
            ({"expires_at": NOW}, "expired"),
        ],
    )
    def test_it_asks_again_whether_the_key_may_serve(self, books, columns, reason):
        assert books.refused(make(**columns)).reason == reason

    def test_it_serves_a_key_until_its_last_instant(self, books):
        books.hold(make(expires_at=NOW + timedelta(microseconds=1)))


class TestLower:
    def lower(self, hold: ledger.Hold, nano: int) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            ledger.LowerHold(hold, nano)(cursor)

    def test_it_gives_back_what_is_not_needed(self, books):
        key = make()
        hold = books.place(key).hold
        self.lower(hold, DOLLAR // 4)
        self.lower(hold, DOLLAR // 4)  # once more: nothing is given back twice
        key.refresh_from_db()
        assert key.held_nano == UsageRecord.objects.get().hold_nano == DOLLAR // 4
        books.end(hold.usage_id, "SETTLED", DOLLAR // 5)
        key.refresh_from_db()
        assert (key.held_nano, key.spent_day_nano) == (0, DOLLAR // 5)

    def test_it_gives_nothing_back_after_the_end(self, books):
        key = make()
        hold = books.place(key).hold
        books.end(hold.usage_id, "RELEASED")
        self.lower(hold, DOLLAR // 4)
        key.refresh_from_db()
        assert key.held_nano == 0 and UsageRecord.objects.get().hold_nano == DOLLAR


class TestRefusal:
    def test_it_names_the_window_that_takes_longest(self, books):
        key = make(daily_limit_nano=DOLLAR, monthly_limit_nano=DOLLAR, total_limit_nano=DOLLAR)
        books.end(books.hold(key), "SETTLED", DOLLAR)
        refusal = books.refused(key)
        assert (refusal.window, refusal.need_nano, refusal.room_nano, refusal.limit_nano) == (
            "total",
            DOLLAR,
            0,
            DOLLAR,
        )
        assert not refusal.never_fits and not refusal.only_holds

    def test_it_tells_what_can_never_fit(self, books):
        assert books.refused(make(daily_limit_nano=DOLLAR), 2 * DOLLAR).never_fits

    def test_it_is_remembered_and_told_once(self, books):
        key = make(daily_limit_nano=DOLLAR)
        books.end(books.hold(key, DOLLAR // 2), "SETTLED", DOLLAR // 2)
        books.refused(key), books.refused(key)
        key.refresh_from_db()
        assert (key.refused_window, key.refused_day) == ("day", TODAY)
        assert (key.refused_need_nano, key.refused_room_nano) == (DOLLAR, DOLLAR // 2)
        assert key.status_at(NOW) == "LIMIT_REACHED"
        assert events("limit_reached") == [
            "The daily limit of $1.00 is reached: the next request may cost $1.00 and $0.50 is left."
        ]
        books.hold(key, DOLLAR // 2)  # a smaller one fits: the mark goes
        key.refresh_from_db()
        assert (key.refused_window, key.status_at(NOW)) == ("", "ACTIVE")

    def test_it_is_not_remembered_while_a_hold_is_open(self, books):
        key = make(daily_limit_nano=DOLLAR)
        books.hold(key)
        books.refused(key)
        assert (money(key)[3], key.refused_window, events("limit_reached")) == (DOLLAR, "", [])

    def test_it_is_not_remembered_while_a_lower_bid_may_follow(self, books):
        key = make(daily_limit_nano=DOLLAR)
        books.end(books.hold(key, 1), "SETTLED", 1)
        books.refused(key, last_try=False)
        key.refresh_from_db()
        assert (key.refused_window, events("limit_reached")) == ("", [])

    def test_a_key_that_was_passed_over_is_marked_at_once(self, books):
        full, good = make("full", daily_limit_nano=DOLLAR), make("good")
        books.end(books.hold(full, 1), "SETTLED", 1)
        assert books.place(full, good, last_try=False).hold.key_id == good.id
        full.refresh_from_db()
        assert full.refused_window == "day"


class TestEnd:
    def test_settling_takes_the_cost_and_gives_the_hold_back(self, books):
        key = make(daily_limit_nano=10 * DOLLAR)
        row = books.hold(key)
        finished = books.end(row, "SETTLED", DOLLAR // 4, input_tokens=3, output_tokens=2, http_status=200)
        assert finished.remaining_day_nano == 10 * DOLLAR - DOLLAR // 4
        assert money(key) == (DOLLAR // 4,) * 3 + (0,)
        assert (key.total_requests, key.successful_requests, key.failed_requests) == (1, 1, 0)
        stored = UsageRecord.objects.get(pk=row)
        assert (stored.state, stored.cost_nano, stored.overrun, stored.lease_until) == (
            "SETTLED",
            DOLLAR // 4,
            False,
            None,
        )
        assert (DailyUsage.objects.get().cost_nano, DailyUsage.objects.get().input_tokens) == (DOLLAR // 4, 3)

    def test_releasing_charges_nothing(self, books):
        key = make()
        books.end(books.hold(key), "RELEASED", success=False)
        assert money(key) == (0, 0, 0, 0)
        assert (key.total_requests, key.failed_requests) == (1, 1)

    def test_what_was_never_sent_is_not_counted(self, books):
        key = make()
        books.end(books.hold(key), "RELEASED", success=False, sent=False)
        key.refresh_from_db()
        assert (key.total_requests, key.failed_requests, DailyUsage.objects.count()) == (0, 0, 0)

    def test_losing_charges_the_hold(self, books):
        key = make()
        books.end(books.hold(key), "LOST", DOLLAR, success=False)
        assert money(key) == (DOLLAR, DOLLAR, DOLLAR, 0)

    @pytest.mark.parametrize("first", ["SETTLED", "RELEASED", "LOST"])
    @pytest.mark.parametrize("second", ["SETTLED", "RELEASED", "LOST"])
    def test_each_row_ends_once(self, books, first, second):
        key = make()
        row = books.hold(key)
        assert books.end(row, first, 0 if first == "RELEASED" else 5) is not None
        before = (0, 0, 0, 0) if (first, second) == ("LOST", "RELEASED") else money(key)  # that comes late, see below
        assert books.end(row, second, 0 if second == "RELEASED" else 5) is None
        assert UsageRecord.objects.get().state == first
        assert money(key) == before and key.total_requests == 1

    def test_a_cost_above_the_hold_is_flagged(self, books):
        key = make()
        for nano, flagged in ((DOLLAR, False), (DOLLAR + 1, True)):
            row = books.hold(key)
            books.end(row, "SETTLED", nano)
            assert UsageRecord.objects.get(pk=row).overrun is flagged

    def test_reaching_a_limit_is_told_once(self, books):
        key = make(daily_limit_nano=DOLLAR, monthly_limit_nano=5 * DOLLAR)
        first, second = books.hold(key, 1), books.hold(key, 1)
        books.end(first, "SETTLED", DOLLAR)
        books.end(second, "SETTLED", DOLLAR)
        assert events("limit_reached") == ["The daily limit of $1.00 is reached: $1.00 spent."]

    def test_it_is_told_again_in_the_next_window(self, books):
        key = make(daily_limit_nano=DOLLAR)
        for _ in range(2):
            books.end(books.hold(key), "SETTLED", DOLLAR)
            books.at += timedelta(days=1)
        assert len(events("limit_reached")) == 2


class TestLateAndVoid:
    def test_a_true_cost_that_comes_late_is_adjusted_once(self, books):
        key = make()
        row = books.hold(key)
        books.end(row, "LOST", DOLLAR, success=False)
        for _ in range(2):
            books.end(row, "SETTLED", DOLLAR // 10)
        assert money(key) == (DOLLAR // 10,) * 3 + (0,)
        late = Adjustment.objects.get()
        assert (late.kind, late.total_nano, late.usage_id) == ("late", DOLLAR // 10 - DOLLAR, row)
        assert UsageRecord.objects.get().cost_nano == DOLLAR  # history is never edited
        assert DailyUsage.objects.get().cost_nano == DOLLAR // 10

    def test_a_release_that_comes_late_gives_the_charge_back_once(self, books):
        key = make()
        row = books.hold(key)
        books.end(row, "LOST", DOLLAR, success=False)
        for _ in range(2):
            books.end(row, "RELEASED", success=False, error="Connection refused.")
        assert money(key) == (0, 0, 0, 0)
        late = Adjustment.objects.get()
        assert (late.kind, late.total_nano, late.usage_id) == ("late", -DOLLAR, row)
        assert late.reason == "The release arrived after the hold was declared lost: Connection refused."
        assert UsageRecord.objects.get().state == "LOST"  # history is never edited
        assert DailyUsage.objects.get().cost_nano == 0

    def test_voiding_takes_the_charge_back_once(self, books):
        key = make()
        row = books.hold(key)
        books.end(row, "LOST", DOLLAR, success=False)
        assert (books.void(row), books.void(row)) == (DOLLAR, None)
        assert money(key) == (0, 0, 0, 0)
        void = Adjustment.objects.get()
        assert (void.kind, void.created_by, void.reason) == ("void", "anna", "not on the bill")

    def test_voiding_after_a_late_cost_takes_back_what_is_charged(self, books):
        key = make()
        row = books.hold(key)
        books.end(row, "LOST", DOLLAR, success=False)
        books.end(row, "SETTLED", DOLLAR // 10)
        assert books.void(row) == DOLLAR // 10
        assert money(key) == (0, 0, 0, 0)

    @pytest.mark.parametrize("state", ["SETTLED", "RELEASED"])
    def test_only_a_lost_row_can_be_voided(self, books, state):
        row = books.hold(make())
        books.end(row, state)
        assert books.void(row) is None

    def test_an_open_row_cannot_be_voided(self, books):
        assert books.void(books.hold(make())) is None


class TestWindows:
    def test_a_request_is_charged_to_the_day_it_was_admitted(self, books):
        key = make(daily_limit_nano=DOLLAR)
        books.at = datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC)
        row = books.hold(key)
        books.at += timedelta(seconds=2)
        books.end(row, "SETTLED", DOLLAR)
        assert (money(key)[0], key.day) == (DOLLAR, TODAY)
        books.hold(key)  # the 24th is empty
        assert (money(key)[:2], key.day) == ((0, DOLLAR), date(2026, 11, 24))

    def test_a_settle_after_the_roll_stays_out_of_the_new_day(self, books):
        key = make()
        books.at = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
        row = books.hold(key)
        books.at += timedelta(seconds=2)
        books.end(books.hold(key, 1), "SETTLED", 1)
        books.end(row, "SETTLED", DOLLAR)
        assert money(key) == (1, 1, DOLLAR + 1, 0)
        assert (key.day, key.month) == (date(2026, 12, 1), date(2026, 12, 1))
        assert DailyUsage.objects.get(day=date(2026, 11, 30)).cost_nano == DOLLAR

    def test_the_month_goes_on_over_the_end_of_a_day(self, books):
        key = make(monthly_limit_nano=2 * DOLLAR)
        books.end(books.hold(key), "SETTLED", DOLLAR)
        books.at += timedelta(days=1)
        books.end(books.hold(key), "SETTLED", DOLLAR)
        assert money(key) == (DOLLAR, 2 * DOLLAR, 2 * DOLLAR, 0)
        assert books.refused(key, 1).window == "month"

    def test_a_slow_clock_charges_the_window_that_is_open(self, books):
        key = make(daily_limit_nano=DOLLAR)
        books.at += timedelta(days=1)
        books.end(books.hold(key, DOLLAR // 2), "SETTLED", DOLLAR // 2)
        books.at -= timedelta(days=1)  # a second machine, a little slow
        row = books.hold(key, DOLLAR // 2)
        assert UsageRecord.objects.get(pk=row).day == date(2026, 11, 24)
        assert books.refused(key, 1).only_holds
        assert money(key) == (DOLLAR // 2,) * 4

    def test_a_slow_clock_over_the_end_of_a_month(self, books):
        key = make()
        books.at = datetime(2026, 12, 1, 0, 0, 1, tzinfo=UTC)
        books.end(books.hold(key, 1), "SETTLED", 1)
        books.at -= timedelta(seconds=2)
        row = UsageRecord.objects.get(pk=books.hold(key))
        assert (row.day, row.month) == (date(2026, 12, 1), date(2026, 12, 1))

    def test_a_clock_that_ran_far_ahead_leaves_no_key_stuck(self, books):
        key = make(daily_limit_nano=2 * DOLLAR)
        books.end(books.hold(key), "SETTLED", DOLLAR)
        books.at += timedelta(days=30)
        books.end(books.hold(key), "SETTLED", DOLLAR)
        books.at -= timedelta(days=30)
        row = books.hold(key)  # today has one dollar left
        assert UsageRecord.objects.get(pk=row).day == TODAY
        assert money(key) == (DOLLAR, DOLLAR, 2 * DOLLAR, DOLLAR)
        assert (key.day, key.month) == (TODAY, MONTH)
        assert books.refused(key, 1).only_holds


class TestLeases:
    def test_renewing_is_one_statement_for_all_of_a_process(self, books, django_assert_num_queries):
        key = make()
        mine, theirs = [books.hold(key), books.hold(key)], books.hold(key, owner="other")
        books.at += timedelta(seconds=30)
        with django_assert_num_queries(1), connection.cursor() as cursor:
            assert ledger.renew_leases(cursor, "me", books.at) == 2
        until = dict(UsageRecord.objects.values_list("pk", "lease_until"))
        assert {until[row] for row in mine} == {NOW + timedelta(seconds=90)}
        assert until[theirs] == NOW + timedelta(seconds=60)

    def test_a_dead_lease_is_lost_at_the_hold(self, books):
        key = make()
        row = books.hold(key)
        books.at += timedelta(seconds=59)
        assert books.lose_dead() == 0
        books.at += timedelta(seconds=1)
        assert books.lose_dead() == 1
        stored = UsageRecord.objects.get(pk=row)
        assert (stored.state, stored.success, stored.cost_nano, stored.cost_source) == (
            "LOST",
            False,
            DOLLAR,
            "estimated",
        )
        assert "void it" in stored.error
        assert money(key) == (DOLLAR, DOLLAR, DOLLAR, 0)

    def test_a_lease_never_ends_later_than_a_minute_from_now(self, books):
        books.at += timedelta(hours=5)  # a clock that ran ahead
        books.hold(make())
        books.at -= timedelta(hours=5)
        assert books.lose_dead() == 0
        assert UsageRecord.objects.get().lease_until == NOW + timedelta(seconds=60)
        books.at += timedelta(seconds=60)
        assert books.lose_dead() == 1


class TestModes:
    def test_soft_mode_asks_what_is_spent_only(self, books, settings):
        settings.BUDGET_MODE = "soft"
        key = make(daily_limit_nano=DOLLAR)
        first, second = books.hold(key, 5 * DOLLAR), books.hold(key, 5 * DOLLAR)
        books.end(first, "SETTLED", DOLLAR)
        books.end(second, "SETTLED", DOLLAR)
        assert money(key)[0] == 2 * DOLLAR
        refused = books.refused(key, 5 * DOLLAR)
        assert not (refused.only_holds or refused.never_fits), (
            "the end of the day helps, and a smaller request does not"
        )

    @pytest.mark.parametrize("mode", ["strict", "soft"])
    def test_what_is_free_fits_where_all_is_spent(self, books, settings, mode):
        settings.BUDGET_MODE = mode
        key = make(daily_limit_nano=DOLLAR)
        books.end(books.hold(key), "SETTLED", DOLLAR)
        books.end(books.hold(key, 0), "SETTLED", 0)

    def test_without_cost_tracking_everything_fits(self, books, settings):
        settings.COST_TRACKING = False
        key = make(daily_limit_nano=1)
        books.end(books.hold(key, 0), "SETTLED", 0)
        assert money(key) == (0, 0, 0, 0)


class TestAdjust:
    def test_it_moves_only_windows_that_still_run(self, books):
        key = make()
        yesterday = Windows(TODAY - timedelta(days=1), MONTH)
        with connection.cursor() as cursor:
            amounts = {"day": 1, "month": 20, "total": 300}
            assert ledger.adjust(cursor, "opening", Account(KEYS, key.id), yesterday, amounts, NOW, by="anna")
        assert money(key) == (0, 20, 300, 0)


class TestServingKey:
    def test_a_change_is_told_once(self, books):
        first, second = make("first"), make("second")
        with connection.cursor() as cursor:
            for key in (first, first, second, second, first):
                ledger.note_serving_keys(cursor, {"m": (key.id, NOW)})
        assert sorted(events("rotated")) == [
            "Rotated from “first” to “second” for m.",
            "Rotated from “second” to “first” for m.",
        ]


# --- the database refuses nonsense ------------------------------------------------------------------------------------


def key_columns(**columns):
    return lambda: make(**columns)


def two_defaults():
    make(is_default=True), make(is_default=True)


def one_secret_twice():
    make(fingerprint="f"), make(fingerprint="f")


def one_variable_twice():
    make(environment_variable="OPENAI_API_KEY"), make(environment_variable="OPENAI_API_KEY")


def usage_columns(**columns):
    defaults = {
        "request_id": "r", "attempt": 1, "created_at": NOW, "provider": "openrouter", "model": "m", "state": "SETTLED",
        "hold_nano": 1, "day": TODAY, "month": MONTH,
    }  # fmt: skip
    return lambda: UsageRecord.objects.create(key=make(), **defaults | columns)


def one_attempt_twice():
    usage_columns()(), usage_columns()()


def one_cooling_twice():
    for _ in range(2):
        Cooling.objects.create(scope="key:1", model="m", kind="exhausted", until=NOW)


def one_event_twice():
    for _ in range(2):
        KeyEvent.objects.create(kind="changed", message="m", once="o")


@pytest.mark.parametrize(
    ("name", "nonsense"),
    [
        ("apikey_one_default", two_defaults),
        ("apikey_secret_stored_once", one_secret_twice),
        ("apikey_one_per_variable", one_variable_twice),
        ("apikey_known_provider", key_columns(provider="somebody")),
        ("apikey_has_a_name", key_columns(name="")),
        ("apikey_held_not_negative", key_columns(held_nano=-1)),
        ("apikey_limits_not_negative", key_columns(daily_limit_nano=-1)),
        ("apikey_limits_not_negative", key_columns(monthly_limit_nano=-1)),
        ("apikey_limits_not_negative", key_columns(total_limit_nano=-1)),
        ("apikey_deleted_is_wiped", key_columns(deleted_at=NOW, enabled=False, fingerprint="f")),
        ("apikey_deleted_is_wiped", key_columns(deleted_at=NOW, enabled=True)),
        ("usage_one_row_per_attempt", one_attempt_twice),
        ("usage_known_state", usage_columns(state="MAYBE")),
        ("usage_money_not_negative", usage_columns(cost_nano=-1)),
        ("usage_money_not_negative", usage_columns(hold_nano=-1)),
        ("usage_held_has_a_lease", usage_columns(state="HELD")),
        ("usage_held_has_a_lease", usage_columns(state="HELD", lease_until=NOW, cost_nano=1)),
        ("usage_released_is_free", usage_columns(state="RELEASED", cost_nano=1)),
        ("cooling_one_per_scope_and_model", one_cooling_twice),
        ("once", one_event_twice),
    ],
)
def test_the_database_refuses(name, nonsense):
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        nonsense()
    columns = {  # SQLite names the columns of a unique constraint, PostgreSQL the constraint
        "apikey_one_default": "is_default",
        "apikey_secret_stored_once": "fingerprint",
        "apikey_one_per_variable": "environment_variable",
        "usage_one_row_per_attempt": "attempt",
        "cooling_one_per_scope_and_model": "scope",
    }
    assert name in str(refused.value) or columns[name] in str(refused.value)
