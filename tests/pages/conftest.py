"""Clients with and without rights, for the pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
