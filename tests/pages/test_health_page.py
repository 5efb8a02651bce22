"""/llm-settings/health: schedules, alerts, failed tasks, versions."""

from __future__ import annotations

import html
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_q.models import Failure, Schedule, Success

from llmkeys.doctor import FAIL, PASS, WARN, Finding
from llmkeys.models import Alert
from llmkeys.scheduling import ensure_schedules
from tests.helpers import NOW, make_account, make_key, make_user
from tests.pages.helpers import messages_of

pytestmark = pytest.mark.django_db
PAGE, TEST, SEEN = "/llm-settings/health", "/llm-settings/health/alert-test", "/llm-settings/health/alert-seen"
TRACE = 'boom <b> : Traceback (most recent call last):\n  File "x.py", line 1\nValueError: boom'


@pytest.fixture
def doctor_says(monkeypatch):
    """Say what the doctor found; `offline` collects how it was asked."""

    def says(*findings: Finding) -> None:
        says.findings = list(findings)

    says.findings, says.offline = [], []
    monkeypatch.setattr("llmkeys.doctor.examine", lambda at, *, offline: says.offline.append(offline) or says.findings)
    return says


def page_of(client) -> str:
    answer = client.get(PAGE)
    assert answer.status_code == 200
    return html.unescape(answer.content.decode())


def make_alert(**columns) -> Alert:
    return Alert.objects.create(
        **{"kind": "limit_reached", "message": "“Production” is spent.", "created_at": NOW, **columns}
    )


def ran(name: str, *, good: bool, at=NOW, result: str | None = None) -> None:
    model = Success if good else Failure
    model.objects.create(
        id=f"{name}-{at.timestamp()}"[:32], name=f"run of {name}", func=f"llmkeys.tasks.{name}", group=name,
        success=good, started=at, stopped=at, result=result,
    )  # fmt: skip


def test_it_needs_a_login_and_the_right_to_look(client, with_rights):
    assert client.get(PAGE).headers["Location"] == f"/login?next={PAGE}"
    assert with_rights().get(PAGE).status_code == 403
    looker = with_rights("view_apikey")
    alert = make_alert()
    page = page_of(looker)
    assert "Dismiss" not in page and "Send a test alert" not in page
    assert looker.post(SEEN, {"alert": alert.pk}).status_code == looker.post(TEST).status_code == 403
    assert Alert.objects.get().seen_at is None


@pytest.mark.usefixtures("frozen")
class TestSchedules:
    def test_it_says_that_there_are_none(self, operator):
        assert "There are no schedules yet" in page_of(operator)

    def test_it_shows_the_last_and_the_next_run_of_each(self, operator):
        ensure_schedules()
        ran("reset_daily_costs", good=True, at=NOW - timedelta(hours=2))
        page = page_of(operator)
        assert "reset_daily_costs" in page and "2 h ago" in page and "On time" in page and "Not yet run" in page
        assert "in 3 h 30 min" in page, "midnight, as the next run of the daily reset"

    def test_it_shows_why_a_run_failed_in_one_line(self, operator):
        ensure_schedules()
        ran("reset_daily_costs", good=False, result=TRACE)
        page = page_of(operator)
        assert "Failed" in page and "Latest failed tasks" in page and "boom <b>" in page
        assert "Traceback" not in page and "x.py" not in page
        assert "boom <b>" not in operator.get(PAGE).content.decode(), "as text"

    def test_it_tells_of_a_scheduler_that_stands_still(self, operator):
        ensure_schedules()
        assert "stands still" not in page_of(operator)
        Schedule.objects.update(next_run=NOW - timedelta(minutes=9))
        page = page_of(operator)
        assert "The scheduler has stopped.</strong> It has never run." in page
        assert "Late" in page and "favicon-alert" in page
        ran("reset_daily_costs", good=True, at=NOW - timedelta(hours=2))
        assert "2 h ago</time>. <code>./manage.py serve</code> restarts it" in page_of(operator)

    def test_it_tells_which_are_paused(self, operator):
        ensure_schedules()
        Schedule.objects.update(repeats=0)
        assert "Paused" in page_of(operator)


class TestAlerts:
    def test_it_shows_what_nobody_has_dismissed(self, operator):
        make_alert(), make_alert(message="seen before", seen_at=NOW)
        page = page_of(operator)
        assert "“Production” is spent." in page and "seen before" not in page and "favicon-alert" in page
        assert "There are no open alerts" not in page and "waiting to be sent" in page

    def test_it_is_calm_where_there_is_none(self, operator, doctor_says):
        page = page_of(operator)
        assert "There are no open alerts" in page and "no target is configured" in page and "favicon-alert" not in page

    def test_it_dismisses_one_and_all_that_were_shown(self, operator):
        first, second, third = make_alert(), make_alert(), make_alert()
        operator.post(SEEN, {"alert": first.pk})
        assert set(Alert.objects.filter(seen_at=None)) == {second, third}
        later = make_alert()
        answer = operator.post(SEEN, {"up_to": third.pk}, follow=True)
        assert messages_of(answer) == ["2 alerts dismissed."]
        assert set(Alert.objects.filter(seen_at=None)) == {later}, "what came after the page was shown stays"

    @pytest.mark.parametrize("given", [{}, {"alert": "x"}, {"alert": "9" * 30}, {"up_to": "-1"}, {"alert": "²"}])
    def test_it_takes_nonsense_calmly(self, operator, given):
        make_alert()
        assert operator.post(SEEN, given, follow=True).status_code == 200
        assert Alert.objects.get().seen_at is None

    def test_it_leads_back_where_a_login_came_in_between(self, operator):
        assert operator.get(SEEN).headers["Location"] == operator.get(TEST).headers["Location"] == PAGE

    def test_it_shows_what_a_target_did_not_get(self, operator):
        make_alert(seen_at=NOW, tries=6, delivery_error="json://127.0.0.1: refused")
        page = page_of(operator)
        assert "not delivered everywhere" in page and "given up after 6 tries" in page and "refused" in page

    def test_it_says_that_there_is_no_target_for_a_test(self, operator):
        (words,) = messages_of(operator.post(TEST, follow=True))
        assert "REFACTAI_ALERT_URLS" in words

    def test_it_sends_a_test_alert_and_says_what_came_of_it(self, operator, settings):
        settings.ALERT_URLS = ["json://user:secretpass@127.0.0.1:9/hook"]
        answer = operator.post(TEST, follow=True)
        (words,) = messages_of(answer)
        assert "not delivered" in words and "127.0.0.1" in words
        assert "secretpass" not in answer.content.decode()


class TestFindings:
    def test_it_shows_what_is_wrong_first_and_folds_what_is_in_order(self, operator, doctor_says):
        doctor_says(
            Finding(PASS, "Clock", "It agrees."), Finding(WARN, "Disk", "3 GB are left.", "Make room."),
            Finding(FAIL, "Schedules <b>", "None runs.", "Start serve."),
        )  # fmt: skip
        page = page_of(operator)
        assert page.index("Schedules <b>") < page.index("3 GB are left.") < page.index("It agrees.")
        assert "Make room." in page and "2 to look at, 1 passed" in page and "favicon-alert" in page
        assert "Schedules <b>" not in operator.get(PAGE).content.decode()

    def test_it_says_that_nothing_is_wrong(self, operator, doctor_says):
        doctor_says(Finding(PASS, "Clock", "It agrees."))
        assert "No problems were found." in page_of(operator)

    def test_it_asks_the_providers_only_when_told_to(self, operator, doctor_says):
        page_of(operator)
        page = html.unescape(operator.get(PAGE, {"providers": "ask"}).content.decode())
        assert doctor_says.offline == [True, False] and "The providers were asked as well." in page

    def test_it_examines_for_real(self, operator):
        assert "Findings" in page_of(operator) and "The check “" not in page_of(operator)


def test_it_tells_what_runs_here(operator):
    page = page_of(operator)
    for words in ("Python", "Django", "granian", "Time zone", "strict: a request is sent only if"):
        assert words in page, words
    with connection.cursor() as cursor:
        cursor.execute("SELECT sqlite_version()" if connection.vendor == "sqlite" else "SHOW server_version")
        version = cursor.fetchone()[0].split()[0]
    assert f"{connection.display_name} {version}" in page


def test_it_names_the_keys_and_tokens_that_are_not_strict(operator, administrator):
    make_key(name="Reserve", budget_mode="soft"), make_key(budget_mode="strict")
    make_account(administrator, name="shop", budgetMode="soft")
    gone, _ = make_account(administrator, name="gone", budgetMode="soft")
    operator.post(f"/llm-settings/tokens/{gone.pk}/revoke")
    page = page_of(operator)
    assert "the most it can cost fits, unless its key or token is set to soft" in page
    assert "Set to soft, so that theirs can be exceeded: the key “Reserve”, the token “shop”." in page


def test_it_asks_the_database_as_often_for_many_alerts_as_for_one(operator):
    ensure_schedules()
    make_alert(key=make_key())
    with CaptureQueriesContext(connection) as few:
        page_of(operator)
    for _ in range(60):
        make_alert(key=make_key())
    with CaptureQueriesContext(connection) as many:
        page = page_of(operator)
    assert len(many) == len(few) <= 40, "the doctor asks most of them"
    assert page.count("Dismiss<") == 50


def test_it_asks_the_database_as_often_for_many_tokens_as_for_two(operator):
    for name in ("user0", "user1"):
        make_account(make_user(name))
    page_of(operator)
    with CaptureQueriesContext(connection) as few:
        page_of(operator)
    for number in range(2, 20):
        make_account(make_user(f"user{number}"))
    with CaptureQueriesContext(connection) as many:
        page_of(operator)
    assert len(many) == len(few)
