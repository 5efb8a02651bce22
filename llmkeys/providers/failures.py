"""Classifying the failures of providers: reading errors tolerantly, their kind and scope, and what a status means.

The kind is derived from the provider's status, type, code or reason, or from the start of its message. The rest of a
message may quote the client: names of fields and models, values, moderated texts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any

from llmkeys.lib.reading import MOST_TEXT, count, items, load_json, mapping, text, word
from llmkeys.providers import hints
from llmkeys.providers.scrub import scrub


class FailureKind(StrEnum):
    """What a provider's failure means for the key, the model and the request."""

    RETRY = "retry"  # the provider is overloaded or down: the same key may work in a moment
    RATE_LIMITED = "rate_limited"  # the key cools down, the next one serves
    EXHAUSTED = "exhausted"  # no credit or quota left, perhaps until a given time
    TOO_EXPENSIVE = "too_expensive"  # the provider's own balance does not cover this request's worst case
    TOO_LARGE = "too_large"  # by itself it exceeds the account's limit per minute, so waiting would not help
    REJECTED = "rejected"  # the provider does not accept the key
    FORBIDDEN_HERE = "forbidden_here"  # location, IP allowlist or scope: the operator must act, the key is kept
    MODEL_UNAVAILABLE = "model_unavailable"
    CLIENT_ERROR = "client_error"  # the client's mistake: returned unchanged, no other key is tried
    WRONG_ADDRESS = "wrong_address"  # answered by a web server, a firewall or another API instead of the provider


class Scope(StrEnum):
    """Which keys a failure affects."""

    KEY = "key"  # only the key that was used
    ACCOUNT = "account"  # every key of the billing group
    PROVIDER = "provider"  # every key of the provider


_REFUSALS = frozenset(
    {
        FailureKind.RATE_LIMITED,
        FailureKind.EXHAUSTED,
        FailureKind.TOO_EXPENSIVE,
        FailureKind.TOO_LARGE,
        FailureKind.REJECTED,
        FailureKind.FORBIDDEN_HERE,
        FailureKind.MODEL_UNAVAILABLE,
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A classified failure; `message` is the provider's message without key material, at most 500 characters.

    `until` (aware) and `retry_after_seconds` (from the response on) are the same wait, of 1 second to 31 days; both are
    None if the provider named no time.
    """

    kind: FailureKind
    message: str
    status: int | None = None
    retry_after_seconds: float | None = None
    until: datetime | None = None
    scope: Scope = Scope.KEY
    model_only: bool = False  # it affects only this model: the key may serve others
    until_if_repeated: datetime | None = None  # if it is refused again after the wait, the key cools down until then

    @property
    def is_refusal(self) -> bool:
        """True if the provider refused because of the key: another key may work.

        Nothing is billed, unless the refusal came inside a 200 after output.
        """
        return self.kind in _REFUSALS


# Codes, types and status words and the HTTP status they stand for, for errors inside a 200 response.
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
    "context_length_exceeded": 400,
    "max_tokens_exceeded": 400,
    "token_limit_exceeded": 400,
    "string_too_long": 400,
    "content_policy_violation": 400,
    "refusal": 400,
    "rate_limit_exceeded": 429,
    "provider_overloaded": 503,
    "provider_unavailable": 503,
    "server": 500,
    "timeout": 504,
    # OpenAI's codes and types
    "invalid_api_key": 401,
    "model_not_found": 404,
    "insufficient_quota": 429,
    "credit_balance_exhausted": 429,
    "organization_usage_limit_exceeded": 429,
    "organization_spend_limit_exceeded": 429,
    "project_spend_limit_exceeded": 429,
    "slow_down": 429,
    "server_error": 500,
    "server_is_overloaded": 503,
    "service_unavailable_error": 503,
    "image_content_policy_violation": 400,
    "failed_to_download_image": 400,
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
    "out_of_range": 400,
    "unauthenticated": 401,
    "already_exists": 409,
    "aborted": 409,
    "resource_exhausted": 429,
    "cancelled": 499,
    "internal": 500,
    "unknown": 500,
    "unimplemented": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
}
_BAD_REQUESTS = ("invalid_", "unsupported_", "image_", "missing_")  # prefixes of other codes that blame the request

_RETRIED = frozenset({408, 409, 425})
_WITH_HINT = frozenset({FailureKind.RETRY, FailureKind.RATE_LIMITED, FailureKind.EXHAUSTED})
_NO_MODEL = re.compile(
    r"(?:error: )?(?:the |this |requested |unknown |no such )*models?\b"
    r"(?=[ :'\"`/]).{0,220}(?:not found|not exist|not supported|no access|not available|not loaded|unknown)|"
    r"(?:unknown|no such|invalid) model\b",
    re.DOTALL,
)
# These messages begin with a field name, which the client chose.
_FIELD_FAULT = re.compile(r":\s(?:extra inputs are not permitted|field required|input should be|value error)")
_QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"|'[^']*'|“[^”]*”")
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_FOREIGN_IF_NO_ERROR = frozenset({403, 406, 407, 410, 411, 415, 421, 426})
_WRONG_PATH = re.compile(
    r"(?:404:? |error:? |the |requested )*"
    r"(?:not found|(?:page|url|path|route|resource|endpoint)\b|invalid url|no route|"
    r"cannot (?:post|get) /|unknown request url)"
)


@dataclass(frozen=True)
class ErrorView:
    """A parsed error: `lower_message` is the provider's message in lower case, `words` are its codes and types."""

    status: int | None
    at: datetime
    headers: Mapping[str, str] = field(repr=False)  # names in lower case
    error: Mapping[str, Any] = field(repr=False)
    message: str = field(repr=False)  # not scrubbed yet
    words: frozenset[str]
    is_own_shape: bool = True  # an error object in the format of LLM providers and compatible servers

    @cached_property
    def lower_message(self) -> str:
        return self.message.lower().lstrip()

    @cached_property
    def opening(self) -> str:
        """The first sentence in lower case, without quoted parts."""
        return (
            ""
            if _FIELD_FAULT.search(self.lower_message)
            else _QUOTED.sub("", re.split(r"[.!?\n](?:\s|$)", self.lower_message, maxsplit=1)[0])
        )

    @property
    def metadata(self) -> Mapping[str, Any]:
        return mapping(self.error.get("metadata"))

    def has(self, *words: str) -> bool:
        """Return whether one of the words is among the error's codes and types."""
        return not self.words.isdisjoint(words)

    def begins(self, *phrases: str) -> bool:
        """Return whether the message begins with one of the phrases, which are in lower case."""
        return self.lower_message.startswith(phrases) and not _FIELD_FAULT.search(self.lower_message)

    def matches(self, pattern: re.Pattern[str]) -> bool:
        """Return whether the message, in lower case, matches from its start."""
        return pattern.match(self.lower_message) is not None and not _FIELD_FAULT.search(self.lower_message)

    def failure(
        self,
        kind: FailureKind,
        *,
        scope: Scope = Scope.KEY,
        model_only: bool = False,
        until: datetime | None = None,
        otherwise: datetime | None = None,
        until_if_repeated: datetime | None = None,
        met: Collection[str] = (),
    ) -> Failure:
        """Return the failure with its wait: the longest of `until` and those in the response, or else `otherwise`.

        `met` are the limits that the provider says were reached. Failures that do not pass with time have no wait.
        """
        seconds = self._wait(kind, until, met) if kind in _WITH_HINT else None
        if seconds is None and otherwise is not None:
            seconds = hints.seconds_until(otherwise, at=self.at)
        return Failure(
            kind=kind,
            message=scrub(self.message) or "The provider sent no readable message.",
            status=self.status,
            retry_after_seconds=seconds,
            until=None if seconds is None else self.at + timedelta(seconds=seconds),
            scope=scope,
            model_only=model_only,
            until_if_repeated=hints.clamp_until(until_if_repeated, at=self.at),
        )

    def _wait(self, kind: FailureKind, until: datetime | None, met: Collection[str]) -> float | None:
        return hints.longest(
            [
                hints.seconds_until(until, at=self.at),
                hints.from_headers(self.headers, at=self.at, resets=kind is FailureKind.RATE_LIMITED, met=met),
                hints.from_fields(self.error, at=self.at),
                hints.from_words(self.message, at=self.at),
            ]
        )


def view_of_answer(*, label: str, status: int, headers: Mapping[str, str], body: bytes, at: datetime) -> ErrorView:
    """Parse a response with an error status; the body may be JSON, HTML, empty or binary."""
    document = mapping(load_json(body[: 1 << 20]))
    error = _error_object(document)
    message = _message(error) or _plain_text(body) or f"{label} answered {status} without a readable message."
    is_own = isinstance(document.get("error"), Mapping | list) or "error" in (
        document.get("type"),
        document.get("object"),
    )
    return _view(status=status, headers=headers, error=error, message=message, at=at, is_own_shape=is_own)


def view_in_body(body: Mapping[str, Any], *, label: str, at: datetime) -> ErrorView | None:
    """Parse the error in a 200 response or a stream event of any dialect, or return None if there is none."""
    document = mapping(body)
    choices = items(document.get("choices"))
    response = mapping(document.get("response"))  # the event `response.failed` of the Responses API
    flat = document if document.get("type") == "error" and not document.get("error") else None
    candidates = [document.get("error"), flat, response.get("error"), *(choice.get("error") for choice in choices)]
    found = next((error for error in candidates if error), None)
    ended = any(choice.get("finish_reason") == "error" for choice in choices) or "failed" in (
        response.get("status"),
        document.get("status") if document.get("object") == "response" else None,
    )
    if found is None and not ended:
        return None
    error = _as_error(found)
    message = _message(error) or f"{label} ended the answer with an error but without a message."
    return _view(status=_status_in(error), headers={}, error=error, message=message, at=at, is_own_shape=True)


def by_status(view: ErrorView, *, rate_limit_is_per_model: bool) -> Failure:
    """Classify an error by its status."""
    kind = _kind_by_status(view.status)
    if kind is FailureKind.CLIENT_ERROR and view.status in {400, 403, 404} and is_about_model(view):
        return view.failure(FailureKind.MODEL_UNAVAILABLE, scope=Scope.PROVIDER, model_only=True)
    if kind is FailureKind.RATE_LIMITED:
        return view.failure(kind, scope=Scope.ACCOUNT, model_only=rate_limit_is_per_model)
    return view.failure(kind, scope=Scope.ACCOUNT if kind is FailureKind.EXHAUSTED else Scope.KEY)


def is_about_model(view: ErrorView) -> bool:
    """Return whether the code, or the start of a 404's message, says that this key does not have the model."""
    return view.has("model_not_found") or (view.status == 404 and view.matches(_NO_MODEL))


def is_foreign(view: ErrorView, body: bytes) -> bool:
    """Return whether a response is not a provider's, but from a web server, a firewall or another API.

    HTML pages with 5xx and 429 are accepted, because overloaded providers send them too.
    """
    status, is_page = view.status or 0, body.lstrip()[:1] == b"<"
    if status > 501 or status in {*_RETRIED, 413, 429, 500}:
        return False
    if status < 400 or status == 405 or is_page:
        return True
    if status == 404:
        return not is_about_model(view) and (not view.is_own_shape or view.matches(_WRONG_PATH))
    if status in _FOREIGN_IF_NO_ERROR:
        return not view.is_own_shape
    return status == 400 and not body.strip().startswith((b"{", b"[", b'"', b"null")) and bool(body.strip())


def _kind_by_status(status: int | None) -> FailureKind:
    known = {401: FailureKind.REJECTED, 402: FailureKind.EXHAUSTED, 429: FailureKind.RATE_LIMITED}
    if status is None or status >= 500 or status < 400 or status in _RETRIED:
        return FailureKind.RETRY
    return known.get(status, FailureKind.CLIENT_ERROR)


def _view(
    *,
    status: int | None,
    headers: Mapping[str, str],
    error: Mapping[str, Any],
    message: str,
    at: datetime,
    is_own_shape: bool,
) -> ErrorView:
    lower = {str(name).lower(): str(value) for name, value in headers.items()}
    return ErrorView(status, at, lower, error, message[:MOST_TEXT], frozenset(_words(error)), is_own_shape)


def _error_object(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the error of an error answer; some servers put its fields at the top level."""
    error = _as_error(document.get("error"))
    return error or (document if _message(document) else {})


def _as_error(value: Any) -> Mapping[str, Any]:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return {"message": value} if isinstance(value, str) else mapping(value)


def _message(error: Mapping[str, Any]) -> str:
    """Return the message of an error; OpenRouter adds the upstream's message as `raw`."""
    found = (text(error.get(name)).strip() for name in ("message", "detail", "error_description"))
    message = next((message for message in found if message), "")
    raw = text(mapping(error.get("metadata")).get("raw")).strip()
    return ": ".join(part for part in (message, raw) if part)


def plain_message(body: bytes) -> str:
    """Return the message of a foreign response: its JSON message, the title of its page, or its plain text."""
    document = mapping(load_json(body[: 1 << 20]))
    return _message(_error_object(document)) or _plain_text(body)


def _plain_text(body: bytes) -> str:
    """Return the text of a body that is not JSON: the title of an HTML page, or short plain text."""
    content = body[:MOST_TEXT].decode("utf-8", errors="replace").strip()
    if content.startswith("<"):
        title = _TITLE.search(content)
        return title[1].strip() if title else ""
    return "" if content[:1] in {"{", "[", '"'} or "\ufffd" in content else content


def _words(error: Mapping[str, Any]) -> list[str]:
    """Return the codes and types of an error, the most specific first."""
    details, metadata = mapping(error.get("details")), mapping(error.get("metadata"))
    found = [details.get("error_code"), error.get("error_code"), error.get("code"), metadata.get("error_type")]
    return [word(value) for value in [*found, error.get("type"), error.get("status")] if word(value)]


def _status_in(error: Mapping[str, Any]) -> int | None:
    code = error.get("code")
    number = int(code) if isinstance(code, str) and re.fullmatch(r"[45]\d\d", code) else count(code)
    if number is not None and 400 <= number < 600:
        return number
    words = _words(error)
    known = next((STATUS_OF_WORD[name] for name in words if name in STATUS_OF_WORD), None)
    return known or (400 if any(name.startswith(_BAD_REQUESTS) for name in words) else None)
