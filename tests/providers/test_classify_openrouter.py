"""`classify` for OpenRouter. All bodies here are rebuilt from bug reports and the provider's documentation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from llmkeys.providers import FailureKind
from tests.providers.helpers import NOW, classify

AFFORD = (
    "This request requires more credits, or fewer max_tokens. You requested up to 32000 tokens, "
    "but can only afford {}. To increase, visit https://openrouter.ai/settings/credits and upgrade to a paid account"
)


def error(message: str, code: int, **metadata: Any) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, "metadata": metadata}, "user_id": "user_x"}


def at(*args: int) -> datetime:
    return datetime(*args, tzinfo=UTC)  # type: ignore[arg-type]


def test_it_rejects_an_unknown_key() -> None:
    assert (
        classify("openrouter", 401, {"error": {"message": "User not found.", "code": 401}}).kind is FailureKind.REJECTED
    )


def test_it_keeps_the_key_when_the_upstream_says_401() -> None:
    failure = classify("openrouter", 401, error("Provider returned error", 401, provider_name="Azure"))
    assert failure.kind is FailureKind.MODEL_UNAVAILABLE


class Test402:
    def test_it_finds_a_request_too_expensive_for_the_balance(self) -> None:
        failure = classify("openrouter", 402, error(AFFORD.format(27342), 402, provider_name=None))
        assert (failure.kind, failure.whole_group) == (FailureKind.TOO_EXPENSIVE, True)

    def test_it_finds_a_balance_that_affords_nothing(self) -> None:
        failure = classify("openrouter", 402, error(AFFORD.format(0), 402, provider_name=None))
        assert (failure.kind, failure.whole_group, failure.model_only) == (FailureKind.EXHAUSTED, True, False)

    def test_it_finds_the_cap_of_the_key_itself(self) -> None:
        words = AFFORD.format(0) + " or create a key with a higher total limit"
        assert classify("openrouter", 402, error(words, 402)).whole_group is False
        source = error("Insufficient credits.", 402, limit_source="openrouter_key_limit")
        failure = classify("openrouter", 402, source)
        assert (failure.kind, failure.whole_group) == (FailureKind.EXHAUSTED, False)

    def test_it_finds_an_empty_balance(self) -> None:
        for metadata in ({}, {"limit_source": "openrouter_credits"}):
            failure = classify("openrouter", 402, error("Insufficient credits.", 402, **metadata))
            assert (failure.kind, failure.whole_group, failure.until) == (FailureKind.EXHAUSTED, True, None)

    def test_it_waits_for_requests_in_flight(self) -> None:
        body = error("Too many requests in flight", 402, limit_source="openrouter_in_flight_budget")
        failure = classify("openrouter", 402, body, {"Retry-After": "3"})
        assert (failure.kind, failure.whole_group, failure.retry_after_seconds) == (FailureKind.RATE_LIMITED, True, 3)
        assert classify("openrouter", 402, error("Busy", 402), {"Retry-After": "3"}).kind is FailureKind.RATE_LIMITED

    def test_it_finds_a_request_above_the_whole_in_flight_budget(self) -> None:
        body = error("Request too large", 402, error_type="weight_exceeds_budget")
        assert classify("openrouter", 402, body).kind is FailureKind.TOO_EXPENSIVE


class Test403:
    @pytest.mark.parametrize(
        ("window", "until"),
        [
            ("daily", at(2026, 11, 24)),
            ("weekly", at(2026, 11, 30)),
            ("monthly", at(2026, 12, 1)),
            ("total", None),
        ],
    )
    def test_it_rests_a_spent_key_until_its_window_ends(self, window: str, until: datetime | None) -> None:
        words = f"Key limit exceeded ({window} limit). Manage it using https://openrouter.ai/settings/keys"
        failure = classify("openrouter", 403, {"error": {"message": words, "code": 403}})
        assert (failure.kind, failure.until, failure.whole_group) == (FailureKind.EXHAUSTED, until, False)

    def test_it_prefers_the_instant_that_is_named(self) -> None:
        metadata = {"limit_source": "openrouter_key_limit", "scope": "key_limit", "resets_at": "2026-11-25T06:00:00Z"}
        failure = classify("openrouter", 403, error("Key limit exceeded (monthly limit).", 403, **metadata))
        assert (failure.until, failure.whole_group) == (at(2026, 11, 25, 6), False)
        assert failure.retry_after_seconds == (at(2026, 11, 25, 6) - NOW).total_seconds()

    def test_it_reads_the_reset_word_of_a_budget(self) -> None:
        metadata = {"limit_source": "openrouter_guardrail_budget", "limit_reset": "weekly"}
        assert classify("openrouter", 403, error("Budget spent", 403, **metadata)).until == at(2026, 11, 30)

    def test_it_rests_the_group_for_a_workspace_budget(self) -> None:
        for metadata in ({}, {"scope": "workspace"}):
            body = error("Budget spent", 403, limit_source="openrouter_workspace_budget", **metadata)
            failure = classify("openrouter", 403, body)
            assert (failure.kind, failure.whole_group) == (FailureKind.EXHAUSTED, True)

    def test_it_never_parks_a_key_for_more_than_31_days(self) -> None:
        metadata = {"limit_source": "openrouter_key_limit", "resets_at": "2031-01-01T00:00:00Z"}
        assert classify("openrouter", 403, error("Spent", 403, **metadata)).until == at(2026, 12, 24, 20, 30)

    def test_it_hands_moderation_back(self) -> None:
        body = error("Flagged", 403, reasons=["violence"], flagged_input="x", provider_name="OpenAI", model_slug="y")
        assert classify("openrouter", 403, body).kind is FailureKind.CLIENT_ERROR
        blocked = error("Request blocked: guardrail", 403, patterns=["x"])
        assert classify("openrouter", 403, blocked).kind is FailureKind.CLIENT_ERROR


class Test404AndAvailability:
    def test_it_finds_a_model_without_endpoints(self) -> None:
        failure = classify("openrouter", 404, error("No endpoints found for openai/gpt-4", 404))
        assert (failure.kind, failure.model_only) == (FailureKind.MODEL_UNAVAILABLE, True)

    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (400, "model_not_found", FailureKind.MODEL_UNAVAILABLE),
            (404, "model_deprecated", FailureKind.MODEL_UNAVAILABLE),
            (403, "region_restricted", FailureKind.MODEL_UNAVAILABLE),
            (429, "capacity_exhausted", FailureKind.RETRY),
            (503, "temporarily_unavailable", FailureKind.RETRY),
        ],
    )
    def test_it_reads_the_availability_code(self, status: int, code: str, kind: FailureKind) -> None:
        body = {"error": {"code": status, "message": "m", "availability": {"code": code, "retry_after": 12}}}
        failure = classify("openrouter", status, body)
        assert failure.kind is kind
        assert failure.retry_after_seconds == (12 if kind is FailureKind.RETRY else None)

    def test_it_reads_a_wrong_model_id(self) -> None:
        body = error("foo/bar is not a valid model ID", 400)
        assert classify("openrouter", 400, body).kind is FailureKind.MODEL_UNAVAILABLE


class Test429:
    FREE = "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day"

    def test_it_rests_the_account_until_the_reset_inside_the_error(self) -> None:
        headers = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795478400000"}
        failure = classify("openrouter", 429, error(self.FREE, 429, headers=headers))
        assert (failure.kind, failure.whole_group, failure.model_only) == (FailureKind.RATE_LIMITED, True, True)
        assert failure.until == at(2026, 11, 24)
        assert failure.retry_after_seconds == 3.5 * 3600

    def test_it_reads_the_reset_header_in_seconds_too(self) -> None:
        failure = classify("openrouter", 429, error("Rate limit exceeded", 429), {"X-RateLimit-Reset": "1795478400"})
        assert (failure.kind, failure.whole_group, failure.model_only) == (FailureKind.RATE_LIMITED, True, False)
        assert failure.until == at(2026, 11, 24)

    def test_it_knows_when_free_quotas_begin_anew(self) -> None:
        assert classify("openrouter", 429, error(self.FREE, 429)).until == at(2026, 11, 24)
        minute = classify("openrouter", 429, error("Rate limit exceeded: free-models-per-min.", 429))
        assert minute.retry_after_seconds == 60

    def test_it_retries_a_busy_upstream_with_the_same_key(self) -> None:
        body = error("Provider returned error", 429, provider_name="Google", raw="busy", headers={"Retry-After": "4"})
        failure = classify("openrouter", 429, body)
        assert (failure.kind, failure.retry_after_seconds, failure.whole_group) == (FailureKind.RETRY, 4, False)
        outer = classify("openrouter", 429, error("Provider returned error", 429), {"Retry-After": "5"})
        assert (outer.kind, outer.retry_after_seconds) == (FailureKind.RETRY, 5)

    def test_it_ignores_a_reset_that_has_passed(self) -> None:
        failure = classify("openrouter", 429, error("Rate limit exceeded", 429), {"X-RateLimit-Reset": "1700000000000"})
        assert (failure.until, failure.retry_after_seconds) == (None, None)
