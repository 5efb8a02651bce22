"""How the schedules fare, as the health page, the admin, the doctor and the watchdog see it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule, Task
from django_q.scheduler import scheduler

from llmkeys.scheduling import PLANNED, ensure_schedules, failure_words, schedule_states, scheduler_last_ran
from llmkeys.supervisor import watchdog
from tests.helpers import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

FAILED = """The provider is down: “Production”. : Traceback (most recent call last):
  File "worker.py", line 103, in worker
    res = f(*task["args"])
llmkeys.tasks.TaskFailed: The provider is down: “Production”.
"""


def ran(name: str, *, ended: datetime, success: bool = True, result: object = 0) -> None:
    """Leave what the cluster leaves of a task."""
    Task.objects.create(
        id=uuid.uuid4().hex, name=f"{name}-{ended}", func=f"llmkeys.tasks.{name}", group=name,
        started=ended - timedelta(seconds=1), stopped=ended, success=success, result=result,
    )  # fmt: skip


def queue(name: str, *, lock: datetime) -> None:
    """Queue the task of a schedule as the cluster does; see `scheduling._waiting` for `lock`."""
    Schedule.objects.update(next_run=NOW + timedelta(days=1))
    Schedule.objects.filter(name=name).update(next_run=NOW - timedelta(seconds=1))
    scheduler()
    OrmQ.objects.filter(pk=OrmQ.objects.latest("pk").pk).update(lock=lock)


def state(name: str):
    return next(one for one in schedule_states(NOW) if one.name == name)


class TestScheduleStates:
    def test_it_names_every_schedule_with_words_and_its_next_run(self):
        ensure_schedules()
        states = schedule_states(NOW)
        assert [one.name for one in states] == [planned.name for planned in PLANNED]
        assert all(one.words and one.cron and one.next_run > NOW for one in states)
        assert not any(one.is_late or one.has_failed or one.last_run for one in states)

    def test_it_shows_the_last_run_and_the_last_success(self):
        ensure_schedules()
        ran("prune_usage", ended=NOW - timedelta(days=2))
        ran("prune_usage", ended=NOW - timedelta(days=1))
        found = state("prune_usage")
        assert found.last_run == NOW - timedelta(days=1, seconds=1)
        assert (found.last_success, found.last_failure) == (NOW - timedelta(days=1), None)

    def test_it_shows_why_the_last_run_failed_without_a_traceback(self):
        ensure_schedules()
        ran("check_keys", ended=NOW - timedelta(hours=6))
        ran("check_keys", ended=NOW, success=False, result=FAILED)
        found = state("check_keys")
        assert found.has_failed
        assert found.failure == "The provider is down: “Production”."
        assert found.last_success == NOW - timedelta(hours=6)

    def test_it_has_recovered_after_a_good_run(self):
        ensure_schedules()
        ran("check_keys", ended=NOW - timedelta(hours=6), success=False, result=FAILED)
        ran("check_keys", ended=NOW)
        assert not state("check_keys").has_failed

    def test_it_tells_which_are_late_and_which_paused(self):
        ensure_schedules()
        late = Schedule.objects.filter(name__in=["check_keys", "prune_usage"])
        late.update(next_run=NOW - timedelta(minutes=4))
        Schedule.objects.filter(name="prune_usage").update(repeats=0)
        assert [one.name for one in schedule_states(NOW) if one.is_late] == ["check_keys"]
        assert [one.name for one in schedule_states(NOW) if one.is_paused] == ["prune_usage"]
        assert state("prune_usage").next_run is None

    def test_it_shows_schedules_of_a_persons_own_last(self):
        ensure_schedules()
        Schedule.objects.create(name="a report", func="mine", schedule_type=Schedule.DAILY)
        assert schedule_states(NOW)[-1].name == "a report"

    def test_it_asks_three_questions_however_many_runs_there_were(self, django_assert_num_queries):
        ensure_schedules()
        for planned in PLANNED:
            ran(planned.name, ended=NOW, success=False, result=FAILED)
        with django_assert_num_queries(3):
            schedule_states(NOW)


class TestFailureWords:
    @pytest.mark.parametrize(
        ("result", "words"),
        [
            (FAILED, "The provider is down: “Production”."),
            (" : Traceback (most recent call last):\n  File\nKeyError\n", "KeyError"),
            ("two\nlines : Traceback (most recent call last):\n", "two"),
            (None, "It failed and left no reason."),
        ],
    )
    def test_it_is_one_line(self, result, words):
        assert failure_words(result) == words


class TestSchedulerLastRan:
    def test_it_is_not_stalled_before_there_is_a_schedule(self):
        assert scheduler_last_ran(NOW).is_stalled is False
        assert scheduler_last_ran(NOW).at is None

    def test_it_is_not_stalled_while_schedules_start_in_time(self, django_assert_num_queries):
        ensure_schedules()
        ran("settle_lost_holds", ended=NOW - timedelta(seconds=40))
        with django_assert_num_queries(1):
            found = scheduler_last_ran(NOW)
        assert (found.at, found.is_stalled) == (NOW - timedelta(seconds=40), False)

    def test_it_is_stalled_after_three_minutes_without_progress(self):
        ensure_schedules()
        Schedule.objects.filter(name="settle_lost_holds").update(next_run=NOW)
        assert not scheduler_last_ran(NOW + timedelta(minutes=2, seconds=59)).is_stalled
        assert scheduler_last_ran(NOW + timedelta(minutes=3, seconds=1)).is_stalled

    def test_it_is_not_stalled_where_a_person_paused_all(self):
        ensure_schedules()
        Schedule.objects.update(next_run=NOW - timedelta(days=1), repeats=0)
        assert not scheduler_last_ran(NOW).is_stalled

    @pytest.mark.parametrize(("minutes", "is_stalled"), [(4, False), (5, True)])
    @pytest.mark.parametrize("is_claimed", [False, True])
    def test_it_is_stalled_when_a_started_task_is_not_done(self, minutes, is_stalled, is_claimed):
        ensure_schedules()
        since = NOW - timedelta(minutes=minutes)
        lock = since + timedelta(seconds=Conf.RETRY) if is_claimed else since
        OrmQ.objects.create(key="refactai", payload="…", lock=lock)
        assert scheduler_last_ran(NOW).is_stalled is is_stalled

    @pytest.mark.django_db(transaction=True)
    def test_it_is_not_stalled_while_a_backup_is_within_its_hour_and_other_tasks_are_done(self):
        ensure_schedules()
        for minutes, waiting, is_stalled in ((30, 1, False), (30, 20, True), (60.5, 1, True), (62, 20, True)):
            OrmQ.objects.all().delete()
            began = NOW - timedelta(minutes=minutes)
            queue("backup_database", lock=began + timedelta(seconds=Conf.RETRY))
            queue("send_alerts", lock=NOW - timedelta(minutes=waiting))
            assert scheduler_last_ran(NOW).is_stalled is is_stalled, (minutes, waiting)

    @pytest.mark.django_db(transaction=True)
    def test_it_is_not_stalled_while_tasks_wait_for_a_backup_and_another_that_are_both_in_time(self):
        ensure_schedules()
        for minutes, is_stalled in ((4, False), (6, True)):
            OrmQ.objects.all().delete()
            claim = timedelta(seconds=Conf.RETRY)
            queue("backup_database", lock=NOW - timedelta(minutes=30) + claim)
            queue("check_keys", lock=NOW - timedelta(minutes=minutes) + claim)
            queue("send_alerts", lock=NOW - timedelta(minutes=minutes) + claim)
            assert scheduler_last_ran(NOW).is_stalled is is_stalled

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("before", ["nothing", "a task just queued", "a task just claimed"])
    def test_it_is_not_stalled_by_what_is_queued_while_somebody_looks(self, before, frozen):
        """The doctor, for one, has read the clock minutes ago when the database is large."""
        ensure_schedules()
        second = timedelta(seconds=1)
        if before != "nothing":
            frozen.move_to(NOW - second / 2)
            queue("check_keys", lock=NOW - second / 2 + ("claimed" in before) * timedelta(seconds=Conf.RETRY))
        frozen.move_to(NOW + 20 * second)
        queue("send_alerts", lock=NOW + 20 * second)
        assert not scheduler_last_ran(NOW).is_stalled


@pytest.mark.django_db(transaction=True)  # the watchdog closes its connections after every look
class TestWatchdog:
    @pytest.fixture
    def dog(self) -> watchdog.Watchdog:
        """A schedule is an hour late: because nothing runs, or because the machine slept or its clock jumped ahead."""
        ensure_schedules()
        Schedule.objects.filter(name="send_alerts").update(next_run=NOW - timedelta(hours=1))
        return watchdog.Watchdog()

    @pytest.fixture
    def look(self, monkeypatch, dog) -> Callable[..., str]:
        """Return a function that looks so many seconds later."""

        def look(*, later: float, cluster_age: float = 1000) -> str:
            clock = watchdog.time.monotonic() + later
            monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: clock))
            return dog.fault(cluster_age_seconds=cluster_age)

        return look

    def test_it_gives_the_scheduler_the_time_of_a_tick(self, dog, look):
        assert (look(later=100), dog.stall) == ("", "")
        assert look(later=20) == ""
        assert look(later=20) == "no schedule was started for 60 seconds"
        assert dog.stall == "since 2026-11-23 19:30:00"

    def test_schedules_do_not_wait_for_a_time_from_before_the_clock_was_set_back(self, look):
        Schedule.objects.update(next_run=NOW + timedelta(days=3))
        look(later=100)
        assert state("send_alerts").next_run == NOW + timedelta(days=3), "an operator may put it off"
        ran("send_alerts", ended=NOW + timedelta(days=2))
        look(later=100)
        assert state("send_alerts").next_run == NOW + timedelta(minutes=1)
        assert state("reset_daily_costs").next_run == NOW + timedelta(hours=3, minutes=30)

    def test_it_finds_nothing_where_the_schedules_ran_meanwhile(self, look):
        assert look(later=100) == ""
        Schedule.objects.update(next_run=NOW + timedelta(minutes=1))
        assert look(later=40) == ""
        Schedule.objects.update(next_run=NOW - timedelta(hours=1))
        assert look(later=40) == "", "this is another time, which has just begun"

    def test_a_stall_goes_on_while_a_new_cluster_has_not_shown_that_it_works(self, dog, look):
        look(later=100)
        look(later=40)
        assert look(later=40, cluster_age=5) == ""
        assert (look(later=100, cluster_age=105), dog.stall) == ("", "since 2026-11-23 19:30:00")

    @pytest.mark.parametrize(("name", "longest"), [("send_alerts", 330), ("backup_database", 3_630)])
    def test_it_waits_as_long_as_the_first_task_may_take(self, monkeypatch, name, longest):
        ensure_schedules()
        queue(name, lock=NOW)
        clock = SimpleNamespace(seconds=0)
        monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
        dog, found = watchdog.Watchdog(), []
        for clock.seconds in (30, 30 + longest, 60 + longest):
            found.append(dog.fault(cluster_age_seconds=0))
        assert found == ["", "", f"a task was not finished within {longest} seconds"]

    def test_it_does_not_wait_for_a_backup_where_another_task_takes_too_long(self, monkeypatch):
        ensure_schedules()
        for name in ("backup_database", "check_keys", "reconcile_costs"):
            queue(name, lock=NOW)
        clock = SimpleNamespace(seconds=0)
        monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
        dog, found = watchdog.Watchdog(), []
        for clock.seconds in (30, 330):
            found.append(dog.fault(cluster_age_seconds=0))
        OrmQ.objects.filter(pk=sorted(OrmQ.objects.values_list("pk", flat=True))[1]).delete()
        for clock.seconds in (360, 690, 720):  # the third task runs from 360 on
            found.append(dog.fault(cluster_age_seconds=0))
        assert found == ["", "", "", "", "a task was not finished within 330 seconds"]

    def test_it_gives_up_what_ends_the_scheduler_every_time(self):
        def unlock_claimed(number: int) -> str:
            OrmQ.objects.update(lock=NOW + timedelta(hours=1))
            assert OrmQ.objects.count() == number
            return dog.unlock_tasks()

        ensure_schedules()
        for number, words in ((1, "1 task that ended the scheduler every time was"), (2, "2 tasks that ended")):
            dog = watchdog.Watchdog()
            for name in ("send_alerts", "check_keys")[:number]:
                queue(name, lock=NOW)
            assert [unlock_claimed(number) for _ in range(watchdog.UNLOCKS_OF_ONE_TASK)] == [""] * 3
            assert unlock_claimed(number).startswith(words)
            assert not OrmQ.objects.exists()
