"""GET /metrics"""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmkeys.lib.money import NANO
from tests.api import checks
from tests.helpers import JsonClient, make_key, make_token, make_user

PATH = "/metrics"

pytestmark = pytest.mark.django_db


def samples(answer):
    assert answer.status_code == 200, answer.content
    families = text_string_to_metric_families(answer.content.decode())
    return {
        (sample.name, tuple(value for name, value in sorted(sample.labels.items()) if name != "key_id")): sample.value
        for family in families
        for sample in family.samples
    }


def test_it_works(api, frozen):
    make_key(
        name="Production",
        daily_limit_nano=10 * NANO,
        monthly_limit_nano=0,
        total_limit_nano=0,
        spent_day_nano=NANO // 4,
        spent_month_nano=NANO,
        spent_total_nano=2 * NANO,
        held_nano=NANO // 2,
        total_requests=10,
        successful_requests=7,
        failed_requests=2,
    )
    answer = api.get(PATH)
    assert answer["Content-Type"].startswith("text/plain")
    assert answer["Cache-Control"] == "no-store"
    key = ("Production", "openrouter")
    assert samples(answer) == {
        ("llmkeys_key_cost_usd", (*key, "day")): 0.25,
        ("llmkeys_key_cost_usd", (*key, "month")): 1.0,
        ("llmkeys_key_cost_usd", (*key, "total")): 2.0,
        ("llmkeys_key_limit_usd", (*key, "day")): 10.0,
        ("llmkeys_key_held_usd", key): 0.5,
        ("llmkeys_key_requests_total", (*key, "successful")): 7.0,
        ("llmkeys_key_requests_total", (*key, "failed")): 2.0,
        ("llmkeys_key_requests_total", (*key, "other")): 1.0,
        ("llmkeys_key_status", (*key, "ACTIVE")): 1.0,
        ("llmkeys_key_status", (*key, "LIMIT_REACHED")): 0.0,
        ("llmkeys_key_status", (*key, "EXPIRED")): 0.0,
        ("llmkeys_key_status", (*key, "DISABLED")): 0.0,
    }


def test_it_escapes_names(api):
    name = 'a "quoted" \\ name} 1 <script> 😀'
    make_key(name=name)
    assert ("llmkeys_key_held_usd", (name, "openrouter")) in samples(api.get(PATH))


def test_it_shows_no_secret(api):
    make_key(secret=checks.SECRET)
    answer = api.get(PATH)
    checks.shows_no_secret(answer)
    assert checks.MASKED not in answer.content.decode()


def test_a_deleted_key_is_gone(api):
    api.delete(f"/api/llm/keys/{make_key().id}")
    assert samples(api.get(PATH)) == {}


def test_it_reads_the_keys_once(api, django_assert_max_num_queries):
    for _ in range(5):
        make_key()
    api.get(PATH)
    with django_assert_max_num_queries(4) as queries:
        api.get(PATH)
    assert sum("llmkeys_apikey" in query["sql"] for query in queries.captured_queries) == 1


def test_the_scope_read_is_enough():
    client = JsonClient(make_token(make_user("scraper", "view_usagerecord"), "read"))
    assert client.get(PATH).status_code == 200


def test_it_needs_authentication():
    checks.needs_authentication("get", PATH)


def test_it_needs_the_permission_to_view():
    checks.needs_permission("get", PATH, "view_usagerecord")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get")
