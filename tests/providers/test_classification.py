"""`classify` and `failure_in_body`: every error that a provider is known to answer, and what it means.

The bodies are rebuilt from the providers' documentation and bug reports; `test_classify_recorded.py` has recorded ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from llmkeys.providers import PROVIDERS, Failure, FailureKind, Scope, get
from tests.providers.helpers import NOW, classify

RETRY, RATE_LIMITED, EXHAUSTED = FailureKind.RETRY, FailureKind.RATE_LIMITED, FailureKind.EXHAUSTED
TOO_LARGE = FailureKind.TOO_LARGE
TOO_EXPENSIVE, REJECTED, FORBIDDEN = FailureKind.TOO_EXPENSIVE, FailureKind.REJECTED, FailureKind.FORBIDDEN_HERE
NO_MODEL, CLIENT, ADDRESS = FailureKind.MODEL_UNAVAILABLE, FailureKind.CLIENT_ERROR, FailureKind.WRONG_ADDRESS
KEY, ACCOUNT, PROVIDER = Scope.KEY, Scope.ACCOUNT, Scope.PROVIDER

MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
PACIFIC_MIDNIGHT = datetime(2026, 11, 24, 8, tzinfo=UTC)
MONDAY = datetime(2026, 11, 30, tzinfo=UTC)
FIRST = datetime(2026, 12, 1, tzinfo=UTC)
IN_31_DAYS = datetime(2026, 12, 24, 20, 30, tzinfo=UTC)
MIDNIGHT_EPOCH = str(int(MIDNIGHT.timestamp()))

AFFORD = (
    "This request requires more credits, or fewer max_tokens. You requested up to 9000 tokens, but can only afford {}. "
    "To increase, visit https://openrouter.ai/settings/credits and {}"
)
UPGRADE = "upgrade to a paid account"
FREE = "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day"
QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)
TPM = "Rate limit reached for gpt-4o in organization org-AbC123dEf on tokens per min (TPM): Limit: 1. Current: 2."
BALANCE = (
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase "
    "credits."
)
SCOPES = "You have insufficient permissions for this operation. Missing scopes: model.request."
NO_QUOTA = (
    "You exceeded your current quota, please check your plan and billing details.\n* Quota exceeded for metric: "
    "generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 0\nPlease retry in 36.2s."
)
PER_DAY, PER_MINUTE = (f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier" for period in ("Day", "Minute"))


@dataclass(frozen=True)
class Case:
    provider: str
    status: int
    body: Any
    kind: FailureKind
    scope: Scope = KEY
    model_only: bool = False
    wait: float | datetime | None = None  # seconds, or until when
    headers: Mapping[str, str] = field(default_factory=dict)
    if_repeated: datetime | None = None


def r(status: int, message: str, kind: FailureKind, scope: Scope = KEY, *, code: Any = None, **rest: Any) -> Case:
    """An error of OpenRouter; `meta` is its metadata, `more` further fields of it."""
    meta, more = rest.pop("meta", {}), rest.pop("more", {})
    error = {"message": message, "code": code or status, "metadata": meta} | more
    return Case("openrouter", status, {"error": error, "user_id": "user_x"}, kind, scope, **rest)


def o(status: int, message: str, kind: FailureKind, scope: Scope = KEY, **rest: Any) -> Case:
    """An error of OpenAI."""
    error = {"message": message, "type": rest.pop("type", None), "param": None, "code": rest.pop("code", None)}
    return Case("openai", status, {"error": error}, kind, scope, **rest)


def a(status: int, type_: str, message: str, kind: FailureKind, scope: Scope = KEY, **rest: Any) -> Case:
    """An error of Anthropic; `code` is its `error_code`."""
    code = rest.pop("code", "")
    error = {"type": type_, "message": message} | ({"details": {"error_code": code}} if code else {})
    return Case("anthropic", status, {"type": "error", "error": error, "request_id": "req_x"}, kind, scope, **rest)


def g(code: int, status: str, message: str, kind: FailureKind, scope: Scope = KEY, **rest: Any) -> Case:
    """An error of Google, with an ErrorInfo's `reason`, quota ids and a `delay`."""
    details: list[dict[str, Any]] = []
    if reason := rest.pop("reason", ""):
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "x"})
    if quotas := rest.pop("quotas", ()):
        violations = [{"quotaId": quota, "quotaDimensions": {"model": "gemini-2.5-flash"}} for quota in quotas]
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations})
    if delay := rest.pop("delay", ""):
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    error = {"code": code, "message": message, "status": status, "details": details}
    return Case("google", code, {"error": error}, kind, scope, **rest)


MODEL = {"model_only": True}

OPENROUTER = {
    "401 user not found": r(401, "User not found.", REJECTED),
    "401 no credentials": r(401, "No auth credentials found", REJECTED),
    "401 no cookie": r(401, "No cookie auth credentials found", REJECTED),
    "401 no header": r(401, "Missing Authentication header", REJECTED),
    "401 of the upstream": r(401, "Provider returned error", NO_MODEL, PROVIDER, **MODEL, meta={"provider_name": "A"}),
    "402 affords some": r(402, AFFORD.format(27342, UPGRADE), TOO_EXPENSIVE, ACCOUNT, meta={"provider_name": None}),
    "402 affords 20": r(402, AFFORD.format(20, UPGRADE), TOO_EXPENSIVE, ACCOUNT),
    "402 affords nothing": r(402, AFFORD.format(0, UPGRADE), EXHAUSTED, ACCOUNT),
    "402 affords nothing, by the key's cap": r(
        402, AFFORD.format(0, "create a key with a higher total limit"), EXHAUSTED
    ),
    "402 prompt too long for the balance": r(402, "Prompt tokens limit exceeded: 9000 > 20.", TOO_EXPENSIVE, ACCOUNT),
    "402 no credits": r(402, "Insufficient credits. Add more", EXHAUSTED, ACCOUNT),
    "402 no credits, by source": r(402, "No.", EXHAUSTED, ACCOUNT, meta={"limit_source": "openrouter_credits"}),
    "402 the key's limit": r(402, "Insufficient credits.", EXHAUSTED, meta={"limit_source": "openrouter_key_limit"}),
    "402 in flight": r(
        402, "Too many", RATE_LIMITED, ACCOUNT, wait=3.0,
        meta={"limit_source": "openrouter_in_flight_budget"}, headers={"Retry-After": "3"},
    ),
    "402 in flight, untold": r(402, "Busy", RATE_LIMITED, ACCOUNT, wait=3.0, headers={"Retry-After": "3"}),
    "402 weight": r(402, "Too large", TOO_EXPENSIVE, ACCOUNT, meta={"error_type": "weight_exceeds_budget"}),
    "403 daily limit": r(403, "Key limit exceeded (daily limit). Manage it using …", EXHAUSTED, wait=MIDNIGHT),
    "403 weekly limit": r(403, "Key limit exceeded (weekly limit). Manage it", EXHAUSTED, wait=MONDAY),
    "403 monthly limit": r(403, "Key limit exceeded (monthly limit). Manage it", EXHAUSTED, wait=FIRST),
    "403 total limit": r(403, "Key limit exceeded (total limit). Manage it", EXHAUSTED),
    "403 a reset that is named": r(
        403, "Key limit exceeded (monthly limit).", EXHAUSTED, wait=datetime(2026, 11, 25, 6, tzinfo=UTC),
        meta={"limit_source": "openrouter_key_limit", "scope": "key_limit", "resets_at": "2026-11-25T06:00:00Z"},
    ),
    "403 guardrail budget": r(
        403, "Spent", EXHAUSTED, wait=MONDAY,
        meta={"limit_source": "openrouter_guardrail_budget", "limit_reset": "weekly"},
    ),
    "403 workspace budget": r(
        403, "Spent", EXHAUSTED, ACCOUNT, meta={"limit_source": "openrouter_workspace_budget"}
    ),
    "403 a slip of years": r(
        403, "Spent", EXHAUSTED, wait=IN_31_DAYS,
        meta={"limit_source": "openrouter_key_limit", "resets_at": "2031-01-01T00:00:00Z"},
    ),
    "403 moderation": r(
        403, "Flagged", CLIENT,
        meta={"reasons": ["violence"], "flagged_input": "key limit exceeded", "provider_name": "O"},
    ),
    "403 guardrail": r(403, "Request blocked: guardrail", CLIENT, meta={"patterns": ["x"]}),
    "400 bad request": r(400, "Input required", CLIENT),
    "400 wrong model id": r(400, "foo/bar is not a valid model ID", NO_MODEL, PROVIDER, **MODEL),
    "404 no endpoints": r(404, "No endpoints found for openai/gpt-4", NO_MODEL, PROVIDER, **MODEL),
    "404 privacy": r(404, "No endpoints found matching your data policy", NO_MODEL, ACCOUNT, **MODEL),
    "404 deprecated": r(
        404, "m", NO_MODEL, PROVIDER, **MODEL, more={"availability": {"code": "model_deprecated", "retry_after": 12}}
    ),
    "403 region": r(403, "m", NO_MODEL, ACCOUNT, **MODEL, more={"availability": {"code": "region_restricted"}}),
    "429 capacity": r(
        429, "m", RETRY, PROVIDER, wait=12.0, more={"availability": {"code": "capacity_exhausted", "retry_after": 12}}
    ),
    "503 temporarily": r(503, "m", RETRY, PROVIDER, more={"availability": {"code": "temporarily_unavailable"}}),
    "429 account": r(429, "Rate limit exceeded", RATE_LIMITED, ACCOUNT),
    "429 account, reset in seconds": r(
        429, "Rate limit exceeded", RATE_LIMITED, ACCOUNT, wait=MIDNIGHT, headers={"X-RateLimit-Reset": MIDNIGHT_EPOCH}
    ),
    "429 account, a reset that has passed": r(
        429, "Rate limit exceeded", RATE_LIMITED, ACCOUNT, headers={"X-RateLimit-Reset": "1700000000000"}
    ),
    "429 free models, reset inside": r(
        429, FREE, RATE_LIMITED, ACCOUNT, **MODEL, wait=MIDNIGHT,
        meta={"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{MIDNIGHT_EPOCH}000"}},
    ),
    "429 free models a day": r(429, FREE, RATE_LIMITED, ACCOUNT, **MODEL, wait=MIDNIGHT),
    "429 free models, high balance": r(
        429, "Rate limit exceeded: free-models-per-day-high-balance.", RATE_LIMITED, ACCOUNT, **MODEL, wait=MIDNIGHT
    ),
    "429 free models a minute": r(
        429, "Rate limit exceeded: free-models-per-min.", RATE_LIMITED, ACCOUNT, **MODEL, wait=60.0
    ),
    "429 free tier, by source": r(
        429, "Slow", RATE_LIMITED, ACCOUNT, **MODEL, wait=MIDNIGHT, meta={"limit_source": "openrouter_free_tier_daily"}
    ),
    "429 of the upstream": r(
        429, "Provider returned error", RETRY, PROVIDER, wait=4.0,
        meta={"provider_name": "Google", "raw": "busy", "headers": {"Retry-After": "4"}},
    ),
    "429 of the upstream, outer header": r(
        429, "Provider returned error", RETRY, PROVIDER, wait=5.0, headers={"Retry-After": "5"}
    ),
    "429 in words": r(
        429, "Weekly limit exhausted. Your limit will reset at 2026-12-03 03:30:06", RATE_LIMITED, ACCOUNT,
        wait=datetime(2026, 12, 3, 3, 30, 6, tzinfo=UTC),
    ),
    "408": r(408, "Timeout", RETRY),
    "500": r(500, "Provider returned error", RETRY, meta={"error_type": "server"}),
    "502": r(502, "Provider returned error", RETRY, meta={"error_type": "provider_unavailable"}),
    "503": r(503, "Overloaded", RETRY, meta={"error_type": "provider_overloaded"}),
    "504": r(504, "Timeout", RETRY, meta={"error_type": "timeout"}),
    "524": r(524, "Timeout", RETRY),
    "529": r(529, "Overloaded", RETRY),
}  # fmt: skip

OPENAI = {
    "401 invalid key": o(401, "Incorrect API key provided: sk-x.", REJECTED, code="invalid_api_key"),
    "401 no organisation": o(401, "You must be a member of an organization to use the API", REJECTED),
    "401 scopes": o(401, SCOPES, FORBIDDEN),
    "403 scopes": o(403, SCOPES, FORBIDDEN),
    "401 address": o(401, "Your IP 203.0.113.7 is not on the allow-list of this project.", FORBIDDEN),
    "401 address, by code": o(401, "No", FORBIDDEN, code="ip_not_authorized"),
    "403 country": o(403, "Country, region, or territory not supported", FORBIDDEN),
    "403 country, by code": o(403, "No", FORBIDDEN, code="unsupported_country_region_territory"),
    "403 sampling": o(403, "You are not allowed to sample from this model", NO_MODEL, **MODEL),
    "403 project": o(403, "Project `proj_AbC123` does not have access to model `o3`", NO_MODEL, **MODEL),
    "403 moderation": o(403, "Not allowed", CLIENT, code="moderation"),
    "404 model": o(
        404, "The model `x` does not exist or you do not have access to it.", NO_MODEL, **MODEL, code="model_not_found"
    ),
    "400 model": o(400, "invalid model ID", NO_MODEL, **MODEL, type="invalid_request_error"),
    "404 of a local server": o(404, "The model `x` does not exist.", NO_MODEL, **MODEL, type="NotFoundError"),
    "404 of something else": o(404, "No thread found with id 'x'.", CLIENT, type="invalid_request_error"),
    "400 context": o(400, "This model's maximum context length is 8192 tokens", CLIENT, code="context_length_exceeded"),
    "400 parameter": o(400, "Unsupported parameter: 'max_tokens'", CLIENT, code="unsupported_parameter"),
    "413": o(413, "Too large", CLIENT),
    "422": o(422, "Unprocessable", CLIENT),
    "429 rate": o(
        429, TPM, RATE_LIMITED, ACCOUNT, **MODEL, type="tokens", code="rate_limit_exceeded", wait=20.0,
        headers={"retry-after": "20"},
    ),
    "429 rate, in milliseconds": o(
        429, TPM, RATE_LIMITED, ACCOUNT, **MODEL, type="tokens", wait=1.5,
        headers={"retry-after-ms": "1500", "retry-after": "2"},
    ),
    "429 rate, the limit that was met": o(
        429, "Rate limit reached", RATE_LIMITED, ACCOUNT, **MODEL, type="requests", wait=8.64,
        headers={"x-ratelimit-reset-requests": "8.64s", "x-ratelimit-reset-tokens": "6m0s"},
    ),
    "429 rate, the limit that is empty": o(
        429, "Rate limit reached", RATE_LIMITED, ACCOUNT, **MODEL, wait=4560.667,
        headers={
            "x-ratelimit-reset-requests": "1h16m0.667s", "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-tokens": "9h", "x-ratelimit-remaining-tokens": "150",
        },
    ),
    "429 rate, in words": o(
        429, f"{TPM} Please try again in 6m1.5s. Visit", RATE_LIMITED, ACCOUNT, **MODEL, type="tokens", wait=361.5
    ),
    "429 rate, nothing said": o(
        429, "Rate limit reached", RATE_LIMITED, ACCOUNT, **MODEL, headers={"retry-after": "soon"}
    ),
    "429 request too large": o(
        429, "Request too large for gpt-4o on tokens per min (TPM): Limit 10, Requested 20.", TOO_LARGE, ACCOUNT,
        **MODEL, type="tokens",
    ),
    "429 slow down": o(429, "", RETRY, PROVIDER, type="rate_limit_error", code="slow_down"),
    "429 flex": o(429, "", RETRY, PROVIDER, code="resource_unavailable"),
    "429 quota": o(429, QUOTA, EXHAUSTED, ACCOUNT, type="insufficient_quota", code="insufficient_quota"),
    "429 credits": o(
        429, "You have no credits remaining.", EXHAUSTED, ACCOUNT, type="insufficient_quota",
        code="credit_balance_exhausted",
    ),
    "429 quota, unknown code": o(429, "", EXHAUSTED, ACCOUNT, type="insufficient_quota", code="never_heard_of"),
    "429 organisation's spend": o(
        429, "", EXHAUSTED, ACCOUNT, wait=FIRST, type="insufficient_quota", code="organization_spend_limit_exceeded"
    ),
    "429 organisation's usage": o(429, "", EXHAUSTED, ACCOUNT, wait=FIRST, code="organization_usage_limit_exceeded"),
    "429 project's spend": o(
        429, "", EXHAUSTED, ACCOUNT, wait=FIRST, code="project_spend_limit_exceeded",
        headers={"x-ratelimit-reset-requests": "8.64s"},
    ),
    "500": o(500, "The server had an error", RETRY, type="server_error"),
    "503": o(503, "Overloaded", RETRY, type="service_unavailable_error", code="server_is_overloaded"),
    "503 with a wait": o(503, "Overloaded", RETRY, wait=90.0, type="server_error", headers={"Retry-After": "90"}),
}  # fmt: skip

ANTHROPIC = {
    "401": a(401, "authentication_error", "invalid x-api-key", REJECTED),
    "401 bearer": a(401, "authentication_error", "Invalid bearer token", REJECTED),
    "401 origin": a(401, "authentication_error", "CORS requests are not allowed for this", FORBIDDEN),
    "400 balance": a(400, "invalid_request_error", BALANCE, EXHAUSTED, ACCOUNT),
    "400 own limit": a(
        400, "invalid_request_error", "You have reached your specified API usage limits. You will regain access on "
        "2026-11-28 at 06:00 UTC.", EXHAUSTED, ACCOUNT, wait=datetime(2026, 11, 28, 6, tzinfo=UTC),
    ),
    "400 workspace's limit": a(
        400, "invalid_request_error", "You have reached your specified workspace API usage limits. Access will be "
        "regained on 2026-11-28T06:30:00Z.", EXHAUSTED, ACCOUNT, wait=datetime(2026, 11, 28, 6, 30, tzinfo=UTC),
    ),
    "400 own limit, untold": a(
        400, "invalid_request_error", "You have reached your specified API usage limits.", EXHAUSTED, ACCOUNT,
        wait=FIRST,
    ),
    "400 own limit, no such day": a(
        400, "invalid_request_error", "You have reached your specified API usage limits. You will regain access on "
        "2026-99-99.", EXHAUSTED, ACCOUNT, wait=FIRST,
    ),
    "400 on hold": a(400, "invalid_request_error", "hold", REJECTED, ACCOUNT, code="organization_on_hold"),
    "400 disabled": a(400, "invalid_request_error", "This organization has been disabled.", REJECTED, ACCOUNT),
    "400 encryption": a(400, "invalid_request_error", "bad", CLIENT, code="cmek_key_disabled"),
    "400 another": a(400, "invalid_request_error", "max_tokens: Field required", CLIENT),
    "402": a(402, "billing_error", "pay", EXHAUSTED, ACCOUNT),
    "402 by code": a(
        402, "billing_error", "pay", EXHAUSTED, ACCOUNT, code="linked_organization_spend_limit_reached"
    ),
    "403": a(403, "permission_error", "not your model", NO_MODEL, **MODEL),
    "403 place": a(403, "forbidden", "Request not allowed", FORBIDDEN),
    "404": a(404, "not_found_error", "model: claude-x", NO_MODEL, PROVIDER, **MODEL),
    "404 file": a(404, "not_found_error", "File not found: file_x", CLIENT),
    "409": a(409, "conflict_error", "", RETRY),
    "413": a(413, "request_too_large", "", CLIENT),
    "429": a(
        429, "rate_limit_error", "slow", RATE_LIMITED, ACCOUNT, **MODEL, wait=11.0, headers={"retry-after": "11"}
    ),
    "429 the empty limit": a(
        429, "rate_limit_error", "slow", RATE_LIMITED, ACCOUNT, **MODEL, wait=40.0,
        headers={
            "Anthropic-Ratelimit-Requests-Remaining": "10",
            "Anthropic-Ratelimit-Requests-Reset": "2026-11-23T21:00:00Z",
            "Anthropic-Ratelimit-Input-Tokens-Remaining": "0",
            "Anthropic-Ratelimit-Input-Tokens-Reset": "2026-11-23T20:30:40Z",
        },
    ),
    "429 tier's cap": a(
        429, "rate_limit_error", "...", EXHAUSTED, ACCOUNT, wait=FIRST, code="enforced_spend_limit_reached",
        headers={"anthropic-ratelimit-requests-reset": "2026-11-23T20:30:40Z"},
    ),
    "429 contract": a(429, "rate_limit_error", "...", EXHAUSTED, ACCOUNT, code="contract_spend_limit_reached"),
    "429 ramp": a(
        429, "rate_limit_error", "...", RATE_LIMITED, ACCOUNT, **MODEL, wait=5.0, code="ramp_limit_exceeded",
        headers={"retry-after": "5"},
    ),
    "500": a(500, "api_error", "", RETRY),
    "503": a(503, "api_error", "", RETRY, code="cmek_unavailable"),
    "504": a(504, "timeout_error", "", RETRY),
    "529": a(529, "overloaded_error", "Overloaded", RETRY, wait=90.0, headers={"Retry-After": "90"}),
}  # fmt: skip

GOOGLE = {
    "400 key": g(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", REJECTED),
    "400 key, by reason": g(400, "INVALID_ARGUMENT", "?", REJECTED, reason="API_KEY_INVALID"),
    "400 key not found": g(400, "INVALID_ARGUMENT", "API Key not found. Please pass one.", REJECTED),
    "400 key expired": g(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", REJECTED),
    "400 header": g(400, "INVALID_ARGUMENT", "Invalid Authorization header.", REJECTED),
    "400 no header": g(400, "INVALID_ARGUMENT", "Missing or invalid Authorization header.", REJECTED),
    "400 two kinds": g(400, "INVALID_ARGUMENT", "Multiple authentication credentials received", FORBIDDEN),
    "400 another": g(400, "INVALID_ARGUMENT", 'Invalid JSON payload received. Unknown name "x"', CLIENT),
    "400 place": g(400, "FAILED_PRECONDITION", "User location is not supported for the API use.", FORBIDDEN),
    "400 billing": g(400, "FAILED_PRECONDITION", "Please enable billing on project #1", EXHAUSTED, ACCOUNT),
    "400 free tier": g(
        400, "FAILED_PRECONDITION", "Gemini API free tier is not available in your country. Please enable billing",
        EXHAUSTED, ACCOUNT,
    ),
    "401": g(401, "UNAUTHENTICATED", "?", REJECTED, reason="ACCESS_TOKEN_TYPE_UNSUPPORTED"),
    "402": g(402, "RESOURCE_EXHAUSTED", "Your prepaid credit is depleted", EXHAUSTED, ACCOUNT),
    "403 leaked": g(403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another.", REJECTED),
    "403 suspended": g(
        403, "PERMISSION_DENIED", "Permission denied: Consumer 'api_key:AIzaX' has been suspended.", REJECTED
    ),
    "403 denied": g(403, "PERMISSION_DENIED", "Your project has been denied access. Please", REJECTED),
    "403 not enabled": g(403, "PERMISSION_DENIED", "?", REJECTED, reason="SERVICE_DISABLED"),
    "403 not enabled, in words": g(
        403, "PERMISSION_DENIED", "Generative Language API has not been used in project 1 before", REJECTED
    ),
    "403 restricted": g(403, "PERMISSION_DENIED", "?", REJECTED, reason="API_KEY_SERVICE_BLOCKED"),
    "403 address": g(403, "PERMISSION_DENIED", "?", FORBIDDEN, reason="API_KEY_IP_ADDRESS_BLOCKED"),
    "403 another": g(403, "PERMISSION_DENIED", "You do not have permission to access the File x", CLIENT),
    "404": g(404, "NOT_FOUND", "models/x is not found for API version v1beta", NO_MODEL, PROVIDER, **MODEL),
    "429 minute": g(
        429, "RESOURCE_EXHAUSTED", QUOTA, RATE_LIMITED, ACCOUNT, **MODEL, wait=57.5, quotas=[PER_MINUTE], delay="57.5s"
    ),
    "429 day": g(
        429, "RESOURCE_EXHAUSTED", QUOTA, RATE_LIMITED, ACCOUNT, **MODEL, wait=36.0, quotas=[PER_DAY], delay="36s",
        if_repeated=PACIFIC_MIDNIGHT,
    ),
    "429 day and minute": g(
        429, "RESOURCE_EXHAUSTED", QUOTA, RATE_LIMITED, ACCOUNT, **MODEL, wait=36.0, quotas=[PER_MINUTE, PER_DAY],
        delay="36s", if_repeated=PACIFIC_MIDNIGHT,
    ),
    "429 day, untold": g(
        429, "RESOURCE_EXHAUSTED", QUOTA, RATE_LIMITED, ACCOUNT, **MODEL, wait=PACIFIC_MIDNIGHT, quotas=[PER_DAY]
    ),
    "429 no such plan": g(
        429, "RESOURCE_EXHAUSTED", NO_QUOTA, NO_MODEL, ACCOUNT, **MODEL, quotas=[PER_DAY], delay="36s"
    ),
    "429 quota, no details": g(429, "RESOURCE_EXHAUSTED", QUOTA, RATE_LIMITED, ACCOUNT, **MODEL),
    "429 in words": g(
        429, "RESOURCE_EXHAUSTED", "You have exhausted your capacity on this model. (reset after 24h)", RATE_LIMITED,
        ACCOUNT, **MODEL, wait=86_400.0,
    ),
    "429 capacity": g(429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later.", RETRY, PROVIDER),
    "429 prepayment": g(
        429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted. Please go", EXHAUSTED, ACCOUNT
    ),
    "429 spend cap": g(
        429, "RESOURCE_EXHAUSTED", "Your project has exceeded its monthly spending cap. Please go", EXHAUSTED, ACCOUNT
    ),
    "429 billing": g(429, "RESOURCE_EXHAUSTED", "Billing is off.", EXHAUSTED, ACCOUNT),
    "500": g(500, "INTERNAL", "", RETRY),
    "503": g(503, "UNAVAILABLE", "The model is overloaded. Please try again later.", RETRY),
    "503 demand": g(503, "UNAVAILABLE", "This model is currently experiencing high demand.", RETRY),
    "504": g(504, "DEADLINE_EXCEEDED", "", RETRY),
}  # fmt: skip

CASES = {
    f"{table} {name}": case
    for table, cases in (
        ("openrouter", OPENROUTER), ("openai", OPENAI), ("anthropic", ANTHROPIC), ("google", GOOGLE),
    )
    for name, case in cases.items()
}  # fmt: skip


def read(case: Case, body: Any) -> Failure:
    raw = json.dumps(body).encode()
    return get(case.provider).classify(status=case.status, headers=case.headers, body=raw, at=NOW)


def seconds(wait: float | datetime | None) -> float | None:
    return (wait - NOW).total_seconds() if isinstance(wait, datetime) else wait


@pytest.mark.parametrize("wrapped", [False, True], ids=["", "in a list"])
@pytest.mark.parametrize("name", CASES)
def test_it_knows_what_an_error_means(name: str, wrapped: bool) -> None:
    case = CASES[name]
    failure = read(case, [case.body] if wrapped else case.body)
    assert (failure.kind, failure.scope, failure.model_only) == (case.kind, case.scope, case.model_only)
    expected = seconds(case.wait)
    assert failure.retry_after_seconds == (pytest.approx(expected) if expected is not None else None)
    assert failure.until_if_repeated == case.if_repeated
    assert failure.is_refusal is (case.kind not in {RETRY, CLIENT, ADDRESS})
    if expected is not None:
        assert failure.until is not None
        assert (failure.until - NOW).total_seconds() == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("anthropic")])
def test_it_knows_the_shape_of_the_openai_layer_too(name: str) -> None:
    case = CASES[name]
    assert read(case, {"error": case.body["error"]}).kind is case.kind


# Errors that only the status tells: in a stream, which has none left, they are a failure that may pass.
_BY_STATUS_ALONE = {
    "openai 401 no organisation", "openai 401 scopes", "openai 403 scopes", "openai 401 address",
    "openai 401 address, by code", "openai 403 country", "openai 403 country, by code", "openai 403 sampling",
    "openai 403 project", "openai 403 moderation", "openai 404 of a local server", "openai 404 of something else",
    "openai 413", "openai 422", "openai 429 rate, in milliseconds", "openai 429 rate, the limit that was met",
    "openai 429 rate, the limit that is empty", "openai 429 rate, in words", "openai 429 rate, nothing said",
    "openai 429 request too large", "openai 429 flex", "anthropic 403 place",
    "openrouter 402 in flight, untold",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in CASES if name not in _BY_STATUS_ALONE])
def test_it_knows_the_same_error_inside_a_stream(name: str) -> None:
    case = CASES[name]
    found = get(case.provider).failure_in_body(case.body, at=NOW)
    assert found is not None
    assert found.kind is case.kind


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "error", "code": "server_error", "message": "m", "param": None, "sequence_number": 2}, RETRY),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "m", "sequence_number": 2}, RATE_LIMITED),
        (
            {"type": "error", "error": {"type": "service_unavailable_error", "code": "server_is_overloaded"}},
            RETRY,
        ),
        (
            {"type": "response.failed", "response": {"status": "failed", "error": {"code": "insufficient_quota"}}},
            EXHAUSTED,
        ),
        ({"type": "response.failed", "response": {"status": "failed", "error": None}}, RETRY),
        ({"object": "response", "status": "failed", "error": {"code": "server_error", "message": "m"}}, RETRY),
        ({"object": "response", "status": "failed", "error": {"code": "invalid_prompt", "message": "m"}}, CLIENT),
        ({"object": "response", "status": "failed", "error": {"code": "invalid_image_url"}}, CLIENT),
    ],
)
def test_it_knows_the_errors_of_the_responses_api(event: dict[str, Any], kind: FailureKind) -> None:
    found = get("openai").failure_in_body(event, at=NOW)
    assert found is not None
    assert found.kind is kind


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.completed", "response": {"status": "completed", "error": None}},
        {"type": "response.incomplete", "response": {"status": "incomplete", "error": None}},
        {"object": "response", "status": "completed", "error": None},
        {"type": "message_start", "message": {"content": []}},
        {"type": "ping"},
        {"status": "failed"},
        {"candidates": [{"finishReason": "SAFETY"}]},
    ],
)
def test_it_finds_no_error_in_other_events(event: dict[str, Any]) -> None:
    assert [provider.failure_in_body(event, at=NOW) for provider in PROVIDERS.values()] == [None] * 4


# --- the client's own words ------------------------------------------------------------------------------------------

# What a client may write as the name of a field or model, as a value, or in a text that is moderated.
CLIENTS_WORDS = [
    "api key not valid",
    "API key expired. Please renew the API key.",
    "your credit balance is too low to access the Anthropic API",
    "You have reached your specified API usage limits",
    "this organization has been disabled",
    "Key limit exceeded (total limit)",
    "can only afford 0",
    "rate-limited upstream",
    "free-models-per-day",
    "IP is not authorized",
    "missing scopes",
    "request not allowed",
    "billing",
    "model not found",
    "foo is not a valid model ID",
    "User location is not supported",
    "try again in 30 days",
    "reset at 2026-12-20 00:00:00",
]
ECHOES = [
    ("google", 400, lambda w: {"code": 400, "status": "INVALID_ARGUMENT",
                               "message": f'Invalid JSON payload received. Unknown name "{w}": Cannot find field.'}),
    ("google", 400, lambda w: {"code": 400, "status": "FAILED_PRECONDITION", "message": f"Unsupported file uri: {w}"}),
    ("anthropic", 400, lambda w: {"type": "invalid_request_error", "message": f"{w}: Extra inputs are not permitted"}),
    ("anthropic", 400, lambda w: {"type": "invalid_request_error", "message": f"messages.0.content: {w}"}),
    ("openai", 400, lambda w: {"message": f"Unrecognized request argument supplied: {w}",
                               "type": "invalid_request_error", "param": None, "code": None}),
    ("openai", 403, lambda w: {"message": f"Your prompt was flagged: {w}", "type": "invalid_request_error",
                               "param": w, "code": "moderation_blocked"}),
    ("openrouter", 400, lambda w: {"code": 400, "message": f"Invalid value for {w}"}),
    ("openrouter", 403, lambda w: {"code": 403, "message": "Your input was flagged",
                                   "metadata": {"flagged_input": w, "reasons": [w], "provider_name": "x"}}),
    ("openrouter", 400, lambda w: {"code": 400, "message": "Provider returned error",
                                   "metadata": {"provider_name": "x", "raw": w}}),
]  # fmt: skip


@pytest.mark.parametrize("words", CLIENTS_WORDS)
@pytest.mark.parametrize("number", range(len(ECHOES)))
def test_no_word_of_the_client_changes_the_class(number: int, words: str) -> None:
    provider, status, error = ECHOES[number]
    failure = classify(provider, status, {"error": error(words)})
    assert (failure.kind, failure.until) == (CLIENT, None)


# --- answers that are not the provider's -----------------------------------------------------------------------------

PAGE = b"<!doctype html>\n<html><head><title>Not\n Found</title></head><body>nginx</body></html>"
FOREIGN = {
    "a framework's 404": (404, b'{"detail":"Not Found"}'),
    "a gateway's 404": (404, b'{"message":"no Route matched with those values"}'),
    "a server's 404 with its path": (404, b'{"timestamp":1,"status":404,"error":"Not Found","path":"/v1"}'),
    "an error without a type": (404, b'{"error":{"message":"Not Found"}}'),
    "a plain 404": (404, b"404 page not found\n"),
    "an empty 404": (404, b""),
    "a page": (404, PAGE),
    "a doubled path at OpenAI": (
        404, b'{"error":{"message":"Invalid URL (POST /v1/v1/x)","type":"invalid_request_error"}}',
    ),
    "a wrong method": (405, b'{"detail":"Method Not Allowed"}'),
    "a firewall's page": (403, b"<html><title>Attention Required! | Cloudflare</title></html>"),
    "a cloud's 403": (403, b'{"message":"Forbidden"}'),
    "a plain 403": (403, b"access denied"),
    "a proxy's login": (401, b"<html><title>401 Authorization Required</title></html>"),
    "http to https": (400, b"Client sent an HTTP request to an HTTPS server.\n"),
    "http to https, a page": (400, b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title>"),
    "a file server": (501, b"<!DOCTYPE HTML><html><head><title>Error response</title></head></html>"),
    "a redirect": (302, b""),
    "a portal": (200, b"<html><title>Welcome</title></html>"),
}  # fmt: skip


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", FOREIGN)
def test_it_finds_that_another_server_answered(provider: str, name: str) -> None:
    status, body = FOREIGN[name]
    failure = classify(provider, status, body)
    assert (failure.kind, failure.scope, failure.is_refusal) == (ADDRESS, PROVIDER, False)
    assert failure.message.endswith(f"Check {get(provider).base_url_variable}.")
    assert str(status) in failure.message


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (502, PAGE, RETRY),
        (503, b"no healthy upstream", RETRY),
        (500, b"", RETRY),
        (413, PAGE, CLIENT),
        (401, b"", REJECTED),
        (401, b'{"detail":"Invalid token"}', REJECTED),
        (404, b'{"error":"model \'llama9\' not found"}', NO_MODEL),
        (404, b'{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError"}', NO_MODEL),
        (422, b'{"detail":[{"loc":["body","temperature"],"msg":"too high"}]}', CLIENT),
        (400, b'{"object":"error","message":"bad","type":"BadRequestError"}', CLIENT),
    ],
)  # fmt: skip
def test_it_believes_what_a_provider_or_local_server_may_say(
    provider: str, status: int, body: bytes, kind: FailureKind
) -> None:
    assert classify(provider, status, body).kind is kind


def test_it_hides_the_key_that_google_repeats() -> None:
    secret = "AIzaSyA-0123456789_abcdefghijklmnopqrstu"
    message = f"Permission denied: Consumer 'api_key:{secret}' has been suspended."
    failure = classify("google", 403, {"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED"}})
    assert failure.message == "Permission denied: Consumer 'api_key:***' has been suspended."


def test_it_hides_the_organisation_that_openai_repeats() -> None:
    assert "org-AbC" not in read(OPENAI["429 rate"], OPENAI["429 rate"].body).message


def test_it_knows_pacific_summer_time() -> None:
    body = b'{"error":{"code":429,"details":[{"violations":[{"quotaId":"XPerDayY"}]}]}}'
    summer = datetime(2026, 7, 1, 6, 30, tzinfo=UTC)  # still the evening of 30 June there
    failure = get("google").classify(status=429, headers={}, body=body, at=summer)
    assert failure.until == datetime(2026, 7, 1, 7, tzinfo=UTC)
