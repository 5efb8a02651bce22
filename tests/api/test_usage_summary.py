"""GET /api/llm/usage/summary"""

from __future__ import annotations

import itertools
import random
from datetime import date, timedelta

import pytest
from django.db import OperationalError, connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, ApiKey, ClosedDay, DailyUsage
from llmkeys.usage import closed_days
from llmkeys.usage.filters import SUMS, read
from llmkeys.usage.sums import GROUPS, Wanted, summary
from tests.api import checks
from tests.helpers import NOW, make_key, make_token, make_usage, make_user

PATH = "/api/llm/usage/summary"

pytestmark = pytest.mark.django_db


def make_day(key, day, **columns):
    defaults = {
        "model": "openai/gpt-6.1-terra",
        "token_name": "worker",
        "requests": 4,
        "successful": 3,
        "failed": 1,
        "input_tokens": 100,
        "output_tokens": 20,
        "cost_nano": NANO // 4,
    }
    return DailyUsage.objects.create(key=key, day=date.fromisoformat(day), **defaults | columns)


@pytest.fixture
def keys():
    first, second = make_key(name="First"), make_key(name="Second", provider="openai")
    make_day(first, "2026-10-31")
    make_day(first, "2026-11-01", token_name="web", cost_nano=NANO)
    make_day(second, "2026-11-01", model="gpt-6.1-terra", cost_nano=NANO // 2, failed=0, successful=4)
    return first, second


def groups(answer):
    assert answer.status_code == 200, answer.content
    return [(row["group"], row["cost"]) for row in answer.json()["results"]]


def test_it_sums_by_day_and_over_all(api, keys):
    assert api.get(PATH).json() == {
        "groupBy": "day",
        "results": [
            {
                "group": "2026-10-31", "cost": 0.25, "requests": 4, "successful": 3, "failed": 1,
                "inputTokens": 100, "outputTokens": 20, "successRate": 75.0,
            },
            {
                "group": "2026-11-01", "cost": 1.5, "requests": 8, "successful": 7, "failed": 1,
                "inputTokens": 200, "outputTokens": 40, "successRate": 87.5,
            },
        ],
        "total": {
            "cost": 1.75, "requests": 12, "successful": 10, "failed": 2,
            "inputTokens": 300, "outputTokens": 60, "successRate": 83.33,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ("month", [("2026-10", 0.25), ("2026-11", 1.5)]),
        ("model", [("openai/gpt-6.1-terra", 1.25), ("gpt-6.1-terra", 0.5)]),
        ("provider", [("openrouter", 1.25), ("openai", 0.5)]),
        ("token", [("web", 1.0), ("worker", 0.75)]),
    ],
)
def test_it_groups(api, keys, group_by, expected):
    assert groups(api.get(PATH, {"group_by": group_by})) == expected


def test_it_names_the_keys(api, keys):
    first, second = keys
    found = api.get(PATH, {"group_by": "key"}).json()["results"]
    assert [(row["group"], row["keyId"], row["keyName"]) for row in found] == [
        (first.id, first.id, "First"),
        (second.id, second.id, "Second"),
    ]


# --- by token and by user ---------------------------------------------------------------------------------------------


@pytest.fixture
def shops(administrator):
    """Two tokens of one name, of two people; the playground; and what was spent before tokens were linked."""
    key, anna = make_key(), make_user("anna")
    make_token(anna, name="shop"), make_token(administrator, name="shop")
    first, second = AccessToken.objects.filter(name="shop").order_by("pk")
    make_day(key, "2026-11-01", token_name="shop", token=first, cost_nano=3 * NANO)
    make_day(key, "2026-11-02", token_name="shop", token=second, cost_nano=2 * NANO)
    make_day(key, "2026-11-02", token_name="shop", cost_nano=NANO)
    make_day(key, "2026-11-02", token_name="anna", cost_nano=NANO // 2)
    return first, second


def test_two_tokens_of_one_name_stay_two(api, shops):
    first, second = shops
    found = api.get(PATH, {"group_by": "token"}).json()["results"]
    assert [(row["group"], row["tokenId"], row["tokenName"], row["user"], row["cost"]) for row in found] == [
        ("shop", first.id, "shop", "anna", 3.0),
        ("shop", second.id, "shop", "admin", 2.0),
        ("shop", None, "shop", "", 1.0),
        ("anna", None, "anna", "", 0.5),
    ]


def test_a_renamed_token_stays_one(api, shops):
    AccessToken.objects.filter(pk=shops[0].pk).update(name="till")
    make_day(ApiKey.objects.get(), "2026-11-03", token_name="till", token=shops[0], cost_nano=NANO)
    assert groups(api.get(PATH, {"group_by": "token"}))[0] == ("till", 4.0)


def test_it_sums_by_user_over_tokens_and_the_playground(api, shops):
    assert groups(api.get(PATH, {"group_by": "user"})) == [("anna", 3.5), ("admin", 2.0), ("", 1.0)]


def test_it_filters_by_the_id_of_a_token(api, shops):
    assert api.get(PATH, {"token": shops[1].id}).json()["total"]["cost"] == 2.0
    assert api.get(PATH, {"token": "shop"}).json()["total"]["cost"] == 6.0
    for unknown in (10**6, 10**18, 10**40):
        assert api.get(PATH, {"token": unknown}).json()["total"]["cost"] == 0


def test_it_asks_as_often_for_many_tokens(api, shops, administrator):
    with CaptureQueriesContext(connection) as few:
        api.get(PATH, {"group_by": "user"})
    for number in range(30):
        make_token(administrator, name=f"token {number}")
    for token in AccessToken.objects.all():
        make_day(ApiKey.objects.get(), "2026-11-04", token_name=token.name, token=token)
    for group_by in ("user", "token"):
        with CaptureQueriesContext(connection) as many:
            api.get(PATH, {"group_by": group_by})
        assert len(many) <= len(few)


def test_a_deleted_key_keeps_its_place(api, keys):
    api.delete(f"/api/llm/keys/{keys[0].id}")
    assert groups(api.get(PATH, {"group_by": "key"})) == [(keys[0].id, 1.25), (keys[1].id, 0.5)]


@pytest.mark.parametrize(
    ("query", "cost"),
    [
        ({"provider": "openai"}, 0.5),
        ({"model": "gpt-6.1-terra"}, 0.5),
        ({"token": "web"}, 1.0),
        ({"token": "w%"}, 0),
        ({"key": "key-unknown"}, 0),
        ({"since": "2026-11-01"}, 1.5),
        ({"until": "2026-10-31"}, 0.25),
        ({"since": "2026-10-31", "until": "2026-10-31"}, 0.25),
        ({"since": "2026-11-02"}, 0),
        ({"provider": "", "since": ""}, 1.75),
    ],
)
def test_it_filters(api, keys, query, cost):
    assert api.get(PATH, query).json()["total"]["cost"] == cost


def test_it_filters_by_key(api, keys):
    assert api.get(PATH, {"key": keys[1].id}).json()["total"]["requests"] == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("group_by", "hour"),
        ("since", "yesterday"),
        ("since", "2026-11-22T10:00:00Z"),
        ("until", "2026-02-30"),
        ("until", "20261122"),
        ("since", "２０２６-11-22"),
        ("provider", "nobody"),
        ("model", "a\0b"),
    ],
)
def test_a_bad_parameter_is_named(api, name, value):
    answer = api.get(PATH, {name: value})
    assert answer.status_code == 400
    assert list(answer.json()) == [name]


def test_it_is_empty_without_usage(api):
    answer = api.get(PATH, {"group_by": "key"}).json()
    assert answer["results"] == [] and answer["total"]["successRate"] == 0.0


# --- long spans: closed days ------------------------------------------------------------------------------------------

TODAY = NOW.date()
FILTERS = [{"provider": "openai"}, {"model": "m1"}, {"token": "shop"}, {"model": "m2", "token": "none"}]


def spans():
    days = (0, 1, 2, 3, 7, 8, 9, 10, 29, 44, 59, 75)
    ends = [None, *(TODAY - timedelta(days=days) for days in days)]
    return [(since, until) for since in ends for until in ends if since is None or until is None or since <= until]


@pytest.fixture
def history(frozen):
    """Sixty days of three keys, two models and two tokens, with gaps."""
    chance = random.Random(7)
    stored = [
        make_key(name=f"K{n}", provider=provider) for n, provider in enumerate(("openrouter", "openai", "openai"))
    ]
    for days in range(60):
        day = (TODAY - timedelta(days=days)).isoformat()
        for key, model, token in itertools.product(stored, ("m1", "m2"), ("shop", "web")):
            if chance.random() < 0.7:
                make_day(key, day, model=model, token_name=token, cost_nano=chance.randrange(NANO))
    return stored


def agrees(api, **query):
    """What the API tells is what the daily totals of that span add up to."""
    given = {name: value for name, value in query.items() if value is not None}
    group_by = given.pop("group_by")
    answer = api.get(PATH, {"group_by": group_by} | given)
    assert answer.status_code == 200, answer.content
    wanted = Wanted(**read(SUMS, {name: str(value) for name, value in given.items()}))
    expected = summary(wanted.rows(), group_by=group_by)
    assert answer.json() == expected, query


@pytest.mark.parametrize("group_by", GROUPS)
def test_every_span_adds_up(api, history, group_by):
    for since, until in spans():
        agrees(api, group_by=group_by, since=since, until=until)


@pytest.mark.parametrize("group_by", GROUPS)
def test_every_filter_adds_up(api, history, group_by):
    """Over each seventh span, so that ends of all kinds come."""
    for filters in FILTERS:
        for since, until in spans()[::7]:
            agrees(api, group_by=group_by, since=since, until=until, **filters)


def summed(api):
    for group_by in GROUPS:
        agrees(api, group_by=group_by)
        agrees(api, group_by=group_by, since=TODAY - timedelta(days=50), until=TODAY - timedelta(days=5))


@pytest.mark.parametrize("days", [0, 1, 2, 3, 20, 50, 59])
def test_a_corrected_day_shows_at_once(api, history, days):
    summed(api)
    day = TODAY - timedelta(days=days)
    DailyUsage.objects.filter(day=day, model="m1").update(cost_nano=F("cost_nano") + 7, failed=F("failed") + 1)
    summed(api)
    make_day(history[0], day.isoformat(), model="new")
    summed(api)
    DailyUsage.objects.filter(day=day, model="m2").delete()
    summed(api)


def test_days_before_the_first_may_come_later(api, history):
    summed(api)
    make_day(history[1], (TODAY - timedelta(days=100)).isoformat())
    summed(api)


def test_days_go_on(api, history, frozen):
    for days in (1, 2, 9):
        frozen.move_to(NOW + timedelta(days=days))
        make_day(history[0], (TODAY + timedelta(days=days)).isoformat(), model="later")
        summed(api)


def test_a_voided_charge_of_a_closed_day_is_taken_off(api, history, frozen):
    at = NOW - timedelta(days=20)
    row = make_usage(history[0], at=at, model="lost", state="LOST", success=False, cost_source="estimated")
    make_day(history[0], at.date().isoformat(), model="lost", token_name=row.token_name, cost_nano=row.cost_nano)
    before = api.get(PATH, {"group_by": "key"}).json()["total"]["cost"]
    assert api.post(f"/api/llm/usage/{row.id}/void").status_code == 200
    assert api.get(PATH, {"group_by": "key"}).json()["total"]["cost"] == pytest.approx(before - 0.25)
    summed(api)


def test_it_needs_no_writing(api, history, monkeypatch):
    monkeypatch.setattr(closed_days, "_written", lambda *_: False)
    summed(api)
    assert not ClosedDay.objects.exists()


def test_a_database_that_cannot_be_written_is_left_alone_for_a_while(api, history, monkeypatch):
    def fails(*_):
        tried.append(1)
        raise OperationalError("database is locked")

    tried = []
    monkeypatch.setattr(closed_days, "_retry_at", 0.0)
    monkeypatch.setattr(closed_days, "_close", fails)
    summed(api)
    assert len(tried) == 1


@pytest.mark.parametrize("group_by", GROUPS)
def test_it_asks_as_little_for_many_keys_and_days(api, history, group_by, django_assert_max_num_queries):
    query = {"group_by": group_by, "since": (TODAY - timedelta(days=40)).isoformat()}
    for _ in range(20):
        make_day(make_key(), (TODAY - timedelta(days=30)).isoformat())
    api.get(PATH, query)
    with django_assert_max_num_queries(11) as queries:
        assert api.get(PATH, query).json()["results"]
    assert not [query for query in queries.captured_queries if "llmkeys_usagerecord" in query["sql"]]


def test_it_needs_authentication():
    checks.needs_authentication("get", PATH)


def test_it_needs_the_permission_to_view():
    checks.needs_permission("get", PATH, "view_usagerecord")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get")
