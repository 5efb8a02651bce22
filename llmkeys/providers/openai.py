"""OpenAI, and local servers that speak as it does (Ollama, vLLM) behind its base URL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmkeys.lib.reading import count, text
from llmkeys.providers import hints
from llmkeys.providers.base import Failure, FailureKind, ListedModel
from llmkeys.providers.failures import ErrorView, is_about_model
from llmkeys.providers.openai_chat import OpenAIChatProvider

_REASONS = re.compile(r"o\d|gpt-(?:[5-9]|\d\d)")
_NO_CREDIT = frozenset({"insufficient_quota", "credit_balance_exhausted"})
_MONTHLY = frozenset(
    {"organization_usage_limit_exceeded", "organization_spend_limit_exceeded", "project_spend_limit_exceeded"}
)
_BUSY = frozenset({"slow_down", "resource_unavailable", "server_is_overloaded"})
_ADDRESS = re.compile(r"\bip\b.{0,80}(?:allow|authori[sz]ed)|ip_not_authorized", re.DOTALL)
_TRY_AGAIN = re.compile(r"try again in ((?:\d+[dhm])*(?:\d+(?:\.\d+)?(?:ms|s))?)")


class OpenAI(OpenAIChatProvider):
    name = "openai"
    label = "OpenAI"
    vendor = "openai"
    environment_variables = ("OPENAI_API_KEY",)
    base_url_variable = "OPENAI_BASE_URL"
    default_base_url = "https://api.openai.com/v1"
    secret_prefixes = ("sk-svcacct-", "sk-admin-", "sk-proj-", "sk-")
    secret_hint = "sk-proj-…"  # noqa: S105  (what a key looks like)
    keys_page = "https://platform.openai.com/api-keys"
    admin_prefixes = ("sk-admin-",)

    def output_limit_field(self, model: str, *, own_base_url: bool) -> str:
        """Reasoning models take only the newer name, at any address; some local servers do not know it."""
        newer = own_base_url or _REASONS.match(model)
        return "max_completion_tokens" if newer else "max_tokens"

    def _known(self, view: ErrorView) -> Failure | None:
        return _billing(view) or _forbidden_here(view) or _unavailable(view) or _too_many(view)

    def _listed(self, entry: Mapping[str, Any]) -> ListedModel:
        return ListedModel(id=text(entry.get("id")), context_tokens=count(entry.get("max_model_len")))  # vLLM tells it


def _billing(view: ErrorView) -> Failure | None:
    """Find spent credit and spend limits, which come as 429 like a rate limit; limits begin anew with the month."""
    if view.has(*_MONTHLY):
        return view.failure(FailureKind.EXHAUSTED, whole_group=True, until=hints.next_month(view.at))
    if view.has(*_NO_CREDIT):
        return view.failure(FailureKind.EXHAUSTED, whole_group=True)
    return None


def _forbidden_here(view: ErrorView) -> Failure | None:
    """Find refusals that concern the place or the key's scopes; the key itself is good."""
    if view.status not in {401, 403}:
        return None
    place = view.has("unsupported_country_region_territory") or view.says("country, region, or territory not supported")
    scope = view.says("insufficient permissions for this operation", "missing scopes")
    address = view.has("ip_not_authorized") or _ADDRESS.search(view.said)
    return view.failure(FailureKind.FORBIDDEN_HERE) if place or scope or address else None


def _unavailable(view: ErrorView) -> Failure | None:
    no_access = view.status == 403 and view.says("does not have access to model", "access to the model")
    return view.failure(FailureKind.MODEL_UNAVAILABLE, model_only=True) if no_access or is_about_model(view) else None


def _too_many(view: ErrorView) -> Failure | None:
    if view.status != 429:
        return None
    if view.has(*_BUSY):
        return view.failure(FailureKind.RETRY)
    if view.said.startswith("request too large"):  # above the limit per minute by itself: waiting would not help
        return view.failure(FailureKind.TOO_EXPENSIVE, whole_group=True, model_only=True)
    wait = hints.retry_after(view.headers, at=view.at)
    wait = _reset(view) if wait is None else wait
    return view.failure(FailureKind.RATE_LIMITED, whole_group=True, model_only=True, retry_after=wait)


def _reset(view: ErrorView) -> float | None:
    """Return the wait of the limit that was met: the one named, the empty ones, the words, else the longest."""
    waits = {kind: hints.duration(view.headers.get(f"x-ratelimit-reset-{kind}")) for kind in ("requests", "tokens")}
    told = {kind: wait for kind, wait in waits.items() if wait is not None}
    met = [wait for kind, wait in told.items() if view.has(kind)]
    empty = [wait for kind, wait in told.items() if view.headers.get(f"x-ratelimit-remaining-{kind}") == "0"]
    words = _TRY_AGAIN.search(view.said)
    in_words = hints.duration(words[1]) if words else None
    return max(met or empty or ([in_words] if in_words is not None else []) or told.values(), default=None)
