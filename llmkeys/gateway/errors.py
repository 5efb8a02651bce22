"""Errors as OpenAI's clients know them: one table from exception to status, code and headers (contract 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from django.http import JsonResponse
from django.utils import timezone

from llmkeys import exceptions


@dataclass(frozen=True, slots=True)
class GatewayError(Exception):
    """A refusal of the gateway itself, before any key is asked."""

    status: int
    code: str
    message: str


_TABLE: list[tuple[type[Exception], int, str]] = [
    (exceptions.InvalidInput, 400, "invalid_request"),
    (exceptions.TooManyFailures, 429, "too_many_failures"),
    (exceptions.RequestExceedsBudget, 400, "request_exceeds_budget"),
    (exceptions.ModelNotAvailable, 404, "model_not_available"),
    (exceptions.AllKeysAtLimit, 429, "all_keys_at_limit"),
    (exceptions.BudgetBusy, 429, "budget_busy"),
    (exceptions.NoKeyAvailable, 503, "no_key_available"),
    (exceptions.AllKeysCooling, 503, "all_keys_cooling"),
    (exceptions.WrongEncryptionKey, 503, "sealed"),
    (exceptions.DataDirectoryProblem, 503, "sealed"),
    (exceptions.RecordingUnavailable, 503, "database_unavailable"),
    (exceptions.UpstreamTimeout, 504, "upstream_timeout"),
    (exceptions.UpstreamFailed, 502, "upstream_error"),
]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


def error_response(error: Exception, *, request_id: str = "") -> JsonResponse:
    """Return the answer for an exception of ours."""
    if isinstance(error, GatewayError):
        return _response(error.status, error.code, error.message, request_id=request_id)
    status, code = next((status, code) for kind, status, code in _TABLE if isinstance(error, kind))
    response = _response(status, code, _message(error), request_id=request_id)
    _advise(response, error, code)
    if isinstance(error, exceptions.UpstreamFailed) and error.attempts:
        response["X-LLM-Attempts"] = str(error.attempts)
    return response


def _message(error: Exception) -> str:
    if isinstance(error, exceptions.InvalidInput):
        return " ".join(
            text if field == "body" else f"“{field}” {text}" for field, texts in error.errors.items() for text in texts
        )
    return str(error)


def _advise(response: JsonResponse, error: Exception, code: str) -> None:
    """Tell a client when, or whether, to try again."""
    if code == "budget_busy":
        response["Retry-After"] = "1"
    elif code in ("database_unavailable", "sealed"):
        response["Retry-After"] = "10"
    elif isinstance(error, exceptions.TooManyFailures):
        response["Retry-After"] = str(error.retry_seconds)
    elif isinstance(error, exceptions.NoKey) and error.retry_at is not None:
        response["Retry-After"] = str(seconds_until(error.retry_at))
    if code == "all_keys_at_limit":
        response["x-should-retry"] = "false"


def seconds_until(at: datetime) -> int:
    """Return whole seconds until `at`, rounded up, at least one."""
    return max(1, math.ceil((at - timezone.now()).total_seconds()))


def _response(status: int, code: str, message: str, *, request_id: str) -> JsonResponse:
    kind = _TYPES.get(status, "api_error")
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    response = JsonResponse(body, status=status)
    if request_id:
        response["X-LLM-Request-Id"] = request_id
    return response
