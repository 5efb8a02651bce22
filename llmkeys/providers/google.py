"""Google's Gemini API: chat through its OpenAI layer, the key test and the model list in its own dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmkeys.lib.reading import count, items, text, word
from llmkeys.providers import hints
from llmkeys.providers.base import Failure, FailureKind, ListedModel
from llmkeys.providers.failures import ErrorView
from llmkeys.providers.openai_chat import OpenAIChatProvider

_BAD_KEY = (
    "api key not valid",
    "api key not found",
    "api key expired",
    "invalid authorization header",
    "reported as leaked",
    "has been suspended",
    "project has been denied access",
    "has not been used in project",
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
_ELSEWHERE = ("user location is not supported", "multiple authentication credentials", "ip address restriction")
_STOCK_PHRASE = "please check your plan and billing details"  # stands in every quota error, a minute's quota too
_MONEY = re.compile(r"prepa(?:y|id)|\bcredits?\b|spend(?:ing)?[ -](?:cap|limit)|\bbilling\b")


class Google(OpenAIChatProvider):
    name = "google"
    label = "Google"
    vendor = "google"
    tier_header = "x-gemini-service-tier"
    environment_variables = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
    base_url_variable = "GOOGLE_BASE_URL"
    default_base_url = "https://generativelanguage.googleapis.com"
    secret_prefixes = ("AIza", "AQ.")
    secret_hint = "AIza… or AQ.…"  # noqa: S105  (what a key looks like)
    keys_page = "https://aistudio.google.com/api-keys"
    check_path = "/v1beta/models?pageSize=1"
    models_path = "/v1beta/models?pageSize=1000"
    models_field = "models"

    def native_headers(self, *, secret: str, workspace_id: str = "") -> dict[str, str]:
        return {"x-goog-api-key": secret}  # alone: two kinds of credentials are refused

    def chat_url(self, base_url: str) -> str:
        return f"{base_url}/v1beta/openai/chat/completions"

    def _known(self, view: ErrorView) -> Failure | None:
        reasons = {word(detail.get("reason")) for detail in _details(view)}
        return _key(view, reasons) or _condition(view) or _model(view) or _quota(view)

    def _listed(self, entry: Mapping[str, Any]) -> ListedModel:
        return ListedModel(
            id=text(entry.get("name")).removeprefix("models/"),
            context_tokens=count(entry.get("inputTokenLimit")),
            max_output_tokens=count(entry.get("outputTokenLimit")),
        )


def _details(view: ErrorView) -> list[Mapping[str, Any]]:
    return items(view.error.get("details"))


def _key(view: ErrorView, reasons: set[str]) -> Failure | None:
    if view.status not in {400, 401, 403}:
        return None
    if view.says(*_ELSEWHERE) or reasons & _ELSEWHERE_REASONS:
        return view.failure(FailureKind.FORBIDDEN_HERE)
    return view.failure(FailureKind.REJECTED) if view.says(*_BAD_KEY) or reasons & _BAD_KEY_REASONS else None


def _condition(view: ErrorView) -> Failure | None:
    if view.has("failed_precondition") and view.says("billing"):
        return view.failure(FailureKind.EXHAUSTED, whole_group=True)
    return None


def _model(view: ErrorView) -> Failure | None:
    if view.status == 404 and view.error:  # a page that is no JSON comes from a wrong address
        return view.failure(FailureKind.MODEL_UNAVAILABLE, model_only=True)
    return None


def _quota(view: ErrorView) -> Failure | None:
    """Tell apart a spent balance, a quota of the project and model, and plain lack of capacity."""
    if view.status != 429:
        return None
    quotas = _quota_ids(view)
    if not quotas and _MONEY.search(view.said.replace(_STOCK_PHRASE, "")):
        return view.failure(FailureKind.EXHAUSTED, whole_group=True)
    wait = _retry_delay(view)
    if not quotas and wait is None and "quota" not in view.said:
        return view.failure(FailureKind.RETRY)
    until = hints.next_midnight(view.at, hints.PACIFIC) if any("perday" in quota for quota in quotas) else None
    retry_after = wait if until is None else None
    return view.failure(
        FailureKind.RATE_LIMITED, whole_group=True, model_only=True, until=until, retry_after=retry_after
    )


def _quota_ids(view: ErrorView) -> list[str]:
    violations = [violation for detail in _details(view) for violation in items(detail.get("violations"))]
    return [quota for quota in (word(violation.get("quotaId")) for violation in violations) if quota]


def _retry_delay(view: ErrorView) -> float | None:
    delays = [hints.duration(detail.get("retryDelay")) for detail in _details(view)]
    return max((delay for delay in delays if delay is not None), default=None)
