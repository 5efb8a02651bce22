"""Clients with and without rights, for the pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import responses


@pytest.fixture
def with_rights(db: None) -> Callable[..., Any]:
    """Return a maker of logged-in clients: `with_rights("view_apikey", is_staff=True)`."""
    from tests.helpers import make_user
    from tests.pages.helpers import logged_in

    count = iter(range(100))
    return lambda *rights, **fields: logged_in(make_user(f"user{next(count)}", *rights, **fields))


@pytest.fixture
def operator(administrator: Any) -> Any:
    from tests.pages.helpers import logged_in

    return logged_in(administrator)


@pytest.fixture
def provider() -> Iterator[responses.RequestsMock]:
    """Answer what goes out to a provider; nothing else gets out."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def openrouter(provider_server: Any, settings: Any) -> Iterator[Any]:
    """OpenRouter as the test has it answer, byte by byte."""
    from tests.gateway import door
    from tests.provider import Script

    script = Script()
    provider_server.play(script)
    settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openrouter": f"{script.local}/api/v1"}
    yield script
    door.done()
    provider_server.end()
    script.check()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for the tests of one file."""
    from playwright.sync_api import expect, sync_playwright

    from tests.pages.browser import CHROMIUM, PATIENCE_MS

    expect.set_options(timeout=PATIENCE_MS)
    with pytest.MonkeyPatch.context() as patch:
        # Playwright runs an event loop in this thread; the ORM is used between its calls, never inside one.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            yield browser
            browser.close()


@pytest.fixture
def noon() -> Iterator[None]:
    """Make it noon of this day, and let the clock run: no midnight parts what is written from what is shown."""
    import time_machine

    with time_machine.travel(datetime.now(UTC).replace(hour=12)):
        yield


@pytest.fixture
def site_url(live_server: Any) -> str:
    """Where the pages are: Django's own server, which is enough where no question goes to a provider."""
    return live_server.url


@pytest.fixture
def real_site_url(transactional_db: None) -> str:
    """The product behind its real web server, on whose loop the relay works: for pages that ask a question."""
    from tests import web

    return f"http://127.0.0.1:{web.server().port}"


@pytest.fixture(params=["desk", "phone"])
def page(request: pytest.FixtureRequest, chromium: Any, site_url: str) -> Iterator[Any]:
    """A tab, once in desk and once in phone size; any complaint in it fails the test.

    `page.complaints` is the list of them, for a test that expects one to take it out.
    """
    from tests.pages.browser import SIZES, watched

    width, height = SIZES[request.param]
    page = chromium.new_page(viewport={"width": width, "height": height}, base_url=site_url)
    page.complaints = watched(page)
    yield page
    page.close()
    assert page.complaints == []


@pytest.fixture
def desk(chromium: Any, site_url: str) -> Iterator[Any]:
    """A tab in desk size only, where the size does not matter."""
    from tests.pages.browser import SIZES, watched

    width, height = SIZES["desk"]
    page = chromium.new_page(viewport={"width": width, "height": height}, base_url=site_url)
    page.complaints = watched(page)
    yield page
    page.close()
    assert page.complaints == []
