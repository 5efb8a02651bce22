"""OpenRouter: serves every vendor's models, tells the cost of each request, has limits per key and per account."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from llmkeys.lib.reading import count, finite, flag, load_json, mapping, money, price, text, word
from llmkeys.providers import hints, names
from llmkeys.providers.base import Call, Failure, FailureKind, KeyCheck, ListedModel
from llmkeys.providers.checks import TESTED
from llmkeys.providers.failures import ErrorView
from llmkeys.providers.openai_chat import OpenAIChatProvider
from llmkeys.providers.scrub import scrub

_AFFORD = re.compile(r"can only afford (\d[\d,]*)")
_KEY_LIMIT = re.compile(r"key limit exceeded(?: \((\w+) limit\))?")
_BUSY = frozenset({"capacity_exhausted", "temporarily_unavailable"})


class OpenRouter(OpenAIChatProvider):
    name = "openrouter"
    label = "OpenRouter"
    environment_variables = ("OPENROUTER_API_KEY",)
    base_url_variable = "OPENROUTER_BASE_URL"
    default_base_url = "https://openrouter.ai/api/v1"
    secret_prefixes = ("sk-or-v1-", "sk-or-")
    secret_hint = "sk-or-v1-…"  # noqa: S105  (what a key looks like)
    keys_page = "https://openrouter.ai/settings/keys"
    check_path = "/key"  # the model list is public and proves nothing
    rate_limit_is_per_model = False
    reports_costs = True

    def model_name(self, model: str) -> str | None:
        return names.at_openrouter(model)

    def generation_call(self, *, base_url: str, secret: str, generation_id: str) -> Call:
        """Return the free call that asks what one request truly cost; 404 while OpenRouter does not know it yet."""
        return self._get(f"{base_url}/generation?id={quote(generation_id, safe='')}", secret=secret, workspace_id="")

    def generation_cost(self, body: bytes) -> Decimal | None:
        """Read the cost in USD from the answer to `generation_call`, None where it is not told (yet)."""
        data = mapping(mapping(load_json(body)).get("data"))
        charge = money(data.get("total_cost"))
        if charge is None or data.get("is_byok") is not True:
            return charge
        upstream = money(data.get("upstream_inference_cost"))  # the owner's own upstream key: a bill beside the fee
        return charge + upstream if upstream is not None else None

    def _known(self, view: ErrorView) -> Failure | None:
        return _availability(view) or _BY_STATUS.get(view.status or 0, _nothing)(view)

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


def _nothing(view: ErrorView) -> Failure | None:
    return None


def _availability(view: ErrorView) -> Failure | None:
    """Read `error.availability`, which says why a model cannot be had."""
    availability = mapping(view.error.get("availability"))
    code = word(availability.get("code"))
    if code in _BUSY:
        wait = count(availability.get("retry_after"))
        return view.failure(FailureKind.RETRY, retry_after=float(wait) if wait is not None else None)
    return view.failure(FailureKind.MODEL_UNAVAILABLE, model_only=True) if code else None


def _bad_request(view: ErrorView) -> Failure | None:
    return _no_model(view) if view.says("is not a valid model id") else None


def _not_found(view: ErrorView) -> Failure | None:
    return _no_model(view) if view.error else None  # a page that is no JSON comes from a wrong address


def _no_model(view: ErrorView) -> Failure:
    return view.failure(FailureKind.MODEL_UNAVAILABLE, model_only=True)


def _unauthorised(view: ErrorView) -> Failure | None:
    """A 401 that an upstream sent says nothing about OpenRouter's own key."""
    return _no_model(view) if _is_upstream(view) else None


def _payment(view: ErrorView) -> Failure | None:
    """Tell apart: too many requests in flight, one request too large, and no money at all."""
    source, said = _limit_source(view), view.said
    affordable = _AFFORD.search(said)
    key_only = source == "openrouter_key_limit" or "create a key with a higher" in said
    if not source and not affordable and _is_upstream(view):
        return _no_model(view)
    if source == "openrouter_in_flight_budget" or ("retry-after" in view.headers and not source and not affordable):
        return view.failure(FailureKind.RATE_LIMITED, whole_group=True)
    too_large = view.has("weight_exceeds_budget") or "weight_exceeds_budget" in f"{source} {said}"
    if too_large or (affordable and affordable[1].strip("0,")):
        return view.failure(FailureKind.TOO_EXPENSIVE, whole_group=not key_only)
    return view.failure(FailureKind.EXHAUSTED, whole_group=not key_only, until=_budget_reset(view))


def _forbidden(view: ErrorView) -> Failure | None:
    """Find spent budgets: a key's own cap and a workspace's come as 403; the rest is moderation and guardrails."""
    source = _limit_source(view)
    if not _KEY_LIMIT.search(view.said) and not source.startswith("openrouter_"):
        return None
    scope = word(view.metadata.get("scope"))
    is_shared = scope == "workspace" or (not scope and source == "openrouter_workspace_budget")
    return view.failure(FailureKind.EXHAUSTED, whole_group=is_shared, until=_budget_reset(view))


def _too_many(view: ErrorView) -> Failure | None:
    """Tell the account's own limit, where rotation helps, from a busy upstream, where it does not."""
    of_free_models = view.says("free-models-per-") or _limit_source(view).startswith("openrouter_free_tier")
    if not of_free_models and _is_upstream(view):
        return view.failure(FailureKind.RETRY, retry_after=hints.retry_after(_inner_headers(view), at=view.at))
    until = _rate_limit_reset(view)
    if until is None and of_free_models:
        until = _free_reset(view)
    return view.failure(FailureKind.RATE_LIMITED, whole_group=True, model_only=of_free_models, until=until)


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
    return any(named) or view.says("provider returned error", "rate-limited upstream")


def _limit_source(view: ErrorView) -> str:
    return word(view.metadata.get("limit_source"))


def _budget_reset(view: ErrorView) -> datetime | None:
    """Return when a spent budget begins anew: the instant that was named, else the next window of its kind."""
    named = hints.instant(view.metadata.get("resets_at"))
    if named is not None:
        return named
    limit = _KEY_LIMIT.search(view.said)
    interval = word(view.metadata.get("limit_reset")) or word(view.metadata.get("reset_interval"))
    return hints.next_reset(interval or (limit[1] if limit and limit[1] else ""), at=view.at)


def _inner_headers(view: ErrorView) -> dict[str, str]:
    """Return the headers that OpenRouter repeats inside the error, before those of the answer itself."""
    inner = mapping(view.metadata.get("headers"))
    return {**view.headers, **{str(name).lower(): str(value) for name, value in inner.items()}}


def _rate_limit_reset(view: ErrorView) -> datetime | None:
    return hints.clamp_until(hints.instant(_inner_headers(view).get("x-ratelimit-reset")), at=view.at)


def _free_reset(view: ErrorView) -> datetime:
    """The quotas of free models begin anew each minute and each UTC day."""
    return view.at + timedelta(minutes=1) if view.says("per-min") else hints.next_midnight(view.at)


def _key_details(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a person wants to know of a key; the label is left out, it shows parts of the secret."""
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
    told: dict[str, Any] = {name: _amount(budget.get(theirs)) for name, theirs in amounts.items()}
    return told | {name: _words(budget.get(theirs)) for name, theirs in words.items()}


def _amount(value: Any) -> int | Decimal | None:
    """Return an amount; what remains of a limit may be below zero."""
    number = finite(value)
    if number is None or number >= 0:
        return money(number)
    debt = money(-number)
    return -debt if debt is not None else None


def _words(value: Any) -> str | None:
    return scrub(text(value), limit=100) or None
