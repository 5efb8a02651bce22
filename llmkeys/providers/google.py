"""Google's Gemini API: its own dialect, and chat and embeddings through its OpenAI layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from llmkeys.lib.reading import count, items, text, word
from llmkeys.providers import hints
from llmkeys.providers.base import Endpoint, ListedModel, Provider
from llmkeys.providers.failures import ErrorView, Failure, FailureKind, Scope

_BAD_KEY = (
    "api key not valid",
    "api key not found",
    "api key expired",
    "invalid authorization header",
    "missing or invalid authorization header",
    "your api key was reported as leaked",
    "your project has been denied access",
)
_BAD_KEY_WORDS = re.compile(
    r"permission denied: consumer \S{1,200} has been suspended|[\w ]{0,60}api has not been used in project"
)
_BAD_KEY_REASONS = frozenset(
    {
        "api_key_invalid",
        "api_key_expired",
        "api_key_service_blocked",
        "access_token_type_unsupported",
        "consumer_suspended",
        "service_disabled",
    }
)
_ELSEWHERE_REASONS = frozenset({"api_key_ip_address_blocked", "api_key_http_referrer_blocked"})
_ELSEWHERE = ("user location is not supported", "multiple authentication credentials", "the provided api key has an ip")
_NO_BILLING = ("please enable billing", "billing ", "this api method requires billing", "gemini api free tier is not")
_STOCK_PHRASE = "please check your plan and billing details"  # part of every quota error, even of a quota per minute
_MONEY = re.compile(r"prepa(?:y|id)|\bcredits?\b|spend(?:ing)?[ -](?:cap|limit)|\bbilling\b")
_NO_QUOTA = re.compile(r"\blimit:\s*0(?![\d.])")


class Google(Provider):
    name = "google"
    label = "Google"
    badge = "Go"
    vendor = "google"
    environment_variables = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
    base_url_variable = "GOOGLE_BASE_URL"
    default_base_url = "https://generativelanguage.googleapis.com"
    domains = ("googleapis.com",)
    own = Endpoint("", "x-goog-api-key", "")  # the only credentials: two kinds are refused
    endpoints = {
        "openai-chat": Endpoint("/v1beta/openai/chat/completions"),
        "openai-embeddings": Endpoint("/v1beta/openai/embeddings"),
        "google-generate": Endpoint("/v1beta/models/{model}{action}", "x-goog-api-key", ""),
    }
    secret_prefixes = ("AIza", "AQ.")
    secret_hint = "AIza… or AQ.…"  # noqa: S105  (an example of a key)
    keys_page = "https://aistudio.google.com/api-keys"
    check_path = "/v1beta/models?pageSize=1"
    models_path = "/v1beta/models?pageSize=1000"
    models_field = "models"
    model_prefix = "models/"
    example_model = "gemini-3.8-flash"
    tier_header = "x-gemini-service-tier"
    search_usd = search_usd_per_answer = Decimal("0.035")  # Gemini 2: by grounded prompts; Gemini 3 (0.014): by queries

    def _known(self, view: ErrorView) -> Failure | None:
        reasons = {word(detail.get("reason")) for detail in _details(view)}
        return _key(view, reasons) or _billing(view, reasons) or _model(view) or _quota(view)

    def _listed(self, entry: Mapping[str, Any]) -> ListedModel:
        return ListedModel(
            id=text(entry.get("name")).removeprefix(self.model_prefix),
            context_tokens=count(entry.get("inputTokenLimit")),
            max_output_tokens=count(entry.get("outputTokenLimit")),
        )


def _details(view: ErrorView) -> list[Mapping[str, Any]]:
    return items(view.error.get("details"))


def _key(view: ErrorView, reasons: set[str]) -> Failure | None:
    if view.status not in {400, 401, 403}:
        return None
    if view.begins(*_ELSEWHERE) or reasons & _ELSEWHERE_REASONS:
        return view.failure(FailureKind.FORBIDDEN_HERE)
    if view.begins(*_BAD_KEY) or view.matches(_BAD_KEY_WORDS) or reasons & _BAD_KEY_REASONS:
        return view.failure(FailureKind.REJECTED)
    return None


def _billing(view: ErrorView, reasons: set[str]) -> Failure | None:
    off = "billing_disabled" in reasons or (view.has("failed_precondition") and view.begins(*_NO_BILLING))
    return view.failure(FailureKind.EXHAUSTED, scope=Scope.ACCOUNT) if off else None


def _model(view: ErrorView) -> Failure | None:
    if view.status == 404:
        return view.failure(FailureKind.MODEL_UNAVAILABLE, scope=Scope.PROVIDER, model_only=True)
    return None


def _quota(view: ErrorView) -> Failure | None:
    """Distinguish an exhausted balance, a quota of the project and model, and lack of capacity."""
    if view.status != 429:
        return None
    quotas = [violation for detail in _details(view) for violation in items(detail.get("violations"))]
    ids = [word(quota.get("quotaId")) for quota in quotas if word(quota.get("quotaId"))]
    if not ids and _MONEY.search(view.opening.replace(_STOCK_PHRASE, "")):
        return view.failure(FailureKind.EXHAUSTED, scope=Scope.ACCOUNT)
    if _has_no_quota(view, quotas):
        return view.failure(FailureKind.MODEL_UNAVAILABLE, scope=Scope.ACCOUNT, model_only=True)
    limited = view.failure(FailureKind.RATE_LIMITED, scope=Scope.ACCOUNT, model_only=True)
    if not ids and limited.until is None and "quota" not in view.opening:
        return view.failure(FailureKind.RETRY, scope=Scope.PROVIDER)
    if not any("perday" in quota for quota in ids):
        return limited
    # If a daily quota comes with a short wait, the key is tried once more after it, before it cools down for the day.
    midnight = hints.next_midnight(view.at, hints.PACIFIC)
    return view.failure(
        FailureKind.RATE_LIMITED,
        scope=Scope.ACCOUNT,
        model_only=True,
        otherwise=midnight,
        until_if_repeated=midnight if limited.until is not None else None,
    )


def _has_no_quota(view: ErrorView, quotas: list[Mapping[str, Any]]) -> bool:
    """Return whether the project's plan does not include the model, which shows in a quota of zero."""
    if any(quota.get("quotaValue") in ("0", 0) for quota in quotas):
        return True
    return (
        view.begins("you exceeded your current quota", "quota exceeded")
        and _NO_QUOTA.search(view.lower_message) is not None
    )
