"""Anthropic: chat through its OpenAI layer, the key test and the model list in its own dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from llmkeys.lib.reading import count, text
from llmkeys.providers import hints
from llmkeys.providers.base import Failure, FailureKind, ListedModel
from llmkeys.providers.failures import ErrorView
from llmkeys.providers.openai_chat import OpenAIChatProvider

VERSION = "2023-06-01"  # the version that still takes temperature, top_p and top_k

_SPENT = frozenset(
    {
        "billing_error",
        "contract_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "linked_organization_spend_limit_reached",
    }
)
_OWN_LIMIT = ("you have reached your specified api usage limits", "you have reached your specified workspace api usage")
_LIMITS = ("requests", "input-tokens", "output-tokens", "tokens")


class Anthropic(OpenAIChatProvider):
    name = "anthropic"
    label = "Anthropic"
    vendor = "anthropic"
    environment_variables = ("ANTHROPIC_API_KEY",)
    base_url_variable = "ANTHROPIC_BASE_URL"
    default_base_url = "https://api.anthropic.com"
    secret_prefixes = ("sk-ant-admin01-", "sk-ant-api03-", "sk-ant-")
    secret_hint = "sk-ant-api03-…"  # noqa: S105  (what a key looks like)
    keys_page = "https://platform.claude.com/settings/keys"
    admin_prefixes = ("sk-ant-admin",)
    check_path = "/v1/models?limit=1"
    models_path = "/v1/models?limit=1000"

    def auth_headers(self, *, secret: str, workspace_id: str = "") -> dict[str, str]:
        return {"Authorization": f"Bearer {secret}"} | _workspace(workspace_id)

    def native_headers(self, *, secret: str, workspace_id: str = "") -> dict[str, str]:
        return {"x-api-key": secret, "anthropic-version": VERSION} | _workspace(workspace_id)

    def chat_url(self, base_url: str) -> str:
        return f"{base_url}/v1/chat/completions"

    def _known(self, view: ErrorView) -> Failure | None:
        return _billing(view) or _key(view) or _model(view) or _too_many(view)

    def _check_failure(self, failure: Failure) -> Failure:
        """A key that may not even list the models is of no use."""
        if failure.status == 403 and failure.kind is FailureKind.MODEL_UNAVAILABLE:
            return replace(failure, kind=FailureKind.REJECTED, model_only=False)
        return super()._check_failure(failure)

    def _listed(self, entry: Mapping[str, Any]) -> ListedModel:
        return ListedModel(
            id=text(entry.get("id")),
            context_tokens=count(entry.get("max_input_tokens")),
            max_output_tokens=count(entry.get("max_tokens")),
        )


def _workspace(workspace_id: str) -> dict[str, str]:
    return {"anthropic-workspace-id": workspace_id} if workspace_id else {}


def _billing(view: ErrorView) -> Failure | None:
    """Find spent money; an empty balance is a plain 400 that only its words tell."""
    own_limit = view.said.startswith(_OWN_LIMIT)
    monthly = own_limit or view.has("enforced_spend_limit_reached")
    if not monthly and not view.has(*_SPENT) and not view.says("credit balance is too low"):
        return None
    named = hints.clamp_until(hints.instant_in_text(view.message), at=view.at)
    until = named or (hints.next_month(view.at) if monthly else None)
    return view.failure(FailureKind.EXHAUSTED, whole_group=True, until=until)


def _key(view: ErrorView) -> Failure | None:
    if view.has("organization_on_hold") or view.says("organization has been disabled"):
        return view.failure(FailureKind.REJECTED, whole_group=True)
    # A browser's Origin header, or a place from which Anthropic takes no calls: the key itself is good.
    elsewhere = view.said.startswith("cors requests are not allowed") or view.says("request not allowed")
    return view.failure(FailureKind.FORBIDDEN_HERE) if elsewhere and view.status in {401, 403} else None


def _model(view: ErrorView) -> Failure | None:
    if view.status in {403, 404} and view.has("permission_error", "not_found_error"):
        return view.failure(FailureKind.MODEL_UNAVAILABLE, model_only=True)
    return None


def _too_many(view: ErrorView) -> Failure | None:
    if view.status != 429:
        return None
    wait = hints.retry_after(view.headers, at=view.at)
    until = _reset(view) if wait is None else None
    return view.failure(FailureKind.RATE_LIMITED, whole_group=True, model_only=True, retry_after=wait, until=until)


def _reset(view: ErrorView) -> datetime | None:
    """Return when the limits that are used up are full again."""
    used_up = [limit for limit in _LIMITS if view.headers.get(f"anthropic-ratelimit-{limit}-remaining") == "0"]
    resets = [hints.instant(view.headers.get(f"anthropic-ratelimit-{limit}-reset")) for limit in used_up]
    return max((reset for reset in resets if reset is not None), default=None)
