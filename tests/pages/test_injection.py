"""Texts from outside that would run as script: on every page they are text, and nothing runs."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache import cache
from django.utils import timezone

from llmkeys.models import ApiKey, DailyUsage, KeyEvent
from tests.helpers import make_key, make_token, make_usage
from tests.pages.browser import BROWSER, log_in
from tests.pages.payloads import PAYLOADS

pytestmark = BROWSER


def fill(user: Any) -> list[ApiKey]:
    """Write each payload wherever a text from outside can stand, past the services, which refuse some of them."""
    at = timezone.now()
    keys = [make_key(at=at, name=f"Key {number}") for number in range(len(PAYLOADS))]
    for attempt, (key, text) in enumerate(zip(keys, PAYLOADS, strict=True), start=1):
        last_error = text if attempt % 2 else ""
        ApiKey.objects.filter(pk=key.pk).update(
            name=text, description=text, last_error=last_error, rejected_at=at if attempt % 4 == 1 else None
        )
        row = make_usage(
            key, at=at, request_id="req_all", attempt=attempt, model=text, requested_model=text, token_name=text,
            dialect=text[:30], error=text, upstream_id=text, state="LOST", success=False,
            skipped=[{"keyId": keys[-attempt].id, "reason": text}, {"keyId": text, "reason": text}],
        )  # fmt: skip
        DailyUsage.objects.create(
            day=row.day, key=key, model=text, token_name=text, requests=1, cost_nano=attempt * 10**9
        )
        KeyEvent.objects.create(kind="cooled", key=key, message=text, actor=text)
        make_token(user, name=text if text.isprintable() else repr(text), at=at, keyIds=[key.id])
    return keys


@pytest.fixture
def attacked(desk: Any) -> list[ApiKey]:
    """Log in with every payload stored; a dialog counts as a complaint."""
    cache.clear()
    desk.on("dialog", lambda dialog: (desk.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    return fill(log_in(desk))


def nothing_runs_on(page: Any, path: str) -> None:
    page.goto(path, wait_until="load")
    assert page.evaluate("window.__xss") is None, path
    assert page.complaints == [], path


def test_there_are_enough_of_them():
    assert len(PAYLOADS) >= 30


def test_nothing_runs_on_any_page(desk, attacked):
    first = attacked[0]
    row = first.usage.get()
    for path in (
        "/llm-settings", "/llm-settings?by=model", "/llm-settings/usage", "/llm-settings/usage?by=key",
        "/llm-settings/usage?by=token", f"/llm-settings/usage?before={row.pk}", "/llm-settings/usage/req_all",
        "/llm-settings/tokens", "/llm-settings/tokens/create", "/admin/llmkeys/usagerecord/",
        "/admin/llmkeys/apikey/", "/admin/llmkeys/accesstoken/",
    ):  # fmt: skip
        nothing_runs_on(desk, path)
    desk.goto("/llm-settings/usage/req_all")
    text = desk.locator("main").inner_text()
    assert all(" ".join(payload.split()) in " ".join(text.split()) for payload in PAYLOADS if payload.isprintable())


def test_nothing_runs_on_the_page_of_a_key(desk, attacked):
    for key in attacked:
        nothing_runs_on(desk, f"/llm-settings/keys/{key.id}")
    nothing_runs_on(desk, f"/llm-settings/keys/{attacked[0].id}/delete")


def test_nothing_runs_from_an_address(desk, attacked):
    from urllib.parse import quote

    for text in PAYLOADS:
        nothing_runs_on(desk, f"/llm-settings/usage?model={quote(text)}&token={quote(text)}&key={quote(text)}")
        nothing_runs_on(desk, f"/llm-settings/usage?provider={quote(text)}&since={quote(text)}&by={quote(text)}")
