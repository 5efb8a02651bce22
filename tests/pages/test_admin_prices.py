"""/admin/llmkeys/modelprice/: prices with what they come to."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from llmkeys.models import ModelPrice

pytestmark = pytest.mark.django_db
LIST = "/admin/llmkeys/modelprice/"


def make_price(**columns) -> ModelPrice:
    defaults = {"provider": "openai", "model": "gpt-x", "valid_from": timezone.now() - timedelta(days=9)}
    amounts = {"input_usd_per_mtok": "1.25", "output_usd_per_mtok": "10"}
    return ModelPrice.objects.create(**defaults | amounts | columns)


def text(answer) -> str:
    return html.unescape(answer.content.decode())


def test_it_lists_what_a_million_tokens_and_a_typical_request_cost(operator):
    make_price()
    page = text(operator.get(LIST))
    assert "$1.25" in page and "$10.00" in page
    assert "$0.0075" in page, "2,000 tokens in and 500 out"


def test_it_tells_which_price_is_in_force(operator):
    make_price(valid_from="2020-01-01T00:00Z"), make_price()
    make_price(valid_from=timezone.now() + timedelta(days=9))
    page = text(operator.get(LIST))
    states = [page.partition('field-in_force">')[2][:8], page.count(">Yes<"), page.count(">Replaced<")]
    assert page.count(">Yes<") == 1 and page.count(">Replaced<") == 1 and page.count(">Not yet<") == 1, states


def test_it_previews_the_price_in_the_form(operator):
    price = make_price(output_usd_per_mtok="0.00000001")
    page = text(operator.get(f"{LIST}{price.pk}/change/"))
    assert 'value="1.25"' in page and 'value="0.00000001"' in page
    assert 'data-tokens="1000000 0">$1.25<' in page and 'data-tokens="2000 500">$0.0025' in page
    assert "The price data does not have this model." in page and "price-preview.js" in page


def test_it_compares_with_the_price_data_and_warns_of_a_slip(operator):
    good = make_price(model="gpt-4o", input_usd_per_mtok="2.5")
    page = text(operator.get(f"{LIST}{good.pk}/change/"))
    assert "The price data has $2.50 in and $10.00 out." in page and "times off" not in page
    slip = make_price(model="gpt-4o-mini", input_usd_per_mtok="0.00000015", output_usd_per_mtok="0")
    assert "more than 20 times off the price data" in text(operator.get(f"{LIST}{slip.pk}/change/"))


def test_it_shows_an_empty_preview_for_a_new_price(operator):
    page = text(operator.get(f"{LIST}add/"))
    assert 'data-tokens="2000 500">–<' in page


@pytest.mark.parametrize("amount", ["-1", "NaN", "1e99", "x", ""])
def test_it_refuses_what_is_no_price(operator, amount):
    data = {
        "provider": "openai", "model": "gpt-x", "valid_from_0": "2020-01-01", "valid_from_1": "00:00:00",
        "input_usd_per_mtok": amount, "output_usd_per_mtok": "10",
    }  # fmt: skip
    answer = operator.post(f"{LIST}add/", data)
    assert answer.status_code == 200 and "errorlist" in text(answer)
    assert not ModelPrice.objects.exists()


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin"])
@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_it_refuses_a_date_at_the_ends_of_the_calendar(operator, settings, zone, day):
    settings.TIME_ZONE = zone
    data = {
        "provider": "openai", "model": "gpt-x", "valid_from_0": day, "valid_from_1": "22:00:00",
        "input_usd_per_mtok": "1", "output_usd_per_mtok": "10",
    }  # fmt: skip
    page = text(operator.post(f"{LIST}add/", data))
    assert f"Must be in the years 1970 to 2199; it is in the year {int(day[:4])}." in page
    assert not ModelPrice.objects.exists()


def test_it_keeps_what_others_have_changed_since_the_form_was_opened(operator, api):
    price = make_price(model="gpt-x", audio_input_usd_per_mtok="32")
    before = ModelPrice.objects.values().get()
    page = text(operator.get(f"{LIST}{price.pk}/change/"))
    opened = dict(re.findall(r'<input type="(?:text|number|hidden)" name="(\w+)"(?: value="([^"]*)")?', page))
    changes = {"outputUsdPerMtok": 20, "audioInputUsdPerMtok": 40, "serviceTier": "priority"}
    assert api.put(f"/api/llm/prices/{price.pk}", changes).status_code == 200
    edited = {"input_usd_per_mtok": "2.5", "provider": "openai", "service_tier": ""}
    assert operator.post(f"{LIST}{price.pk}/change/", opened | edited).status_code == 302
    assert ModelPrice.objects.values().get() == before | {
        "input_usd_per_mtok": Decimal("2.5"), "output_usd_per_mtok": 20, "audio_input_usd_per_mtok": 40,
        "service_tier": "priority",
    }  # fmt: skip


def test_a_reader_sees_the_price_and_changes_nothing(with_rights):
    price = make_price()
    client = with_rights("view_modelprice", is_staff=True)
    page = text(client.get(f"{LIST}{price.pk}/change/"))
    assert "gpt-x" in page and "1.25" in page and 'name="_save"' not in page and "Shown" not in page


def test_it_asks_the_database_as_often_for_many_prices(operator, django_assert_max_num_queries):
    for number in range(30):
        make_price(model=f"gpt-{number}")
    with django_assert_max_num_queries(8):
        operator.get(LIST)
