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


def test_it_has_the_addresses_of_the_contract():
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


def test_it_locks_out_after_five_failures_and_says_until_when(client):
    make_user("anna")
    answers = [log_in(client, "wrong") for _ in range(5)]
    locked = log_in(client)
    assert [answer.status_code for answer in answers[:4]] == [200] * 4
    assert locked.status_code == 429
    page = locked.content.decode()
    assert "Try again at" in page and "in 15 min" in page and "<time " in page
    assert "_auth_user_id" not in client.session


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
