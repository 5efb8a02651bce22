"""`failure_in_body`: errors in answers whose status was 200. The bad bodies are rebuilt after the documentation."""

from __future__ import annotations

from typing import Any

import pytest

from llmkeys.providers import PROVIDERS, Failure, FailureKind, get
from tests.providers.helpers import MANIFEST, NOW, recorded, recorded_chunks


def failure_in(provider: str, body: Any) -> Failure | None:
    return get(provider).failure_in_body(body, at=NOW)


def kind_in(provider: str, body: Any) -> FailureKind | None:
    failure = failure_in(provider, body)
    return failure.kind if failure else None


def test_it_finds_none_in_good_recordings() -> None:
    for name in MANIFEST:
        provider = name.partition("-")[0]
        if "-chat-" in name and name.endswith(".json"):
            assert failure_in(provider, recorded(name)) is None
        elif "-chat-" in name:
            assert [failure_in(provider, chunk) for chunk in recorded_chunks(name)].count(None) > 3
            assert all(failure_in(provider, chunk) is None for chunk in recorded_chunks(name))


def test_it_reads_openrouters_mid_stream_error() -> None:
    chunk = {
        "id": "gen-1",
        "error": {"code": 429, "message": "Rate limit exceeded", "metadata": {"error_type": "rate_limit_exceeded"}},
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
    }
    failure = failure_in("openrouter", chunk)
    assert failure is not None
    assert (failure.kind, failure.status, failure.message) == (FailureKind.RATE_LIMITED, 429, "Rate limit exceeded")


@pytest.mark.parametrize("name", PROVIDERS)
class TestAnyProvider:
    @pytest.mark.parametrize(
        "body",
        [
            *({}, {"error": None}, {"error": {}}, {"error": ""}),
            *({"choices": []}, {"choices": [{"finish_reason": "stop"}]}),
            *(None, [], [1], "error", 5, True, [[]]),
        ],
    )
    def test_it_finds_none(self, name: str, body: Any) -> None:
        assert failure_in(name, body) is None

    @pytest.mark.parametrize(
        "body",
        [
            {"error": "it broke"},
            {"error": {"message": "it broke"}},
            {"error": [{"message": "it broke"}]},
            [{"error": {"message": "it broke"}}],
            {"choices": [{"error": {"message": "it broke"}}]},
            {"choices": [{"error": "it broke", "finish_reason": "error"}]},
        ],
    )
    def test_it_finds_the_error_wherever_it_is(self, name: str, body: Any) -> None:
        failure = failure_in(name, body)
        assert failure is not None
        assert (failure.kind, failure.message, failure.status) == (FailureKind.RETRY, "it broke", None)

    def test_it_finds_an_answer_that_ended_in_error(self, name: str) -> None:
        failure = failure_in(name, {"choices": [{"finish_reason": "error", "message": {"content": "hal"}}]})
        assert failure is not None
        assert (failure.kind, failure.status) == (FailureKind.RETRY, None)
        assert "error" in failure.message

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            ({"code": 400}, FailureKind.CLIENT_ERROR),
            ({"code": "503"}, FailureKind.RETRY),
            ({"code": 502}, FailureKind.RETRY),
            ({"code": "server_error"}, FailureKind.RETRY),
            ({"code": 200}, FailureKind.RETRY),
            ({"type": "invalid_request_error"}, FailureKind.CLIENT_ERROR),
            ({"type": "authentication_error"}, FailureKind.REJECTED),
            ({"type": "overloaded_error"}, FailureKind.RETRY),
            ({"type": "billing_error"}, FailureKind.EXHAUSTED),
        ],
    )
    def test_it_takes_the_status_from_the_code(self, name: str, error: dict[str, Any], kind: FailureKind) -> None:
        assert kind_in(name, {"error": {"message": "m"} | error}) is kind


def test_it_knows_each_providers_own_words() -> None:
    quota = {"message": "no", "type": "insufficient_quota", "code": "insufficient_quota"}
    assert kind_in("openai", {"error": quota}) is FailureKind.EXHAUSTED
    assert kind_in("google", {"error": {"status": "UNAVAILABLE", "message": "m"}}) is FailureKind.RETRY
    limit = {"type": "rate_limit_error", "message": "m", "details": {"error_code": "enforced_spend_limit_reached"}}
    assert kind_in("anthropic", {"type": "error", "error": limit}) is FailureKind.EXHAUSTED
    spent = {"code": 403, "message": "Key limit exceeded (daily limit)."}
    assert kind_in("openrouter", {"choices": [{"error": spent}]}) is FailureKind.EXHAUSTED
