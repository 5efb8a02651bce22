"""Whom a failure concerns: a key, its account, its provider, or nobody but the address."""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmkeys.models import ApiKey, Cooling
from tests.gateway.door import ANTHROPIC, OPENAI, OPENROUTER, ask, completion, error_of, eventually, fresh, rows
from tests.gateway.door import sent_with as sent
from tests.helpers import NOW, make_key, new_secret

pytestmark = pytest.mark.django_db

MODEL = "gpt-6.1-terra"
NOT_YOURS = {"error": {"message": "You are not allowed to sample from this model", "type": "invalid_request_error"}}
NO_MODEL = {"error": {"message": "The model `x` does not exist", "code": "model_not_found", "type": "x"}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b'{"detail":"Not Found"}'),
        (404, b"<html><title>404</title></html>"),
        (403, b"<html><title>Attention Required!</title></html>"),
        (405, b'{"detail":"Method Not Allowed"}'),
    ],
)
def test_a_wrong_address_is_told_by_its_variable_and_asked_once(client, provider, status, body):
    keys = [make_key(provider="openai"), make_key(provider="openai")]
    provider.post(OPENAI, body=body, status=status)
    answer = ask(client, model=MODEL)
    assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_error")
    assert "OPENAI_BASE_URL" in error_of(answer)["message"]
    assert answer["x-should-retry"] == "false", "only a person can correct it"
    assert [row.state for row in rows()] == ["RELEASED"]
    assert "OPENAI_BASE_URL" in "".join(fresh(key).last_error for key in keys)


def test_another_provider_serves_where_an_address_is_wrong(client, provider):
    make_key(provider="openai"), make_key(provider="openai")
    other = make_key()
    provider.post(OPENAI, body=b'{"detail":"Not Found"}', status=404)
    provider.post(OPENROUTER, json=completion())
    assert ask(client, model=MODEL)["X-LLM-Key-Id"] == other.id


def test_a_wrong_address_does_not_last_beside_a_provider_that_may_be_back_soon(client, provider, pauses):
    make_key(), make_key(provider="openai")
    provider.post(OPENROUTER, body=b"", status=503)
    provider.post(OPENAI, body=b'{"detail":"Not Found"}', status=404)
    answer = ask(client, model=MODEL)
    assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_error")
    assert "x-should-retry" not in answer.headers


def test_nor_does_it_before_a_fallback_that_may_be_back_soon(client, provider, pauses, settings):
    settings.PRIMARY_MODEL, settings.FALLBACK_MODELS = MODEL, ["claude-sonnet-5-5"]
    make_key(provider="openai"), make_key(provider="anthropic")
    provider.post(OPENAI, body=b'{"detail":"Not Found"}', status=404)
    provider.post(ANTHROPIC, body=b"", status=503)
    answer = ask(client, model="auto")
    assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_error")
    assert "x-should-retry" not in answer.headers


def test_nor_does_it_while_another_key_is_only_cooling(client, provider, settings):
    settings.MAX_RETRIES = 0
    make_key(provider="openai")
    resting = make_key()
    Cooling.objects.create(scope=f"key:{resting.id}", kind="rate", until=NOW + timedelta(seconds=20))
    provider.post(OPENAI, body=b'{"detail":"Not Found"}', status=404)
    answer = ask(client, model=MODEL)
    assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_error")
    assert "x-should-retry" not in answer.headers


def test_nor_does_it_while_another_key_was_not_tried(client, provider, settings):
    settings.MAX_RETRIES = 0
    make_key(provider="openai"), make_key()
    provider.post(OPENAI, body=b'{"detail":"Not Found"}', status=404)
    answer = ask(client, model=MODEL)
    assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_error")
    assert "x-should-retry" not in answer.headers


def test_a_model_that_one_key_may_not_use_is_asked_of_the_next(client, provider):
    make_key(provider="openai", secret=(one := new_secret("openai")))
    second = make_key(provider="openai", secret=(two := new_secret("openai")))
    provider.post(OPENAI, json=NOT_YOURS, status=403, match=sent(one))
    provider.post(OPENAI, json=completion(), match=sent(two))
    assert ask(client, model=MODEL)["X-LLM-Key-Id"] == second.id


def test_a_model_that_no_key_of_the_vendor_may_use_is_asked_of_openrouter(client, provider):
    make_key(provider="openai")
    other = make_key()
    provider.post(OPENAI, json=NOT_YOURS, status=403)
    provider.post(OPENROUTER, json=completion())
    assert ask(client, model=MODEL)["X-LLM-Key-Id"] == other.id


def test_a_model_that_nobody_has_is_a_404_and_flags_nobody(client, provider):
    key = make_key(provider="openai")
    provider.post(OPENAI, json=NO_MODEL, status=404)
    answer = ask(client, model=MODEL)
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_available")
    assert fresh(key).last_error == ""


def test_a_model_that_a_provider_does_not_have_is_asked_of_it_once(client, provider):
    make_key(), make_key()
    body = {"error": {"message": f"No endpoints found for openai/{MODEL}.", "code": 404}}
    provider.post(OPENROUTER, json=body, status=404)
    assert ask(client, model=MODEL).status_code == 404
    assert len(provider.calls) == 1


def test_a_balance_that_covers_too_little_is_told_in_our_words_and_not_asked_again(client, provider):
    make_key()
    body = {"error": {"message": "This request requires more credits, but can only afford 20.", "code": 402}}
    provider.post(OPENROUTER, json=body, status=402)
    answer = ask(client)
    assert (answer.status_code, error_of(answer)["code"]) == (429, "all_keys_at_limit")
    assert answer["x-should-retry"] == "false"
    assert error_of(answer)["message"].startswith("All keys have reached their limits")


def test_the_providers_own_wait_is_passed_on(client, provider):
    make_key(provider="openai")
    provider.post(OPENAI, body=b"", status=503, headers={"Retry-After": "90"})
    answer = ask(client, model=MODEL)
    assert (answer.status_code, answer["Retry-After"]) == (502, "90")


REFUSALS = [
    (401, {"error": {"message": "User not found.", "code": 401}}, {}),
    (402, {"error": {"message": "Insufficient credits.", "code": 402}}, {}),
    (402, {"error": {"message": "This request requires more credits: can only afford 20", "code": 402}}, {}),
    (403, {"error": {"message": "Key limit exceeded (daily limit).", "code": 403}}, {}),
    (403, {"error": {"message": "Spent", "code": 403, "metadata": {"limit_source": "openrouter_key_limit"}}}, {}),
    (404, {"error": {"message": "No endpoints found matching your data policy", "code": 404}}, {}),
    (429, {"error": {"message": "Rate limit exceeded", "code": 429}}, {"Retry-After": "90"}),
]


def test_nineteen_keys_that_refuse_in_different_ways_delay_the_twentieth_by_nothing_else(client, provider):
    for number in range(19):
        status, body, headers = REFUSALS[number % len(REFUSALS)]
        make_key(secret=(secret := new_secret()))
        provider.post(OPENROUTER, json=body, status=status, headers=headers, match=sent(secret))
    provider.get("https://openrouter.ai/api/v1/key", json=REFUSALS[0][1], status=401)
    last = make_key(secret=(secret := new_secret()))
    provider.post(OPENROUTER, json=completion(), match=sent(secret))
    answer = ask(client, model=MODEL)
    assert (answer.status_code, answer["X-LLM-Key-Id"], answer["X-LLM-Attempts"]) == (200, last.id, "20")
    assert [row.state for row in rows()] == ["RELEASED"] * 19 + ["SETTLED"]
    rejected = len([number for number in range(19) if REFUSALS[number % len(REFUSALS)][0] == 401])
    eventually(lambda: ApiKey.objects.filter(rejected_at__isnull=False).count() == rejected, "not all are confirmed")
