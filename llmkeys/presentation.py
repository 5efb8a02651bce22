"""A key, a usage row and the sums as the contract's JSON: one shape for REST, `--json` and exports."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from django.http import StreamingHttpResponse

from llmkeys.key_state import ACTIVE, Budget, cooling_scopes
from llmkeys.lib.money import usd_json
from llmkeys.models import AccessToken, ApiKey, Cooling, UsageRecord


def instant_json(at: datetime | None) -> str | None:
    """Return ISO 8601 in UTC with `Z`, milliseconds only where there are any."""
    if at is None:
        return None
    at = at.astimezone(UTC)
    text = at.isoformat(timespec="milliseconds" if at.microsecond // 1000 else "seconds")
    return text.replace("+00:00", "Z")


class Coolings:
    """Which keys rest until when, read once for a whole list."""

    def __init__(self, at: datetime):
        self._until: dict[str, datetime] = {}
        for scope, until in Cooling.objects.filter(until__gt=at).values_list("scope", "until"):
            self._until[scope] = max(until, self._until.get(scope, until))

    def until(self, key: ApiKey) -> datetime | None:
        """Return the latest of the key's coolings and its group's, None where it does not rest."""
        scopes = cooling_scopes(key.id, key.provider, key.billing_group)
        return max((self._until[scope] for scope in scopes if scope in self._until), default=None)


def keys_json(keys: Iterable[ApiKey], *, at: datetime) -> list[dict[str, Any]]:
    coolings = Coolings(at)
    return [key_json(key, at=at, coolings=coolings) for key in keys]


def key_json(key: ApiKey, *, at: datetime, coolings: Coolings | None = None) -> dict[str, Any]:
    """Return contract 3's JSON of a key at the instant `at`."""
    day, month, total = key.budgets(at)
    status = key.status_at(at)
    return {
        "id": key.id,
        "provider": key.provider,
        "name": key.name,
        "description": key.description,
        "maskedApiKey": key.masked_secret,
        "source": key.source,
        "isActive": status == ACTIVE,
        "isDefault": key.is_default,
        "status": status,
        "priority": key.priority,
        "dailyLimit": usd_json(day.limit),
        "monthlyLimit": usd_json(month.limit),
        "totalLimit": usd_json(total.limit),
        "currentDailyCost": usd_json(day.spent),
        "currentMonthlyCost": usd_json(month.spent),
        "totalCost": usd_json(total.spent),
        "reservedCost": usd_json(key.held_nano),
        "remainingDailyBudget": _remaining(day),
        "remainingMonthlyBudget": _remaining(month),
        "remainingTotalBudget": _remaining(total),
        "totalRequests": key.total_requests,
        "successfulRequests": key.successful_requests,
        "failedRequests": key.failed_requests,
        "successRate": success_rate(key.successful_requests, key.failed_requests),
        "createdAt": instant_json(key.created_at),
        "updatedAt": instant_json(key.updated_at),
        "lastUsed": instant_json(key.last_used_at),
        "expiresAt": instant_json(key.expires_at),
        "coolingUntil": instant_json((coolings or Coolings(at)).until(key)),
        "billingGroup": key.billing_group,
        "workspaceId": key.workspace_id,
        "lastError": error_words(key, at=at),
        "enabled": key.enabled,
        "budgetMode": key.budget_mode,
    }


def _remaining(budget: Budget) -> float | None:
    return None if budget.remaining is None else usd_json(budget.remaining)


def error_words(key: ApiKey, *, at: datetime) -> str:
    """Return what is wrong with a key in words; a key that a person switched off says so."""
    if key.last_error or key.enabled:
        return key.last_error
    return "Switched off by a person."


def success_rate(successful: int, failed: int) -> float:
    """Return per cent with two decimals; 0 where nothing was tried yet."""
    tried = successful + failed
    return round(100 * successful / tried, 2) if tried else 0.0


USAGE_COLUMNS = (
    "id", "requestId", "attempt", "createdAt", "finishedAt", "keyId", "keyName", "provider", "dialect",
    "requestedModel", "model", "token", "state", "success", "httpStatus", "error", "inputTokens", "cachedInputTokens",
    "cacheWriteTokens", "outputTokens", "reasoningTokens", "cost", "costSource", "held", "overrun", "streamed",
    "latencyMs", "firstByteMs", "skipped",
)  # fmt: skip


def usage_json(row: UsageRecord) -> dict[str, Any]:
    """Return contract 5's JSON of a usage row; its `key` must be selected along."""
    return {
        "id": row.id,
        "requestId": row.request_id,
        "attempt": row.attempt,
        "createdAt": instant_json(row.created_at),
        "finishedAt": instant_json(row.finished_at),
        "keyId": row.key_id,
        "keyName": row.key.name,
        "provider": row.provider,
        "dialect": row.dialect,
        "requestedModel": row.requested_model,
        "model": row.model,
        "token": row.token_name,
        "state": row.state,
        "success": row.success,
        "httpStatus": row.http_status,
        "error": row.error,
        "inputTokens": row.input_tokens,
        "cachedInputTokens": row.cached_input_tokens,
        "cacheWriteTokens": row.cache_write_tokens,
        "outputTokens": row.output_tokens,
        "reasoningTokens": row.reasoning_tokens,
        "cost": usd_json(row.cost_nano),
        "costSource": row.cost_source,
        "held": usd_json(row.hold_nano),
        "overrun": row.overrun,
        "streamed": row.streamed,
        "latencyMs": row.latency_ms,
        "firstByteMs": row.first_byte_ms,
        "skipped": row.skipped,
    }


def csv_file(name: str, lines: Iterable[str]) -> StreamingHttpResponse:
    """Return the lines of a CSV file as a download that is written while it is read."""
    return StreamingHttpResponse(
        lines,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )


def token_json(token: AccessToken) -> dict[str, Any]:
    """Return an access token without its text, which is shown once at its making."""
    return {
        "id": token.id,
        "name": token.name,
        "scopes": token.scopes,
        "user": token.user.get_username(),
        "keyIds": [key.id for key in token.keys.all()],
        "createdAt": instant_json(token.created_at),
        "expiresAt": instant_json(token.expires_at),
        "revokedAt": instant_json(token.revoked_at),
        "lastUsed": instant_json(token.last_used_at),
    }
