"""The free calls: model lists, and OpenRouter's key information and generations."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

from .http import Request
from .journal import Entry
from .prices import MILLION, Model, models_of
from .state import State
from .wire import plain

CREATED = 1_767_225_600
LABEL = "simulated"


def _at(request: Request, name: str, *, default: int) -> int:
    """Return an integer from the query, or the default if it is not one."""
    text = request.parameter(name) or ""
    return int(text) if text.isascii() and text.isdecimal() and 0 < len(text) < 7 else default


# --- OpenRouter ---------------------------------------------------------------------------------------------------


def openrouter_models() -> dict[str, Any]:
    models = [_openrouter_model(model) for model in models_of("openrouter")]
    return {"data": models, "total_count": len(models), "links": {"next": None}}


def _openrouter_model(model: Model) -> dict[str, Any]:
    return {
        "id": model.routed_name,
        "canonical_slug": model.routed_name,
        "name": f"{model.name} ({LABEL})",
        "created": CREATED,
        "description": f"{LABEL}: a stand-in that answers with counted words and costs no real money.",
        "context_length": model.context,
        "architecture": {"modality": "text->text", "input_modalities": ["text"], "output_modalities": ["text"]},
        "pricing": _openrouter_pricing(model),
        "top_provider": {
            "context_length": model.context,
            "max_completion_tokens": model.max_output,
            "is_moderated": False,
        },
        "per_request_limits": None,
        "supported_parameters": ["max_tokens", "stop", "temperature", "tools"],
        "expiration_date": None,
    }


def _openrouter_pricing(model: Model) -> dict[str, Any]:
    pricing: dict[str, Any] = {**_per_token(model), "request": "0", "image": "0", "web_search": "0"}
    if model.long is not None:
        pricing["overrides"] = [{"min_prompt_tokens": model.long_above, **_per_token(model, long=True)}]
    return pricing


def _per_token(model: Model, *, long: bool = False) -> dict[str, str]:
    rates = model.long if long and model.long is not None else model.base
    prices = {
        "prompt": rates.input,
        "completion": rates.output,
        "input_cache_read": rates.cache_read,
        "input_cache_write": rates.cache_write,
    }
    return {name: plain(price / MILLION) for name, price in prices.items()}


def openrouter_key(state: State, key: str) -> dict[str, Any]:
    """Return the response of GET /key: no limit, and what this simulator has billed to the key."""
    spent = state.spent.get(key, Decimal(0))
    usage = dict.fromkeys(("usage", "usage_daily", "usage_weekly", "usage_monthly"), spent)
    byok = dict.fromkeys(("byok_usage", "byok_usage_daily", "byok_usage_weekly", "byok_usage_monthly"), 0)
    data = {
        "label": f"{LABEL} ...{key[-3:]}",
        "limit": None,
        "limit_remaining": None,
        "limit_reset": None,
        "include_byok_in_limit": False,
        **usage,
        **byok,
        "is_free_tier": False,
        "is_management_key": False,
        "is_provisioning_key": False,
        "expires_at": None,
        "creator_user_id": "user_simulated",
        "organization_id": None,
        "workspace_id": None,
        "allowed_data_regions": ["global"],
        "budgets": [],
        "effective_budget": None,
        "free_model_daily_requests": {"used": 0, "limit": 50, "remaining": 50},
        "rate_limit": {"requests": -1, "interval": "10s", "note": "deprecated"},
    }
    return {"data": data}


def openrouter_generation(entry: Entry) -> dict[str, Any]:
    """Return the response of GET /generation for a billed answer."""
    finish_reason = "stop" if entry.completed else None
    data = {
        "id": entry.generation_id,
        "model": entry.model,
        "provider_name": "Simulated",
        "created_at": (entry.time - timedelta(microseconds=entry.time.microsecond)).isoformat(),
        "streamed": entry.stream,
        "cancelled": not entry.completed,
        "finish_reason": finish_reason,
        "native_finish_reason": finish_reason,
        "total_cost": entry.cost,
        "usage": entry.cost,
        "upstream_inference_cost": entry.cost,
        "cache_discount": None,
        "is_byok": False,
        "latency": 1,
        "generation_time": 1,
        "tokens_prompt": entry.prompt_tokens,
        "tokens_completion": entry.completion_tokens,
        "native_tokens_prompt": entry.prompt_tokens,
        "native_tokens_completion": entry.completion_tokens,
        "native_tokens_reasoning": 0,
        "native_tokens_cached": 0,
        "num_search_results": None,
        "request_id": entry.request_id,
        "external_user": None,
        "service_tier": None,
    }
    return {"data": data}


# --- the vendors --------------------------------------------------------------------------------------------------


def openai_models() -> dict[str, Any]:
    return {"object": "list", "data": [_openai_model(model) for model in models_of("openai")]}


def _openai_model(model: Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": CREATED, "owned_by": LABEL, "shutdown_date": None}


def anthropic_models(request: Request) -> dict[str, Any]:
    models = models_of("anthropic")
    names = [model.name for model in models]
    after = request.parameter("after_id") or ""
    start = names.index(after) + 1 if after in names else 0
    page = models[start : start + _at(request, "limit", default=20)]
    return {
        "data": [_anthropic_model(model) for model in page],
        "has_more": start + len(page) < len(models),
        "first_id": page[0].name if page else None,
        "last_id": page[-1].name if page else None,
    }


def _anthropic_model(model: Model) -> dict[str, Any]:
    return {
        "type": "model",
        "id": model.name,
        "display_name": f"{model.name} ({LABEL})",
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": model.context,
        "max_tokens": model.max_output,
    }


def google_openai_models() -> dict[str, Any]:
    return {"object": "list", "data": [_google_openai_model(model) for model in models_of("google")]}


def _google_openai_model(model: Model) -> dict[str, Any]:
    return {"id": f"models/{model.name}", "object": "model", "owned_by": LABEL}


def google_models(request: Request) -> dict[str, Any]:
    models = models_of("google")
    start = _at(request, "pageToken", default=0)
    page = models[start : start + (_at(request, "pageSize", default=50) or 50)]
    listing: dict[str, Any] = {"models": [_google_model(model) for model in page]}
    if start + len(page) < len(models):
        listing["nextPageToken"] = str(start + len(page))
    return listing


def _google_model(model: Model) -> dict[str, Any]:
    return {
        "name": f"models/{model.name}",
        "version": LABEL,
        "displayName": f"{model.name} ({LABEL})",
        "description": f"{LABEL}: a stand-in that answers with counted words.",
        "inputTokenLimit": model.context,
        "outputTokenLimit": model.max_output,
        "supportedGenerationMethods": ["embedContent"] if model.embeds else ["generateContent", "countTokens"],
    }


# --- one model ----------------------------------------------------------------------------------------------------

_ONE_MODEL: dict[str, tuple[str, str, Callable[[Model], dict[str, Any]]]] = {
    "/v1/models/": ("openai", "", _openai_model),
    "/anthropic/v1/models/": ("anthropic", "", _anthropic_model),
    "/v1beta/openai/models/": ("google", "models/", _google_openai_model),
    "/v1beta/models/": ("google", "", _google_model),
}


def one_model(provider: str, path: str) -> dict[str, Any] | None:
    """Return a vendor's entry of a model by its path, or None if it has no such model."""
    place = f"/anthropic{path}" if provider == "anthropic" else path
    for beginning, (vendor, prefix, shape) in _ONE_MODEL.items():
        if provider == vendor and place.startswith(beginning):
            name = place.removeprefix(beginning).removeprefix(prefix)
            return next((shape(model) for model in models_of(vendor) if model.name == name), None)
    return None
