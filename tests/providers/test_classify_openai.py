"""`classify` for OpenAI. All bodies here are rebuilt from bug reports and the provider's documentation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from llmkeys.providers import FailureKind
from tests.providers.helpers import classify

QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)
NEXT_MONTH = datetime(2026, 12, 1, tzinfo=UTC)


def error(message: str, type_: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("message", "type_", "code", "until"),
    [
        (QUOTA, "insufficient_quota", "insufficient_quota", None),
        ("You have no credits remaining.", "insufficient_quota", "credit_balance_exhausted", None),
        ("", "insufficient_quota", "never_heard_of", None),
        ("", "insufficient_quota", "organization_spend_limit_exceeded", NEXT_MONTH),
        ("", None, "organization_usage_limit_exceeded", NEXT_MONTH),
        ("", None, "project_spend_limit_exceeded", NEXT_MONTH),
    ],
)
def test_it_tells_money_from_rate(message: str, type_: str | None, code: str, until: datetime | None) -> None:
    failure = classify("openai", 429, error(message, type_, code))
    assert (failure.kind, failure.until) == (FailureKind.EXHAUSTED, until)
    assert (failure.whole_group, failure.model_only) == (True, False)


class TestRateLimit:
    LIMIT = "Rate limit reached for gpt-4o in organization org-AbC123dEf on tokens per min (TPM): Limit: 1. Current: 2."

    def test_it_rests_the_organisation_for_the_model(self) -> None:
        failure = classify("openai", 429, error(self.LIMIT, "tokens", "rate_limit_exceeded"), {"retry-after": "20"})
        assert (failure.kind, failure.retry_after_seconds) == (FailureKind.RATE_LIMITED, 20)
        assert (failure.whole_group, failure.model_only) == (True, True)
        assert "org-AbC" not in failure.message

    @pytest.mark.parametrize(
        ("headers", "type_", "seconds"),
        [
            ({"retry-after-ms": "1500", "retry-after": "2"}, "tokens", 1.5),
            ({"retry-after": "Mon, 23 Nov 2026 20:31:00 GMT"}, "tokens", 60),
            ({"retry-after": "Mon, 23 Nov 2026 20:00:00 GMT"}, "tokens", 0),
            ({"x-ratelimit-reset-requests": "8.64s", "x-ratelimit-reset-tokens": "132ms"}, "tokens", 0.132),
            ({"x-ratelimit-reset-requests": "8.64s", "x-ratelimit-reset-tokens": "132ms"}, "requests", 8.64),
            ({"x-ratelimit-reset-requests": "8.64s", "x-ratelimit-reset-tokens": "6m0s"}, None, 360),
            ({"x-ratelimit-reset-requests": "1h16m0.667s", "x-ratelimit-remaining-requests": "0"}, None, 4560.667),
            (
                {
                    "x-ratelimit-reset-requests": "1s",
                    "x-ratelimit-remaining-requests": "0",
                    "x-ratelimit-reset-tokens": "6m0s",
                },
                None,
                1,
            ),
            ({"retry-after": "soon", "x-ratelimit-reset-tokens": "later"}, "tokens", None),
            ({"retry-after": "99999999"}, "tokens", 31 * 86400),
            ({"retry-after": "-5"}, "tokens", None),
        ],
    )
    def test_it_reads_the_wait(self, headers: dict[str, str], type_: str | None, seconds: float | None) -> None:
        failure = classify("openai", 429, error("Rate limit reached", type_, "rate_limit_exceeded"), headers)
        assert failure.retry_after_seconds == (pytest.approx(seconds) if seconds is not None else None)

    def test_it_reads_the_wait_in_words(self) -> None:
        body = error(self.LIMIT + " Please try again in 6m1.5s. Visit", "tokens", "rate_limit_exceeded")
        assert classify("openai", 429, body).retry_after_seconds == 361.5

    def test_it_does_not_rest_a_key_for_a_request_above_the_limit_itself(self) -> None:
        body = error("Request too large for gpt-4o on tokens per min (TPM): Limit 10, Requested 20.", "tokens")
        assert classify("openai", 429, body).kind is FailureKind.TOO_EXPENSIVE

    @pytest.mark.parametrize("code", ["slow_down", "resource_unavailable"])
    def test_it_retries_when_openai_asks_to_slow_down(self, code: str) -> None:
        assert classify("openai", 429, error("", "rate_limit_error", code)).kind is FailureKind.RETRY


class TestRefusals:
    def test_it_rejects_a_key_without_an_organisation(self) -> None:
        body = error("You must be a member of an organization to use the API", "invalid_request_error")
        assert classify("openai", 401, body).kind is FailureKind.REJECTED

    @pytest.mark.parametrize(
        ("status", "message", "code"),
        [
            (401, "You have insufficient permissions for this operation. Missing scopes: model.request.", None),
            (403, "You have insufficient permissions for this operation. Missing scopes: model.request.", None),
            (401, "Your IP 203.0.113.7 is not on the allow-list of this project.", None),
            (401, "IP not authorized", "ip_not_authorized"),
            (403, "Country, region, or territory not supported", "unsupported_country_region_territory"),
        ],
    )
    def test_it_keeps_a_key_that_is_only_forbidden_here(self, status: int, message: str, code: str | None) -> None:
        assert classify("openai", status, error(message, None, code)).kind is FailureKind.FORBIDDEN_HERE

    def test_it_finds_a_model_that_the_project_may_not_use(self) -> None:
        body = error("Project `proj_AbC123` does not have access to model `o3`", "invalid_request_error")
        failure = classify("openai", 403, body)
        assert (failure.kind, failure.model_only) == (FailureKind.MODEL_UNAVAILABLE, True)

    def test_it_hands_moderation_back(self) -> None:
        assert classify("openai", 403, error("Not allowed", None, "moderation")).kind is FailureKind.CLIENT_ERROR

    def test_it_hands_a_long_context_back(self) -> None:
        body = error("This model's maximum context length is 8192 tokens", None, "context_length_exceeded")
        assert classify("openai", 400, body).kind is FailureKind.CLIENT_ERROR

    def test_it_retries_an_overloaded_server(self) -> None:
        body = error("Overloaded", "service_unavailable_error", "server_is_overloaded")
        assert classify("openai", 503, body).kind is FailureKind.RETRY
