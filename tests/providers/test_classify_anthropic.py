"""`classify` for Anthropic. All bodies here are rebuilt; the OpenAI layer's errors are known by their wording alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from llmkeys.providers import FailureKind
from tests.providers.helpers import classify

BALANCE = (
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase "
    "credits."
)
NEXT_MONTH = datetime(2026, 12, 1, tzinfo=UTC)


def error(type_: str, message: str, code: str | None = None) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": type_, "message": message}
    if code:
        inner["details"] = {"error_code": code}
    return {"type": "error", "error": inner, "request_id": "req_x"}


def test_it_rejects_an_unknown_key() -> None:
    assert classify("anthropic", 401, error("authentication_error", "invalid x-api-key")).kind is FailureKind.REJECTED


def test_it_finds_an_empty_balance_in_a_400_in_both_shapes() -> None:
    openai_shape = {"error": {"message": BALANCE, "type": "invalid_request_error", "code": "invalid_request_error"}}
    for body in (error("invalid_request_error", BALANCE), openai_shape):
        failure = classify("anthropic", 400, body)
        assert (failure.kind, failure.whole_group, failure.model_only) == (FailureKind.EXHAUSTED, True, False)
        assert failure.until is None


@pytest.mark.parametrize("scope", ["", "workspace "])
@pytest.mark.parametrize(
    ("when", "until"),
    [
        (" You will regain access on 2026-11-28 at 06:00 UTC.", datetime(2026, 11, 28, 6, tzinfo=UTC)),
        (" Access will be regained on 2026-11-28T06:30:00Z.", datetime(2026, 11, 28, 6, 30, tzinfo=UTC)),
        (" You will regain access on 2026-11-28.", datetime(2026, 11, 28, tzinfo=UTC)),
        (" You will regain access on 2020-01-01.", NEXT_MONTH),
        (" You will regain access on 2026-99-99.", NEXT_MONTH),
        ("", NEXT_MONTH),
    ],
)
def test_it_waits_for_its_own_spend_limit(scope: str, when: str, until: datetime) -> None:
    message = f"You have reached your specified {scope}API usage limits.{when}"
    failure = classify("anthropic", 400, error("invalid_request_error", message))
    assert (failure.kind, failure.until, failure.whole_group) == (FailureKind.EXHAUSTED, until, True)


@pytest.mark.parametrize(
    ("status", "type_", "code", "until"),
    [
        (429, "rate_limit_error", "enforced_spend_limit_reached", NEXT_MONTH),
        (429, "rate_limit_error", "contract_spend_limit_reached", None),
        (402, "billing_error", "linked_organization_billing_unavailable", None),
        (402, "billing_error", None, None),
    ],
)
def test_it_finds_spent_money_by_its_code(status: int, type_: str, code: str | None, until: datetime | None) -> None:
    failure = classify("anthropic", status, error(type_, "...", code))
    assert (failure.kind, failure.until, failure.whole_group) == (FailureKind.EXHAUSTED, until, True)
    assert failure.model_only is False


class TestRateLimit:
    def test_it_rests_the_organisation_for_the_model(self) -> None:
        failure = classify("anthropic", 429, error("rate_limit_error", "slow"), {"retry-after": "11"})
        assert (failure.kind, failure.retry_after_seconds) == (FailureKind.RATE_LIMITED, 11)
        assert (failure.whole_group, failure.model_only) == (True, True)

    def test_it_reads_when_the_empty_limit_is_full_again(self) -> None:
        headers = {
            "Anthropic-Ratelimit-Requests-Remaining": "10",
            "Anthropic-Ratelimit-Requests-Reset": "2026-11-23T21:00:00Z",
            "Anthropic-Ratelimit-Input-Tokens-Remaining": "0",
            "Anthropic-Ratelimit-Input-Tokens-Reset": "2026-11-23T20:30:40Z",
        }
        assert classify("anthropic", 429, error("rate_limit_error", "slow"), headers).retry_after_seconds == 40

    def test_it_rests_after_growing_too_fast(self) -> None:
        body = error("rate_limit_error", "...", "ramp_limit_exceeded")
        failure = classify("anthropic", 429, body, {"retry-after": "5"})
        assert (failure.kind, failure.retry_after_seconds) == (FailureKind.RATE_LIMITED, 5)


@pytest.mark.parametrize(
    ("status", "type_", "message", "code", "kind"),
    [
        (400, "invalid_request_error", "on hold", "organization_on_hold", FailureKind.REJECTED),
        (400, "invalid_request_error", "bad", "cmek_key_disabled", FailureKind.CLIENT_ERROR),
        (401, "authentication_error", "CORS requests are not allowed for this", None, FailureKind.FORBIDDEN_HERE),
        (403, "forbidden", "Request not allowed", None, FailureKind.FORBIDDEN_HERE),
        (403, "permission_error", "not your model", None, FailureKind.MODEL_UNAVAILABLE),
        (404, "not_found_error", "model: claude-x", None, FailureKind.MODEL_UNAVAILABLE),
        (409, "conflict_error", "", None, FailureKind.RETRY),
        (413, "request_too_large", "", None, FailureKind.CLIENT_ERROR),
        (500, "api_error", "", None, FailureKind.RETRY),
        (503, "api_error", "", "cmek_unavailable", FailureKind.RETRY),
        (504, "timeout_error", "", None, FailureKind.RETRY),
        (529, "overloaded_error", "Overloaded", None, FailureKind.RETRY),
    ],
)
def test_it_reads_the_table(status: int, type_: str, message: str, code: str | None, kind: FailureKind) -> None:
    assert classify("anthropic", status, error(type_, message, code)).kind is kind
