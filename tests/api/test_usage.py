"""GET /api/llm/usage"""

from __future__ import annotations

import csv
import io
import itertools
import json
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from llmkeys import ledger
from llmkeys.ledger import Outcome
from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, DailyUsage, UsageRecord
from llmkeys.presentation import USAGE_COLUMNS
from llmkeys.usage import filters
from llmkeys.usage.rows import newest_first
from tests.api import checks
from tests.api.checks import SECRET
from tests.helpers import NOW, make_key, make_token, make_usage

PATH = "/api/llm/usage"

pytestmark = pytest.mark.django_db


def models(api, **query):
    answer = api.get(PATH, query)
    assert answer.status_code == 200, answer.content
    return [row["model"] for row in answer.json()["results"]]


def rows_of(answer):
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.getvalue().decode())))


def test_it_works(api):
    key = make_key(name="Production", secret=SECRET)
    row = make_usage(key, skipped=[{"keyId": "key-1-1", "reason": "cooling"}], latency_ms=900, first_byte_ms=300)
    answer = api.get(PATH)
    assert answer.json() == {
        "results": [
            {
                "id": row.id, "requestId": row.request_id, "attempt": 1, "createdAt": "2026-11-23T20:30:00Z",
                "finishedAt": "2026-11-23T20:30:00Z", "keyId": key.id, "keyName": "Production",
                "provider": "openrouter", "dialect": "openai_chat", "requestedModel": "openai/gpt-6.1-terra",
                "model": "openai/gpt-6.1-terra", "token": "worker", "state": "SETTLED", "success": True,
                "httpStatus": 200, "error": "", "inputTokens": 100, "cachedInputTokens": None,
                "cacheWriteTokens": None, "outputTokens": 20, "reasoningTokens": None, "cost": 0.25,
                "costSource": "provider", "held": 0.5, "overrun": False, "streamed": False, "latencyMs": 900,
                "firstByteMs": 300, "skipped": [{"keyId": "key-1-1", "reason": "cooling"}],
                "tokenId": None, "user": "", "maxTokens": None,
            }
        ],
        "next": None,
        "previous": None,
    }  # fmt: skip
    assert tuple(answer.json()["results"][0]) == USAGE_COLUMNS
    checks.shows_no_secret(answer)


def test_it_goes_through_the_pages_in_both_directions(api):
    key = make_key()
    ids = [make_usage(key).id for _ in range(120)][::-1]
    pages, address = [], PATH
    while address:
        page = api.get(address).json()
        pages.append([row["id"] for row in page["results"]])
        address = page["next"]
    assert pages == [ids[:50], ids[50:100], ids[100:]]
    assert [row["id"] for row in api.get(page["previous"]).json()["results"]] == pages[1]


def test_rows_that_arrive_meanwhile_shift_nothing(api):
    key = make_key()
    ids = [make_usage(key).id for _ in range(60)][::-1]
    following = api.get(PATH).json()["next"]
    make_usage(key)
    assert [row["id"] for row in api.get(following).json()["results"]] == ids[50:]


def test_the_pages_keep_the_filters(api):
    key = make_key()
    for number in range(102):
        make_usage(key, model=f"m{number % 2}")
    page = api.get(PATH, {"model": "m1"}).json()
    rest = api.get(page["next"]).json()
    assert {row["model"] for row in rest["results"]} == {"m1"}
    assert (len(rest["results"]), rest["next"]) == (1, None)


@pytest.mark.parametrize("cursor", ["x", "%00", "cD1hYmM=", "cD0xJTAw", "🔑", "cD05OTk5OTk5OTk5OTk5OTk5OTk5OTk5"])
def test_it_refuses_a_cursor_of_its_own_making(api, cursor):
    answer = api.get(PATH, {"cursor": cursor})
    assert answer.status_code == 400
    assert list(answer.json()) == ["cursor"]


def test_it_filters(api):
    one, two = make_key(), make_key(provider="anthropic")
    make_usage(one, model="a%", token_name="shop")
    make_usage(two, model="ab", success=False, state="LOST")
    make_usage(two, model="c", success=None, state="RELEASED", cost_nano=0)
    assert models(api) == ["c", "ab", "a%"]
    assert models(api, key=one.id) == ["a%"]
    assert models(api, provider="anthropic") == ["c", "ab"]
    assert models(api, model="a%") == ["a%"]
    assert models(api, model="a_") == []
    assert models(api, success="true") == ["a%"]
    assert models(api, success="false") == ["ab"]
    assert models(api, state="LOST") == ["ab"]
    assert models(api, token="shop") == ["a%"]
    assert models(api, token="%") == models(api, key="%") == []
    assert models(api, provider="anthropic", success="false", key=two.id) == ["ab"]


@pytest.fixture
def known_somehow(frozen):
    """Rows by how their cost is known by now: named after it, and after what happened."""
    key = make_key()
    rows = {
        "known provider": {"cost_source": "provider"}, "known computed": {"cost_source": "computed"},
        "estimated": {"cost_source": "estimated"}, "estimated fallback": {"cost_source": "fallback", "cost_nano": 0},
        "known reconciled": {"cost_source": "estimated"}, "lost": {"cost_source": "estimated", "state": "LOST"},
        "known late": {"cost_source": "estimated", "state": "LOST"}, "known voided": {"state": "LOST"},
        "estimated late": {"cost_source": "estimated", "state": "LOST"},
        "nothing released": {"state": "RELEASED", "cost_nano": 0, "cost_source": ""},
        "nothing held": {"state": "HELD", "cost_nano": 0, "cost_source": "", "lease_until": NOW},
    }  # fmt: skip
    for name, columns in rows.items():
        row = make_usage(key, model=name, **columns)
        with transaction.atomic(), connection.cursor() as cursor:
            if name in ("known reconciled", "known late"):
                ledger.correct_cost(cursor, row.pk, NANO // 4, NOW, reason="the bill says so")
            elif name == "estimated late":
                ledger.finish(cursor, row.pk, Outcome("SETTLED", NOW, True, cost_source="estimated"))
            elif name == "known voided":
                ledger.void_lost(cursor, row.pk, NOW, by="anna", reason="not on the bill")
    return rows


@pytest.mark.parametrize("known", ["known", "estimated", "lost"])
def test_it_filters_by_how_the_cost_is_known_by_now(api, known_somehow, known):
    """What came late, or was reconciled, is known as it was told then; and so is a charge that was taken back."""
    assert sorted(models(api, cost=known)) == sorted(name for name in known_somehow if name.split()[0] == known)
    assert models(api, cost=known, model="known late") == (["known late"] if known == "known" else [])
    assert models(api, cost=known, state="HELD") == []


@pytest.mark.only_on("sqlite")  # reads its plan
@pytest.mark.parametrize(("known", "index"), [("estimated", "usage_estimated"), ("lost", "usage_lost")])
def test_it_finds_the_few_guesses_by_their_index(known_somehow, known, index):
    query, params = newest_first({"cost": known}, at=NOW)[:51].query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {query}", params)
        assert index in " ".join(row[3] for row in cursor.fetchall())


def test_it_tells_tokens_of_one_name_apart_by_their_ids(api, administrator):
    key = make_key()
    for number in range(2):
        make_token(administrator, name="shop")
        make_usage(key, model=f"m{number}", token_name="shop", token=AccessToken.objects.latest("pk"))
    first, second = AccessToken.objects.filter(name="shop").order_by("pk")
    assert models(api, token="shop") == ["m1", "m0"]
    assert models(api, token=first.pk) == ["m0"] and models(api, token=second.pk) == ["m1"]
    assert models(api, token=10**17) == models(api, token=10**30) == []


def test_it_filters_by_time(api):
    key = make_key()
    for hours in (0, 24, 48):
        make_usage(key, at=NOW - timedelta(hours=hours), model=f"-{hours}")
    assert models(api, since="2026-11-22T20:30:00Z") == ["-24", "-0"]
    assert models(api, since="2026-11-22T21:30:00+01:00") == ["-24", "-0"]
    assert models(api, until="2026-11-22T20:30:00Z") == ["-48"]
    assert models(api, since="2026-11-22", until="2026-11-22") == ["-24"]
    assert api.get(f"{PATH}?since=2026-11-22T21:30:00+01:00").status_code == 200  # an unescaped +


@pytest.fixture
def many_rows(frozen, monkeypatch, administrator):
    """Rows of all kinds over three weeks, with their daily totals, found as if there were too many to read them all."""
    monkeypatch.setattr("llmkeys.usage.rows._FEW", 0)
    one, two, three = keys = [make_key(), make_key(), make_key(provider="openai")]
    make_token(administrator, name="t0"), make_token(administrator, name="t1")
    tokens = AccessToken.objects.order_by("pk")
    rows = [
        (key, days, {"model": model, "token_name": f"t{days % 2}", "token": tokens[days % 2] if days % 5 else None})
        for days, key, model in itertools.product(range(21), keys, ("m1", "m2"))
        if (days + keys.index(key)) % 3
    ]
    rows += [
        (one, 9, {"model": "m2", "success": False, "state": "LOST"}),
        (one, 8, {"model": "m3", "success": None, "state": "RELEASED", "cost_nano": 0}),
        # What no total has: an open hold, and an attempt that was never sent.
        (two, 3, {"model": "held", "success": None, "state": "HELD", "cost_nano": 0, "lease_until": NOW}),
        (three, 12, {"model": "unsent", "success": False, "state": "RELEASED", "cost_nano": 0, "http_status": None}),
    ]
    make_usage(one, at=NOW + timedelta(days=40), model="wrong")  # before somebody set the clock
    for key, days, columns in sorted(rows, key=lambda row: -row[1]):
        make_usage(key, at=NOW - timedelta(days=days), **columns)
        if days == 10 and key == two:  # of a machine whose clock is ahead
            make_usage(one, at=NOW - timedelta(days=10) + timedelta(hours=23), model="early")
    make_usage(one, at=NOW - timedelta(hours=23), model="late")  # of a machine whose clock is behind
    for row in UsageRecord.objects.exclude(model__in=["held", "unsent"]):
        group = {"day": row.day, "key": row.key, "model": row.model, "token_name": row.token_name, "token": row.token}
        day, _ = DailyUsage.objects.get_or_create(**group)
        day.successful += row.success is True
        day.failed += row.success is False
        day.save()
    return keys


@pytest.mark.parametrize("clock", ["wrong once", "right"])
def test_it_finds_what_fits_among_many(api, many_rows, clock):
    """Every pair of filters finds the same as a look at every row."""
    if clock == "right":
        UsageRecord.objects.filter(model="wrong").delete()
    day = [(NOW - timedelta(days=days)).date().isoformat() for days in (0, 3, 8, 9, 20, 30)]
    choices = {
        "key_id": [None, *(key.id for key in many_rows), "none"],
        "provider": [None, "openai", "google"],
        "model": [None, "m1", "m3", "held", "unsent", "late", "early", "wrong", "unknown"],
        "success": [None, True, False],
        "state": [None, *UsageRecord.State.values],
        "token_name": [None, "t0", "worker", "%"],
        "token_id": [None, AccessToken.objects.get(name="t1").pk, 10**9],
        "created_at__gte": [None, *map(filters.instant, day)],
        "created_at__lt": [None, *map(filters.end, day)],
    }
    for one, other in itertools.combinations(choices, 2):
        for values in itertools.product(choices[one], choices[other]):
            lookups = {name: value for name, value in zip((one, other), values, strict=True) if value is not None}
            expected = list(UsageRecord.objects.filter(**lookups).values_list("pk", flat=True))
            assert list(newest_first(lookups, at=NOW).values_list("pk", flat=True)) == expected, lookups
            page = newest_first(lookups, at=NOW, first_page=True)[:51]
            assert list(page.values_list("pk", flat=True)) == expected[:51], lookups


def test_rows_of_a_clock_that_was_days_behind_hide_no_others(many_rows):
    for days in (11, 12):
        make_usage(many_rows[0], at=(NOW - timedelta(days=days)).replace(hour=23), model="very late")
    for days in range(25):
        since = filters.instant((NOW - timedelta(days=days)).date().isoformat())
        expected = list(UsageRecord.objects.filter(created_at__gte=since).values_list("pk", flat=True))
        assert list(newest_first({"created_at__gte": since}, at=NOW).values_list("pk", flat=True)) == expected, since


def test_it_reads_the_times_of_a_past_day_once(many_rows):
    since = filters.instant((NOW - timedelta(days=9)).date().isoformat())
    with CaptureQueriesContext(connection) as first:
        found = list(newest_first({"created_at__gte": since}, at=NOW))
    late = make_usage(many_rows[0], at=since, model="late")  # of a machine whose clock is behind
    with CaptureQueriesContext(connection) as second:
        assert list(newest_first({"created_at__gte": since}, at=NOW)) == [late, *found]
    assert len(second) == len(first) - 2


def test_it_reads_which_rows_are_before_a_past_time_once(many_rows):
    """What has just passed is read again: a machine whose clock is behind may still add rows before it."""
    for days, fewer in ((9, 2), (1, 0)):
        until = NOW - timedelta(days=days)
        with CaptureQueriesContext(connection) as first:
            found = list(newest_first({"created_at__lt": until}, at=NOW))
        late = make_usage(many_rows[0], at=NOW - timedelta(days=1, hours=1), model="late")
        with CaptureQueriesContext(connection) as second:
            shown = list(newest_first({"created_at__lt": until}, at=NOW))
        assert shown == ([] if fewer else [late]) + found
        assert len(second) == len(first) - fewer


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("until", "9999-12-30"),
        ("until", "9999-12-31T00:00:00Z"),
        ("since", "0001-01-01"),
        ("since", "0001-01-02T00:00:00Z"),
    ],
)
def test_it_takes_the_ends_of_the_calendar_where_there_are_many_rows(api, many_rows, name, value):
    row = make_usage(many_rows[0], model="rare")
    DailyUsage.objects.create(day=row.day, key=row.key, model="rare", token_name="worker", successful=1)
    assert models(api, model="rare", **{name: value}) == ["rare"]
    assert len(rows_of(api.get(PATH, {"model": "rare", "format": "csv", name: value}))) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("provider", "mistral"), ("success", "maybe"), ("cost", "free"), ("state", "held"), ("format", "xml"),
        ("model", "a\0b"), ("since", "yesterday"), ("since", "2026-13-01"), ("since", "2026-11-22T25:00:00Z"),
        ("until", "1e9"), ("until", "9999-12-31T23:59:59-14:00"), ("since", "0001-01-01T00:00:00+14:00"),
    ],
)  # fmt: skip
def test_it_names_a_bad_filter(api, name, value):
    answer = api.get(PATH, {name: value})
    assert answer.status_code == 400
    assert list(answer.json()) == [name]


def test_it_gives_every_row_as_csv(api):
    key = make_key(name="Production")
    for number in range(501):
        make_usage(key, model=f"m{number}", success=[True, False, None][number % 3])
    rows = rows_of(api.get(PATH, {"format": "csv"}))
    assert tuple(rows[0]) == USAGE_COLUMNS
    assert [row["model"] for row in rows] == [f"m{number}" for number in range(500, -1, -1)]
    shown = api.get(PATH).json()["results"][0]
    for column, value in rows[0].items():
        assert value == ("" if shown[column] is None else value)
    assert [row["success"] for row in rows[-3:]] == ["", "false", "true"]
    assert (rows[0]["cost"], rows[0]["skipped"], rows[0]["cachedInputTokens"]) == ("0.25", "[]", "")


def test_the_csv_is_filtered_too(api):
    key = make_key()
    make_usage(key, model="a")
    make_usage(key, model="b", cost_nano=1)
    (row,) = rows_of(api.get(PATH, {"format": "csv", "model": "b"}))
    assert row["cost"] == "0.000000001"
    assert rows_of(api.get(PATH, {"format": "csv", "model": "none"})) == []


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_the_csv_holds_no_formula(api, text):
    make_usage(make_key(), model=text, token_name=text, error=f"no {text}")
    answer = api.get(PATH, {"format": "csv"})
    (row,) = csv.DictReader(io.StringIO(answer.getvalue().decode(), newline=""))
    assert (row["model"], row["token"], row["error"]) == (f"'{text}", f"'{text}", f"no {text}")


def test_the_csv_keeps_quotes_commas_and_lines(api):
    odd = 'a,"b"\n🔑'
    make_usage(make_key(), error=odd, skipped=[{"keyId": "k", "reason": "ü, so"}])
    answer = api.get(PATH, {"format": "csv"}, headers={"Accept": "text/csv"})
    (row,) = csv.DictReader(io.StringIO(answer.getvalue().decode(), newline=""))
    assert (row["error"], json.loads(row["skipped"])) == (odd, [{"keyId": "k", "reason": "ü, so"}])


def test_it_asks_the_database_as_often_for_fifty_rows_as_for_one(api, django_assert_num_queries, frozen):
    key = make_key()
    make_usage(key)
    api.get(PATH)
    with django_assert_num_queries(3):  # the token, its user, the rows with their keys
        api.get(PATH)
    for _ in range(60):
        make_usage(key)
    with django_assert_num_queries(3):
        api.get(PATH)


def test_a_deleted_key_keeps_its_rows(api):
    key = make_key(name="gone")
    make_usage(key)
    api.delete(f"/api/llm/keys/{key.id}")
    assert api.get(PATH).json()["results"][0]["keyName"] == "gone"


@pytest.mark.parametrize("path", [PATH, f"{PATH}?format=csv"])
def test_it_needs_authentication(path):
    checks.needs_authentication("get", path)


@pytest.mark.parametrize("path", [PATH, f"{PATH}?format=csv"])
def test_it_needs_the_permission_to_view(path):
    checks.needs_permission("get", path, "view_usagerecord")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get")
