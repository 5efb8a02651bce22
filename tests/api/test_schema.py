"""GET /api/schema and /api/docs: the API's own description, whole, with examples, for the authenticated alone."""

from __future__ import annotations

import io
import re

import jsonschema
import pytest
from django.core.management import call_command

from llmkeys.api.examples import ALIAS, PRICE
from llmkeys.models import AccessToken, DailyUsage, KeyEvent
from tests.api import checks
from tests.api.test_permission_table import ROUTES
from tests.helpers import NOW, JsonClient, make_key, make_token, make_usage, make_user
from tests.pages.browser import CHROMIUM, log_in
from tests.pages.conftest import chromium  # noqa: F401  (a fixture)

SCHEMA, DOCS = "/api/schema", "/api/docs"


@pytest.fixture
def document(api):
    answer = api.get(SCHEMA)
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("application/vnd.oai.openapi+json")
    return answer.json()


def operations(document):
    return {(path, method): body for path, item in document["paths"].items() for method, body in item.items()}


def address(route):
    """Return a route's address as OpenAPI writes it."""
    prefix = "" if str(route.pattern) == "metrics" else "api/llm/"
    return "/" + prefix + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(route.pattern))


def contents(operation):
    """Yield (schema, examples) of the body and of every answer."""
    parts = [operation.get("requestBody", {}), *operation["responses"].values()]
    for part in parts:
        for content in part.get("content", {}).values():
            yield content["schema"], [example["value"] for example in content.get("examples", {}).values()]


def test_it_is_valid_and_complete_without_warnings():
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=io.StringIO())


@pytest.mark.django_db
class TestSchema:
    def test_it_has_every_route_and_method(self, document):
        # Django REST framework adds `head` to a route's table at its first request.
        routed = {(address(route), method) for route in ROUTES for method in route.callback.actions if method != "head"}
        assert operations(document).keys() == routed

    def test_every_operation_has_words_and_examples_that_fit(self, document):
        components = {"components": document["components"]}
        for where, operation in operations(document).items():
            assert operation["summary"] and operation["security"], where
            for schema, examples in contents(operation):
                assert examples, where
                for example in examples:
                    jsonschema.validate(example, {**schema, **components})

    def test_it_has_both_ways_to_authenticate(self, document):
        assert {scheme["type"] for scheme in document["components"]["securitySchemes"].values()} == {"http", "apiKey"}

    def test_every_answer_to_a_get_is_as_described(self, api, document):
        key, token = make_key(), AccessToken.objects.latest("id")
        make_usage(key), KeyEvent.objects.create(kind="cooled", key=key, message="rests", created_at=NOW)
        DailyUsage.objects.create(key=key, day=NOW.date(), model="m", requests=1)
        price = api.post("/api/llm/prices", PRICE).json()
        alias = api.post("/api/llm/aliases", ALIAS).json()
        rows = {"prices": price["id"], "aliases": alias["id"]}
        for (path, method), operation in operations(document).items():
            content = operation["responses"]["200"]["content"] if method == "get" else {}
            if "application/json" in content:
                place = path.format(key_id=key.id, token_id=token.id, row_id=rows.get(path.split("/")[3]))
                answer = api.get(place).json()
                assert answer, path  # an empty list would fit anything
                jsonschema.validate(
                    answer, {**content["application/json"]["schema"], "components": document["components"]}
                )

    def test_it_is_yaml_for_who_asks(self, api):
        answer = api.get(SCHEMA, headers={"Accept": "application/vnd.oai.openapi"})
        assert answer.content.startswith(b"openapi: 3.1.0")

    def test_it_needs_authentication(self):
        checks.needs_authentication("get", SCHEMA)

    def test_any_authenticated_user_may_read_it(self):
        user = make_user("reader")
        client = JsonClient()
        client.force_login(user)
        for reader in (client, JsonClient(make_token(user, "gateway"))):
            assert [reader.get(path).status_code for path in (SCHEMA, DOCS)] == [200, 200]

    def test_strangers_log_in_before_they_read_the_docs(self, anonymous):
        answer = anonymous.get(DOCS)
        assert (answer.status_code, answer["Location"]) == (302, f"/login?next={DOCS}")

    def test_a_wrong_token_reads_no_docs(self, db):
        assert JsonClient("rfk_wrong").get(DOCS).status_code == 401


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")
@pytest.mark.django_db(transaction=True)
def test_a_browser_shows_the_docs_and_tries_them_under_the_policy(chromium, live_server):  # noqa: F811
    page = chromium.new_page(base_url=live_server.url)
    complaints, hosts = [], set()
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "://" in request.url else None)
    log_in(page)
    key = make_key(name="Seen in the docs")
    page.goto(DOCS)
    page.get_by_role("heading", name="RefactAI LLM key management").wait_for()
    page.locator("#operations-keys-keys_list .opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.locator(".live-responses-table").get_by_text(key.id).first.wait_for()
    page.close()
    assert complaints == []
    assert hosts == {live_server.url.split("/")[2]}
