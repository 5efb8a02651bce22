"""/login and /logout."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from tests.helpers import make_user

pytestmark = pytest.mark.django_db
FIRST_RUN = "First time?"


def log_in(client: Client, password: str = "correct horse", **more: str):
    return client.post("/login", {"username": "anna", "password": password, **more})


def test_it_has_these_addresses():
    assert [reverse(name) for name in ("login", "logout", "dashboard")] == ["/login", "/logout", "/llm-settings"]


def test_it_leads_from_the_root_to_the_dashboard_and_from_there_to_the_login(client):
    assert client.get("/").headers["Location"] == "/llm-settings"
    assert client.get("/llm-settings").headers["Location"] == "/login?next=/llm-settings"


def test_it_logs_in_and_leads_to_the_dashboard(client):
    make_user("anna", "view_apikey")
    assert log_in(client).headers["Location"] == "/llm-settings"
    assert client.get("/llm-settings").status_code == 200


def test_it_returns_to_the_page_that_was_asked_for(client):
    make_user("anna")
    page = client.get("/login?next=/llm-settings/keys/add").content.decode()
    assert 'name="next" value="/llm-settings/keys/add"' in page
    assert log_in(client, next="/llm-settings/keys/add").headers["Location"] == "/llm-settings/keys/add"


@pytest.mark.parametrize("elsewhere", ["https://example.org/", "//example.org", "javascript:alert(1)"])
def test_it_never_leads_to_another_site(client, elsewhere):
    make_user("anna")
    assert log_in(client, next=elsewhere).headers["Location"] == "/llm-settings"


def test_it_refuses_a_wrong_password_without_giving_it_back(client):
    make_user("anna")
    page = log_in(client, "wrong-password").content.decode()
    assert "do not match" in page
    assert "wrong-password" not in page


def test_it_tells_of_the_first_password_until_somebody_has_logged_in(client):
    make_user("anna")
    page = client.get("/login").content.decode()
    assert FIRST_RUN in page and "first-login" in page and "manage.py serve" in page
    log_in(client)
    assert FIRST_RUN not in Client().get("/login").content.decode()


def test_it_locks_out_after_five_failures_and_says_until_when(client, frozen):
    make_user("anna")
    answers = [log_in(client, "wrong") for _ in range(5)]
    locked = log_in(client)
    assert [answer.status_code for answer in answers[:4]] == [200] * 4
    assert locked.status_code == 429
    page = locked.content.decode()
    assert "Try again at <time" in page and "in 15 min" in page and "<time " in page
    assert locked.headers["Retry-After"] == "900"
    assert "_auth_user_id" not in client.session


def test_it_counts_the_attempts_down_alike_for_names_that_do_not_exist(client):
    make_user("anna")
    known = [log_in(client, "wrong").content.decode() for _ in range(4)]
    assert "4 attempts are left; after that, this user name is locked for your address for 15 min." in known[0]
    assert "One attempt is left" in known[3]
    unknown = client.post("/login", {"username": "nobody", "password": "x"}).content.decode()
    assert "4 attempts are left" in unknown


def test_it_counts_the_failures_of_each_address_behind_a_proxy(client, settings):
    settings.REFACTAI_HTTPS = True
    make_user("anna")
    for _ in range(5):
        client.post("/login", {"username": "anna", "password": "x"}, headers={"X-Forwarded-For": "10.9.9.9"})
    there = {"username": "anna", "password": "correct horse"}
    assert client.post("/login", there, headers={"X-Forwarded-For": "10.9.9.9"}).status_code == 429
    assert client.post("/login", there, headers={"X-Forwarded-For": "10.1.1.1"}).status_code == 302


def test_it_is_the_login_of_the_admin_too(client, with_rights):
    assert client.get("/admin/login/?next=/admin/auth/user/").headers["Location"] == "/login?next=/admin/auth/user/"
    assert client.get("/admin/login/").headers["Location"] == "/login?next=/admin/"
    assert client.post("/admin/login/", {"username": "anna"}).headers["Location"] == "/login?next=/admin/"
    page = with_rights("view_apikey").get("/login?next=/admin/").content.decode()
    assert "You are logged in as" in page and "may not open the requested page" in page


def test_it_leads_to_the_login_when_the_session_has_ended(operator):
    from django.contrib.sessions.models import Session

    Session.objects.all().delete()
    assert operator.get("/llm-settings/health").headers["Location"] == "/login?next=/llm-settings/health"


class TestPassword:
    NEW = {"old_password": "correct horse", "new_password1": "battery staple 7", "new_password2": "battery staple 7"}

    def test_it_changes_the_password_and_ends_the_other_sessions(self, client):
        make_user("anna", "view_apikey")
        other = Client()
        log_in(client), log_in(other)
        page = client.post("/account/password", self.NEW, follow=True).content.decode()
        assert "Your password was changed." in page
        assert client.get("/llm-settings").status_code == 200
        assert other.get("/llm-settings").status_code == 302
        assert log_in(Client(), "battery staple 7").status_code == 302

    def test_it_refuses_a_wrong_old_and_a_weak_new_one(self, operator):
        wrong = operator.post("/account/password", {**self.NEW, "old_password": "x"}).content.decode()
        assert "incorrect" in wrong and "battery staple" not in wrong
        weak = operator.post("/account/password", {**self.NEW, "new_password1": "1", "new_password2": "1"})
        assert "too short" in weak.content.decode()

    def test_it_needs_a_login(self, client):
        assert client.get("/account/password").headers["Location"] == "/login?next=/account/password"


def test_it_logs_out_by_post_alone(operator):
    assert operator.get("/logout").status_code == 405
    assert operator.get("/llm-settings").status_code == 200
    assert operator.post("/logout").headers["Location"] == "/login"
    assert operator.get("/llm-settings").status_code == 302


def test_it_demands_the_csrf_token_with_a_page_of_ours():
    make_user("anna")
    answer = log_in(Client(enforce_csrf_checks=True))
    assert answer.status_code == 403
    assert "RefactAI" in answer.content.decode() and "Nothing was changed" in answer.content.decode()
