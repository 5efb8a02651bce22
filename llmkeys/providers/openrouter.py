"""OpenRouter: serves all vendors' models, reports the cost of each request, and has limits per key and account."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from llmkeys.lib.reading import count, finite, flag, load_json, mapping, money, price, text, word
from llmkeys.providers import hints, names
from llmkeys.providers.base import Call, Endpoint, KeyCheck, ListedModel, Provider
from llmkeys.providers.checks import TESTED
from llmkeys.providers.failures import ErrorView, Failure, FailureKind, Scope
from llmkeys.providers.scrub import scrub

_AFFORD = re.compile(r"can only afford (\d[\d,]*)")
_KEY_LIMIT = re.compile(r"key limit exceeded(?: \((\w+) limit\))?")
_NO_SUCH_MODEL = re.compile(r"\S{1,200} is not a valid model id\.?$")
_FREE = "rate limit exceeded: free-models-per-"
_BUSY = frozenset({"capacity_exhausted", "temporarily_unavailable"})
_OF_THIS_ACCOUNT = frozenset({"privacy_restricted", "constraint_filtered", "region_restricted"})


class OpenRouter(Provider):
    name = "openrouter"
    label = "OpenRouter"
    badge = "OR"
    environment_variables = ("OPENROUTER_API_KEY",)
    base_url_variable = "OPENROUTER_BASE_URL"
    default_base_url = "https://openrouter.ai/api/v1"
    domains = ("openrouter.ai",)
    own = Endpoint("")
    endpoints = {
        "openai-chat": Endpoint("/chat/completions"),
        "openai-responses": Endpoint("/responses"),
        "openai-embeddings": Endpoint("/embeddings"),
        "anthropic-messages": Endpoint("/messages{action}", without=frozenset({"/count_tokens"})),
    }
    secret_prefixes = ("sk-or-v1-", "sk-or-")
    secret_hint = "sk-or-v1-…"  # noqa: S105  (an example of a key)
    keys_page = "https://openrouter.ai/settings/keys"
    check_path = "/key"  # the model list is public, so it cannot test a key
    reports_costs = True
    picks_models = True
    reports_usage_unasked = True
    rate_limit_is_per_model = False
    # 0.004 per result; five by default, and at most ten if no number is given: openrouter.ai/docs, "Web search".
    search_usd = Decimal("0.040")
    has_own_search = True

    def model_name(self, model: str) -> str | None:
        return names.at_openrouter(model)

    def is_free(self, model: str) -> bool:
        return model.endswith(":free")

    def drawing_model_name(self, model: str) -> str:
        return model if "/" in model else f"openai/{model}"

    def generation_call(self, *, base_url: str, secret: str, generation_id: str) -> Call:
        """Return the call; a 404 means that the cost is not known yet."""
        return self._get(f"{base_url}/generation?id={quote(generation_id, safe='')}", secret=secret, workspace_id="")

    def generation_cost(self, body: bytes) -> Decimal | None:
        data = mapping(mapping(load_json(body)).get("data"))
        charge = price(data.get("total_cost"))
        if charge is None or data.get("is_byok") is not True:
            return charge
        upstream = price(data.get("upstream_inference_cost"))  # billed to the owner's own upstream key
        return charge + upstream if upstream is not None else None

    def _known(self, view: ErrorView) -> Failure | None:
        read = _BY_STATUS.get(view.status or 0)
        return _availability(view) or (read(view) if read else None)

    def _checked(self, document: Any) -> KeyCheck | None:
        data = mapping(document).get("data")
        if not isinstance(data, Mapping) or not {"limit", "usage", "label"} & data.keys():
            return None
        if data.get("is_management_key") is True or data.get("is_provisioning_key") is True:
            return self.admin_key(200)
        return KeyCheck(ok=True, message=TESTED, details=_key_details(data))

    def _listed(self, entry: Mapping[str, Any]) -> ListedModel:
        pricing = mapping(entry.get("pricing"))
        return ListedModel(
            id=text(entry.get("id")),
            context_tokens=count(entry.get("context_length")),
            max_output_tokens=count(mapping(entry.get("top_provider")).get("max_completion_tokens")),
            input_usd_per_token=price(pricing.get("prompt")),
            output_usd_per_token=price(pricing.get("completion")),
        )


def _availability(view: ErrorView) -> Failure | None:
    """Classify by `error.availability`, the reason why a model is unavailable."""
    code = word(mapping(view.error.get("availability")).get("code"))
    if code in _BUSY:
        return view.failure(FailureKind.RETRY, scope=Scope.PROVIDER)
    scope = Scope.ACCOUNT if code in _OF_THIS_ACCOUNT else Scope.PROVIDER
    return view.failure(FailureKind.MODEL_UNAVAILABLE, scope=scope, model_only=True) if code else None


def _bad_request(view: ErrorView) -> Failure | None:
    return _no_model(view) if view.matches(_NO_SUCH_MODEL) else None


def _not_found(view: ErrorView) -> Failure | None:
    by_account = view.begins("no endpoints found matching", "no allowed providers", "all providers have been ignored")
    scope = Scope.ACCOUNT if by_account else Scope.PROVIDER
    return view.failure(FailureKind.MODEL_UNAVAILABLE, scope=scope, model_only=True)


def _no_model(view: ErrorView) -> Failure:
    return view.failure(FailureKind.MODEL_UNAVAILABLE, scope=Scope.PROVIDER, model_only=True)


def _unauthorised(view: ErrorView) -> Failure | None:
    """Classify a 401; one from an upstream does not concern OpenRouter's own key."""
    return _no_model(view) if _is_upstream(view) else None


def _payment(view: ErrorView) -> Failure | None:
    """Distinguish too many requests in flight, a request that is too large, and no credit."""
    source = _limit_source(view)
    affordable = _AFFORD.search(view.lower_message)
    is_cap = source == "openrouter_key_limit" or (affordable and "create a key with a higher" in view.lower_message)
    scope = Scope.KEY if is_cap else Scope.ACCOUNT
    if not source and not affordable and _is_upstream(view):
        return _no_model(view)
    if source == "openrouter_in_flight_budget" or ("retry-after" in view.headers and not source and not affordable):
        return view.failure(FailureKind.RATE_LIMITED, scope=scope)
    too_large = view.has("weight_exceeds_budget") or source == "weight_exceeds_budget"
    too_large = too_large or view.begins("weight_exceeds_budget", "prompt tokens limit exceeded")
    if too_large or (affordable and affordable[1].strip("0,")):
        return view.failure(FailureKind.TOO_EXPENSIVE, scope=scope)
    return view.failure(FailureKind.EXHAUSTED, scope=scope, otherwise=_budget_reset(view))


def _forbidden(view: ErrorView) -> Failure | None:
    """Recognise spent budgets: the caps of keys and workspaces are 403; others are moderation and guardrails."""
    source = _limit_source(view)
    if not view.matches(_KEY_LIMIT) and not source.startswith("openrouter_"):
        return None
    scope = word(view.metadata.get("scope"))
    is_shared = scope == "workspace" or (not scope and source == "openrouter_workspace_budget")
    return view.failure(
        FailureKind.EXHAUSTED, scope=Scope.ACCOUNT if is_shared else Scope.KEY, otherwise=_budget_reset(view)
    )


def _too_many(view: ErrorView) -> Failure | None:
    """Distinguish the account's own limit, where rotation helps, from a busy upstream, where it does not."""
    of_free_models = view.begins(_FREE) or _limit_source(view).startswith("openrouter_free_tier")
    if not of_free_models and _is_upstream(view):
        return view.failure(FailureKind.RETRY, scope=Scope.PROVIDER)
    otherwise = _free_reset(view) if of_free_models else None
    return view.failure(FailureKind.RATE_LIMITED, scope=Scope.ACCOUNT, model_only=of_free_models, otherwise=otherwise)


_BY_STATUS = {
    400: _bad_request,
    401: _unauthorised,
    402: _payment,
    403: _forbidden,
    404: _not_found,
    429: _too_many,
}


def _is_upstream(view: ErrorView) -> bool:
    named = [view.metadata.get(name) for name in ("provider_name", "raw", "provider_code")]
    return any(named) or view.begins("provider returned error")


def _limit_source(view: ErrorView) -> str:
    return word(view.metadata.get("limit_source"))


def _budget_reset(view: ErrorView) -> datetime | None:
    """Return when the next window of a spent budget begins, or None if its interval is unknown."""
    limit = _KEY_LIMIT.match(view.lower_message)
    interval = word(view.metadata.get("limit_reset")) or word(view.metadata.get("reset_interval"))
    return hints.next_reset(interval or (limit[1] if limit and limit[1] else ""), at=view.at)


def _free_reset(view: ErrorView) -> datetime:
    """Return when the quota of free models resets: every minute or every UTC day."""
    per_minute = view.begins(f"{_FREE}min")
    return view.at + timedelta(minutes=1) if per_minute else hints.next_midnight(view.at)


def _key_details(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details of a key to show to people, without the label, which contains parts of the secret."""
    return {
        "limit": _amount(data.get("limit")),
        "limitRemaining": _amount(data.get("limit_remaining")),
        "limitReset": _words(data.get("limit_reset")),
        "usage": _amount(data.get("usage")),
        "usageDaily": _amount(data.get("usage_daily")),
        "usageMonthly": _amount(data.get("usage_monthly")),
        "isFreeTier": flag(data.get("is_free_tier")),
        "expiresAt": _words(data.get("expires_at")),
        "effectiveBudget": _budget(data.get("effective_budget")),
    }


def _budget(value: Any) -> dict[str, Any] | None:
    budget = mapping(value)
    if not budget:
        return None
    amounts = {"limitUsd": "limit_usd", "spendUsd": "spend_usd", "remainingUsd": "remaining_usd"}
    words = {"scope": "scope", "resetInterval": "reset_interval", "resetsAt": "resets_at"}
    found: dict[str, Any] = {name: _amount(budget.get(theirs)) for name, theirs in amounts.items()}
    return found | {name: _words(budget.get(theirs)) for name, theirs in words.items()}


def _amount(value: Any) -> int | Decimal | None:
    """Return an amount; what remains of a limit may be negative."""
    number = finite(value)
    if number is None or number >= 0:
        return money(number)
    debt = money(-number)
    return -debt if debt is not None else None


def _words(value: Any) -> str | None:
    return scrub(text(value), limit=100) or None
