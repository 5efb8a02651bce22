"""The scheduler's tables and the failed logins in the admin."""

from __future__ import annotations

import html
import re
from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.test import Client
from django.utils import timezone
from django_q.models import Failure, OrmQ, Schedule, Success

from llmkeys import doctor
from llmkeys.scheduling import ensure_schedules
from tests.helpers import make_user

pytestmark = pytest.mark.django_db
SCHEDULES, FAILURES, ATTEMPTS = "/admin/django_q/schedule/", "/admin/django_q/failure/", "/admin/axes/accessattempt/"
TRACE = 'boom <b> : Traceback (most recent call last):\n  File "x.py", line 1\nValueError: boom'


def ran(name: str, *, good: bool, result: str | None = None):
    at = timezone.now() - timedelta(hours=2)
    return (Success if good else Failure).objects.create(
        id=name, name=f"run of {name}", func="llmkeys.tasks.x", group=name, success=good, started=at, stopped=at,
        result=result,
    )  # fmt: skip


def text(client, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200
    return html.unescape(answer.content.decode())


def act(client, address: str, action: str, *rows) -> str:
    data = {"action": action, "_selected_action": [row.pk for row in rows]}
    return client.post(address, data, follow=True).content.decode()


class TestSchedules:
    def test_it_shows_last_and_next_run_in_words(self, operator):
        ensure_schedules()
        ran("reset_daily_costs", good=True), ran("check_keys", good=False)
        page = text(operator, SCHEDULES)
        assert "Closes the day" in page and "2 h ago" in page and "On time" in page and "Not yet run" in page
        assert ">Failed<" in page

    def test_it_runs_pauses_and_resumes(self, operator):
        ensure_schedules()
        schedule = Schedule.objects.get(name="reset_daily_costs")
        act(operator, SCHEDULES, "pause", schedule)
        assert Schedule.objects.get(pk=schedule.pk).repeats == 0 and ">Paused<" in text(operator, SCHEDULES)
        assert "0 schedules due" in act(operator, SCHEDULES, "run_now", schedule), "a paused one stays paused"
        act(operator, SCHEDULES, "resume", schedule)
        assert "1 schedule due now" in act(operator, SCHEDULES, "run_now", schedule)
        schedule.refresh_from_db()
        assert schedule.repeats == -1 and schedule.next_run <= timezone.now()

    def test_the_doctors_remedy_for_a_paused_one_can_be_followed(self, operator):
        ensure_schedules()
        act(operator, SCHEDULES, "pause", Schedule.objects.get(name="check_keys"))
        findings = doctor.examine(timezone.now(), offline=True)
        (remedy,) = [one.remedy for one in findings if one.title == "Schedule check_keys"]
        page, action = re.fullmatch(".* under “(.*)”, .* the action “(.*)”.", remedy).groups()
        assert re.search(f'<a href="{SCHEDULES}"[^>]*>{page}</a>', text(operator, "/admin/"))
        assert f">{action}</option>" in text(operator, SCHEDULES)

    def test_it_lets_nobody_edit_what_runs(self, operator):
        ensure_schedules()
        schedule = Schedule.objects.first()
        assert 'name="_save"' not in text(operator, f"{SCHEDULES}{schedule.pk}/change/")
        assert operator.post(f"{SCHEDULES}{schedule.pk}/change/", {"func": "os.system"}).status_code == 403
        assert operator.get(f"{SCHEDULES}add/").status_code == 403

    def test_it_asks_the_database_a_fixed_number_of_times(self, operator, django_assert_max_num_queries):
        ensure_schedules()
        with django_assert_max_num_queries(8):
            text(operator, SCHEDULES)


class TestTasks:
    def test_it_shows_why_a_task_failed(self, operator):
        task = ran("check_keys", good=False, result=TRACE)
        page = text(operator, FAILURES)
        assert "boom <b>" in page and "x.py" not in page
        assert "x.py" in text(operator, f"{FAILURES}{task.pk}/change/")
        assert "<b> :" not in operator.get(f"{FAILURES}{task.pk}/change/").content.decode()

    def test_it_puts_a_failed_task_in_the_queue_again(self, operator):
        task = ran("check_keys", good=False, result=TRACE)
        assert "1 task queued again" in act(operator, FAILURES, "run_again", task)
        assert not Failure.objects.exists() and OrmQ.objects.count() == 1
        assert "llmkeys.tasks.x" in text(operator, "/admin/django_q/ormq/")

    def test_it_shows_what_went_well(self, operator):
        ran("reset_daily_costs", good=True)
        assert "reset_daily_costs" in text(operator, "/admin/django_q/success/")


class TestLogins:
    def test_it_shows_who_waits_and_lets_them_in(self, operator):
        make_user("anna")
        for _ in range(5):
            Client().post("/login", {"username": "anna", "password": "my-secret-typo"})
        assert Client().post("/login", {"username": "anna", "password": "correct horse"}).status_code == 429
        attempt = AccessAttempt.objects.get()
        page = text(operator, ATTEMPTS) + text(operator, f"{ATTEMPTS}{attempt.pk}/change/")
        assert "anna" in page and "127.0.0.1" in page and "<time " in page and "my-secret-typo" not in page
        assert "Ended 1 lockout." in act(operator, ATTEMPTS, "unlock", attempt)
        answer = Client().post("/login", {"username": "anna", "password": "correct horse"})
        assert answer.headers["Location"] == "/llm-settings"

    def test_it_calls_them_logins(self, operator):
        page = text(operator, "/admin/")
        assert ">Logins<" in page.replace("\n", "").replace(" ", "") and "Access failures" not in page
