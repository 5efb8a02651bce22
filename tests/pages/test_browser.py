"""A real browser walks through the pages under the strict policy; any complaint in its console is a failure."""

from __future__ import annotations

from llmkeys.models import ApiKey
from tests.helpers import make_key, new_secret
from tests.pages.browser import BROWSER, fits, log_in

pytestmark = BROWSER


def test_it_adds_sees_disables_and_deletes_a_key(page):
    secret = new_secret()
    log_in(page)
    page.get_by_role("link", name="Add API Key").click()
    page.get_by_label("Name", exact=True).fill("Production")
    page.get_by_label("API key", exact=True).fill(secret)
    page.get_by_label("Per day").fill("2.50")
    assert fits(page)
    page.get_by_role("button", name="Save key").click()
    page.get_by_text("“Production” was added.").wait_for()

    card = page.get_by_role("article").filter(has=page.get_by_role("heading", name="Production"))
    assert "ACTIVE" in card.inner_text() and "of $2.50" in card.inner_text() and "Default" in card.inner_text()
    assert fits(page) and secret not in page.content()

    card.get_by_role("button", name="Disable").click()
    page.get_by_text("“Production” is switched off.").wait_for()
    assert "DISABLED" in card.inner_text()

    card.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete key").click()
    page.get_by_text("“Production” was deleted.").wait_for()
    page.get_by_role("heading", name="Start with one key").wait_for()
    assert fits(page) and not ApiKey.objects.stored().exists()


def test_it_shows_the_faults_of_a_form_and_keeps_long_names_inside(page):
    make_key(name="W" * 100, description="W" * 500, last_error="x" * 900)
    log_in(page)
    assert fits(page)
    page.goto("/llm-settings/keys/add")
    page.get_by_label("Per day").fill("-1")
    page.get_by_role("button", name="Save key").click()
    page.get_by_text("Must not be negative").wait_for()
    assert fits(page)


def test_it_keeps_the_admin_within_the_policy(page):
    key = make_key()
    log_in(page)
    for address in (
        "",
        "llmkeys/apikey/",
        f"llmkeys/apikey/{key.pk}/change/",
        "llmkeys/accesstoken/add/",
        "llmkeys/modelprice/add/",
    ):
        page.goto(f"/admin/{address}")
        page.get_by_role("heading", level=1).wait_for()
    page.get_by_role("link", name="Today").click()  # the admin's own script works
    assert page.locator("#id_valid_from_0").input_value()
