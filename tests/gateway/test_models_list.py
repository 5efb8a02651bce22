"""GET /v1/models"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from llmkeys.models import ModelPrice
from llmkeys.simulator.thread import SimulatorThread
from tests.gateway.door import Program, error_of
from tests.helpers import NOW, make_key, make_token

PATH = "/v1/models"
OPENAI = "https://api.openai.com/v1/models"
OPENROUTER = "https://openrouter.ai/api/v1/models"
LISTED = {"object": "list", "data": [{"id": "gpt-6.1-terra", "object": "model"}, {"id": "house-model"}]}


def models(client) -> dict[str, dict]:
    answer = client.get(PATH)
    assert answer.status_code == 200
    assert answer.json()["object"] == "list"
    return {entry["id"]: entry for entry in answer.json()["data"]}


def test_it_works(client, provider):
    make_key(provider="openai")
    provider.get(OPENAI, json=LISTED)
    listed = models(client)
    assert list(listed) == ["gpt-6.1-terra", "house-model"]
    entry = listed["gpt-6.1-terra"]
    assert (entry["object"], entry["owned_by"], entry["providers"]) == ("model", "openai", ["openai"])
    assert entry["pricing"] == {"prompt": "0.000001", "completion": "0.000005"}
    assert entry["context_length"] > 1_000_000
    assert listed["house-model"]["pricing"] is None


def test_it_is_empty_without_keys(client):
    assert models(client) == {}


def test_it_lists_what_every_provider_lists(client, simulator):
    for name in ("openrouter", "openai", "anthropic", "google"):
        make_key(provider=name)
    listed = models(client)
    assert {"openai/gpt-6.1-terra", "gpt-6.1-terra", "claude-sonnet-5-5", "gemini-3.8-flash"} <= set(listed)
    assert listed["openai/gpt-6.1-terra"]["providers"] == ["openrouter"]
    assert listed["openai/gpt-6.1-terra"]["owned_by"] == "openai"


def test_the_operators_price_goes_before_the_providers(client, provider):
    make_key()
    entry = {
        "id": "openai/gpt-6.1-terra",
        "pricing": {"prompt": "0.000001", "completion": "0.000005"},
        "context_length": 7,
    }
    provider.get(OPENROUTER, json={"data": [entry]})
    assert models(client)[entry["id"]]["pricing"] == entry["pricing"]
    assert models(client)[entry["id"]]["context_length"] == 7
    ModelPrice.objects.create(
        provider="openrouter",
        model=entry["id"],
        valid_from=NOW - timedelta(days=1),
        input_usd_per_mtok=Decimal(7),
        output_usd_per_mtok=Decimal(11),
    )
    from llmkeys.prices import catalogue

    catalogue.forget()
    assert models(client)[entry["id"]]["pricing"] == {"prompt": "0.000007", "completion": "0.000011"}


def test_it_asks_a_provider_once_in_ten_minutes(client, provider):
    make_key(provider="openai")
    provider.get(OPENAI, json=LISTED)
    models(client), models(client)
    assert len(provider.calls) == 1


def test_it_leaves_out_what_cannot_serve(client, provider):
    make_key(enabled=False), make_key(rejected_at=NOW), make_key(expires_at=NOW)
    make_key(provider="openai")
    provider.get(OPENAI, json=LISTED)
    assert list(models(client)) == ["gpt-6.1-terra", "house-model"]


def test_it_shows_a_token_what_its_keys_can_serve(client, user, provider):
    key = make_key(provider="openai")
    make_key()
    provider.get(OPENAI, json=LISTED)
    assert list(models(Program(make_token(user, keyIds=[key.id])))) == ["gpt-6.1-terra", "house-model"]


def test_a_provider_that_is_gone_spoils_nothing(client, settings):
    with SimulatorThread() as gone:
        pass
    with SimulatorThread() as alive:
        settings.PROVIDER_BASE_URLS = alive.urls | {"openrouter": gone.urls["openrouter"]}
        make_key(), make_key(provider="openai")
        assert "gpt-6.1-terra" in models(client)


@pytest.mark.parametrize(
    "answer", [{"status": 401}, {"body": b"<html>"}, {"json": []}, {"json": {"data": [{"id": 7}]}}]
)
def test_an_unreadable_list_is_empty(client, provider, answer):
    make_key(provider="openai")
    provider.get(OPENAI, **answer)
    assert models(client) == {}


def test_it_needs_a_token_of_scope_gateway(client, user):
    assert error_of(Program().get(PATH))["code"] == "invalid_token"
    assert error_of(Program(make_token(user, "read")).get(PATH))["code"] == "missing_scope"


@pytest.mark.parametrize(
    ("headers", "shape"),
    [
        ({}, ["object", "data"]),
        ({"anthropic-version": "2023-06-01"}, ["data", "first_id", "has_more", "last_id"]),
        ({"x-goog-api-client": "google-genai-sdk/3.6.1 gl-python/3.11"}, ["models"]),
    ],
)
def test_it_has_the_shape_of_the_client_whatever_header_brings_the_token(client, user, headers, shape):
    token = make_token(user)
    for own in ({"Authorization": f"Bearer {token}"}, {"x-api-key": token}, {"x-goog-api-key": token}):
        assert sorted(Program().get(PATH, headers=own | headers).json()) == sorted(shape)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/v1/models/none", 404, "model_not_available"), ("/v1/models", 401, "invalid_token")],
)
def test_a_refusal_has_openais_shape_too(client, user, path, status, code):
    token = make_token(user) if status == 404 else "rfk_unknown"
    answer = Program().get(path, headers={"x-goog-api-key": token})
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)


def test_it_takes_get_only(client):
    assert error_of(client.post(PATH, "{}"))["code"] == "method_not_allowed"
