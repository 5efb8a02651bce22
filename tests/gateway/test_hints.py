"""How long a key rests: what each provider says, in its own words, and what the client is told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmkeys.models import Cooling
from tests.gateway.door import ANTHROPIC, GOOGLE, OPENAI, OPENROUTER, Pieces, ask
from tests.helpers import NOW, make_key, new_secret

WHERE = {
    "openrouter": (OPENROUTER, "openai/gpt-6.1-terra"),
    "openai": (OPENAI, "gpt-6.1-terra"),
    "anthropic": (ANTHROPIC, "claude-sonnet-5-5"),
    "google": (GOOGLE, "gemini-3.8-flash"),
}
OPENROUTER_429 = {"error": {"code": 429, "message": "Rate limit exceeded", "metadata": {"error_type": "rate_limit"}}}
OPENAI_429 = {
    "error": {
        "message": "Rate limit reached for gpt-6.1-terra in organization org-x on tokens per min (TPM).",
        "type": "tokens",
        "param": None,
        "code": "rate_limit_exceeded",
    }
}
ANTHROPIC_429 = {
    "type": "error",
    "error": {"type": "rate_limit_error", "message": "This request would exceed your organization's rate limit."},
}
MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
PACIFIC_MIDNIGHT = datetime(2026, 11, 24, 8, tzinfo=UTC)
FIRST = datetime(2026, 12, 1, tzinfo=UTC)


def openrouter(message: str, code: int, **metadata: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "metadata": metadata}}


def google_quota(quota: str, delay: str) -> list[dict[str, Any]]:
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
    ]
    message = "You exceeded your current quota, please check your plan and billing details."
    return [{"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}}]


def anthropic(message: str, type_: str = "invalid_request_error", **details: Any) -> dict[str, Any]:
    error = {"type": type_, "message": message} | ({"details": details} if details else {})
    return {"type": "error", "error": error}


def seconds(amount: float) -> datetime:
    return NOW + timedelta(seconds=amount)


# provider, status, body, headers, until when, for which models ("" is all)
HINTS = {
    "Retry-After in seconds": ("openrouter", 429, OPENROUTER_429, {"Retry-After": "7"}, seconds(7), "this"),
    "Retry-After as a date": (
        "openrouter", 429, OPENROUTER_429, {"Retry-After": "Mon, 23 Nov 2026 20:31:30 GMT"}, seconds(90), "this",
    ),
    "Retry-After in milliseconds": ("openai", 429, OPENAI_429, {"retry-after-ms": "1500"}, seconds(1.5), "this"),
    "the reset of the limit that was met": (
        "openai", 429, OPENAI_429,
        {"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-reset-requests": "132ms"}, seconds(360), "this",
    ),
    "the resets of the limits that are used up": (
        "anthropic", 429, ANTHROPIC_429,
        {
            "anthropic-ratelimit-requests-remaining": "3", "anthropic-ratelimit-requests-reset": "2026-11-23T20:59:00Z",
            "anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "2026-11-23T20:31:00Z",
        },
        seconds(60), "this",
    ),
    "an epoch in milliseconds": (
        "openrouter", 429, openrouter("Rate limit exceeded: free-models-per-day. Add 10 credits", 429),
        {"X-RateLimit-Reset": str(int(MIDNIGHT.timestamp() * 1000))}, MIDNIGHT, "this",
    ),
    "the same inside the error": (
        "openrouter", 429,
        openrouter(
            "Rate limit exceeded: free-models-per-min", 429,
            headers={"X-RateLimit-Reset": str(int(seconds(45).timestamp() * 1000))},
        ),
        {}, seconds(45), "this",
    ),
    "the later of an instant and Retry-After": (
        "openrouter", 429, OPENROUTER_429,
        {"Retry-After": "90", "X-RateLimit-Reset": str(int(seconds(20).timestamp() * 1000))}, seconds(90), "this",
    ),
    "the later one the other way round": (
        "openrouter", 429, OPENROUTER_429,
        {"Retry-After": "20", "X-RateLimit-Reset": str(int(seconds(90).timestamp() * 1000))}, seconds(90), "this",
    ),
    "retryDelay": (
        "google", 429, google_quota("GenerateRequestsPerMinutePerProjectPerModel", "26.4s"), {}, seconds(26.4), "this",
    ),
    "until midnight Pacific": (
        "google", 429, google_quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier", ""), {}, PACIFIC_MIDNIGHT,
        "this",
    ),
    "a day's quota with a wait": (
        "google", 429, google_quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "26s"), {}, seconds(26),
        "this",
    ),
    "resets_at": (
        "openrouter", 403,
        openrouter("Budget spent", 403, limit_source="openrouter_workspace_budget", resets_at="2026-11-25T00:00:00Z"),
        {}, datetime(2026, 11, 25, tzinfo=UTC), "",
    ),
    "a key's own daily cap": (
        "openrouter", 403, openrouter("Key limit exceeded (daily limit). Manage it using …", 403), {}, MIDNIGHT, "",
    ),
    "the first of next month, in code": (
        "anthropic", 429, anthropic("Limit.", "rate_limit_error", error_code="enforced_spend_limit_reached"), {}, FIRST,
        "",
    ),
    "the day that is named in words": (
        "anthropic", 400,
        anthropic(
            "You have reached your specified API usage limits. You will regain access on 2026-11-28 at 00:00 UTC."
        ),
        {}, datetime(2026, 11, 28, tzinfo=UTC), "",
    ),
    "the first of next month at OpenAI": (
        "openai", 429,
        {"error": {"message": "Limit.", "type": "x", "code": "organization_spend_limit_exceeded"}}, {}, FIRST, "",
    ),
    "nothing, for an empty balance": (
        "anthropic", 400, anthropic("Your credit balance is too low to access the Anthropic API."), {}, seconds(1800),
        "",
    ),
    "no rest at all": ("openrouter", 429, OPENROUTER_429, {"Retry-After": "0"}, seconds(1), "this"),
    "nothing, for a rate limit": ("openrouter", 429, OPENROUTER_429, {}, seconds(10), "this"),
    "a slip of a hundred years": (
        "openrouter", 403,
        openrouter("Budget spent", 403, limit_source="openrouter_key_limit", resets_at="2126-11-25T00:00:00Z"), {},
        NOW + timedelta(days=31), "",
    ),
    "a slip in Retry-After": (
        "openrouter", 429, OPENROUTER_429, {"Retry-After": "99999999999"}, NOW + timedelta(days=31), "this",
    ),
}  # fmt: skip


@pytest.mark.parametrize("hint", HINTS)
def test_it_rests_until_its_provider_says(client, provider, hint):
    name, status, body, headers, until, models = HINTS[hint]
    url, model = WHERE[name]
    key = make_key(provider=name)
    provider.post(url, json=body, status=status, headers=headers)
    answer = ask(client, model=model)
    assert answer.status_code == 503, answer.content
    cooling = Cooling.objects.get()
    assert abs(cooling.until - until) < timedelta(milliseconds=1)
    assert (cooling.scope, cooling.model) == (f"key:{key.id}", model if models == "this" else "")
    assert int(answer["Retry-After"]) == -(-(until - NOW) // timedelta(seconds=1))


@pytest.mark.parametrize(("first", "second"), [("40", "20"), ("20", "40")])
def test_the_longer_deadline_wins(client, sends, first, second):
    """Two requests were under way when the limit was met, and were told different ends."""
    make_key()
    body = json.dumps(OPENROUTER_429).encode()
    inner = Pieces(body, status=429, headers={"retry-after": first})
    sends(Pieces(lambda: ask(client), body, status=429, headers={"retry-after": second}), inner)
    assert ask(client)["Retry-After"] == "40"
    assert Cooling.objects.get().until == seconds(40)


@pytest.mark.parametrize("provider_name", WHERE)
@pytest.mark.parametrize("ending", ["429", "402"])
def test_a_billing_group_rests_as_one(client, simulator, provider_name, ending):
    make_key(provider=provider_name, secret=f"{new_secret(provider_name)}-{ending}", billing_group="team")
    make_key(provider=provider_name, billing_group="team")
    assert ask(client, model=WHERE[provider_name][1]).status_code == 503
    assert ask(client, model=WHERE[provider_name][1]).status_code == 503
    assert len(simulator.journal()) == 1
    assert Cooling.objects.get().scope == f"group:{provider_name}:team"
