"""GET /api/llm/events"""

from __future__ import annotations

import pytest

from llmkeys.models import KeyEvent
from tests.api import checks
from tests.api.checks import SECRET
from tests.helpers import NOW, make_account, make_key

PATH = "/api/llm/events"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_before(api):
    """The making of the asking token is an event too."""
    KeyEvent.objects.all().delete()


def test_it_works(api, frozen):
    key = make_key(name="Production", secret=SECRET)
    answer = api.get(PATH)
    default, added = answer.json()["results"]
    assert added == {
        "id": added["id"],
        "kind": "added",
        "keyId": key.id,
        "keyName": "Production",
        "tokenId": None,
        "message": "“Production” was added.",
        "actor": "",
        "createdAt": "2026-11-23T20:30:00Z",
    }
    assert default["kind"] == "default_changed"
    checks.shows_no_secret(answer)


def test_an_event_may_belong_to_no_key(api):
    KeyEvent.objects.create(kind="window_reset", message="A new day.", created_at=NOW)
    (event,) = api.get(PATH).json()["results"]
    assert (event["keyId"], event["keyName"]) == (None, None)


def test_one_of_a_token_names_it(api, administrator):
    token, _ = make_account(administrator, name="shop")
    (event,) = api.get(PATH).json()["results"]
    assert (event["kind"], event["tokenId"], event["keyId"]) == ("added", token.pk, None)
    assert event["message"] == "The token “shop” of admin was created."


def test_it_comes_in_pages(api):
    KeyEvent.objects.bulk_create(KeyEvent(kind="added", message=str(n), created_at=NOW) for n in range(60))
    page = api.get(PATH).json()
    rest = api.get(page["next"]).json()
    assert [event["message"] for event in page["results"] + rest["results"]] == [str(n) for n in range(59, -1, -1)]
    assert rest["next"] is None


def test_it_filters(api):
    one, two = make_key(), make_key()
    assert {event["keyId"] for event in api.get(PATH, {"key": two.id}).json()["results"]} == {two.id}
    assert [event["keyId"] for event in api.get(PATH, {"kind": "default_changed"}).json()["results"]] == [one.id]
    assert api.get(PATH, {"until": "2020-01-01"}).json()["results"] == []
    assert list(api.get(PATH, {"kind": "%"}).json()) == ["kind"]


def test_it_needs_authentication():
    checks.needs_authentication("get", PATH)


def test_it_needs_the_permission_to_view():
    checks.needs_permission("get", PATH, "view_keyevent")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get")
