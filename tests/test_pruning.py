"""Retention: old usage rows go by proved whole days; no sum, no budget and no audit notices."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta

import pytest
from django.contrib.sessions.models import Session
from django.db import connection, transaction
from django_q.models import Failure, Task

from llmkeys import ledger, tasks
from llmkeys.key_state import current_windows
from llmkeys.keys import resets
from llmkeys.ledger import Attempt, Bid, Outcome, audit
from llmkeys.lib.money import NANO
from llmkeys.models import (
    Adjustment,
    Alert,
    ApiKey,
    DailyUsage,
    FailedAuthentication,
    KeyEvent,
    SealedDay,
    UsageRecord,
)
from llmkeys.usage import pruning
from llmkeys.usage.sums import GROUPS, statistics, summary
from llmkeys.usage.voiding import void_usage
from tests.helpers import NOW, make_key

pytestmark = pytest.mark.django_db(transaction=True)  # the audit and the writer have connections of their own

OLD = datetime(2026, 7, 14, 12, 0, tzinfo=UTC)  # more than 90 days before NOW


def attempt(key: ApiKey, at: datetime, number: int, *, nano: int = NANO) -> int:
    """Hold on the key and return the row."""
    made = Attempt(f"req-{at:%Y%m%d}-{number}", 1, at, "openai-chat", "m", f"program {number % 2}", False, "me")
    with transaction.atomic(), connection.cursor() as cursor:
        placed = ledger.place_hold(cursor, [Bid(key.id, key.provider, f"model-{number % 3}", nano)], made)
    assert placed.hold is not None, placed.refusals
    return placed.hold.usage_id


def end(row: int, at: datetime, state: str = "SETTLED", *, nano: int = NANO, **values) -> int:
    if state == "RELEASED":
        values = {"success": False, "http_status": 500} | values
    values = {"success": state == "SETTLED", "http_status": 200, "input_tokens": 11, "output_tokens": None} | values
    with transaction.atomic(), connection.cursor() as cursor:
        ledger.finish(cursor, row, Outcome(state, at, cost_nano=0 if state == "RELEASED" else nano, **values))
    return row


def spend(key: ApiKey, at: datetime, number: int = 1, state: str = "SETTLED", **values) -> int:
    return end(attempt(key, at, number), at, state, **values)


def open_key(name: str = "Production") -> ApiKey:
    return make_key(
        name=name, at=OLD - timedelta(days=60), daily_limit_nano=0, monthly_limit_nano=0, total_limit_nano=0
    )


def sums() -> tuple:
    groups = [summary(DailyUsage.objects.all(), group_by=group) for group in GROUPS]
    counters = ApiKey.objects.order_by("id").values_list("id", "spent_day_nano", "spent_month_nano", "spent_total_nano")
    return groups, list(counters), statistics(at=NOW)


def differences() -> list[str]:
    return [str(one) for one in audit.audit().differences]


class TestWhatGoes:
    def test_it_deletes_rows_older_than_the_retention_by_whole_days(self, settings):
        settings.USAGE_RETENTION_DAYS = 40
        key = open_key()
        first_kept = NOW - timedelta(days=40)
        for number, days in enumerate((60, 41, 40, 39, 1, 0)):
            spend(key, NOW - timedelta(days=days), number)
        pruned = pruning.prune_usage(NOW)
        assert (pruned.rows, pruned.days) == (2, ["2026-09-24", "2026-10-13"])
        assert UsageRecord.objects.order_by("id").first().day == first_kept.date()
        assert SealedDay.objects.get(day=date(2026, 10, 13)).rows == 1
        assert differences() == []

    def test_it_never_touches_the_current_month(self, settings):
        settings.USAGE_RETENTION_DAYS = 1
        key = open_key()
        spend(key, datetime(2026, 10, 31, 12, tzinfo=UTC))
        spend(key, datetime(2026, 11, 1, 12, tzinfo=UTC))
        pruning.prune_usage(NOW)
        assert [str(day) for day in UsageRecord.objects.values_list("day", flat=True)] == ["2026-11-01"]

    def test_it_tells_once_what_went(self):
        key = open_key()
        spend(key, OLD)
        spend(key, OLD + timedelta(days=1), 2)
        pruning.prune_usage(NOW)
        pruning.prune_usage(NOW)
        assert KeyEvent.objects.get(kind="pruned").message == (
            "2 usage rows of 2 days, 2026-07-14 to 2026-07-15 were older than 90 days and were deleted. Their daily "
            "totals were verified before and stay."
        )

    def test_it_tells_of_one_row_in_the_singular(self):
        spend(open_key(), OLD)
        pruning.prune_usage(NOW)
        assert KeyEvent.objects.get(kind="pruned").message == (
            "1 usage row of 2026-07-14 was older than 90 days and was deleted. Its daily totals were verified before "
            "and stay."
        )

    def test_it_works_in_chunks_and_goes_on_where_it_was_stopped(self, monkeypatch):
        monkeypatch.setattr(pruning, "_DELETE", pruning._DELETE.replace("LIMIT 1000", "LIMIT 2"))
        monkeypatch.setattr(pruning, "CHUNK_ROWS", 2)
        key = open_key()
        for number in range(5):
            spend(key, OLD, number)
        assert pruning._verify_and_seal(OLD.date(), NOW) == []
        chunks = pruning._deleted_chunks(OLD.date())
        assert next(chunks) == 2
        assert differences() == []  # killed half way
        assert pruning.prune_usage(NOW).rows == 3
        assert not UsageRecord.objects.exists()
        assert SealedDay.objects.get().rows == 5
        assert differences() == []

    def test_it_leaves_the_rest_for_the_next_night_when_its_time_is_over(self, monkeypatch):
        spend(open_key(), OLD)
        monkeypatch.setattr(pruning, "AT_MOST_SECONDS", -1.0)
        pruned = pruning.prune_usage(NOW)
        assert (pruned.rows, pruned.complete) == (0, False)

    def test_it_finds_rows_of_the_day_after_their_clock(self):
        key = open_key()
        spend(key, OLD + timedelta(days=1))
        spend(key, OLD, 2)  # a slow clock: charged to the day that is open
        assert set(UsageRecord.objects.values_list("day", flat=True)) == {date(2026, 7, 15)}
        pruning.prune_usage(NOW)
        assert not UsageRecord.objects.exists()
        assert differences() == []


class TestWhatStays:
    def test_it_keeps_rows_that_a_correction_points_at(self):
        key = open_key()
        spend(key, OLD)
        lost = spend(key, OLD, 2, "LOST")
        void_usage(lost, at=OLD, actor="anna")
        pruning.prune_usage(NOW)
        assert [row.id for row in UsageRecord.objects.all()] == [lost]
        assert differences() == []

    def test_it_leaves_a_day_with_an_open_hold_for_later(self):
        key = open_key()
        spend(key, OLD)
        row = attempt(key, OLD, 2)
        assert pruning.prune_usage(NOW).waiting == ["2026-07-14"]
        assert UsageRecord.objects.count() == 2
        end(row, NOW, "LOST")
        assert pruning.prune_usage(NOW).rows == 2
        assert differences() == []

    def test_others_write_while_it_adds_a_day_up_and_it_looks_again(self):
        key = open_key()
        spend(key, OLD)
        lost, looks = spend(key, OLD, 2, "LOST"), []

        def meanwhile(execute, sql, params, many, context):
            if "both_sides" in sql:
                looks.append(sql)
                if len(looks) == 1:
                    void_usage(lost, at=NOW, actor="anna")
            return execute(sql, params, many, context)

        with connection.execute_wrapper(meanwhile):
            pruned = pruning.prune_usage(NOW)
        assert (len(looks), pruned.rows, SealedDay.objects.get().cost_nano) == (2, 1, NANO)
        assert differences() == []

    def test_it_leaves_a_day_for_later_that_is_corrected_again_and_again(self):
        key = open_key()
        lost = [spend(key, OLD, number, "LOST") for number in range(4)]

        def meanwhile(execute, sql, params, many, context):
            if "both_sides" in sql:
                void_usage(lost.pop(), at=NOW, actor="anna")
            return execute(sql, params, many, context)

        with connection.execute_wrapper(meanwhile):
            assert pruning.prune_usage(NOW).waiting == ["2026-07-14"]
        assert not SealedDay.objects.exists()
        assert pruning.prune_usage(NOW).rows == 1
        assert differences() == []

    def test_it_seals_no_day_on_which_a_hold_was_placed_meanwhile(self):
        key, held = open_key(), []
        spend(key, OLD)

        def meanwhile(execute, sql, params, many, context):
            if "both_sides" in sql and not held:
                held.append(attempt(key, OLD, 2))  # by a clock that is far behind
            return execute(sql, params, many, context)

        with connection.execute_wrapper(meanwhile):
            assert pruning.prune_usage(NOW).waiting == ["2026-07-14"]
        end(held[0], NOW)
        assert pruning.prune_usage(NOW).rows == 2
        assert differences() == []

    def test_it_keeps_a_day_whose_totals_are_not_borne_out_and_says_so(self, frozen):
        key = open_key()
        spend(key, OLD)
        spend(key, OLD + timedelta(days=1), 2)
        DailyUsage.objects.filter(day=OLD.date()).update(cost_nano=5 * NANO)
        with pytest.raises(
            tasks.TaskFailed, match=r"2026-07-14 were kept: .* say \$5.00 for 1 request, its rows \$1.00"
        ):
            tasks.prune_usage()
        with pytest.raises(tasks.TaskFailed):
            tasks.prune_usage()
        assert [str(row.day) for row in UsageRecord.objects.all()] == ["2026-07-14"]
        assert KeyEvent.objects.filter(kind="pruned", message__contains="audit --fix").count() == 1
        audit.fix(audit.audit(), at=NOW, actor="anna")
        assert tasks.prune_usage()["rows"] == 1
        assert differences() == []

    @pytest.mark.parametrize("column", ["requests", "successful", "failed", "input_tokens", "output_tokens"])
    def test_it_verifies_every_figure_of_the_day(self, column):
        spend(open_key(), OLD)
        DailyUsage.objects.update(**{column: 99})
        assert len(pruning.prune_usage(NOW).refused) == 1
        assert not SealedDay.objects.exists()

    def test_it_keeps_a_day_of_which_a_total_is_missing(self):
        spend(open_key(), OLD)
        DailyUsage.objects.all().delete()
        assert len(pruning.prune_usage(NOW).refused) == 1


class TestTheBooksAfterwards:
    @pytest.mark.parametrize("seed", range(6))
    def test_it_changes_no_sum_and_no_audit(self, seed, settings):
        """Random rows over five months, corrected in every way, before and after; the clock of requests goes on."""
        chance, keys = random.Random(seed), [open_key(), open_key("Spare"), open_key("Third")]
        settings.USAGE_RETENTION_DAYS = chance.choice([30, 45, 90])
        lost = self.live_through_months(chance, keys)
        before = sums()
        assert differences() == []
        pruned = pruning.prune_usage(NOW)
        assert pruned.rows > 10 and not pruned.refused
        assert (sums(), differences()) == (before, [])
        kept = [row for row in lost if UsageRecord.objects.filter(pk=row).exists()]
        for number, row in enumerate(kept):
            with transaction.atomic(), connection.cursor() as cursor:
                if number % 2:
                    ledger.void_lost(cursor, row, NOW, by="anna", reason="not on the bill")
                else:
                    ledger.correct_cost(cursor, row, chance.randrange(NANO), NOW, reason="the true cost")
            assert differences() == []
        spend(keys[0], NOW, 999)
        resets.close_windows(NOW)
        again = pruning.prune_usage(NOW)
        assert (again.rows, again.refused, differences()) == (0, [], [])

    @staticmethod
    def live_through_months(chance: random.Random, keys: list[ApiKey]) -> list[int]:
        at, lost = NOW - timedelta(days=150), []
        for number in range(120):
            at += timedelta(hours=chance.randrange(58))
            at = min(at, NOW)
            key, state = chance.choice(keys), chance.choice(["SETTLED", "SETTLED", "LOST", "RELEASED"])
            row = attempt(key, at, number)
            if state == "RELEASED" and chance.random() < 0.5:
                end(row, at, state, sent=False, http_status=None)  # never sent: in no total
                continue
            end(row, at, state, nano=chance.randrange(2 * NANO))
            if state == "LOST":
                lost.append(row)
                if chance.random() < 0.4:
                    void_usage(row, at=at, actor="anna")
            if chance.random() < 0.1:
                resets.reset_costs([key], daily=True, monthly=chance.random() < 0.5, total=True, at=at, actor="anna")
        return lost

    def test_it_trusts_the_totals_of_a_sealed_day_and_finds_a_tampered_one(self):
        spend(open_key(), OLD)
        pruning.prune_usage(NOW)
        DailyUsage.objects.update(cost_nano=7 * NANO)
        assert [one.what for one in audit.audit().differences] == ["total cost", "monthly cost", "daily cost"][::-1]

    def test_it_does_not_add_a_sealed_day_up_anew_from_no_rows(self):
        spend(open_key(), OLD)
        pruning.prune_usage(NOW)
        with transaction.atomic(), connection.cursor() as cursor:
            audit._rebuild_day(cursor, ApiKey.objects.get().id, OLD.date())
        assert DailyUsage.objects.get().cost_nano == NANO

    def test_it_counts_a_row_that_a_wrong_clock_puts_on_a_sealed_day(self):
        key, other = open_key(), open_key("Other")
        spend(key, OLD)
        pruning.prune_usage(NOW)
        spend(other, OLD, 2)
        assert differences() == []

    def test_it_needs_no_second_look_at_sealed_days(self, django_assert_max_num_queries):
        key = open_key()
        for days in range(3):
            spend(key, OLD + timedelta(days=days), days)
        pruning.prune_usage(NOW)
        with django_assert_max_num_queries(8):
            pruning.prune_usage(NOW)


class TestOtherThings:
    def test_it_prunes_events_and_alerts_after_a_year(self):
        key = make_key()
        KeyEvent.objects.all().delete()
        for days in (367, 365):
            KeyEvent.objects.create(kind="changed", key=key, message=f"{days}", created_at=NOW - timedelta(days=days))
            Alert.objects.create(kind="test", message=f"{days}", created_at=NOW - timedelta(days=days))
        pruned = pruning.prune_usage(NOW)
        assert (pruned.events, pruned.alerts) == (1, 1)
        assert KeyEvent.objects.get().message == Alert.objects.get().message == "365"

    def test_it_keeps_who_chose_the_default_key(self):
        key, other = make_key(), make_key()
        KeyEvent.objects.all().delete()
        for of in (key, other):
            KeyEvent.objects.create(kind="default_changed", key=of, message="", created_at=NOW - timedelta(days=367))
        assert pruning.prune_usage(NOW).events == 1
        assert KeyEvent.objects.get().key == key

    def test_it_prunes_failed_authentication_and_old_task_failures(self):
        FailedAuthentication.objects.create(address="192.0.2.1", at=NOW - timedelta(hours=2))
        FailedAuthentication.objects.create(address="192.0.2.2", at=NOW)
        for number, days in enumerate((40, 1)):
            at = NOW - timedelta(days=days)
            Task.objects.create(id=f"{number}", name="a", func="f", started=at, stopped=at, success=False)
        pruning.prune_usage(NOW)
        assert FailedAuthentication.objects.get().address == "192.0.2.2"
        assert Failure.objects.get().id == "1"

    def test_it_prunes_expired_sessions(self):
        for name, hours in (("gone", -1), ("alive", 1)):
            Session.objects.create(session_key=name, session_data="", expire_date=NOW + timedelta(hours=hours))
        pruning.prune_usage(NOW)
        assert Session.objects.get().session_key == "alive"

    def test_it_keeps_adjustments_for_good(self):
        key = open_key()
        spend(key, OLD)
        resets.reset_costs([key], daily=True, monthly=True, total=True, at=OLD, actor="anna")
        pruning.prune_usage(NOW)
        assert Adjustment.objects.count() == 1
        assert differences() == []
        assert current_windows(NOW).day not in set(SealedDay.objects.values_list("day", flat=True))
