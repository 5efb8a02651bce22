"""OpenAI, and compatible local servers (Ollama, vLLM) at its base URL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from llmkeys.lib.reading import count, text
from llmkeys.providers import hints
from llmkeys.providers.base import Endpoint, ListedModel, Provider
from llmkeys.providers.failures import ErrorView, Failure, FailureKind, Scope, is_about_model

_NO_CREDIT = frozenset({"insufficient_quota", "credit_balance_exhausted"})
_MONTHLY = frozenset(
    {"organization_usage_limit_exceeded", "organization_spend_limit_exceeded", "project_spend_limit_exceeded"}
)
_BUSY = frozenset({"slow_down", "resource_unavailable", "server_is_overloaded"})
_SCOPES = ("you have insufficient permissions for this operation", "missing scopes")
_PLACE = ("country, region, or territory not supported",)
_ADDRESS = re.compile(r"(?:your |the |this )?ip\b.{0,80}(?:allow|authori[sz]ed)", re.DOTALL)
_NO_ACCESS = re.compile(
    r"you (?:are not allowed to sample from|do not have access to|must be verified to use)|"
    r"(?:your |this |the )?(?:project|organization|team|key|api key)\b[^.]{0,80}"
    r"(?:does not have|has no|not have) (?:any )?access to (?:the |this )?model"
)
_NEWER_LIMIT_NAME = re.compile(r"(?:openai/)?(?:ft:)?(?:o\d|gpt-(?:[5-9]|\d\d)|codex)")
_COSTS_MORE = re.compile(r"gpt-(?:5\.[4-9]|[6-9]|\d\d)")  # platform.openai.com/docs/pricing
# The older search tool (`web_search_preview`) of these models costs more than the one in the price data. It is always
# held, and charged if the request declared it.
_PREVIEWS, _PREVIEW_SEARCH_USD = re.compile(r"gpt-4(o|\.1)"), Decimal("0.025")


class OpenAI(Provider):
    name = "openai"
    label = "OpenAI"
    badge = "OA"
    vendor = "openai"
    environment_variables = ("OPENAI_API_KEY",)
    base_url_variable = "OPENAI_BASE_URL"
    default_base_url = "https://api.openai.com/v1"
    domains = ("openai.com",)
    own = Endpoint("")
    endpoints = {
        "openai-chat": Endpoint("/chat/completions"),
        "openai-responses": Endpoint("/responses"),
        "openai-embeddings": Endpoint("/embeddings"),
    }
    secret_prefixes = ("sk-svcacct-", "sk-admin-", "sk-proj-", "sk-")
    secret_hint = "sk-proj-…"  # noqa: S105  (an example of a key)
    keys_page = "https://platform.openai.com/api-keys"
    admin_prefixes = ("sk-admin-",)
    search_usd = Decimal("0.025")

    def output_limit_field(self, model: str, *, own_base_url: bool) -> str:
        """Return the newer name for OpenAI, whose reasoning models accept no other; local servers may not know it."""
        return "max_completion_tokens" if own_base_url or _NEWER_LIMIT_NAME.match(model) else "max_tokens"

    def most_search_usd(self, name: str) -> Decimal:
        return _PREVIEW_SEARCH_USD if _PREVIEWS.match(name) else Decimal(0)

    def costs_more_in_region(self, model: str, *, region: str, base_url: str) -> bool:
        """Return whether the base URL is that of a region (`eu.api.openai.com`) and the model costs more there."""
        return _is_regional(base_url) and bool(_COSTS_MORE.match(model))

    def _known(self, view: ErrorView) -> Failure | None:
        return _billing(view) or _forbidden_here(view) or _unavailable(view) or _too_many(view)

    def _listed(self, entry: Mapping[str, Any]) -> ListedModel:
        return ListedModel(id=text(entry.get("id")), context_tokens=count(entry.get("max_model_len")))  # of vLLM


@lru_cache(maxsize=8)
def _is_regional(base_url: str) -> bool:
    return (urlsplit(base_url).hostname or "").endswith(".api.openai.com")


def _billing(view: ErrorView) -> Failure | None:
    """Recognise exhausted credit and spend limits, which are 429 like rate limits; limits reset monthly."""
    if view.has(*_MONTHLY):
        return view.failure(FailureKind.EXHAUSTED, scope=Scope.ACCOUNT, until=hints.next_month(view.at))
    if view.has(*_NO_CREDIT):
        return view.failure(FailureKind.EXHAUSTED, scope=Scope.ACCOUNT)
    return None


def _forbidden_here(view: ErrorView) -> Failure | None:
    """Recognise refusals because of the location or the key's scopes; the key itself is valid."""
    if view.status not in {401, 403}:
        return None
    by_code = view.has("unsupported_country_region_territory", "ip_not_authorized")
    found = by_code or view.begins(*_PLACE, *_SCOPES) or view.matches(_ADDRESS)
    return view.failure(FailureKind.FORBIDDEN_HERE) if found else None


def _unavailable(view: ErrorView) -> Failure | None:
    """Recognise a model that this key's project does not have; another project may."""
    no_such = view.status == 400 and view.begins("invalid model id")
    if no_such or is_about_model(view) or (view.status == 403 and view.matches(_NO_ACCESS)):
        return view.failure(FailureKind.MODEL_UNAVAILABLE, model_only=True)
    return None


def _too_many(view: ErrorView) -> Failure | None:
    if view.status != 429:
        return None
    if view.has(*_BUSY):
        return view.failure(FailureKind.RETRY, scope=Scope.PROVIDER)
    if view.begins("request too large"):
        return view.failure(FailureKind.TOO_LARGE, scope=Scope.ACCOUNT, model_only=True)
    return view.failure(FailureKind.RATE_LIMITED, scope=Scope.ACCOUNT, model_only=True, met=view.words)
