"""The usage page in a real browser: filters, pages, CSV, a request; any complaint in its console is a failure."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from llmkeys.lib.money import NANO
from tests.helpers import make_key
from tests.pages.browser import BROWSER, fits, log_in, said
from tests.pages.usage import make_counted

pytestmark = BROWSER


@pytest.fixture(autouse=True)
def _rows(db):
    at = timezone.now()
    production, research = make_key(name="Production", at=at), make_key(name="Research " + "and more " * 9, at=at)
    for number in range(60):
        make_counted(
            production, at=at, request_id=f"req_{number}", token_name="support-bot", latency_ms=2410, first_byte_ms=380
        )
    make_counted(
        research, at=at, request_id="req_lost", state="LOST", success=False, model="model-" * 30, cost_nano=NANO,
        hold_nano=NANO, error="The provider was silent. " * 30, token_name="t" * 100,
        skipped=[{"keyId": production.id, "reason": "cooling"}],
    )  # fmt: skip


def shows(page, requests: int) -> None:
    """Wait until the page lists so many requests: its top can be seen before its rows."""
    expect(page.locator("a.model")).to_have_count(requests)


def test_it_filters_pages_and_opens_a_request(page):
    log_in(page)
    page.get_by_role("link", name="Usage", exact=True).click()
    page.get_by_role("heading", name="Usage", level=1).wait_for()
    shows(page, 50)
    assert fits(page)
    page.get_by_role("link", name="Older").click()
    page.get_by_role("link", name="Newer").wait_for()
    shows(page, 11)

    page.get_by_text("Filter", exact=True).click()
    page.get_by_label("State").select_option("LOST")
    page.get_by_label("Provider").select_option("openrouter")
    assert fits(page)
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("link", name="Remove the filter Provider OpenRouter").wait_for()
    shows(page, 1)
    assert "state=LOST" in page.url and fits(page)
    expect(page.get_by_role("link", name="Why this key: Production was cooling down", exact=True)).to_be_visible()

    page.get_by_role("link", name="Remove the filter State Lost").click()
    page.get_by_role("link", name="Provider OpenRouter").wait_for()
    shows(page, 50)
    assert "state=" not in page.url
    page.get_by_role("link", name="Clear all").click()
    page.get_by_role("link", name="Today").click()
    page.get_by_role("navigation", name="Time").get_by_text("Today").and_(page.locator("[aria-current]")).wait_for()

    page.goto("/llm-settings/usage?state=LOST")
    page.locator("a.model").click()
    page.get_by_role("heading", name="req_lost").wait_for()
    page.get_by_text("was cooling down").first.wait_for()
    assert fits(page)
    page.get_by_label("Reason for taking it back").fill("Not on the bill")
    page.get_by_role("button", name="Take $1.00 back").click()
    page.get_by_text("$1.00 was taken back").wait_for()
    said(page, "Not on the bill")
    assert page.get_by_role("button", name="Take").count() == 0


def test_it_downloads_what_is_filtered(desk, tmp_path: Path):
    log_in(desk)
    desk.goto("/llm-settings/usage?state=LOST")
    with desk.expect_download() as download:
        desk.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "usage.csv"
    download.value.save_as(tmp_path / "usage.csv")
    (row,) = csv.DictReader((tmp_path / "usage.csv").read_text().splitlines())
    assert row["requestId"] == "req_lost" and row["state"] == "LOST"
