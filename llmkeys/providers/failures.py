"""An error as the provider told it, read tolerantly, and what its HTTP status alone would mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from llmkeys.lib.reading import MOST_TEXT, count, items, load_json, mapping, text, word
from llmkeys.providers import hints
from llmkeys.providers.base import Failure, FailureKind
from llmkeys.providers.scrub import scrub

# Codes, types and status words that stand for an HTTP status, for errors in a body whose own status was 200.
STATUS_OF_WORD: Mapping[str, int] = {
    # OpenRouter's error_type
    "authentication": 401,
    "payment_required": 402,
    "permission_denied": 403,
    "not_found": 404,
    "precondition_failed": 412,
    "payload_too_large": 413,
    "unprocessable": 422,
    "invalid_request": 400,
    "invalid_prompt": 400,
    "context_length_exceeded": 400,
    "max_tokens_exceeded": 400,
    "token_limit_exceeded": 400,
    "string_too_long": 400,
    "content_policy_violation": 400,
    "refusal": 400,
    "invalid_image": 400,
    "rate_limit_exceeded": 429,
    "provider_overloaded": 503,
    "provider_unavailable": 503,
    "server": 500,
    "timeout": 504,
    # OpenAI's codes and types
    "invalid_api_key": 401,
    "model_not_found": 404,
    "insufficient_quota": 429,
    "slow_down": 429,
    "server_error": 500,
    "server_is_overloaded": 503,
    "service_unavailable_error": 503,
    # Anthropic's types
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    # Google's status words
    "invalid_argument": 400,
    "failed_precondition": 400,
    "unauthenticated": 401,
    "resource_exhausted": 429,
    "internal": 500,
    "unavailable": 503,
    "deadline_exceeded": 504,
}

_RETRIED = frozenset({408, 409, 425})
_WITH_HINT = frozenset({FailureKind.RETRY, FailureKind.RATE_LIMITED, FailureKind.EXHAUSTED})
_NO_MODEL = re.compile(r"\bmodel\b.{0,220}(?:not found|does not exist|not supported|no access)", re.DOTALL)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class ErrorView:
    """One error, taken apart: `said` is the provider's message in lower case, `words` its codes and types."""

    status: int | None
    at: datetime
    headers: Mapping[str, str] = field(repr=False)  # names in lower case
    error: Mapping[str, Any] = field(repr=False)
    message: str = field(repr=False)  # not scrubbed yet
    words: frozenset[str]

    @property
    def said(self) -> str:
        return self.message.lower()

    @property
    def metadata(self) -> Mapping[str, Any]:
        return mapping(self.error.get("metadata"))

    def has(self, *words: str) -> bool:
        """True where one of the words is among the error's codes and types."""
        return not self.words.isdisjoint(words)

    def says(self, *phrases: str) -> bool:
        """True where the message contains one of the phrases (given in lower case)."""
        return any(phrase in self.said for phrase in phrases)

    def failure(
        self,
        kind: FailureKind,
        *,
        whole_group: bool = False,
        model_only: bool = False,
        until: datetime | None = None,
        retry_after: float | None = None,
    ) -> Failure:
        """Build the failure; of an instant that was named and of a wait, the later end counts, and both then agree.

        Without a wait of its own it takes `Retry-After`. An instant is set for EXHAUSTED, and for RATE_LIMITED where
        the provider named one.
        """
        until = hints.clamp_until(until, at=self.at)
        seconds = self._seconds(kind, retry_after=retry_after, until=until)
        waits_longer = seconds and (until is None or seconds > (until - self.at).total_seconds())
        if waits_longer and (until is not None or kind is FailureKind.EXHAUSTED):
            until = self.at + timedelta(seconds=seconds)
        return Failure(
            kind=kind,
            message=scrub(self.message) or "The provider gave no readable message.",
            status=self.status,
            retry_after_seconds=seconds,
            until=until,
            whole_group=whole_group,
            model_only=model_only,
        )

    def _seconds(self, kind: FailureKind, *, retry_after: float | None, until: datetime | None) -> float | None:
        if kind not in _WITH_HINT:
            return None
        told = hints.retry_after(self.headers, at=self.at) if retry_after is None else hints.clamp(retry_after)
        waits = [told, hints.seconds_until(until, at=self.at)]
        return max((wait for wait in waits if wait is not None), default=None)


def view_of_answer(*, label: str, status: int, headers: Mapping[str, str], body: bytes, at: datetime) -> ErrorView:
    """Read an answer with an error status; the body may be JSON, HTML, empty or no text at all."""
    document = mapping(load_json(body[: 1 << 20]))
    error = _error_object(document)
    message = _message(error) or _plain_text(body) or f"{label} answered {status} without a readable message."
    return _view(status=status, headers=headers, error=error, message=message, at=at)


def view_in_body(body: Mapping[str, Any], *, label: str, at: datetime) -> ErrorView | None:
    """Read the error inside an answer with status 200; None where there is none."""
    document = mapping(body)
    choices = items(document.get("choices"))
    found = next((error for error in [document.get("error"), *(c.get("error") for c in choices)] if error), None)
    if found is None and not any(choice.get("finish_reason") == "error" for choice in choices):
        return None
    error = _as_error(found)
    message = _message(error) or f"{label} ended the answer with an error that it did not explain."
    return _view(status=_status_in(error), headers={}, error=error, message=message, at=at)


def by_status(view: ErrorView, *, whole_group: bool, model_only: bool) -> Failure:
    """Return what the status alone means; the flags say whom this provider's rate limits concern."""
    kind = _kind_by_status(view.status)
    if kind is FailureKind.CLIENT_ERROR and view.status in {400, 403, 404} and is_about_model(view):
        return view.failure(FailureKind.MODEL_UNAVAILABLE, model_only=True)
    if kind is FailureKind.RATE_LIMITED:
        return view.failure(kind, whole_group=whole_group, model_only=model_only)
    return view.failure(kind, whole_group=kind is FailureKind.EXHAUSTED)


def is_about_model(view: ErrorView) -> bool:
    """True where the code, or the words of a 404, say that the model is not there for this key."""
    return view.has("model_not_found") or (view.status == 404 and _NO_MODEL.search(view.said) is not None)


def _kind_by_status(status: int | None) -> FailureKind:
    known = {401: FailureKind.REJECTED, 402: FailureKind.EXHAUSTED, 429: FailureKind.RATE_LIMITED}
    if status is None or status >= 500 or status < 400 or status in _RETRIED:
        return FailureKind.RETRY
    return known.get(status, FailureKind.CLIENT_ERROR)


def _view(
    *, status: int | None, headers: Mapping[str, str], error: Mapping[str, Any], message: str, at: datetime
) -> ErrorView:
    lower = {str(name).lower(): str(value) for name, value in headers.items()}
    return ErrorView(status, at, lower, error, message[:MOST_TEXT], frozenset(_words(error)))


def _error_object(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the error of an error answer; some servers put its fields at the top level."""
    error = _as_error(document.get("error"))
    return error or (document if _message(document) else {})


def _as_error(value: Any) -> Mapping[str, Any]:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return {"message": value} if isinstance(value, str) else mapping(value)


def _message(error: Mapping[str, Any]) -> str:
    """Return the words of an error; OpenRouter adds those of the upstream as `raw`."""
    found = (text(error.get(name)).strip() for name in ("message", "detail", "error_description"))
    message = next((message for message in found if message), "")
    raw = text(mapping(error.get("metadata")).get("raw")).strip()
    return ": ".join(part for part in (message, raw) if part)


def _plain_text(body: bytes) -> str:
    """Return a body that is no JSON as words: the title of an HTML page, or short plain text."""
    content = body[:MOST_TEXT].decode("utf-8", errors="replace").strip()
    if content.startswith("<"):
        title = _TITLE.search(content)
        return title[1].strip() if title else ""
    return "" if content[:1] in {"{", "[", '"'} or "\ufffd" in content else content


def _words(error: Mapping[str, Any]) -> list[str]:
    """Return the codes and types of an error, the most telling first."""
    details, metadata = mapping(error.get("details")), mapping(error.get("metadata"))
    found = [details.get("error_code"), error.get("error_code"), error.get("code"), metadata.get("error_type")]
    return [word(value) for value in [*found, error.get("type"), error.get("status")] if word(value)]


def _status_in(error: Mapping[str, Any]) -> int | None:
    code = error.get("code")
    number = int(code) if isinstance(code, str) and re.fullmatch(r"[45]\d\d", code) else count(code)
    if number is not None and 400 <= number < 600:
        return number
    return next((STATUS_OF_WORD[name] for name in _words(error) if name in STATUS_OF_WORD), None)
