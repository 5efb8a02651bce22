"""A NUL at any address, in any filter and in any field is the client's mistake, never a failure of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import BadRequest
from django.db import DataError
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, get_resolver
from django.urls.resolvers import URLResolver

from refactai_site.nul import RefuseNul
from tests.helpers import make_key

pytestmark = pytest.mark.django_db

FILTERS = ("key", "provider", "model", "token", "state", "since", "until", "status", "page", "cursor", "request", "q")
OF_THE_ADMIN = ("q", "p", "o", "state")


def addresses(resolver: URLResolver, before: str = "") -> Iterator[str]:
    """Yield every address of the product as it is written down, such as `llm-settings/keys/<str:key_id>`."""
    for entry in resolver.url_patterns:
        here = before + str(entry.pattern).removeprefix("^").removesuffix("$").removesuffix("\\Z")
        if isinstance(entry, URLPattern):
            yield here
        else:
            yield from addresses(entry, here)


ADDRESSES = sorted(set(addresses(get_resolver())))
WITH_TEXT = [address for address in ADDRESSES if re.search(r"<(str|path|slug)?:?\w+>", address)]


@pytest.fixture
def operator(administrator: Any) -> Client:
    """A client that is logged in and may do everything; what fails inside is an answer, as for a browser."""
    client = Client(raise_request_exception=False)
    client.force_login(administrator)
    make_key()
    return client


def test_there_are_addresses_to_try():
    assert len(WITH_TEXT) > 15 and "llm-settings/keys/<str:key_id>" in WITH_TEXT


@pytest.mark.parametrize("address", WITH_TEXT)
@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_an_address_with_a_nul_is_no_failure(operator, address, method):
    path = re.sub(r"<[^>]*>", "%00", address)
    assert getattr(operator, method)(f"/{path}").status_code < 500


@pytest.mark.parametrize("path", ["keys/%00", "usage/%00"])
def test_a_page_of_nothing_is_not_there(operator, path):
    assert operator.get(f"/llm-settings/{path}").status_code in (400, 404)


@pytest.mark.parametrize("address", [address for address in ADDRESSES if "<" not in address and "(" not in address])
def test_a_filter_with_a_nul_is_no_failure(operator, address):
    for name in OF_THE_ADMIN if address.startswith("admin/") else FILTERS:
        assert operator.get(f"/{address}?{name}=a%00b").status_code < 500, name


@pytest.mark.parametrize("address", ["login", "llm-settings/keys/add", "llm-settings/tokens/create", "admin/login/"])
def test_a_form_field_with_a_nul_is_no_failure(operator, address):
    assert operator.post(f"/{address}", {"username": "a\0b", "password": "x", "name": "a\0b"}).status_code < 500


def test_a_selection_in_the_admin_with_a_nul_is_no_failure(operator):
    chosen = {"action": "delete_selected", "_selected_action": "a\0b"}
    assert operator.post("/admin/llmkeys/apikey/", chosen).status_code < 500


@pytest.mark.parametrize("path", ["/a%00b", "/a?b=%00", "/a?%00=b"])
def test_what_the_database_refuses_for_a_nul_is_a_400(rf, path):
    """SQLite takes a NUL: this is how PostgreSQL's driver refuses one."""
    refused = DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    middleware = RefuseNul(lambda request: HttpResponse())
    with pytest.raises(BadRequest):
        middleware.process_exception(rf.get(path), refused)
    with pytest.raises(BadRequest):
        middleware.process_exception(rf.post("/a", {"name": "a\0b"}), refused)
    middleware.process_exception(rf.get("/a?b=%2500"), refused)  # a failure of our own stays one


@pytest.mark.parametrize("field", ["name", "description", "billingGroup", "apiKey", "provider", "expiresAt"])
def test_a_json_field_with_a_nul_is_refused(api, field):
    body = {"provider": "openrouter", "name": "A", "apiKey": "sk-or-v1-" + "a" * 40} | {field: "a\0b"}
    assert api.post("/api/llm/keys", body).status_code == 400
