"""Every page and every action with JavaScript off: only the refresh is missing."""

from __future__ import annotations

import csv

import pytest
from django.urls import reverse
from django.utils import timezone

from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, Adjustment, Alert, ApiKey
from llmkeys.scheduling import ensure_schedules
from tests.helpers import make_account, make_key, make_usage, new_secret
from tests.pages.browser import BROWSER, SIZES, log_in, said, watched

pytestmark = [*BROWSER, pytest.mark.usefixtures("simulator")]
GOOD_SECRET = "sk-or-v1-12345678-of-the-simulator-ok"


@pytest.fixture
def plain(chromium, real_site_url):
    """A tab without JavaScript, of a person who is logged in; any complaint in it fails the test."""
    width, height = SIZES["phone"]
    context = chromium.new_context(
        java_script_enabled=False, base_url=real_site_url, viewport={"width": width, "height": height}
    )
    page = context.new_page()
    complaints = watched(page)
    page.user = log_in(page)
    yield page
    context.close()
    assert complaints == []


def test_a_key_is_added_tested_edited_switched_and_deleted(plain):
    plain.locator(".first").get_by_role("link", name="Add API Key").click()
    plain.get_by_label("Name", exact=True).fill("Plain")
    plain.get_by_label("API key", exact=True).fill(GOOD_SECRET)
    plain.get_by_role("button", name="Test", exact=True).click()
    said(plain, "Key tested successfully")
    assert plain.get_by_label("Name", exact=True).input_value() == "Plain" and not ApiKey.objects.exists()
    assert plain.get_by_label("API key", exact=True).input_value() == ""  # a secret is not sent back to a page
    plain.get_by_label("API key", exact=True).fill(GOOD_SECRET)
    plain.get_by_role("radio", name="30 days").check()
    plain.get_by_role("button", name="Save key").click()
    said(plain, "“Plain” was added.")

    plain.get_by_role("link", name="Edit Plain").click()
    plain.get_by_label("Per day").fill("-3")
    plain.get_by_role("button", name="Save changes").click()
    said(plain, "Must not be negative")
    plain.get_by_label("Per day").fill("3")
    plain.get_by_role("button", name="Save changes").click()
    said(plain, "“Plain” was saved.")
    assert "of $3.00" in plain.content() and "in 29 days" in plain.content()

    plain.get_by_role("button", name="Test Plain").click()
    said(plain, "“Plain”: Key tested successfully")
    plain.get_by_role("button", name="Disable Plain").click()
    said(plain, "DISABLED")
    assert not ApiKey.objects.get().enabled
    plain.get_by_role("button", name="Enable Plain").click()
    said(plain, "ACTIVE")

    other = make_key(name="Other")
    plain.goto("/llm-settings")
    plain.locator(f"#default-{other.pk}").click()
    said(plain, "“Other” is the default key now.")
    assert ApiKey.objects.get(is_default=True) == other

    plain.goto(reverse("key", args=[other.pk]))
    plain.get_by_role("link", name="Delete").click()
    plain.get_by_role("button", name="Delete key").click()
    said(plain, "“Other” was deleted")
    assert [key.name for key in ApiKey.objects.stored()] == ["Plain"]


def test_usage_is_filtered_and_taken_as_csv_and_a_charge_taken_back(plain, tmp_path):
    key = make_key(name="Plain")
    for number in range(3):
        make_usage(key, request_id=f"req_{number}", token_name="shop", at=timezone.now())
    lost = make_usage(key, request_id="req_lost", token_name="bot", state="LOST", success=False, at=timezone.now())
    plain.goto("/llm-settings/usage")
    plain.get_by_text("Filter", exact=True).click()
    plain.get_by_label("Token").fill("bot")
    plain.get_by_role("button", name="Apply").click()
    plain.get_by_role("link", name="Remove the filter Token bot").wait_for()
    plain.wait_for_load_state()
    assert plain.locator("tbody a[href*='/usage/req_lost']").count() and "req_0" not in plain.content()
    with plain.expect_download() as download:
        plain.get_by_role("link", name="CSV").click()
    download.value.save_as(tmp_path / "usage.csv")
    assert [row["requestId"] for row in csv.DictReader((tmp_path / "usage.csv").open())] == ["req_lost"]

    plain.locator("a[href*='/usage/req_lost']").first.click()
    plain.get_by_role("button", name="back").click()
    said(plain, "taken back")
    assert Adjustment.objects.get().usage == lost


def test_a_token_is_made_changed_rotated_reset_and_revoked(plain):
    plain.goto("/llm-settings/tokens/create")
    plain.get_by_role("textbox", name="Name").fill("notebook")
    plain.get_by_role("button", name="Create token").click()
    said(plain, "shown only once")
    assert plain.get_by_label("Access token").input_value().startswith("rfk_")
    assert plain.get_by_role("button", name="Copy").count() == 0
    plain.get_by_role("link", name="Done, show the token").click()
    plain.get_by_label("Per day", exact=True).fill("-2")
    plain.get_by_role("button", name="Save").click()
    said(plain, "Must not be negative")
    plain.get_by_label("Per day", exact=True).fill("2")
    plain.get_by_text("Models, keys and rate limit").click()
    plain.get_by_label("Models it may use").fill("openai/*")
    plain.get_by_role("button", name="Save").click()
    said(plain, "“notebook” was saved.")
    token = AccessToken.objects.get()
    assert (token.daily_limit_nano, token.allowed_models) == (2 * NANO, ["openai/*"])

    plain.get_by_role("link", name="Rotate").click()
    plain.get_by_role("radio", name="After an hour").check()
    plain.get_by_role("button", name="Rotate token").click()
    assert plain.get_by_label("Access token").input_value().startswith("rfk_")
    AccessToken.objects.update(spent_total_nano=3 * NANO)
    plain.goto(reverse("token", args=[token.pk]))
    plain.get_by_role("link", name="Reset costs").click()
    plain.get_by_label("Total").check()
    plain.get_by_role("button", name="Reset costs").click()
    said(plain, "The total costs of “notebook” were reset: up to $3.00.")
    plain.get_by_role("link", name="Statement").click()
    said(plain, "No request was made with this token")
    with plain.expect_download() as download:
        plain.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename.startswith(f"statement-{token.pk}-")

    plain.goto("/llm-settings/tokens")
    plain.get_by_role("link", name="Revoke notebook").click()
    plain.get_by_role("button", name="Revoke token").click()
    said(plain, "was revoked: requests with it are refused from now on.")
    assert AccessToken.objects.get().revoked_at


def test_the_playground_answers(plain):
    make_key(name="Production", secret=new_secret())
    plain.goto("/llm-settings/playground")
    plain.get_by_label("Prompt", exact=True).fill("max 80 words")
    plain.get_by_label("Longest answer").fill("80")
    plain.get_by_role("button", name="Send").click()
    plain.locator("#answer", has_text="simulated").wait_for()


def test_alerts_are_dismissed_where_they_are_shown(plain):
    ensure_schedules()
    for number in range(3):
        Alert.objects.create(kind="key_rejected", message=f"Alert number {number}.", created_at=timezone.now())
    plain.goto("/llm-settings?by=model")
    plain.get_by_role("button", name="Dismiss").first.click()
    plain.wait_for_url("**/llm-settings?by=model")
    assert Alert.objects.filter(seen_at=None).count() == 2
    plain.goto("/llm-settings/health")
    plain.get_by_role("button", name="Send a test alert").click()
    said(plain, "No target is configured")
    plain.get_by_role("button", name="Dismiss all").click()
    said(plain, "2 alerts dismissed.")


def test_every_page_opens_and_leads_to_the_others(plain):
    key = make_key(name="Plain")
    row = make_usage(key, at=timezone.now())
    token, _ = make_account(plain.user, name="worker")
    ensure_schedules()
    for name, arguments in (
        ("dashboard", []), ("key-add", []), ("key", [key.pk]), ("key-edit", [key.pk]), ("key-delete", [key.pk]),
        ("usage", []), ("request", [row.request_id]), ("tokens", []), ("token-create", []),
        ("token", [token.pk]), ("token-rotate", [token.pk]), ("token-reset", [token.pk]), ("token-revoke", [token.pk]),
        ("token-statement", [token.pk]), ("playground", []),
        ("health", []), ("password", []),
    ):  # fmt: skip
        assert plain.goto(reverse(name, args=arguments)).status == 200
        assert plain.get_by_role("heading", level=1).count() == 1, name
        for page in ("Dashboard", "Usage", "Tokens", "Playground", "Health", "admin: change the password"):
            by = plain.get_by_title(page) if ":" in page else plain.get_by_role("link", name=page, exact=True)
            assert by.first.is_visible(), (name, page)
