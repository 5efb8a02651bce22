"""The schedules and the services behind them: windows that close, keys that expire, costs that are reset."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from django.db import connection, transaction
from django.utils.module_loading import import_string
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule
from django_q.scheduler import scheduler

from llmkeys import ledger, scheduling, tasks
from llmkeys.key_state import current_windows
from llmkeys.keys import resets
from llmkeys.ledger import KEYS, Account, Attempt, Bid, Outcome, audit
from llmkeys.lib.money import NANO
from llmkeys.models import Adjustment, Alert, ApiKey, KeyEvent, UsageRecord
from llmkeys.scheduling import PLANNED, ensure_schedules
from tests.helpers import NOW, make_key

pytestmark = pytest.mark.django_db

MIDNIGHT = datetime(2026, 11, 24, 0, 0, 5, tzinfo=UTC)
FIRST_OF_MONTH = datetime(2026, 12, 1, 0, 0, 5, tzinfo=UTC)
SPENT = {"spent_day_nano": NANO, "spent_month_nano": 2 * NANO, "spent_total_nano": 3 * NANO}


def spend(key: ApiKey, nano: int, *, at: datetime = NOW, number: int = 1) -> None:
    """Serve one request of this cost through the ledger."""
    attempt = Attempt(f"req-{key.id}-{number}", 1, at, "openai-chat", "m", "", False, "me")
    with transaction.atomic(), connection.cursor() as cursor:
        placed = ledger.place_hold(cursor, [Bid(key.id, key.provider, "m", nano)], attempt)
        ledger.finish(cursor, placed.hold.usage_id, Outcome("SETTLED", at, success=True, cost_nano=nano))


class TestEnsureSchedules:
    def test_it_creates_each_under_its_name(self):
        ensure_schedules()
        assert dict(Schedule.objects.values_list("name", "cron")) == {
            "reset_daily_costs": "0 0 * * *",
            "reset_monthly_costs": "0 0 1 * *",
            "check_expired_keys": "0 * * * *",
            "settle_lost_holds": "* * * * *",
            "send_alerts": "* * * * *",
            "check_keys": "20 */6 * * *",
            "reconcile_costs": "*/15 * * * *",
            "prune_usage": "40 3 * * *",
            "backup_database": "10 4 * * *",
        }
        for schedule in Schedule.objects.all():
            assert callable(import_string(schedule.func))
            assert (schedule.schedule_type, schedule.repeats, schedule.cluster) == (Schedule.CRON, -1, None)

    @pytest.mark.django_db(transaction=True)
    def test_it_gives_backups_an_hour_and_starts_no_task_again_that_is_still_in_time(self, frozen):
        ensure_schedules()
        Schedule.objects.update(next_run=NOW - timedelta(seconds=1))
        scheduler()
        longest = {queued.group(): queued.task.get("timeout", Conf.TIMEOUT) for queued in OrmQ.objects.all()}
        assert longest == {planned.name: 300 for planned in scheduling.PLANNED} | {"backup_database": 3600}
        assert max(longest.values()) < Conf.RETRY

    def test_it_gives_the_backups_of_an_earlier_version_the_hour_too(self):
        ensure_schedules()
        Schedule.objects.update(kwargs=None, next_run=MIDNIGHT)
        ensure_schedules()
        backups = Schedule.objects.get(name="backup_database")
        assert (backups.kwargs, backups.next_run) == ("{'q_options': {'timeout': 3600}}", MIDNIGHT)

    def test_it_backs_up_once_a_day_in_every_time_zone(self):
        minute, hour, *_ = next(planned.cron.split() for planned in PLANNED if planned.name == "backup_database")
        days = [datetime(2026, 1, 1, int(hour), int(minute)) + timedelta(days=number) for number in range(365)]
        for zone in map(ZoneInfo, sorted(available_timezones())):
            for day in days:
                first = day.replace(tzinfo=zone)
                assert first.utcoffset() == first.replace(fold=1).utcoffset(), f"twice, or not at all, on {first}"

    def test_it_first_runs_at_the_next_midnight_of_the_operators_zone(self, frozen, monkeypatch):
        monkeypatch.setattr(Conf, "TIME_ZONE", "Europe/Berlin")
        ensure_schedules()
        daily = Schedule.objects.get(name="reset_daily_costs")
        assert daily.next_run == datetime(2026, 11, 23, 23, 0, tzinfo=UTC)

    def test_it_changes_nothing_the_second_time(self):
        ensure_schedules()
        moved = NOW + timedelta(days=400)
        Schedule.objects.update(next_run=moved)
        before = list(Schedule.objects.order_by("pk").values())
        ensure_schedules()
        assert list(Schedule.objects.order_by("pk").values()) == before

    def test_it_moves_the_next_run_when_the_cron_text_changed(self, frozen):
        ensure_schedules()
        Schedule.objects.filter(name="reset_monthly_costs").update(cron="0 5 * * *", next_run=NOW)
        ensure_schedules()
        monthly = Schedule.objects.get(name="reset_monthly_costs")
        assert (monthly.cron, monthly.next_run) == ("0 0 1 * *", datetime(2026, 12, 1, tzinfo=UTC))

    def test_it_keeps_the_next_run_when_only_the_function_changed(self):
        ensure_schedules()
        Schedule.objects.filter(name="reset_daily_costs").update(func="old.path", next_run=MIDNIGHT)
        ensure_schedules()
        daily = Schedule.objects.get(name="reset_daily_costs")
        assert (daily.func, daily.next_run) == ("llmkeys.tasks.reset_daily_costs", MIDNIGHT)

    def test_it_removes_twins_and_leaves_other_schedules_alone(self):
        ensure_schedules()
        Schedule.objects.create(name="reset_daily_costs", func="llmkeys.tasks.reset_daily_costs")
        Schedule.objects.create(name="my own", func="mine")
        ensure_schedules()
        assert Schedule.objects.filter(name="reset_daily_costs").count() == 1
        assert Schedule.objects.filter(name="my own").exists()

    def test_it_keeps_a_pause(self):
        ensure_schedules()
        Schedule.objects.update(repeats=0)
        ensure_schedules()
        assert set(Schedule.objects.values_list("repeats", flat=True)) == {0}

    def test_it_creates_nothing_twice_when_two_servers_start_at_once(self, transactional_db):
        def start() -> None:
            try:
                ensure_schedules()
            finally:
                connection.close()

        threads = [threading.Thread(target=start) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Schedule.objects.count() == len(scheduling.PLANNED)


class TestCloseWindows:
    def test_it_closes_the_day_and_tells_once(self, frozen):
        make_key(name="Production", **SPENT)
        frozen.move_to(MIDNIGHT)
        assert (tasks.reset_daily_costs(), tasks.reset_daily_costs()) == (1, 0)
        key = ApiKey.objects.get()
        assert (key.day, key.spent_day_nano) == (date(2026, 11, 24), 0)
        assert (key.spent_month_nano, key.spent_total_nano) == (2 * NANO, 3 * NANO)
        event = KeyEvent.objects.get(kind="window_reset")
        assert event.message == "A new day began for “Production”: $1.00 had been spent on 2026-11-23."

    def test_it_closes_the_month_with_the_day(self, frozen):
        make_key(**SPENT)
        frozen.move_to(FIRST_OF_MONTH)
        tasks.reset_monthly_costs()
        tasks.reset_daily_costs()
        key = ApiKey.objects.get()
        assert (key.month, key.spent_month_nano, key.spent_day_nano) == (date(2026, 12, 1), 0, 0)
        assert KeyEvent.objects.filter(kind="window_reset").count() == 2

    def test_it_leaves_costs_alone_that_a_faster_request_wrote_and_tells_all_the_same(self):
        key = make_key(name="Production")
        spend(key, NANO)
        spend(key, 5, at=MIDNIGHT, number=2)  # rolls the day before the job does
        assert resets.close_windows(MIDNIGHT) == 1
        key.refresh_from_db()
        assert key.spent_day_nano == 5
        assert "$1.00 had been spent on 2026-11-23" in KeyEvent.objects.get(kind="window_reset").message

    def test_it_never_opens_a_window_again_that_a_later_clock_closed(self):
        make_key(**SPENT, day=date(2026, 11, 25))
        resets.close_windows(MIDNIGHT)
        assert ApiKey.objects.get().spent_day_nano == NANO

    def test_it_says_nothing_where_nothing_was_spent(self):
        make_key()
        assert resets.close_windows(MIDNIGHT) == 0

    def test_it_gives_the_default_mark_where_nobody_has_it(self):
        make_key(name="Production", is_default=False)
        resets.close_windows(MIDNIGHT)
        assert ApiKey.objects.get().is_default

    def test_it_works_days_late(self):
        make_key(**SPENT)
        assert resets.close_windows(MIDNIGHT + timedelta(days=3)) == 1
        assert ApiKey.objects.get().day == date(2026, 11, 27)


class TestExpireKeys:
    def test_it_tells_once_for_each_date_and_hands_the_default_on(self, frozen):
        make_key(name="Old", expires_at=NOW + timedelta(hours=1))
        make_key(name="Next")
        frozen.move_to(NOW + timedelta(hours=2))
        assert (tasks.check_expired_keys(), tasks.check_expired_keys()) == (1, 0)
        assert ApiKey.objects.get(is_default=True).name == "Next"
        assert KeyEvent.objects.get(kind="expired").message.startswith("“Old” expired on 2026-11-23 21:30 UTC")
        ApiKey.objects.filter(name="Old").update(expires_at=NOW + timedelta(minutes=90))
        assert tasks.check_expired_keys() == 1

    def test_it_does_not_tell_again_when_the_event_has_been_deleted_after_a_year(self, frozen):
        make_key(expires_at=NOW)
        assert tasks.check_expired_keys() == 1
        frozen.move_to(NOW + timedelta(days=367))
        tasks.prune_usage()
        assert tasks.check_expired_keys() == 0
        assert not KeyEvent.objects.filter(kind="expired").exists() and not Alert.objects.exists()

    def test_it_hands_the_default_of_a_key_on_that_expired_long_ago(self):
        make_key(name="Old")
        make_key(name="Next")
        ApiKey.objects.filter(name="Old").update(expires_at=NOW - timedelta(days=400))
        assert ApiKey.objects.get(is_default=True).name == "Old"
        assert resets.expire_keys(NOW) == 0
        assert ApiKey.objects.get(is_default=True).name == "Next"

    def test_it_leaves_other_keys_alone(self):
        make_key(expires_at=NOW + timedelta(hours=1))
        make_key()
        assert resets.expire_keys(NOW) == 0
        assert not KeyEvent.objects.filter(kind="expired").exists()


def expiring() -> list[str]:
    return [event.once.rsplit(" ", 1)[1] for event in KeyEvent.objects.filter(kind="expiring").order_by("id")]


class TestWarnOfExpiry:
    def test_it_warns_seven_days_and_one_day_before_once_each(self, frozen):
        make_key(name="Production", expires_at=NOW + timedelta(days=8))
        told = []
        for hours in (0, 24, 25, 48, 24 * 7, 24 * 7 + 1, 24 * 8 - 1):
            frozen.move_to(NOW + timedelta(hours=hours))
            told.append(tasks.check_expired_keys())
        assert told == [0, 1, 0, 0, 1, 0, 0]
        assert expiring() == ["7", "1"]

    def test_it_says_when_and_what_to_do(self):
        make_key(name="Production", expires_at=NOW + timedelta(days=6, hours=1))
        resets.warn_of_expiry(NOW)
        assert KeyEvent.objects.get(kind="expiring").message == (
            "“Production” expires on 2026-11-29 21:30 UTC, in 6 days. Replace it in time, or change its expiry date."
        )

    def test_it_warns_once_of_a_key_with_twelve_hours_left(self, frozen):
        make_key(expires_at=NOW + timedelta(hours=12))
        assert (tasks.check_expired_keys(), tasks.check_expired_keys()) == (1, 0)
        assert expiring() == ["1"]

    def test_it_warns_again_of_a_new_date(self):
        key = make_key(expires_at=NOW + timedelta(hours=12))
        resets.warn_of_expiry(NOW)
        ApiKey.objects.filter(pk=key.pk).update(expires_at=NOW + timedelta(hours=13))
        assert resets.warn_of_expiry(NOW) == 1

    def test_it_says_nothing_of_keys_that_do_not_serve_anyway(self):
        soon = NOW + timedelta(hours=12)
        make_key(expires_at=soon, enabled=False)
        make_key(expires_at=soon, rejected_at=NOW)
        make_key(expires_at=NOW - timedelta(hours=1))
        make_key()
        assert resets.warn_of_expiry(NOW) == 0


class TestSettleLostHolds:
    def test_it_declares_dead_leases_lost(self, frozen):
        key = make_key()
        attempt = Attempt("req-1", 1, NOW, "openai-chat", "m", "", False, "a process that died")
        with transaction.atomic(), connection.cursor() as cursor:
            ledger.place_hold(cursor, [Bid(key.id, key.provider, "m", NANO)], attempt)
        assert tasks.settle_lost_holds() == 0
        frozen.move_to(NOW + timedelta(seconds=61))
        assert tasks.settle_lost_holds() == 1
        key.refresh_from_db()
        assert (key.held_nano, key.spent_total_nano) == (0, NANO)
        assert UsageRecord.objects.get().state == "LOST"


class TestResetCosts:
    def test_it_takes_out_the_chosen_windows_by_one_adjustment(self):
        key = make_key(name="Production", **SPENT)
        done = resets.reset_costs([key], daily=True, monthly=False, total=True, at=NOW, actor="anna")
        key.refresh_from_db()
        assert done == [resets.Reset(Account(KEYS, key.id), NANO, 0, 3 * NANO)]
        assert (key.spent_day_nano, key.spent_month_nano, key.spent_total_nano) == (0, 2 * NANO, 0)
        written = Adjustment.objects.get()
        assert (written.kind, written.created_by) == ("reset", "anna")
        assert (written.day_nano, written.month_nano, written.total_nano) == (-NANO, 0, -3 * NANO)

    def test_it_leaves_an_event_that_names_who_did_it(self):
        key = make_key(name="Production", **SPENT)
        resets.reset_costs([key], daily=True, monthly=True, total=False, at=NOW, actor="anna")
        event = KeyEvent.objects.get(kind="cost_reset")
        assert event.actor == "anna"
        assert event.message == "The costs of “Production” were reset by anna: daily $1.00, monthly $2.00."

    def test_it_does_nothing_where_nothing_was_spent(self):
        key = make_key()
        assert resets.reset_costs([key], daily=True, monthly=True, total=True, at=NOW, actor="anna") == []
        assert not Adjustment.objects.exists()

    def test_it_takes_nothing_out_of_a_day_that_has_ended(self):
        key = make_key(**SPENT)
        done = resets.reset_costs([key], daily=True, monthly=False, total=False, at=MIDNIGHT, actor="anna")
        key.refresh_from_db()
        assert done == [] and key.day == current_windows(MIDNIGHT).day

    def test_it_makes_a_spent_key_serve_again(self):
        key = make_key(**SPENT, daily_limit_nano=NANO, refused_window="day", refused_day=NOW.date())
        assert key.status_at(NOW) == "LIMIT_REACHED"
        resets.reset_costs([key], daily=True, monthly=False, total=False, at=NOW, actor="anna")
        key.refresh_from_db()
        assert key.status_at(NOW) == "ACTIVE"

    def test_it_loses_no_cost_that_is_recorded_meanwhile(self, transactional_db):
        key = make_key(daily_limit_nano=0, monthly_limit_nano=0, total_limit_nano=0)
        errors: list[BaseException] = []

        def in_thread(work) -> threading.Thread:
            def guarded() -> None:
                try:
                    work()
                except BaseException as error:
                    errors.append(error)
                finally:
                    connection.close()

            thread = threading.Thread(target=guarded)
            thread.start()
            return thread

        def serve() -> None:
            for number in range(40):
                spend(key, 7, number=number)

        def reset() -> None:
            for _ in range(20):
                resets.reset_costs([key], daily=True, monthly=True, total=True, at=NOW, actor="anna")

        for thread in [in_thread(serve), in_thread(reset)]:
            thread.join()
        assert errors == []
        key.refresh_from_db()
        taken = -sum(Adjustment.objects.values_list("total_nano", flat=True))
        assert key.spent_total_nano + taken == 40 * 7
        assert audit.audit().differences == []
