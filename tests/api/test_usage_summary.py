"""GET /api/llm/usage/summary"""

from __future__ import annotations

from datetime import date

import pytest

from llmkeys.models import DailyUsage
from llmkeys.money import NANO
from tests.api import checks
from tests.helpers import make_key

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


@pytest.mark.parametrize("group_by", ["day", "month", "model", "key", "provider", "token"])
def test_it_asks_the_database_little_and_no_usage_row(api, keys, group_by, django_assert_max_num_queries):
    api.get(PATH)
    with django_assert_max_num_queries(5) as queries:
        api.get(PATH, {"group_by": group_by})
    assert not [query for query in queries.captured_queries if "llmkeys_usagerecord" in query["sql"]]


def test_it_needs_authentication():
    checks.needs_authentication("get", PATH)


def test_it_needs_the_permission_to_view():
    checks.needs_permission("get", PATH, "view_usagerecord")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get")
