"""A token's life in a real browser: made, copied, used, revoked; any complaint in its console is a failure."""

from __future__ import annotations

from django.utils import timezone

from llmkeys.models import AccessToken, DailyUsage
from llmkeys.vault.crypto import token_digest
from tests.helpers import JsonClient, make_account, make_key
from tests.pages.browser import BROWSER, fits, log_in, said

pytestmark = BROWSER


def test_it_makes_copies_and_revokes_a_token(page):
    key = make_key(name="Production " + "x" * 80)
    log_in(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("link", name="Tokens", exact=True).click()
    page.get_by_role("link", name="Create token").click()
    page.get_by_role("textbox", name="Name").fill("notebook " + "y" * 80)
    page.locator("#scope-read").check()
    page.get_by_label("On a date").check()
    page.get_by_label("Last day").fill("2199-12-31")
    page.get_by_text("Models, keys and rate limit").click()
    page.get_by_label(key.name).check()
    assert fits(page)
    page.get_by_role("button", name="Create token").click()

    said(page, "Copy it now: it is shown only once.")
    shown = page.get_by_label("Access token").input_value()
    token = AccessToken.objects.get(digest=token_digest(shown))
    assert token.limited_to_keys and token.scopes == ["gateway", "read"] and shown not in page.url
    assert fits(page)
    page.get_by_role("button", name="Copy the token").click()
    page.get_by_text("Copied to the clipboard.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == shown
    page.locator("summary", has_text="openai (Python)").click()
    page.get_by_role("button", name="Copy openai (Python)").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.includes('from openai import'))")
    assert JsonClient(shown).get("/api/llm/keys").status_code == 200

    page.get_by_role("link", name="Done, show the token").click()
    page.get_by_role("heading", name=token.name, level=1).wait_for()
    assert fits(page) and shown not in page.content()
    page.get_by_role("link", name="Rotate").click()
    page.get_by_role("radio", name="After an hour").check()
    page.get_by_role("button", name="Rotate token").click()
    second = page.get_by_label("Access token").input_value()
    assert second != shown and fits(page)
    assert {JsonClient(text).get("/api/llm/keys").status_code for text in (shown, second)} == {200}

    page.goto("/llm-settings/tokens")
    page.get_by_role("heading", name="Tokens", level=1).wait_for()
    assert fits(page)
    page.get_by_role("link", name=f"Revoke {token.name}").click()
    assert fits(page)
    page.get_by_role("button", name="Revoke token").click()
    page.get_by_text("requests with it are refused from now on").wait_for()
    assert {JsonClient(text).get("/api/llm/keys").status_code for text in (shown, second)} == {401}


def test_limits_are_edited_by_the_keyboard_alone_while_the_page_refreshes(desk):
    user = log_in(desk)
    token, _ = make_account(user, name="shop", at=timezone.now())
    desk.goto(f"/llm-settings/tokens/{token.pk}")
    desk.get_by_role("link", name="Edit").focus()
    desk.keyboard.press("Enter")
    desk.wait_for_url("**#limits")
    desk.keyboard.press("Tab")
    assert desk.evaluate("document.activeElement.name") == "dailyLimit"
    desk.keyboard.press("Control+A")
    desk.keyboard.type("2.5")
    AccessToken.objects.update(total_requests=4711)
    desk.get_by_text("4,711").first.wait_for()
    assert desk.evaluate("[document.activeElement.name, document.activeElement.value]") == ["dailyLimit", "2.5"]
    desk.keyboard.press("Enter")
    said(desk, "“shop” was saved.")
    assert "of $2.50" in desk.content()
    desk.locator("summary", has_text="Models, keys and rate limit").focus()
    desk.keyboard.press("Enter")
    desk.get_by_label("Models it may use").fill("openai/*\ngpt 6!")
    desk.get_by_label("Requests per minute").fill("sixty")
    desk.get_by_role("button", name="Save").press("Enter")
    said(desk, "Must be a whole number from 0")
    assert desk.get_by_label("Requests per minute").input_value() == "sixty"
    assert desk.locator("[aria-invalid=true]").first.is_visible()


def test_a_statement_is_made_to_be_printed(desk):
    user = log_in(desk)
    now = timezone.now()
    token, _ = make_account(user, name="shop", at=now)
    DailyUsage.objects.create(
        day=now.date(),
        key=make_key(),
        model="gpt",
        token=token,
        token_name="shop",
        requests=1,
        cost_nano=10**9,
    )
    desk.emulate_media(color_scheme="dark")
    desk.goto(f"/llm-settings/tokens/{token.pk}/statement?month={now:%Y-%m}")
    dark = desk.evaluate("getComputedStyle(document.querySelector('h1')).color")
    desk.emulate_media(media="print", color_scheme="dark")
    assert desk.evaluate("getComputedStyle(document.querySelector('h1')).color") != dark
    for gone in (".topbar", ".crumbs", ".month"):
        assert not desk.locator(gone).first.is_visible()
    assert desk.get_by_text("$1.00").first.is_visible()


def test_it_copies_where_the_browser_has_no_clipboard(desk):
    """As on a plain http:// address of another machine."""
    desk.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    log_in(desk)
    desk.goto("/llm-settings/tokens/create")
    desk.get_by_role("textbox", name="Name").fill("notebook")
    desk.get_by_role("button", name="Create token").click()
    desk.get_by_role("button", name="Copy the token").click()
    desk.get_by_role("status").filter(has_text="Copied to the clipboard.").wait_for(state="attached")
    shown = desk.get_by_label("Access token").input_value()
    assert desk.evaluate("getSelection().toString()") in (shown, "")
