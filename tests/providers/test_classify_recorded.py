"""`classify` on errors that were really recorded, and on answers that are no error objects at all."""

from __future__ import annotations

import pytest

from llmkeys.providers import PROVIDERS, FailureKind
from tests.providers.helpers import MANIFEST, RECORDED, classify, classify_recorded

KINDS = {
    "openrouter-error-401.json": ("openrouter", FailureKind.REJECTED),
    "openrouter-error-429-upstream.json": ("openrouter", FailureKind.RETRY),
    "openai-error-401-invalid-key.json": ("openai", FailureKind.REJECTED),
    "openai-error-404-model.json": ("openai", FailureKind.MODEL_UNAVAILABLE),
    "openai-error-400.json": ("openai", FailureKind.CLIENT_ERROR),
    "anthropic-error-404-model.json": ("anthropic", FailureKind.MODEL_UNAVAILABLE),
    "anthropic-error-400.json": ("anthropic", FailureKind.CLIENT_ERROR),
    "google-error-404-model.json": ("google", FailureKind.MODEL_UNAVAILABLE),
    "google-error-429.json": ("google", FailureKind.RETRY),
}
BY_STATUS = {
    400: FailureKind.CLIENT_ERROR,
    401: FailureKind.REJECTED,
    402: FailureKind.EXHAUSTED,
    403: FailureKind.CLIENT_ERROR,
    404: FailureKind.CLIENT_ERROR,
    408: FailureKind.RETRY,
    409: FailureKind.RETRY,
    413: FailureKind.CLIENT_ERROR,
    422: FailureKind.CLIENT_ERROR,
    500: FailureKind.RETRY,
    502: FailureKind.RETRY,
    503: FailureKind.RETRY,
    504: FailureKind.RETRY,
    524: FailureKind.RETRY,
    529: FailureKind.RETRY,
}
HTML = b"<!doctype html>\n<html><head><title>502 Bad\n Gateway</title></head><body>" + b"x" * 9000


def test_it_knows_every_recorded_error() -> None:
    assert {name for name in MANIFEST if "-error-" in name} == set(KINDS)
    assert all((RECORDED / name).exists() for name in [*MANIFEST, "README.md"])


@pytest.mark.parametrize("name", KINDS)
def test_it_classifies_the_recording(name: str) -> None:
    provider, kind = KINDS[name]
    failure = classify_recorded(provider, name)
    assert (failure.kind, failure.status) == (kind, MANIFEST[name]["status"])
    assert 0 < len(failure.message) <= 500


def test_it_keeps_the_upstreams_words_and_hides_the_key() -> None:
    upstream = classify_recorded("openrouter", "openrouter-error-429-upstream.json")
    assert upstream.message.startswith("Provider returned error: google/gemini-2.0-flash-exp:free is temporarily")
    rejected = classify_recorded("openai", "openai-error-401-invalid-key.json")
    assert "sk-fake-key" not in rejected.message
    assert rejected.message.startswith("Incorrect API key provided: ***. You can find your API key at https://")


@pytest.mark.parametrize("provider", PROVIDERS)
class TestUnknownBodies:
    @pytest.mark.parametrize(
        "body", [b"", b"null", b"[]", b"[1,2]", b'{"error":null}', b'{"error":{"message":"m","type":"t"}}']
    )
    @pytest.mark.parametrize("status", BY_STATUS)
    def test_it_falls_back_to_the_status(self, provider: str, status: int, body: bytes) -> None:
        failure = classify(provider, status, body)
        is_read = b"message" in body or status not in (403, 404)  # else another server has answered
        expected = BY_STATUS[status] if is_read else FailureKind.WRONG_ADDRESS
        if is_read and status == 404 and provider in ("openrouter", "google"):  # theirs are always about the model
            expected = FailureKind.MODEL_UNAVAILABLE
        assert failure.kind is expected
        assert failure.message.isprintable()
        assert failure.message

    def test_it_falls_back_for_unknown_codes(self, provider: str) -> None:
        error = {"error": {"message": "new", "code": "never_heard_of", "type": "something_new"}}
        assert classify(provider, 400, error).kind is FailureKind.CLIENT_ERROR
        assert classify(provider, 503, error).kind is FailureKind.RETRY

    def test_it_quotes_the_title_of_a_page_and_plain_words(self, provider: str) -> None:
        assert classify(provider, 502, HTML).message == "502 Bad Gateway"
        assert classify(provider, 503, b"no healthy upstream\n").message == "no healthy upstream"
        assert classify(provider, 500, b"").message.endswith("answered 500 without a readable message.")

    def test_it_unwraps_a_list_of_one(self, provider: str) -> None:
        assert classify(provider, 400, [{"error": {"message": "wrapped"}}]).message == "wrapped"

    def test_it_reads_errors_of_other_shapes(self, provider: str) -> None:
        assert classify(provider, 400, {"error": "just words"}).message == "just words"
        assert classify(provider, 400, {"object": "error", "message": "flat"}).message == "flat"
        assert classify(provider, 400, {"detail": "framework"}).message == "framework"

    def test_it_finds_a_missing_model_of_a_local_server(self, provider: str) -> None:
        error = {"error": {"message": 'model "llama9" not found, try pulling it first', "type": "api_error"}}
        assert classify(provider, 404, error).kind is FailureKind.MODEL_UNAVAILABLE

    def test_it_takes_retry_after_of_any_failure_that_may_pass(self, provider: str) -> None:
        assert classify(provider, 503, b"", {"Retry-After": "7"}).retry_after_seconds == 7
        assert classify(provider, 429, {"error": {"message": "slow"}}, {"retry-after": "9"}).retry_after_seconds == 9
        assert classify(provider, 400, b"", {"Retry-After": "7"}).retry_after_seconds is None
