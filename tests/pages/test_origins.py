"""Pages that are refused for the host or the origin of a request: they name what was seen and the setting to change."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser() -> Client:
    return Client(enforce_csrf_checks=True)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Records what Django itself says too, which does not reach the root's handlers."""
    django = logging.getLogger("django")
    django.addHandler(caplog.handler)
    yield caplog
    django.removeHandler(caplog.handler)


def refusals(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the product said of a request, and Django, which is to say nothing. Others may talk meanwhile."""
    return [record for record in log.records if record.name.startswith(("llmkeys.dashboard.", "django."))]


def post_login(browser: Client, *, host: str = "localhost:8080", secure: bool = False, **headers: str):
    browser.cookies["refactai_csrf"] = "a" * 32
    form = {"username": "admin", "password": "wrong", "csrfmiddlewaretoken": "a" * 32}
    return browser.post("/login", form, headers={"Host": host, **headers}, secure=secure)


def test_a_host_that_is_not_allowed_is_named_with_the_setting(browser, log):
    answer = browser.get("/login", headers={"Host": "keys.example:8080"})
    assert answer.status_code == 400
    assert "This server does not answer under the name “keys.example:8080”" in answer.text
    assert "add keys.example to REFACTAI_ALLOWED_HOSTS" in answer.text
    (record,) = refusals(log)
    assert "keys.example:8080" in record.message and "REFACTAI_ALLOWED_HOSTS" in record.message
    assert record.exc_info is None


def test_a_rest_program_gets_the_same_as_json(browser):
    answer = browser.get("/api/llm/keys", headers={"Host": "keys.example"})
    assert answer.status_code == 400
    assert "keys.example" in answer.json()["detail"] and "REFACTAI_ALLOWED_HOSTS" in answer.json()["detail"]


def test_the_host_is_shown_as_text(browser):
    answer = browser.get("/login", headers={"Host": "<script>alert(1)</script>"})
    assert answer.status_code == 400
    assert "<script>alert" not in answer.text and "&lt;script&gt;alert" in answer.text


def test_an_origin_of_null_names_the_referrer_policy(browser, log):
    answer = post_login(browser, Origin="null")
    assert answer.status_code == 403
    assert "Origin: null" in answer.text and "Referrer-Policy" in answer.text
    assert "too old" not in answer.text
    (record,) = refusals(log)
    assert "Referrer-Policy" in record.message


def test_a_missing_referer_over_https_names_the_referrer_policy(browser):
    answer = post_login(browser, secure=True)
    assert answer.status_code == 403
    assert "Referer" in answer.text and "Referrer-Policy" in answer.text


def test_a_proxy_that_speaks_https_names_the_setting_for_it(browser):
    answer = post_login(browser, Origin="https://localhost:8080")
    assert answer.status_code == 403
    assert "https://localhost:8080" in answer.text and "REFACTAI_HTTPS=true" in answer.text


def test_a_proxy_that_does_not_say_that_it_speaks_https_is_asked_to(browser, settings):
    settings.REFACTAI_HTTPS = True
    answer = post_login(browser, Origin="https://localhost:8080")
    assert "X-Forwarded-Proto: https" in answer.text


def test_another_origin_names_both_addresses_and_the_setting(browser):
    answer = post_login(browser, Origin="http://keys.example")
    assert answer.status_code == 403
    assert "The form comes from “http://keys.example”, but" in answer.text and "http://localhost:8080" in answer.text
    assert "REFACTAI_CSRF_TRUSTED_ORIGINS" in answer.text


@pytest.mark.parametrize("origin", ["http://[", "http://[::1"])
def test_an_origin_that_is_no_url_is_refused_like_any_other(browser, administrator, origin):
    answer = post_login(browser, Origin=origin)
    assert answer.status_code == 403
    assert f"The form comes from “{origin}”, but this server’s own address is" in answer.text
    browser.force_login(administrator)
    headers = {"Origin": origin, "X-CSRFToken": "a" * 32}
    browser.cookies["refactai_csrf"] = "a" * 32
    answer = browser.post("/api/llm/keys", "{}", content_type="application/json", headers=headers)
    assert answer.status_code == 403
    assert f"The form comes from “{origin}”" in answer.json()["detail"]


def test_an_empty_origin_with_a_referer_that_is_no_url_is_unusable(browser):
    answer = post_login(browser, Origin="", Referer="http://[")
    assert answer.status_code == 403
    assert "it sent no usable “Referer”" in answer.text


def test_a_form_of_an_old_page_is_told_so(browser):
    answer = browser.post("/login", {"username": "admin"})
    assert answer.status_code == 403
    assert "too old" in answer.text and "REFACTAI" not in answer.text


def test_the_rest_api_names_the_origin_of_a_session(browser, administrator):
    browser.force_login(administrator)
    browser.cookies["refactai_csrf"] = "a" * 32
    headers = {"Origin": "http://keys.example", "X-CSRFToken": "a" * 32}
    answer = browser.post("/api/llm/keys", "{}", content_type="application/json", headers=headers)
    assert answer.status_code == 403
    assert "http://keys.example" in answer.json()["detail"]
    assert "REFACTAI_CSRF_TRUSTED_ORIGINS" in answer.json()["detail"]
