"""The rest of the admin: prices, aliases, and facts that nobody edits."""

from __future__ import annotations

import html
import re
from decimal import Decimal

import pytest
from django.contrib import admin
from django.utils import timezone

from llmkeys.models import (
    AccessToken,
    Adjustment,
    Alert,
    Cooling,
    DailyUsage,
    FailedAuthentication,
    KeyEvent,
    ModelAlias,
    ModelPrice,
    SealedDay,
    ServingKey,
    UsageRecord,
)  # fmt: skip
from llmkeys.prices import catalogue
from tests.helpers import NOW, make_key, make_token, make_usage

pytestmark = pytest.mark.django_db
FACTS = (
    UsageRecord, Adjustment, KeyEvent, DailyUsage, Cooling, ServingKey, Alert, SealedDay, FailedAuthentication,
)  # fmt: skip


def make_facts() -> None:
    key = make_key()
    row = make_usage(key)
    Adjustment.objects.create(kind="reset", key=key, day=row.day, month=row.month, total_nano=-5)
    DailyUsage.objects.create(key=key, day=row.day, model="m")
    Cooling.objects.create(scope=f"key:{key.pk}", kind="rate_limited", until=NOW)
    ServingKey.objects.create(model="m", key=key)
    Alert.objects.create(kind="key_rejected", key=key, message="Rejected.")
    SealedDay.objects.create(day=row.day)
    FailedAuthentication.objects.create(address="10.0.0.1", at=NOW)


@pytest.mark.parametrize("model", FACTS, ids=lambda model: model.__name__)
class TestFacts:
    def test_it_shows_them_and_lets_nobody_change_them(self, operator, model):
        make_facts()
        base, row = f"/admin/llmkeys/{model._meta.model_name}/", model.objects.first()
        assert operator.get(base).status_code == 200
        page = operator.get(f"{base}{row.pk}/change/").content.decode()
        assert "<h1>View" in page and 'name="_save"' not in page
        assert operator.get(f"{base}add/").status_code == 403
        assert operator.post(f"{base}{row.pk}/delete/", {"post": "yes"}).status_code == 403
        assert operator.post(f"{base}{row.pk}/change/", {}).status_code == 403

    def test_it_asks_the_database_in_a_few_queries(self, operator, model, django_assert_max_num_queries):
        for _ in range(5):
            make_usage(make_key())
        with django_assert_max_num_queries(10):
            operator.get(f"/admin/llmkeys/{model._meta.model_name}/")


class TestFactsOfTokens:
    def test_it_shows_whose_they_are_and_writes_them_as_csv(self, operator, administrator):
        make_token(administrator, name="shop", dailyLimit="1")
        token = AccessToken.objects.get()
        day = {"day": NOW.date(), "month": NOW.date().replace(day=1)}
        row = Adjustment.objects.create(kind="reset", token=token, total_nano=-5, **day)
        Alert.objects.create(kind="limit_reached", token=token, message="Full.")
        for model in ("adjustment", "keyevent", "alert"):
            assert "shop" in operator.get(f"/admin/llmkeys/{model}/").content.decode()
        for model, pk in (("adjustment", row.pk), ("keyevent", KeyEvent.objects.first().pk)):
            answer = operator.post(f"/admin/llmkeys/{model}/", {"action": "as_csv", "_selected_action": [pk]})
            assert str(token.pk) in answer.getvalue().decode()


class TestModels:
    def test_it_takes_a_price_that_counts_at_once(self, operator):
        at = timezone.now()
        assert not catalogue.price_list().has_operator_price("openai", "gpt-x", at)
        data = {
            "provider": "openai", "model": "gpt-x", "valid_from_0": "2020-01-01", "valid_from_1": "00:00:00",
            "input_usd_per_mtok": "1.25", "output_usd_per_mtok": "10",
        }  # fmt: skip
        operator.post("/admin/llmkeys/modelprice/add/", data)
        assert catalogue.price_list().shown("openai", "gpt-x", at).input == Decimal("1.25")
        operator.post(f"/admin/llmkeys/modelprice/{ModelPrice.objects.get().pk}/delete/", {"post": "yes"})
        assert not catalogue.price_list().has_operator_price("openai", "gpt-x", at)

    def test_it_takes_an_alias_that_counts_at_once(self, operator):
        assert catalogue.aliases() == {}
        operator.post("/admin/llmkeys/modelalias/add/", {"provider": "openai", "alias": "fast", "model_names": "gpt-x"})
        assert catalogue.aliases() == {("openai", "fast"): "gpt-x"}
        alias = ModelAlias.objects.get()
        operator.post(
            "/admin/llmkeys/modelalias/", {"action": "delete_selected", "_selected_action": [alias.pk], "post": "yes"}
        )
        assert catalogue.aliases() == {}

    def test_an_alias_keeps_what_others_have_changed_since_the_form_was_opened(self, operator, api):
        alias = ModelAlias.objects.create(alias="fast", model_names=["a"])
        address = f"/admin/llmkeys/modelalias/{alias.pk}/change/"
        opened = re.search(r'name="shown" value="([^"]*)"', html.unescape(operator.get(address).content.decode()))[1]
        given = {"shown": opened, "provider": "", "alias": "quick", "model_names": "a"}
        assert api.put(f"/api/llm/aliases/{alias.pk}", {"models": ["c", "d"]}).status_code == 200
        operator.post(address, given)
        assert ModelAlias.objects.values("alias", "model_names").get() == {"alias": "quick", "model_names": ["c", "d"]}
        page = operator.post(address, {**given, "provider": "openai"}).content.decode()
        assert "stands for one model only" in page, "checked with the models that are stored now"


def test_it_has_our_name_and_every_model(operator):
    page = operator.get("/admin/").content.decode()
    assert "LLM key management" in page and "admin.css" in page
    registered = {model._meta.model_name for model in admin.site._registry if model._meta.app_label == "llmkeys"}
    assert registered == {
        "apikey", "accesstoken", "modelprice", "modelalias", *(model._meta.model_name for model in FACTS),
    }  # fmt: skip


def test_it_is_for_staff_alone(with_rights):
    assert with_rights("view_apikey").get("/admin/").headers["Location"].startswith("/admin/login/")
