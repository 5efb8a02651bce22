"""Whom a failure concerns: a key, its account, its provider, or nobody but the address."""

from __future__ import annotations

import pytest

from tests.gateway.door import OPENAI, OPENROUTER, ask, completion, error_of, fresh, rows
from tests.gateway.door import sent_with as sent
from tests.helpers import make_key, new_secret

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
    assert [row.state for row in rows()] == ["RELEASED"]
    assert "OPENAI_BASE_URL" in "".join(fresh(key).last_error for key in keys)


def test_another_provider_serves_where_an_address_is_wrong(client, provider):
    make_key(provider="openai"), make_key(provider="openai")
    other = make_key()
    provider.post(OPENAI, body=b'{"detail":"Not Found"}', status=404)
    provider.post(OPENROUTER, json=completion())
    assert ask(client, model=MODEL)["X-LLM-Key-Id"] == other.id


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


def test_the_providers_own_wait_is_passed_on(client, provider):
    make_key(provider="openai")
    provider.post(OPENAI, body=b"", status=503, headers={"Retry-After": "90"})
    answer = ask(client, model=MODEL)
    assert (answer.status_code, answer["Retry-After"]) == (502, "90")
