"""`classify` for Google. All bodies here are rebuilt from bug reports and the provider's documentation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from llmkeys.providers import FailureKind, get
from tests.providers.helpers import classify

QUOTA = "You exceeded your current quota, please check your plan and billing details. ..."


def error(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def reason(name: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": name, "domain": "googleapis.com"}


def quota(quota_id: str) -> dict[str, Any]:
    violation = {"quotaId": quota_id, "quotaDimensions": {"model": "gemini-2.5-flash"}, "quotaValue": "250"}
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}


def delay(seconds: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": seconds}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("code", "status", "message", "why", "kind"),
    [
        (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", "", FailureKind.REJECTED),
        (400, "INVALID_ARGUMENT", "something", "API_KEY_INVALID", FailureKind.REJECTED),
        (400, "INVALID_ARGUMENT", "API Key not found. Please pass a valid API key.", "", FailureKind.REJECTED),
        (400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", "", FailureKind.REJECTED),
        (400, "INVALID_ARGUMENT", "Missing or invalid Authorization header.", "", FailureKind.REJECTED),
        (400, "INVALID_ARGUMENT", "Multiple authentication credentials received", "", FailureKind.FORBIDDEN_HERE),
        (400, "INVALID_ARGUMENT", "Unknown field", "", FailureKind.CLIENT_ERROR),
        (400, "FAILED_PRECONDITION", "User location is not supported", "", FailureKind.FORBIDDEN_HERE),
        (400, "FAILED_PRECONDITION", "Please enable billing", "", FailureKind.EXHAUSTED),
        (401, "UNAUTHENTICATED", "?", "ACCESS_TOKEN_TYPE_UNSUPPORTED", FailureKind.REJECTED),
        (402, "RESOURCE_EXHAUSTED", "Your prepaid credit is depleted", "", FailureKind.EXHAUSTED),
        (403, "PERMISSION_DENIED", "Your API key was reported as leaked.", "", FailureKind.REJECTED),
        (403, "PERMISSION_DENIED", "Your project has been denied access. Please", "", FailureKind.REJECTED),
        (403, "PERMISSION_DENIED", "?", "SERVICE_DISABLED", FailureKind.REJECTED),
        (403, "PERMISSION_DENIED", "?", "API_KEY_SERVICE_BLOCKED", FailureKind.REJECTED),
        (403, "PERMISSION_DENIED", "?", "API_KEY_IP_ADDRESS_BLOCKED", FailureKind.FORBIDDEN_HERE),
        (403, "PERMISSION_DENIED", "You may not read this file", "", FailureKind.CLIENT_ERROR),
        (404, "NOT_FOUND", "models/x is not found", "", FailureKind.MODEL_UNAVAILABLE),
        (500, "INTERNAL", "", "", FailureKind.RETRY),
        (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", "", FailureKind.RETRY),
        (504, "DEADLINE_EXCEEDED", "", "", FailureKind.RETRY),
    ],
)
def test_it_reads_the_table(code: int, status: str, message: str, why: str, kind: FailureKind, wrapped: bool) -> None:
    body = error(code, status, message, *([reason(why)] if why else []))
    assert classify("google", code, [body] if wrapped else body).kind is kind


def test_it_hides_the_key_that_google_repeats() -> None:
    secret = "AIzaSyA-0123456789_abcdefghijklmnopqrstu"
    message = f"Permission denied: Consumer 'api_key:{secret}' has been suspended."
    failure = classify("google", 403, error(403, "PERMISSION_DENIED", message))
    assert failure.kind is FailureKind.REJECTED
    assert failure.message == "Permission denied: Consumer 'api_key:***' has been suspended."


class Test429:
    def test_it_rests_the_project_for_the_model_as_long_as_asked(self) -> None:
        details = [quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"), delay("57.5s")]
        failure = classify("google", 429, error(429, "RESOURCE_EXHAUSTED", QUOTA, *details))
        assert (failure.kind, failure.retry_after_seconds) == (FailureKind.RATE_LIMITED, 57.5)
        assert (failure.whole_group, failure.model_only) == (True, True)

    def test_it_rests_until_midnight_pacific_for_a_daily_quota(self) -> None:
        details = [quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), delay("26s")]
        failure = classify("google", 429, error(429, "RESOURCE_EXHAUSTED", QUOTA, *details))
        assert (failure.kind, failure.model_only) == (FailureKind.RATE_LIMITED, True)
        assert failure.until == datetime(2026, 11, 24, 8, tzinfo=UTC)
        assert failure.retry_after_seconds == 11.5 * 3600

    def test_it_knows_pacific_summer_time(self) -> None:
        body = b'{"error":{"details":[{"violations":[{"quotaId":"XPerDayY"}]}]}}'
        summer = datetime(2026, 7, 1, 6, 30, tzinfo=UTC)  # still the evening of 30 June there
        failure = get("google").classify(status=429, headers={}, body=body, at=summer)
        assert failure.until == datetime(2026, 7, 1, 7, tzinfo=UTC)

    @pytest.mark.parametrize(
        "words", ["Your prepayment is used up.", "No credits left.", "You reached the spend cap.", "Billing is off."]
    )
    def test_it_finds_spent_money_in_the_words(self, words: str) -> None:
        failure = classify("google", 429, error(429, "RESOURCE_EXHAUSTED", words))
        assert (failure.kind, failure.whole_group, failure.model_only) == (FailureKind.EXHAUSTED, True, False)

    def test_it_does_not_take_the_stock_phrase_for_spent_money(self) -> None:
        assert classify("google", 429, error(429, "RESOURCE_EXHAUSTED", QUOTA)).kind is FailureKind.RATE_LIMITED
