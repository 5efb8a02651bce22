"""Anthropic: its own dialect, and chat through its OpenAI layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from llmkeys.lib.reading import count, text
from llmkeys.providers import hints
from llmkeys.providers.base import Endpoint, ListedModel, Provider
from llmkeys.providers.failures import ErrorView, Failure, FailureKind, Scope

VERSION = "2023-06-01"  # the version that still accepts temperature, top_p and top_k

_SPENT = frozenset(
    {
        "billing_error",
        "contract_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "linked_organization_spend_limit_reached",
    }
)
_OWN_LIMIT = ("you have reached your specified api usage limits", "you have reached your specified workspace api usage")
# Claude 4.5 and earlier: platform.claude.com, "Data residency", Model availability.
_WITHOUT_REGION = re.compile(
    r"claude-(?:instant|(?:[a-z]+-)?(?:[0-3]\b|4(?:[-.][0-5]\b)?(?!\d|[-.](?:[6-9]|\d\d)\b)))", re.IGNORECASE
)
_NOT_A_MODEL = ("file", "container", "skill", "message batch", "session")


class Anthropic(Provider):
    name = "anthropic"
    label = "Anthropic"
    badge = "An"
    vendor = "anthropic"
    environment_variables = ("ANTHROPIC_API_KEY",)
    base_url_variable = "ANTHROPIC_BASE_URL"
    default_base_url = "https://api.anthropic.com"
    domains = ("anthropic.com",)
    own = Endpoint("", "x-api-key", "", {"anthropic-version": VERSION})
    endpoints = {
        "openai-chat": Endpoint("/v1/chat/completions"),
        "anthropic-messages": Endpoint("/v1/messages{action}", "x-api-key", "", {"anthropic-version": VERSION}),
    }
    secret_prefixes = ("sk-ant-admin01-", "sk-ant-api03-", "sk-ant-")
    secret_hint = "sk-ant-api03-…"  # noqa: S105  (an example of a key)
    keys_page = "https://platform.claude.com/settings/keys"
    admin_prefixes = ("sk-ant-admin",)
    check_path = "/v1/models?limit=1"
    models_path = "/v1/models?limit=1000"
    has_workspaces = True
    reports_input_first = True
    example_model = "claude-sonnet-5.5"
    search_usd = Decimal("0.010")

    def costs_more_in_region(self, model: str, *, region: str, base_url: str) -> bool:
        """Return whether `inference_geo` was "us": platform.claude.com, "Data residency", US-only inference."""
        return region.lower() == "us"

    def dearest_region(self, model: str) -> str:
        """Return "us", which may be the workspace's `default_inference_geo`, except for models before Opus 4.6."""
        return "" if _WITHOUT_REGION.match(model) else "us"

    def _extra(self, workspace_id: str) -> dict[str, str]:
        return {"anthropic-workspace-id": workspace_id} if workspace_id else {}

    def _known(self, view: ErrorView) -> Failure | None:
        return _billing(view) or _key(view) or _model(view) or _too_many(view)

    def _check_failure(self, failure: Failure) -> Failure:
        """Treat a key that may not even list the models as rejected."""
        if failure.status == 403 and failure.kind is FailureKind.MODEL_UNAVAILABLE:
            return replace(failure, kind=FailureKind.REJECTED, model_only=False)
        return super()._check_failure(failure)

    def _listed(self, entry: Mapping[str, Any]) -> ListedModel:
        return ListedModel(
            id=text(entry.get("id")),
            context_tokens=count(entry.get("max_input_tokens")),
            max_output_tokens=count(entry.get("max_tokens")),
        )


def _billing(view: ErrorView) -> Failure | None:
    """Recognise exhausted credit; an empty balance is an ordinary 400 that only its message identifies."""
    by_words = view.status in {400, 402, 403, 429, None}
    if view.has("enforced_spend_limit_reached"):
        return view.failure(FailureKind.EXHAUSTED, scope=Scope.ACCOUNT, until=hints.next_month(view.at))
    if by_words and view.begins(*_OWN_LIMIT):
        return view.failure(FailureKind.EXHAUSTED, scope=Scope.ACCOUNT, otherwise=hints.next_month(view.at))
    if view.has(*_SPENT) or (by_words and view.begins("your credit balance is too low")):
        return view.failure(FailureKind.EXHAUSTED, scope=Scope.ACCOUNT)
    return None


def _key(view: ErrorView) -> Failure | None:
    if view.has("organization_on_hold") or view.begins("this organization has been disabled"):
        return view.failure(FailureKind.REJECTED, scope=Scope.ACCOUNT)
    # A browser's Origin header, or a location that Anthropic does not serve: the key itself is valid.
    elsewhere = view.begins("cors requests are not allowed", "request not allowed")
    return view.failure(FailureKind.FORBIDDEN_HERE) if elsewhere and view.status in {401, 403} else None


def _model(view: ErrorView) -> Failure | None:
    if view.status == 403 and view.has("permission_error"):
        return view.failure(FailureKind.MODEL_UNAVAILABLE, model_only=True)
    if view.status == 404 and view.has("not_found_error") and not view.begins(*_NOT_A_MODEL):
        return view.failure(FailureKind.MODEL_UNAVAILABLE, scope=Scope.PROVIDER, model_only=True)
    return None


def _too_many(view: ErrorView) -> Failure | None:
    if view.status != 429:
        return None
    return view.failure(FailureKind.RATE_LIMITED, scope=Scope.ACCOUNT, model_only=True)
