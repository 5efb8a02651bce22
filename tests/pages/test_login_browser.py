"""Log in, its limits, the session's end and a new password, in a real browser."""

from __future__ import annotations

from django.contrib.sessions.models import Session

from tests.helpers import make_user
from tests.pages.browser import BROWSER, fits, log_in

pytestmark = BROWSER


def try_to_log_in(page, password: str) -> None:
    page.get_by_label("User name").fill("anna")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def test_it_counts_the_attempts_down_and_then_makes_the_name_wait(page):
    make_user("anna", "view_apikey")
    page.goto("/login")
    page.get_by_text("First time?").wait_for()
    for words in ("4 attempts are left", "3 attempts are left", "2 attempts are left", "One attempt is left"):
        try_to_log_in(page, "wrong")
        page.get_by_text(words).wait_for()
        assert fits(page) and page.get_by_label("Password").input_value() == ""
    try_to_log_in(page, "wrong")
    page.get_by_role("heading", name="Too many wrong passwords").wait_for()
    assert fits(page)
    assert page.complaints and all("429" in complaint for complaint in page.complaints)
    page.complaints.clear()


def test_it_leads_back_to_the_page_after_the_session_has_ended(page):
    log_in(page)
    Session.objects.all().delete()
    page.goto("/llm-settings/health")
    page.get_by_role("heading", name="Log in").wait_for()
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Health", level=1).wait_for()


def test_it_leads_from_the_admin_through_the_one_login_and_back(page):
    make_user("anna", is_staff=True, is_superuser=True)
    page.goto("/admin/llmkeys/apikey/")
    page.get_by_role("heading", name="Log in").wait_for()
    try_to_log_in(page, "correct horse")
    page.wait_for_url("**/admin/llmkeys/apikey/")


def test_it_changes_the_password(page):
    user = log_in(page)
    page.goto("/account/password")
    page.get_by_label("Current password").fill("correct horse")
    page.get_by_label("New password", exact=True).fill("short")
    page.get_by_label("New password again").fill("short")
    page.get_by_role("button", name="Change password").click()
    page.get_by_text("too short").first.wait_for()
    assert fits(page)
    page.get_by_label("Current password").fill("correct horse")
    page.get_by_label("New password", exact=True).fill("battery staple 7")
    page.get_by_label("New password again").fill("battery staple 7")
    page.get_by_role("button", name="Change password").click()
    page.get_by_text("Your password was changed.").wait_for()
    user.refresh_from_db()
    assert user.check_password("battery staple 7")
