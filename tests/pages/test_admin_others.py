"""The rest of the admin: tokens, prices, aliases, and facts that nobody edits."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
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
from llmkeys.tokens import rights
from llmkeys.vault.crypto import token_digest
from tests.helpers import NOW, make_key, make_token, make_usage, make_user

pytestmark = pytest.mark.django_db
FACTS = (
    UsageRecord, Adjustment, KeyEvent, DailyUsage, Cooling, ServingKey, Alert, SealedDay, FailedAuthentication,
)  # fmt: skip
TOKENS = "/admin/llmkeys/accesstoken/"


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


class TestTokens:
    def add(self, client, **fields):
        data = {"name": "worker", "scopes": ["gateway"], "expires_at_0": "", "expires_at_1": "", **fields}
        return client.post(f"{TOKENS}add/", data, follow=True)

    def test_it_shows_the_token_once(self, operator, administrator):
        page = self.add(operator).content.decode()
        text = page.partition("<code>")[2].partition("</code>")[0]
        token = AccessToken.objects.get()
        assert text.startswith("rfk_") and token.digest == token_digest(text) and token.user == administrator
        assert rights.caller_of(text, timezone.now()).has_gateway_scope
        for address in (TOKENS, f"{TOKENS}{token.pk}/change/", "/admin/"):
            later = operator.get(address).content.decode()
            assert text not in later and token.digest not in later
        assert text not in str(list(LogEntry.objects.values()))

    def test_it_limits_a_token_to_keys(self, operator):
        key = make_key(name="Only this")
        self.add(operator, keys=[key.pk])
        token = AccessToken.objects.get()
        assert list(token.keys.all()) == [key] and token.limited_to_keys
        assert "Only this" in operator.get(TOKENS).content.decode()

    def test_it_shows_what_the_service_refuses(self, operator):
        page = self.add(operator, expires_at_0="2001-01-01", expires_at_1="00:00:00").content.decode()
        assert "The expiry is in the past." in page and not AccessToken.objects.exists()

    def test_it_belongs_to_whoever_made_it(self, with_rights, administrator):
        client = with_rights("add_accesstoken", "view_accesstoken", is_staff=True)
        self.add(client, user=administrator.pk)
        assert AccessToken.objects.get().user != administrator

    def test_it_revokes_and_never_edits(self, operator, administrator):
        text = make_token(administrator)
        token = AccessToken.objects.get()
        assert operator.post(f"{TOKENS}{token.pk}/change/", {"name": "other"}).status_code == 403
        operator.post(TOKENS, {"action": "revoke", "_selected_action": [token.pk]})
        assert rights.caller_of(text, timezone.now()) is None
        assert "Revoked" in operator.get(TOKENS).content.decode()

    def test_it_tells_in_which_state_a_token_is(self, operator):
        user = make_user("gone", is_active=False)
        make_token(user, name="ended")
        make_token(make_user("anna"), name="old", at=NOW - timedelta(days=900), expiresAt=NOW - timedelta(days=800))
        page = operator.get(TOKENS).content.decode()
        assert "Ended with its user" in page and ">Expired<" in page


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


def test_it_has_our_name_and_every_model(operator):
    page = operator.get("/admin/").content.decode()
    assert "LLM key management" in page and "admin.css" in page
    registered = {model._meta.model_name for model in admin.site._registry if model._meta.app_label == "llmkeys"}
    assert registered == {
        "apikey", "accesstoken", "modelprice", "modelalias", *(model._meta.model_name for model in FACTS),
    }  # fmt: skip


def test_it_is_for_staff_alone(with_rights):
    assert with_rights("view_apikey").get("/admin/").headers["Location"].startswith("/admin/login/")
