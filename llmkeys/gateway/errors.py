"""The status, code and headers for each exception; each dialect gives them its own form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime

from django.utils import timezone

from llmkeys import exceptions
from llmkeys.database import outages
from llmkeys.exceptions import LLMKeysError

LASTING_SECONDS = 60  # a client library should report an error rather than wait longer than this


class GatewayError(LLMKeysError):
    """A refusal by the gateway itself, before any key is tried."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None):
        self.status, self.code, self.headers = status, code, headers or {}
        super().__init__(message)


class Overloaded(LLMKeysError):
    """This worker is handling as many requests as it may."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What a client receives: the parts of an error in any dialect."""

    status: int
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


_TABLE: list[tuple[type[Exception], int, str]] = [
    (exceptions.InvalidInput, 400, "invalid_request"),
    (exceptions.TooManyFailures, 429, "too_many_failures"),
    (exceptions.RequestExceedsBudget, 400, "request_exceeds_budget"),
    (exceptions.ModelNotAvailable, 404, "model_not_available"),
    (exceptions.ModelNotAllowed, 403, "model_not_allowed"),
    (exceptions.TooManyRequests, 429, "too_many_requests"),
    (exceptions.AllKeysAtLimit, 429, "all_keys_at_limit"),
    (exceptions.TokenAtLimit, 429, "token_at_limit"),
    (exceptions.BudgetBusy, 429, "budget_busy"),
    (exceptions.NoKeyAvailable, 503, "no_key_available"),
    (exceptions.AllKeysCooling, 503, "all_keys_cooling"),
    (exceptions.WrongEncryptionKey, 503, "sealed"),
    (exceptions.DataDirectoryProblem, 503, "sealed"),
    (exceptions.RecordingUnavailable, 503, "database_unavailable"),
    (Overloaded, 503, "overloaded"),
    (exceptions.ServerStopping, 503, "overloaded"),
    (exceptions.UpstreamTimeout, 504, "upstream_timeout"),
    (exceptions.UpstreamFailed, 502, "upstream_error"),
]
_SECONDS = {"budget_busy": "1", "overloaded": "1", "database_unavailable": str(outages.RETRY_SECONDS), "sealed": "10"}
# These last until a person or the next window changes them, so a library should not retry.
_LASTING = {"all_keys_at_limit", "token_at_limit", "no_key_available", "sealed"}


def refused(error: LLMKeysError, *, request_id: str = "") -> Refused:
    """Return what the client receives for one of our exceptions."""
    headers = {"X-LLM-Request-Id": request_id} if request_id else {}
    if isinstance(error, GatewayError):
        return Refused(error.status, error.code, str(error), headers=headers | error.headers)
    status, code = next((status, code) for kind, status, code in _TABLE if isinstance(error, kind))
    return Refused(status, code, _message(error), _param(error), headers | _advice(error, code))


def _message(error: LLMKeysError) -> str:
    if isinstance(error, exceptions.InvalidInput):
        return " ".join(
            text if field == "body" else f"“{field}” {text}" for field, texts in error.errors.items() for text in texts
        )
    return str(error)


def _param(error: LLMKeysError) -> str | None:
    if not isinstance(error, exceptions.InvalidInput):
        return None
    return next((field for field in error.errors if field != "body"), None)


def _advice(error: LLMKeysError, code: str) -> dict[str, str]:
    """Return the headers that tell a client when, or whether, to try again."""
    headers: dict[str, str] = {}
    wait = _wait(error, code)
    if wait is not None:
        headers["Retry-After"] = str(wait)
    lasts = code in _LASTING or error.is_lasting or (code == "all_keys_cooling" and (wait or 0) > LASTING_SECONDS)
    if lasts or error.may_be_billed:
        headers["x-should-retry"] = "false"
    if isinstance(error, exceptions.UpstreamFailed) and error.attempts:
        headers["X-LLM-Attempts"] = str(error.attempts)
    return headers


def _wait(error: LLMKeysError, code: str) -> int | None:
    if code in _SECONDS:
        return int(_SECONDS[code])
    if isinstance(error, exceptions.TooManyFailures):
        return error.retry_seconds
    if isinstance(error, exceptions.NoKey) and error.retry_at is not None:
        return seconds_until(error.retry_at)
    if isinstance(error, exceptions.UpstreamFailed) and error.retry_after_seconds is not None:
        return max(1, math.ceil(error.retry_after_seconds))
    return None


def seconds_until(at: datetime) -> int:
    """Return whole seconds until `at`, rounded up, at least one."""
    return max(1, math.ceil((at - timezone.now()).total_seconds()))
