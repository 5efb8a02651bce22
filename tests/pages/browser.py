"""What the browser tests share: `pytestmark = BROWSER` and the fixtures `chromium` and `page` of this folder."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH"),
    pytest.mark.django_db(transaction=True),
]
PATIENCE_MS = 30_000  # Playwright's own for all but `expect`: a page that does not come by then does not come
SIZES = {"desk": (1440, 900), "phone": (390, 844)}


def watched(page: Any) -> list[str]:
    """Return a list that grows by every complaint of the page: its console, its scripts, its policy, its requests."""
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "response", lambda answer: complaints.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
    )
    return complaints


def log_in(page: Any) -> Any:
    """Log a new administrator in through the form; return that user."""
    from tests.helpers import make_user  # not above: `tests/screenshots.py` uses the rest without Django

    user = make_user("admin", is_superuser=True, is_staff=True)
    page.goto("/llm-settings")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Dashboard", level=1).wait_for()
    page.wait_for_load_state()  # the scripts come after the words
    return user


def said(page: Any, words: str) -> None:
    """Wait until the page says this and is there as a whole, for what is looked at next may come after the words."""
    page.get_by_text(words).first.wait_for()
    page.wait_for_load_state()


def fits(page: Any) -> bool:
    """Return whether nothing makes the page wider than the window."""
    page.wait_for_load_state()  # the styles may come after the words
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


_SIDEWAYS = """
[document.documentElement, ...document.querySelectorAll("main *")].filter(one =>
    one.scrollWidth > one.clientWidth + 1 && !one.closest("pre, textarea, select, .chart-figures") &&
    (one === document.documentElement || ["auto", "scroll"].includes(getComputedStyle(one).overflowX))
).map(one => `${one.tagName} ${one.className}: ${one.scrollWidth - one.clientWidth} px too wide`)
"""


def sideways(page: Any) -> list[str]:
    """Return what a reader has to push sideways: the page or a part of it, but for code and the figures of a chart."""
    page.wait_for_load_state()
    return page.evaluate(_SIDEWAYS)
