"""The error responses of each provider: status, headers and body in its own format.

The bodies of OpenRouter, OpenAI and Anthropic follow their documented errors; Google's are wrapped in a list in its
OpenAI layer and not in its native API.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

RETRY_AFTER_SECONDS = 7


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Occasion:
    """What is refused; `text` is the client's mistake, `native` is true for Google's paths outside its OpenAI layer."""

    provider: str
    kind: str
    key: str = field(default="", repr=False)
    model: str = ""
    text: str = ""
    native: bool = False


def refuse(occasion: Occasion) -> Refusal:
    """Return the provider's error response for this kind of refusal, or for its HTTP status."""
    return _SPEAKERS[occasion.provider](occasion)


def _status(kind: str) -> int:
    return int(kind) if kind.isdecimal() else 400


# --- OpenRouter ---------------------------------------------------------------------------------------------------


def _openrouter(occasion: Occasion) -> Refusal:
    status, message, metadata = _openrouter_words(occasion)
    error: dict[str, Any] = {"message": message, "code": status}
    if metadata:
        error["metadata"] = metadata
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 429 else {}
    return Refusal(status, {"error": error}, headers)


def _openrouter_words(occasion: Occasion) -> tuple[int, str, dict[str, Any]]:
    match occasion.kind:
        case "missing":
            return 401, "Missing Authentication header", {}
        case "401" | "invalid":
            return 401, "User not found.", {}
        case "echo":
            return 401, f"No user found for key {occasion.key}", {}
        case "402":
            words = "Insufficient credits. Add more using https://openrouter.ai/settings/credits"
            return 402, words, {"limit_source": "openrouter_credits"}
        case "403":
            words = "Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys"
            return 403, words, {}
        case "404":
            return 404, occasion.text or f"No endpoints found for {occasion.model}.", {}
        case "429":
            return 429, "Rate limit exceeded", {"error_type": "rate_limit_exceeded"}
        case "503":
            return 503, "Provider returned error", {"error_type": "provider_overloaded"}
        case "400":
            return 400, occasion.text or "Input is not valid", {"error_type": "invalid_request"}
        case kind:
            return _status(kind), occasion.text or "Internal Server Error", {}


# --- OpenAI -------------------------------------------------------------------------------------------------------


def _openai(occasion: Occasion) -> Refusal:
    status, message, type_, code = _openai_words(occasion)
    headers = {"retry-after": str(RETRY_AFTER_SECONDS)} if occasion.kind == "429" else {}
    return Refusal(status, {"error": {"message": message, "type": type_, "param": None, "code": code}}, headers)


def _openai_words(occasion: Occasion) -> tuple[int, str, str, str | None]:
    where = "You can find your API key at https://platform.openai.com/account/api-keys."
    match occasion.kind:
        case "missing":
            return 401, f"You didn't provide an API key. {where}", "invalid_request_error", None
        case "401" | "invalid":
            key = f"{occasion.key[:8]}***{occasion.key[-4:]}"
            return 401, f"Incorrect API key provided: {key}. {where}", "invalid_request_error", "invalid_api_key"
        case "echo":
            words = f"Incorrect API key provided: {occasion.key}. {where}"
            return 401, words, "invalid_request_error", "invalid_api_key"
        case "402":
            words = "You exceeded your current quota, please check your plan and billing details."
            return 429, words, "insufficient_quota", "insufficient_quota"
        case "403":
            words = "Country, region, or territory not supported"
            return 403, words, "request_forbidden", "unsupported_country_region_territory"
        case "404":
            words = f"The model `{occasion.model}` does not exist or you do not have access to it."
            return 404, occasion.text or words, "invalid_request_error", None if occasion.text else "model_not_found"
        case "429":
            words = f"Rate limit reached for {occasion.model} in organization org-simulated on requests per min."
            return 429, words, "requests", "rate_limit_exceeded"
        case "503":
            words = "The server is overloaded. Please try again later."
            return 503, words, "service_unavailable_error", "server_is_overloaded"
        case "400":
            return 400, occasion.text or "Invalid value in the request.", "invalid_request_error", None
        case kind:
            type_ = "server_error" if _status(kind) >= 500 else "invalid_request_error"
            return _status(kind), occasion.text or "The server had an error.", type_, None


# --- Anthropic ----------------------------------------------------------------------------------------------------


def _anthropic(occasion: Occasion) -> Refusal:
    status, type_, message = _anthropic_words(occasion)
    body = {"type": "error", "error": {"type": type_, "message": message}, "request_id": "req_simulated"}
    headers = {"request-id": "req_simulated"}
    if status == 429:
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    return Refusal(status, body, headers)


def _anthropic_words(occasion: Occasion) -> tuple[int, str, str]:
    match occasion.kind:
        case "missing":
            return 401, "authentication_error", "x-api-key header is required"
        case "401" | "invalid":
            return 401, "authentication_error", "invalid x-api-key"
        case "echo":
            return 401, "authentication_error", f"invalid x-api-key: {occasion.key}"
        case "402":
            words = "Your credit balance is too low to access the Anthropic API."
            return 400, "invalid_request_error", f"{words} Please go to Plans & Billing to upgrade or purchase credits."
        case "403":
            return 403, "permission_error", "Your API key does not have permission to use the specified resource."
        case "404":
            return 404, "not_found_error", occasion.text or f"model: {occasion.model}"
        case "429":
            return 429, "rate_limit_error", "This request would exceed your organization's rate limit."
        case "503" | "529":
            return 529, "overloaded_error", "Overloaded"
        case "400":
            return 400, "invalid_request_error", occasion.text or "messages: Input is not valid"
        case kind:
            type_ = "api_error" if _status(kind) >= 500 else "invalid_request_error"
            return _status(kind), type_, occasion.text or "Internal server error"


# --- Google -------------------------------------------------------------------------------------------------------


def _google(occasion: Occasion) -> Refusal:
    status, name, message, details = _google_words(occasion)
    error: dict[str, Any] = {"code": status, "message": message, "status": name}
    if details:
        error["details"] = details
    body = {"error": error}
    return Refusal(status, body if occasion.native else [body])


def _google_words(occasion: Occasion) -> tuple[int, str, str, list[dict[str, Any]]]:
    match occasion.kind:
        case "missing" if occasion.native:
            words = "Method doesn't allow unregistered callers (callers without established identity)."
            return 403, "PERMISSION_DENIED", words, []
        case "missing":
            return 400, "INVALID_ARGUMENT", "Missing or invalid Authorization header.", []
        case "twice":
            words = "Multiple authentication credentials received. Please pass only one."
            return 400, "INVALID_ARGUMENT", words, []
        case "invalid":
            words = "API key not valid. Please pass a valid API key."
            return 400, "INVALID_ARGUMENT", words, [_google_reason("API_KEY_INVALID")]
        case "401":
            words = "Request had invalid authentication credentials."
            return 401, "UNAUTHENTICATED", words, [_google_reason("ACCESS_TOKEN_TYPE_UNSUPPORTED")]
        case "echo":
            return 401, "UNAUTHENTICATED", f"Consumer 'api_key:{occasion.key}' is not known.", []
        case "402":
            words = "Your prepaid credit is used up. Please add credits to your billing account."
            return 402, "RESOURCE_EXHAUSTED", words, []
        case "403":
            words = "Your API key was reported as leaked. Please use another API key."
            return 403, "PERMISSION_DENIED", words, []
        case "404":
            what = "is not found for API version v1beta, or is not supported for generateContent."
            return 404, "NOT_FOUND", occasion.text or f"models/{occasion.model} {what}", []
        case "429":
            return 429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", _google_quota(occasion.model)
        case "503":
            return 503, "UNAVAILABLE", "The model is overloaded. Please try again later.", []
        case "400":
            return 400, "INVALID_ARGUMENT", occasion.text or "Request contains an invalid argument.", []
        case kind:
            name = "INTERNAL" if _status(kind) >= 500 else "INVALID_ARGUMENT"
            return _status(kind), name, occasion.text or "An internal error has occurred.", []


def _google_reason(reason: str) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    }


def _google_quota(model: str) -> list[dict[str, Any]]:
    """Return the details of Google's quota error, which contain the wait, as it sends no Retry-After header."""
    violation = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_paid_tier_requests",
        "quotaId": "GenerateRequestsPerMinutePerProjectPerModel",
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": "250",
    }
    return [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{RETRY_AFTER_SECONDS}s"},
    ]


_SPEAKERS: dict[str, Callable[[Occasion], Refusal]] = {
    "openrouter": _openrouter,
    "openai": _openai,
    "anthropic": _anthropic,
    "google": _google,
}
