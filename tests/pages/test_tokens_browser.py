"""A token's life in a real browser: made, copied, used, revoked; any complaint in its console is a failure."""

from __future__ import annotations

from llmkeys.models import AccessToken
from llmkeys.vault.crypto import token_digest
from tests.helpers import JsonClient, make_key
from tests.pages.browser import BROWSER, fits, log_in

pytestmark = BROWSER


def settled_fits(page) -> bool:
    """Tell whether the page fits once its styles are there: a heading can be seen before them."""
    page.wait_for_load_state()
    return fits(page)


def test_it_makes_copies_and_revokes_a_token(page):
    key = make_key(name="Production " + "x" * 80)
    log_in(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("link", name="Tokens", exact=True).click()
    page.get_by_role("link", name="Create token").click()
    page.get_by_role("textbox", name="Name").fill("notebook " + "y" * 80)
    page.locator("#scope-read").check()
    page.get_by_label("Until a day").check()
    page.get_by_label("Last day").fill("2199-12-31")
    page.get_by_text("Only some keys may serve it").click()
    page.get_by_label(key.name).check()
    assert settled_fits(page)
    page.get_by_role("button", name="Create token").click()

    page.get_by_text("Copy it now: it is shown only once.").wait_for()
    shown = page.get_by_label("Access token").input_value()
    token = AccessToken.objects.get(digest=token_digest(shown))
    assert token.limited_to_keys and token.scopes == ["gateway", "read"] and shown not in page.url
    assert settled_fits(page)
    page.get_by_role("button", name="Copy the token").click()
    page.get_by_text("Copied to the clipboard.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == shown
    page.locator("summary", has_text="openai (Python)").click()
    page.get_by_role("button", name="Copy openai (Python)").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.includes('from openai import'))")
    assert JsonClient(shown).get("/api/llm/keys").status_code == 200

    page.get_by_role("link", name="Done, to the tokens").click()
    page.get_by_role("heading", name="Tokens", level=1).wait_for()
    assert shown not in page.content() and settled_fits(page)
    page.get_by_role("link", name=f"Revoke {token.name}").click()
    assert settled_fits(page)
    page.get_by_role("button", name="Revoke token").click()
    page.get_by_text("requests with it are refused from now on").wait_for()
    assert JsonClient(shown).get("/api/llm/keys").status_code == 401


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
