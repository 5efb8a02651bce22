"""axe-core over every page, light and dark, wide and narrow: nothing serious or critical, and nothing to push sideways.

The policy stays on: axe's script is evaluated by the browser's debugger, which needs no permission of it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from axes.models import AccessAttempt
from django.urls import reverse
from django.utils import timezone

from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, Alert, DailyUsage
from llmkeys.scheduling import ensure_schedules
from tests.helpers import make_account, make_key, make_usage, make_user
from tests.pages.browser import BROWSER, SIZES, log_in, said, sideways

pytestmark = [*BROWSER, pytest.mark.usefixtures("simulator")]
GRAVE = {"serious", "critical"}
LOOKS = (("light", "desk"), ("dark", "desk"), ("light", "phone"))


@pytest.fixture(params=LOOKS, ids="-".join)
def page(request, chromium, real_site_url):
    theme, size = request.param
    width, height = SIZES[size]
    page = chromium.new_page(viewport={"width": width, "height": height}, base_url=real_site_url, color_scheme=theme)
    yield page
    page.close()


def faults(page: Any) -> list[str]:
    """Return each grave finding with the elements it is about, and what is wider than its place."""
    page.wait_for_load_state()
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {[node['html'][:160] for node in one['nodes'][:4]]}"
        for one in found
        if one["impact"] in GRAVE
    ] + sideways(page)


def fill() -> dict[str, str]:
    """Store keys in every state, a request and an alert; return what the addresses need."""
    now = timezone.now()
    key = make_key(name="Production", at=now)
    make_key(name="Spent", at=now, provider="openai", spent_day_nano=10 * NANO)
    make_key(name="Rejected", at=now, provider="google", rejected_at=now, last_error="Incorrect API key provided.")
    make_key(name="Off", at=now, enabled=False)
    make_key(name="Gone", at=now, provider="anthropic", expires_at=now - timedelta(days=1))
    row = make_usage(key, at=now)
    make_usage(key, at=now, state="LOST", success=False, error="The connection broke.")
    Alert.objects.create(kind="key_rejected", message="“Rejected” was rejected.", created_at=now)
    ensure_schedules()
    return {"key": key.pk, "request": row.request_id}


def fill_tokens(user: Any) -> int:
    """Store tokens in every state, and what they spent; return the id of one."""
    now, key = timezone.now(), make_key(name="Of tokens")
    token, _ = make_account(user, name="worker", at=now, dailyLimit="5", models=["openai/*"], requestsPerMinute=60)
    spent, _ = make_account(user, name="spent", at=now, totalLimit="1")
    AccessToken.objects.filter(pk=spent.pk).update(spent_total_nano=NANO)
    ended, _ = make_account(user, name="ended", at=now)
    AccessToken.objects.filter(pk=ended.pk).update(revoked_at=now)
    make_account(make_user("mute"), name="mute", at=now)
    for one in (token, spent):
        day = {"day": timezone.localdate(), "key": key, "model": "openai/gpt-6.1-terra", "token_name": one.name}
        DailyUsage.objects.create(**day, token=one, requests=3, successful=3, cost_nano=NANO)
    make_usage(key, at=now, token=token)
    return token.pk


PAGES = {
    "dashboard": (), "key-add": (), "key": ("key",), "key-edit": ("key",), "key-delete": ("key",), "usage": (),
    "request": ("request",), "tokens": (), "token-create": (), "token": ("token",), "token-rotate": ("token",),
    "token-reset": ("token",), "token-revoke": ("token",), "token-statement": ("token",), "playground": (),
    "health": (), "password": (),
}  # fmt: skip


def test_it_finds_nothing_grave_on_the_pages_of_the_product(page):
    user = log_in(page)
    found = {"dashboard, empty": faults(page)}
    ids = fill()
    ids["token"] = fill_tokens(user)
    for name, needs in PAGES.items():
        page.goto(reverse(name, args=[ids[need] for need in needs]))
        page.get_by_role("heading", level=1).first.wait_for()
        found[name] = faults(page)
    assert {name: grave for name, grave in found.items() if grave} == {}


def test_it_finds_nothing_grave_where_something_went_wrong(page):
    log_in(page)
    found = {}
    page.goto("/llm-settings/playground")
    page.get_by_label("Prompt", exact=True).fill("hello")
    page.get_by_role("button", name="Send").click()
    page.locator("#failure", has_text="No API key available").wait_for()
    page.locator("#progress", has_text="Not answered").wait_for()
    found["playground, refused"] = faults(page)
    page.goto("/llm-settings/keys/add")
    page.get_by_role("button", name="Save key").click()
    page.locator(".error").first.wait_for()
    found["key-add, refused"] = faults(page)
    page.goto("/llm-settings/no-such-page")
    found["404"] = faults(page)
    assert {name: grave for name, grave in found.items() if grave} == {}


def test_it_finds_nothing_grave_on_the_login_and_when_locked_out(page):
    found = {}
    page.goto("/login")
    found["login"] = faults(page)
    left = ("4 attempts are left", "3 attempts are left", "2 attempts are left", "One attempt is left")
    for words in (*left, "Too many wrong passwords"):
        page.goto("/login")
        page.get_by_label("User name").fill("anna")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        said(page, words)
        found[words] = faults(page)
    assert AccessAttempt.objects.get().failures_since_start == 5
    assert {name: grave for name, grave in found.items() if grave} == {}


def test_it_would_find_what_is_grave(page):
    page.goto("/login")
    page.evaluate("document.querySelector('label').remove()")
    assert any(fault.startswith("label (critical)") for fault in faults(page))
