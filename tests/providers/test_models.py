"""`models_answer`: a provider's own model list."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from llmkeys.providers import PROVIDERS, ListedModel, get
from tests.providers.helpers import recorded_bytes


def listed(provider: str, body: Any) -> list[ListedModel]:
    return get(provider).models_answer(json.dumps(body).encode())


def test_it_reads_openrouters_recorded_list() -> None:
    models = get("openrouter").models_answer(recorded_bytes("openrouter-models.json"))
    assert [model.id for model in models] == [
        "anthropic/claude-sonnet-4",
        "openai/gpt-4.1-mini",
        "openai/gpt-4o",
        "openai/gpt-3.5-turbo",
    ]
    assert models[0] == ListedModel(
        id="anthropic/claude-sonnet-4",
        context_tokens=1000000,
        max_output_tokens=64000,
        input_usd_per_token=Decimal("0.000003"),
        output_usd_per_token=Decimal("0.000015"),
    )


def test_it_takes_a_negative_price_for_not_told() -> None:
    entry = {"id": "openrouter/auto", "pricing": {"prompt": "-1", "completion": "x"}}
    assert listed("openrouter", {"data": [entry]}) == [ListedModel(id="openrouter/auto")]


def test_it_reads_openai_and_local_servers() -> None:
    body = {"object": "list", "data": [{"id": "gpt-4o"}, {"id": "meta-llama/Llama-3", "max_model_len": 8192}]}
    assert listed("openai", body) == [
        ListedModel(id="gpt-4o"),
        ListedModel(id="meta-llama/Llama-3", context_tokens=8192),
    ]


def test_it_reads_anthropic() -> None:
    entry = {"type": "model", "id": "claude-opus-5-5", "max_input_tokens": 1000000, "max_tokens": 128000}
    assert listed("anthropic", {"data": [entry]}) == [
        ListedModel(id="claude-opus-5-5", context_tokens=1000000, max_output_tokens=128000)
    ]


def test_it_reads_google_without_its_prefix() -> None:
    entry = {"name": "models/gemini-2.5-flash", "inputTokenLimit": 1048576, "outputTokenLimit": 65536}
    assert listed("google", {"models": [entry]}) == [
        ListedModel(id="gemini-2.5-flash", context_tokens=1048576, max_output_tokens=65536)
    ]


@pytest.mark.parametrize("name", PROVIDERS)
def test_it_leaves_out_what_is_no_model(name: str) -> None:
    junk = [None, 5, {}, {"id": "", "name": ""}, {"id": "a b", "name": "a b"}, {"id": "x" * 300, "name": "x" * 300}]
    assert listed(name, {"data": junk, "models": junk}) == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"data":null,"models":"x"}', b"\xff"])
@pytest.mark.parametrize("name", PROVIDERS)
def test_it_reads_an_unreadable_list_as_empty(name: str, body: bytes) -> None:
    assert get(name).models_answer(body) == []
