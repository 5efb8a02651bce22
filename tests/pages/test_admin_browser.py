"""Every list and form of the admin under the strict policy, on a desk and on a phone; its scripts work."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.urls import reverse
from django.utils import timezone
from django_q.models import Failure, Success
from playwright.sync_api import expect

from llmkeys.models import (
    Adjustment,
    Alert,
    Cooling,
    DailyUsage,
    FailedAuthentication,
    ModelAlias,
    ModelPrice,
    SealedDay,
    ServingKey,
)
from llmkeys.scheduling import ensure_schedules
from tests.helpers import make_key, make_token, make_usage, make_user
from tests.pages.browser import BROWSER, fits, log_in, sideways

pytestmark = BROWSER


def make_something_of_everything(user) -> None:
    now = timezone.now()
    key = make_key(name="W" * 100, at=now, last_error="x" * 900)
    row = make_usage(key, at=now, state="LOST", success=False, error="y" * 900)
    Adjustment.objects.create(kind="reset", key=key, usage=None, day=row.day, month=row.month, total_nano=-5)
    DailyUsage.objects.create(key=key, day=row.day, model="m" * 200)
    Cooling.objects.create(scope=f"key:{key.pk}", kind="rate_limited", until=now)
    ServingKey.objects.create(model="m", key=key)
    Alert.objects.create(kind="key_rejected", key=key, message="z" * 900)
    SealedDay.objects.create(day=row.day)
    FailedAuthentication.objects.create(address="10.0.0.1", at=now)
    ModelPrice.objects.create(provider="openai", model="gpt-4o", input_usd_per_mtok="2.5", output_usd_per_mtok="10")
    ModelAlias.objects.create(provider="openai", alias="fast", model_names=["gpt-4o"])
    make_token(user)
    ensure_schedules()
    for model, name in ((Success, "good"), (Failure, "bad")):
        model.objects.create(
            id=name, name=name, func="llmkeys.tasks.x", group="check_keys", success=name == "good", started=now,
            stopped=now, result="w" * 900,
        )  # fmt: skip


def pages() -> list[str]:
    """Return the address of every list, of a form in it where it has a row, and of every page that adds one."""
    found = [reverse("admin:index")]
    for model, model_admin in admin.site._registry.items():
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        found.append(reverse(f"{name}_changelist"))
        row = model_admin.model._default_manager.first()
        if row is not None:
            found.append(reverse(f"{name}_change", args=[row.pk]))
    return found + [
        reverse(f"admin:{name}_add")
        for name in (
            "llmkeys_apikey", "llmkeys_accesstoken", "llmkeys_modelprice", "llmkeys_modelalias", "auth_user",
            "auth_group",
        )
    ]  # fmt: skip


def test_it_shows_every_list_and_form_without_a_complaint(page):
    make_something_of_everything(log_in(page))
    wide = []
    for address in pages():
        page.goto(address)
        page.get_by_role("heading", level=1).first.wait_for()
        assert page.complaints == [], address
        if not fits(page):
            wide.append(address)
    assert not wide


def test_it_keeps_the_price_preview_in_step_with_the_typing(page):
    log_in(page)
    page.goto("/admin/llmkeys/modelprice/add/")
    page.locator("#id_input_usd_per_mtok").fill("1.25")
    expect(page.locator("[data-tokens='1000000 0']")).to_have_text("$1.25")
    expect(page.locator("[data-tokens='2000 500']")).to_have_text("–")
    page.locator("#id_output_usd_per_mtok").fill("10")
    expect(page.locator("[data-tokens='2000 500']")).to_have_text("$0.0075")


def test_it_asks_before_it_resets_costs(page, noon):
    log_in(page)
    make_key(name="Spender", at=timezone.now(), spent_day_nano=10**9)
    page.goto("/admin/llmkeys/apikey/")
    page.locator("input.action-select").check()
    page.locator("select[name=action]").select_option("reset_costs")
    page.get_by_role("button", name="Go").click()
    page.get_by_text("under your name").wait_for()
    assert sideways(page) == []
    page.get_by_label("Daily").check()
    page.get_by_role("button", name="Reset the selected costs").click()
    page.get_by_text("Reset the daily costs of 1 API key").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_wears_the_colours_of_the_product(chromium, live_server, scheme):
    """The admin's own variables follow the tokens, in both themes."""
    page = chromium.new_page(base_url=live_server.url, color_scheme=scheme)
    make_user("anna", is_staff=True, is_superuser=True)
    log_in(page)
    ours = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.goto("/admin/llmkeys/apikey/add/")
    button = page.evaluate("getComputedStyle(document.querySelector('[name=_save]')).backgroundColor")
    assert button == {"light": "rgb(50, 71, 213)", "dark": "rgb(138, 154, 255)"}[scheme]
    assert ours == {"light": "rgb(245, 246, 248)", "dark": "rgb(12, 14, 18)"}[scheme]
    page.close()
