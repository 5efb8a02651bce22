"""/api/llm/prices: the operator's own prices."""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmkeys.models import ModelPrice
from llmkeys.prices import catalogue
from tests.api import checks
from tests.helpers import NOW

pytestmark = pytest.mark.django_db

PATH = "/api/llm/prices"
KINDS = {
    "cachedInputUsdPerMtok": 0.25, "cacheWriteUsdPerMtok": 3, "cacheWrite1hUsdPerMtok": 5, "audioInputUsdPerMtok": 32,
    "cachedAudioInputUsdPerMtok": 0.4, "imageInputUsdPerMtok": 4, "reasoningOutputUsdPerMtok": 11,
    "audioOutputUsdPerMtok": 64, "imageOutputUsdPerMtok": 30, "searchUsd": 0.025, "requestUsd": 0.001,
}  # fmt: skip
PLAIN = {"provider": "openai", "model": "gpt-mine", "inputUsdPerMtok": 2.5, "outputUsdPerMtok": 10}


def add(api, **fields):
    answer = api.post(PATH, PLAIN | fields)
    assert answer.status_code == 201, answer.content
    return answer.json()


def path(price):
    return f"{PATH}/{price['id']}"


def test_it_works(api, frozen):
    price = add(api)
    assert price == {
        "id": price["id"], **PLAIN, "serviceTier": "", "aboveInputTokens": 0, "validFrom": "2026-11-23T20:30:00Z",
        **dict.fromkeys(KINDS),
    }  # fmt: skip
    assert api.get(PATH).json() == [price]
    assert api.get(path(price)).json() == price


def test_every_kind_and_fee_can_be_given(api):
    price = add(api, **KINDS, serviceTier="priority", validFrom="2026-01-01T00:00:00Z")
    assert price == price | KINDS
    assert (price["serviceTier"], price["validFrom"]) == ("priority", "2026-01-01T00:00:00Z")


def test_it_counts_at_once(api):
    at = NOW + timedelta(days=9)
    catalogue.price_list()
    price = add(api, validFrom="2020-01-01T00:00:00Z")
    assert catalogue.price_list().shown("openai", "gpt-mine", at).input == 2.5
    api.put(path(price), {"inputUsdPerMtok": 7})
    assert catalogue.price_list().shown("openai", "gpt-mine", at).input == 7
    api.delete(path(price))
    assert catalogue.price_list().shown("openai", "gpt-mine", at) is None


def test_what_is_left_out_of_a_change_stays(api):
    price = add(api, **KINDS)
    changed = api.put(path(price), {"audioInputUsdPerMtok": None}).json()
    assert changed == price | {"audioInputUsdPerMtok": None}


def test_what_was_read_can_be_put_back(api):
    price = add(api, **KINDS)
    assert api.put(path(price), price).json() == price


def test_it_deletes(api):
    price = add(api)
    assert api.delete(path(price)).json() == {"success": True, "message": "Price deleted"}
    checks.is_unknown(api.get(path(price)))
    assert not ModelPrice.objects.exists()


def test_a_price_of_long_prompts_goes_with_one_of_all(api):
    later = {"aboveInputTokens": 200_000, "validFrom": "2026-02-01T00:00:00Z"}
    answer = api.post(PATH, PLAIN | later)
    assert answer.status_code == 400 and list(answer.json()) == ["aboveInputTokens"]
    add(api, validFrom="2026-01-01T00:00:00Z")
    add(api, **later, inputUsdPerMtok=5)


@pytest.mark.parametrize("name", ["inputUsdPerMtok", "outputUsdPerMtok", "provider", "model"])
def test_it_names_what_is_missing(api, name):
    answer = api.post(PATH, {field: value for field, value in PLAIN.items() if field != name})
    assert answer.status_code == 400 and list(answer.json()) == [name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inputUsdPerMtok", -1), ("inputUsdPerMtok", "2.5"), ("inputUsdPerMtok", True), ("inputUsdPerMtok", None),
        ("outputUsdPerMtok", 10_000_001), ("outputUsdPerMtok", 0.000000001), ("audioInputUsdPerMtok", [1]),
        ("searchUsd", -0.01), ("requestUsd", {}), ("provider", "nobody"), ("provider", 5), ("provider", ""),
        ("model", ""), ("model", " "), ("model", "x" * 201), ("model", "a\nb"), ("model", 5),
        ("serviceTier", "fastest"), ("serviceTier", None), ("aboveInputTokens", -1), ("aboveInputTokens", 1.5),
        ("aboveInputTokens", 2**31), ("aboveInputTokens", True), ("validFrom", "soon"), ("validFrom", 5),
        ("validFrom", None), ("price", 5),
    ],
)  # fmt: skip
def test_it_names_a_bad_field(api, name, value):
    for answer in (api.post(PATH, PLAIN | {name: value}), api.put(path(add(api)), {name: value})):
        assert answer.status_code == 400, answer.content
        assert list(answer.json()) == [name]
        assert answer.json()[name]


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin"])
@pytest.mark.parametrize("at", ["0001-01-01T00:00:00", "9999-12-31T22:00:00", "1969-12-30T00:00:00Z", "2201-01-01"])
def test_it_refuses_a_time_at_the_ends_of_the_calendar(api, settings, zone, at):
    settings.TIME_ZONE = zone
    good = add(api)
    for answer in (api.post(PATH, PLAIN | {"validFrom": at}), api.put(path(good), {"validFrom": at})):
        assert answer.status_code == 400 and list(answer.json()) == ["validFrom"], answer.content
    assert api.get(PATH).json() == [good]


def test_it_shows_times_in_utc_whatever_the_zone(api, settings):
    settings.TIME_ZONE = "America/New_York"
    assert add(api, validFrom="2026-01-01T00:00:00")["validFrom"] == "2026-01-01T05:00:00Z"
    assert add(api, validFrom="2026-01-01T00:00:00.123456+01:00")["validFrom"] == "2025-12-31T23:00:00.123Z"


def test_a_price_of_long_prompts_may_begin_when_the_other_does(api, frozen):
    """A time that was shown is the time that counts, to the last digit."""
    frozen.move_to(NOW.replace(microsecond=123_456))
    price = add(api)
    assert add(api, aboveInputTokens=200_000, validFrom=price["validFrom"])["validFrom"] == price["validFrom"]


def test_it_refuses_a_second_price_of_the_same_instant(api):
    at = "2026-01-01T00:00:00Z"
    add(api, validFrom=at)
    other = add(api, validFrom="2026-02-01T00:00:00Z")
    for answer in (api.post(PATH, PLAIN | {"validFrom": at}), api.put(path(other), {"validFrom": at})):
        assert answer.status_code == 409 and list(answer.json()) == ["detail"]
    add(api, validFrom=at, serviceTier="flex")


def test_it_refuses_malformed_bodies(api):
    checks.refuses_malformed_bodies(api.post, PATH)
    checks.refuses_malformed_bodies(api.put, path(add(api)))


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_it_does_not_know_another_row(api, method):
    checks.is_unknown(getattr(api, method)(f"{PATH}/999999"))
    checks.is_unknown(getattr(api, method)(f"{PATH}/{2**70}"))


def test_it_needs_authentication_and_a_permission_each(api):
    one = path(add(api))
    table = [("get", PATH, "view"), ("post", PATH, "add"), ("get", one, "view"), ("put", one, "change")]
    for number, (method, address, verb) in enumerate(table):
        checks.needs_authentication(method, address)
        checks.needs_permission(method, address, f"{verb}_modelprice", suffix=str(number))


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get", "post")
    checks.refuses_other_methods(api, path(add(api)), "get", "put", "delete")
