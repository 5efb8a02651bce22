"""A real browser walks through the pages under the strict policy; any complaint in its console is a failure."""

from __future__ import annotations

import re

import responses
from django.contrib.sessions.models import Session
from django.db import IntegrityError
from django.utils import timezone

from llmkeys.keys import adding
from llmkeys.lib.money import NANO
from llmkeys.models import ApiKey
from tests.helpers import make_key, make_usage, new_secret
from tests.pages.browser import BROWSER, fits, log_in, said

pytestmark = BROWSER


def test_it_adds_sees_disables_and_deletes_a_key(page):
    secret = new_secret()
    log_in(page)
    page.locator(".first").get_by_role("link", name="Add API Key").click()
    page.get_by_label("Name", exact=True).fill("Production")
    page.get_by_label("API key", exact=True).fill(secret)
    page.get_by_label("Per day").fill("2.50")
    assert fits(page)
    page.get_by_role("button", name="Save key").click()
    said(page, "“Production” was added.")

    card = page.get_by_role("article").filter(has=page.get_by_role("heading", name="Production"))
    assert "ACTIVE" in card.inner_text() and "of $2.50" in card.inner_text() and "Default" in card.inner_text()
    assert fits(page) and secret not in page.content()

    card.get_by_role("button", name="Disable").click()
    said(page, "“Production” is switched off.")
    assert "DISABLED" in card.inner_text()

    card.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete key").click()
    page.get_by_text("“Production” was deleted.").wait_for()
    page.get_by_role("heading", name="Start with one key").wait_for()
    assert fits(page) and not ApiKey.objects.stored().exists()


def test_it_adds_tests_and_deletes_a_key_with_the_keyboard_alone(desk, provider):
    provider.add_passthru("http://localhost")
    provider.add(responses.GET, re.compile("https://openrouter.ai/.*"), json={"data": {"usage": 0, "limit": None}})
    log_in(desk)
    desk.locator(".first").get_by_role("link", name="Add API Key").focus()
    desk.keyboard.press("Enter")
    desk.get_by_role("dialog", name="Add API Key").wait_for()
    desk.keyboard.type("By hand")
    desk.keyboard.press("Tab")
    desk.keyboard.type(new_secret())
    desk.keyboard.press("Tab")
    assert desk.evaluate("document.activeElement.textContent") == "Show"
    desk.keyboard.press("Tab")
    desk.keyboard.press("Enter")
    desk.get_by_text("Key tested successfully").wait_for()
    desk.wait_for_function("document.activeElement.textContent === 'Test'")
    assert not ApiKey.objects.exists()
    desk.keyboard.press("Tab")
    desk.keyboard.press("Enter")  # in a field: saves
    desk.get_by_text("“By hand” was added.").wait_for()

    key = ApiKey.objects.get()
    desk.locator(f"#test-{key.pk}").press("Enter")
    desk.get_by_text("“By hand”: Key tested successfully").wait_for()
    desk.locator(f"#delete-{key.pk}").press("Enter")
    desk.get_by_role("button", name="Delete key").press("Enter")
    desk.get_by_text("“By hand” was deleted.").wait_for()


def test_it_edits_in_a_dialog_that_escape_closes(page):
    key = make_key(name="Production")
    log_in(page)
    edit = page.locator(f"#edit-{key.pk}")
    edit.click()
    dialog = page.get_by_role("dialog", name="Edit “Production”")
    dialog.get_by_label("New API key").fill("sk-typed")
    dialog.get_by_role("button", name="Show").click()
    assert dialog.get_by_label("New API key").get_attribute("type") == "text" and fits(page)
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.wait_for_function(f"document.activeElement.id === 'edit-{key.pk}'")  # what follows the closing comes after it
    assert "sk-typed" not in page.content()

    edit.click()
    dialog.get_by_label("Per day").fill("-1")
    dialog.get_by_role("button", name="Save changes").click()
    dialog.get_by_text("Must not be negative").wait_for()
    dialog.get_by_label("Per day").fill("4.50")
    dialog.get_by_role("radio", name="On a date").check()
    dialog.get_by_label("Date and time").fill("2099-01-31T00:00")
    dialog.get_by_role("button", name="Save changes").click()
    page.get_by_text("“Production” was saved.").wait_for()
    key.refresh_from_db()
    assert (key.daily_limit_nano, key.expires_at.year) == (9 * NANO // 2, 2099)


def test_it_says_in_the_dialog_that_nothing_was_saved_and_keeps_what_is_typed_when_the_session_has_ended(desk):
    key = make_key(name="Production")
    log_in(desk)
    desk.evaluate("Object.defineProperty(document, 'visibilityState', {value: 'hidden'})")  # no refresh in between
    desk.locator(f"#edit-{key.pk}").click()
    dialog = desk.get_by_role("dialog")
    dialog.get_by_label("Per day").fill("7")
    Session.objects.all().delete()
    dialog.get_by_role("button", name="Test", exact=True).click()
    dialog.locator("#tried").get_by_text("You are no longer logged in.").wait_for()
    dialog.get_by_role("button", name="Save changes").click()
    dialog.locator(".form > .error", has_text="log in; nothing was saved").wait_for()
    assert dialog.get_by_label("Per day").input_value() == "7"
    desk.keyboard.press("Escape")
    desk.locator(f"#edit-{key.pk}").click()
    desk.wait_for_url(f"**/login?next=/llm-settings/keys/{key.pk}/edit")
    complaints, desk.complaints[:] = desk.complaints[:], []
    assert len(complaints) == 3 and all("Response Status Error" in words for words in complaints)


def test_it_says_in_the_dialog_why_a_change_was_refused(desk, monkeypatch):
    def conflict(*args, **options):
        raise IntegrityError("apikey_deleted_is_wiped")

    key = make_key(name="Production")
    log_in(desk)
    desk.evaluate("Object.defineProperty(document, 'visibilityState', {value: 'hidden'})")  # no refresh in between
    desk.locator(f"#edit-{key.pk}").click()
    dialog = desk.get_by_role("dialog")
    monkeypatch.setattr("llmkeys.keys.adding.update_key", conflict)
    dialog.get_by_role("button", name="Save changes").click()
    dialog.get_by_text("was changed or deleted a moment ago, so your change was not saved").wait_for()
    monkeypatch.undo()
    adding.delete_key(key, at=timezone.now())
    dialog.get_by_role("button", name="Test", exact=True).click()
    dialog.locator("#tried").get_by_text("the page has been deleted").wait_for()
    complaints, desk.complaints[:] = desk.complaints[:], []
    assert {words[:3] for words in complaints if words[:3].isdigit()} == {"409", "404"}


def test_it_tests_a_key_on_the_page_of_the_form_without_leaving_it(desk, provider):
    provider.add_passthru("http://localhost")
    provider.add(responses.GET, re.compile("https://openrouter.ai/.*"), json={"data": {"usage": 0, "limit": None}})
    log_in(desk)
    desk.goto("/llm-settings/keys/add")
    secret = new_secret()
    desk.get_by_label("API key", exact=True).fill(secret)
    desk.get_by_role("button", name="Test", exact=True).click()
    desk.get_by_text("Key tested successfully").wait_for()
    assert desk.get_by_label("API key", exact=True).input_value() == secret
    assert desk.url.endswith("/keys/add") and not ApiKey.objects.exists()


def test_it_leaves_a_click_with_a_modifier_to_the_browser(desk):
    make_key()
    log_in(desk)
    with desk.context.expect_page() as opened:
        desk.get_by_role("link", name="Add API Key").click(modifiers=["ControlOrMeta"])
    opened.value.get_by_role("heading", name="Add API Key", level=1).wait_for()
    opened.value.close()
    assert desk.locator("dialog[open]").count() == 0


def test_it_knows_the_provider_by_the_first_letters_of_the_key(desk):
    log_in(desk)
    desk.locator(".first").get_by_role("link", name="Add API Key").click()
    for secret, label in (("sk-ant-api03-x", "Anthropic"), ("sk-or-v1-x", "OpenRouter"), ("AIzaX", "Google")):
        desk.get_by_label("API key", exact=True).fill(secret)
        assert desk.get_by_role("radio", name=label).is_checked()
        assert desk.get_by_text("Create one at").locator("visible=true").count() == 1


def test_it_shows_a_key_on_its_own_page(page):
    key = make_key(name="W" * 100, description="W" * 500)
    for _ in range(3):
        make_usage(key, model="w" * 200, error="x" * 900, skipped=[{"keyId": key.pk, "reason": "y" * 300}])
    log_in(page)
    page.locator(f"#open-{key.pk}").click()
    page.get_by_role("heading", name="Recent requests").wait_for()
    assert fits(page)
    page.get_by_role("link", name="Edit").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill("Short")
    page.get_by_role("button", name="Save changes").click()
    page.get_by_role("heading", name="Short", level=1).wait_for()
    page.get_by_text("“Short” was saved.").wait_for()


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
