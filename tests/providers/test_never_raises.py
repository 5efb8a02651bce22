"""Whatever arrives, the hooks that read answers return a value of the promised type."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkeys.dialects.base import Usage
from llmkeys.dialects.usage import read_openai_usage
from llmkeys.providers import PROVIDERS, Failure, FailureKind, KeyCheck, Provider
from llmkeys.providers.failures import STATUS_OF_WORD
from tests.providers.helpers import NOW

FIELDS = [
    *("error", "message", "code", "type", "status", "details", "error_code", "metadata", "headers", "limit_source"),
    *("resets_at", "limit_reset", "scope", "raw", "provider_name", "error_type", "availability", "retry_after"),
    *("reason", "violations", "quotaId", "retryDelay", "X-RateLimit-Reset", "choices", "finish_reason", "usage"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"),
    *("cached_tokens", "reasoning_tokens", "cost", "is_byok", "cost_details", "upstream_inference_cost", "data"),
    *("service_tier", "models", "object", "limit", "usage_daily", "effective_budget", "is_free_tier", "label"),
]
WORDS = [
    *STATUS_OF_WORD,
    *("error", "list", "openrouter_key_limit", "PerDay", "26s", "2026-12-01T00:00:00Z", "1795478400000", "monthly"),
    *("Key limit exceeded (daily limit)", "can only afford 0", "can only afford 12", "Provider returned error"),
    *("You have reached your specified API usage limits 2026-12-01 at 00:00 UTC", "credits", "capacity_exhausted"),
    *("Rate limit exceeded: free-models-per-min", "Please try again in 6m1s", "request too large"),
]
numbers = st.one_of(st.integers(), st.floats(), st.decimals(), st.integers(390, 540), st.just(10**400))
leaves = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20), st.sampled_from(WORDS))
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(FIELDS), st.text(max_size=5)), inner, max_size=6),
    ),
    max_leaves=20,
)
objects = st.dictionaries(st.sampled_from(FIELDS), anything, max_size=6)
header_values = st.one_of(
    st.text(max_size=30), st.sampled_from(["12", "1795478400000", "6m0s", "Mon, 23 Nov 2026 20:31:00 GMT"])
)
header_names = st.sampled_from(
    [
        *("Retry-After", "retry-after-ms", "X-RateLimit-Reset", "x-ratelimit-reset-tokens"),
        *("x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-tokens-remaining"),
    ]
)
headers = st.dictionaries(header_names, header_values, max_size=4)
statuses = st.one_of(
    st.sampled_from([400, 401, 402, 403, 404, 408, 409, 413, 429, 500, 503, 529]), st.integers(200, 599)
)
providers = st.sampled_from(list(PROVIDERS.values()))


def as_bytes(value: Any) -> bytes:
    return json.dumps(value, default=str).encode("utf-8", errors="surrogatepass")


bodies = st.one_of(st.binary(max_size=60), objects.map(as_bytes), anything.map(as_bytes))
errors = objects.map(lambda error: as_bytes({"error": error}))


def assert_sound(failure: Failure) -> None:
    assert isinstance(failure.kind, FailureKind)
    assert 0 < len(failure.message) <= 500
    assert failure.message.isprintable()
    assert failure.retry_after_seconds is None or 1 <= failure.retry_after_seconds <= 31 * 86400
    assert (failure.until is None) is (failure.retry_after_seconds is None)
    assert failure.until is None or (
        failure.until.tzinfo is not None and 1 <= (failure.until - NOW).total_seconds() <= 31 * 86400
    )


@settings(max_examples=300)
@given(provider=providers, body=st.one_of(anything, objects, objects.map(lambda usage: {"usage": usage})))
def test_it_reads_any_usage(provider: Provider, body: Any) -> None:
    usage = read_openai_usage(body)
    assert usage is None or isinstance(usage, Usage)
    if usage is not None:
        counts = (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.reasoning_tokens)
        assert all(count is None or (type(count) is int and 0 <= count <= 10**9) for count in counts)
        assert usage.cost_usd is None or (usage.cost_usd.is_finite() and usage.cost_usd >= 0)


@settings(max_examples=400)
@given(provider=providers, status=statuses, headers=headers, body=st.one_of(bodies, errors))
def test_it_classifies_anything(provider: Provider, status: int, headers: dict[str, str], body: bytes) -> None:
    assert_sound(provider.classify(status=status, headers=headers, body=body, at=NOW))


@settings(max_examples=300)
@given(provider=providers, body=st.one_of(anything, objects, objects.map(lambda error: {"error": error})))
def test_it_looks_for_failures_anywhere(provider: Provider, body: Any) -> None:
    failure = provider.failure_in_body(body, at=NOW)
    if failure is not None:
        assert_sound(failure)


@settings(max_examples=300)
@given(provider=providers, status=statuses | st.just(200), headers=headers, body=bodies)
def test_it_reads_any_check(provider: Provider, status: int, headers: dict[str, str], body: bytes) -> None:
    outcome = provider.check_answer(status=status, headers=headers, body=body, at=NOW)
    assert isinstance(outcome, KeyCheck)
    assert outcome.ok is (outcome.failure is None)
    assert outcome.ok is (outcome.message == "Key tested successfully")
    if outcome.failure is not None:
        assert_sound(outcome.failure)


@settings(max_examples=200)
@given(provider=providers, body=bodies)
def test_it_reads_any_model_list(provider: Provider, body: bytes) -> None:
    assert all(model.id for model in provider.models_answer(body))


@settings(max_examples=200)
@given(provider=providers, name=st.one_of(st.text(max_size=210), st.sampled_from(WORDS)))
def test_it_takes_any_name(provider: Provider, name: str) -> None:
    served = provider.model_name(name)
    assert served is None or (served.isprintable() and " " not in served)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"usage":{"cost":1e99999999999999999999}}',
        b'{"error":{"code":' + b"9" * 5000 + b"}}",
        b'{"error":{"code":NaN,"message":"\\ud800"}}',
        b"\xef\xbb\xbf{}",
    ],
    ids=["deep list", "deep object", "exponent", "long number", "NaN and half a character", "byte order mark"],
)
@pytest.mark.parametrize("name", PROVIDERS)
def test_it_survives_hostile_json(name: str, body: bytes) -> None:
    provider = PROVIDERS[name]
    assert_sound(provider.classify(status=500, headers={}, body=body, at=NOW))
    assert provider.check_answer(status=200, headers={}, body=body, at=NOW).ok is False
    assert provider.models_answer(body) == []


def test_it_survives_nested_decimals() -> None:
    usage = {
        "usage": {
            "prompt_tokens": Decimal("1E+999999"),
            "completion_tokens": Decimal("-0"),
            "cost": Decimal("1E-999999"),
        }
    }
    found = read_openai_usage(usage)
    assert found is not None
    assert (found.input_tokens, found.output_tokens) == (None, 0)
