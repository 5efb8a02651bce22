"""Keys, tokens and usage rows as JSON, the same for REST, `--json` and exports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

from django.conf import settings
from django.db.models import Sum
from django.http import StreamingHttpResponse

from llmkeys.key_state import ACTIVE, Budget, cooling_scopes, current_windows
from llmkeys.lib.money import format_usd, usd_json
from llmkeys.lib.windows import MONTH, month_end
from llmkeys.models import AccessToken, Adjustment, ApiKey, Cooling, DailyUsage, UsageRecord

# How the cost of one answer is known, for the person who asked; a row's `costSource` → words.
KNOWN_BY = {
    "provider": "as the provider reports it",
    "computed": "computed from the price",
    "fallback": "at the fallback price: no price is known",
    "estimated": "estimated",
}


def known_words(rows: Iterable[UsageRecord]) -> str:
    """Return how the cost of a request's attempts is known: of its answer, and of attempts that were lost before it."""
    rows = list(rows)
    words = [KNOWN_BY.get(row.cost_source, "not tracked") for row in rows if row.state == "SETTLED"]
    if lost := sum(row.cost_nano for row in rows if row.state == "LOST"):
        known = f"{format_usd(lost)} of it " if words else ""
        words.append(f"{known}charged at the hold, because it is unknown whether the provider billed it")
    return "; ".join(words) or "nothing billed"


def instant_json(at: datetime | None) -> str | None:
    """Return ISO 8601 in UTC with `Z`, and milliseconds only if there are any."""
    if at is None:
        return None
    at = at.astimezone(UTC)
    text = at.isoformat(timespec="milliseconds" if at.microsecond // 1000 else "seconds")
    return text.replace("+00:00", "Z")


class Coolings:
    """Which keys are cooling, and until when, read once for a whole list."""

    def __init__(self, at: datetime):
        self._until: dict[str, datetime] = {}
        for scope, until in Cooling.objects.filter(until__gt=at).values_list("scope", "until"):
            self._until[scope] = max(until, self._until.get(scope, until))

    def until(self, key: ApiKey) -> datetime | None:
        """Return the latest end of the key's and its group's coolings, or None if it is not cooling."""
        scopes = cooling_scopes(key.id, key.provider, key.billing_group)
        return max((self._until[scope] for scope in scopes if scope in self._until), default=None)


PACE_DAYS = 7


class Projections:
    """The projected cost of the month, at the pace of the last seven whole days, read once for a list of accounts.

    A younger account is measured over the whole days it has existed, and an imported key over those since its import,
    because what it spent before has no daily totals; before the first there is no projection.
    """

    def __init__(self, at: datetime, column: str = "key_id", *, only: Sequence[Any] | None = None):
        """`column` refers to the accounts; `only` are the ids of those that are wanted, if not all."""
        self._at, self._today, self._column, self._only = at, current_windows(at).day, column, only
        ends = month_end(current_windows(at).month, settings.TIME_ZONE)
        self._days_left = (ends - at).total_seconds() / 86_400
        begins = self._today - timedelta(days=PACE_DAYS)
        days = DailyUsage.objects.filter(day__gte=begins, day__lt=self._today)
        sums = (days if only is None else days.filter(**{f"{column}__in": only})).values(column)
        self._spent = dict(sums.order_by().annotate(cost=Sum("cost_nano")).values_list(column, "cost"))

    def of(self, account: ApiKey | AccessToken) -> int | None:
        """Return nano-dollars."""
        rest = self.rest_of(account)
        if rest is None:
            return None
        month = next(budget for budget in account.budgets(self._at) if budget.window == MONTH)
        return month.spent + rest

    def rest_of(self, account: ApiKey | AccessToken) -> int | None:
        """Return what the account will cost from now to the end of the month, in nano-dollars."""
        age = (self._today - current_windows(account.created_at).day).days
        if age >= 1 and account.pk in self._imported:
            age = min(age, (self._today - self._imported[account.pk]).days)
        if age < 1:
            return None
        return round((self._spent.get(account.pk) or 0) / min(PACE_DAYS, age) * self._days_left)

    @cached_property
    def _imported(self) -> dict[Any, date]:
        """The days of the latest imports, by key. Few adjustments concern no usage row, and they have an index."""
        if self._column != "key_id":
            return {}
        openings = Adjustment.objects.filter(
            kind=Adjustment.Kind.OPENING, usage__isnull=True, day__gt=self._today - timedelta(days=PACE_DAYS)
        )
        found = openings if self._only is None else openings.filter(key_id__in=self._only)
        return dict(found.order_by("id").values_list("key_id", "day"))


def keys_json(keys: Iterable[ApiKey], *, at: datetime) -> list[dict[str, Any]]:
    coolings, projections = Coolings(at), Projections(at)
    return [key_json(key, at=at, coolings=coolings, projections=projections) for key in keys]


def key_json(
    key: ApiKey, *, at: datetime, coolings: Coolings | None = None, projections: Projections | None = None
) -> dict[str, Any]:
    """Return the JSON of a key as of `at`."""
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
        **_account_json(key, at, projections or Projections(at, only=[key.pk])),
        "updatedAt": instant_json(key.updated_at),
        "coolingUntil": instant_json((coolings or Coolings(at)).until(key)),
        "billingGroup": key.billing_group,
        "workspaceId": key.workspace_id,
        "lastError": error_words(key),
        "enabled": key.enabled,
    }


def tokens_json(tokens: Iterable[AccessToken], *, at: datetime) -> list[dict[str, Any]]:
    projections = Projections(at, "token_id")
    return [token_json(token, at=at, projections=projections) for token in tokens]


def token_json(token: AccessToken, *, at: datetime, projections: Projections | None = None) -> dict[str, Any]:
    """Return the JSON of an access token as of `at`, without its secret.

    Its `user` must be selected, and its `keys` prefetched, along.
    """
    return {
        "id": token.id,
        "name": token.name,
        "user": token.user.get_username(),
        "scopes": token.scopes,
        "keyIds": [key.id for key in token.stored_keys] if token.limited_to_keys else None,
        "models": token.allowed_models,
        "requestsPerMinute": token.requests_per_minute,
        "status": token.status_at(at),
        **_account_json(token, at, projections or Projections(at, "token_id", only=[token.pk])),
        "revokedAt": instant_json(token.revoked_at),
    }


def _account_json(account: ApiKey | AccessToken, at: datetime, projections: Projections) -> dict[str, Any]:
    """Return the fields that keys and access tokens share."""
    day, month, total = account.budgets(at)
    projected = projections.of(account)
    return {
        "dailyLimit": usd_json(day.limit),
        "monthlyLimit": usd_json(month.limit),
        "totalLimit": usd_json(total.limit),
        "currentDailyCost": usd_json(day.spent),
        "currentMonthlyCost": usd_json(month.spent),
        "totalCost": usd_json(total.spent),
        "reservedCost": usd_json(account.held_nano),
        "remainingDailyBudget": _remaining(day),
        "remainingMonthlyBudget": _remaining(month),
        "remainingTotalBudget": _remaining(total),
        "totalRequests": account.total_requests,
        "successfulRequests": account.successful_requests,
        "failedRequests": account.failed_requests,
        "successRate": success_rate(account.successful_requests, account.failed_requests),
        "createdAt": instant_json(account.created_at),
        "lastUsed": instant_json(account.last_used_at),
        "expiresAt": instant_json(account.expires_at),
        "budgetMode": account.budget_mode,
        "projectedMonthlyCost": None if projected is None else usd_json(projected),
    }


def _remaining(budget: Budget) -> float | None:
    return None if budget.remaining is None else usd_json(budget.remaining)


def error_words(key: ApiKey) -> str:
    """Return why a key is off, in words: what its provider says, or that a person did it; else its last error."""
    switched_off = "" if key.enabled else "Switched off manually."
    if key.rejected_at is not None or key.secret_missing:
        return key.last_error or switched_off
    return switched_off or key.last_error


def success_rate(successful: int, failed: int) -> float:
    """Return a percentage with two decimals; 0 if nothing was tried yet."""
    tried = successful + failed
    return round(100 * successful / tried, 2) if tried else 0.0


USAGE_COLUMNS = (
    "id", "requestId", "attempt", "createdAt", "finishedAt", "keyId", "keyName", "provider", "dialect",
    "requestedModel", "model", "token", "state", "success", "httpStatus", "error", "inputTokens", "cachedInputTokens",
    "cacheWriteTokens", "outputTokens", "reasoningTokens", "cost", "costSource", "held", "overrun", "streamed",
    "latencyMs", "firstByteMs", "skipped", "tokenId", "user", "maxTokens",
)  # fmt: skip


def usage_json(row: UsageRecord) -> dict[str, Any]:
    """Return the JSON of a usage row, whose `key` and `token__user` should be selected with it."""
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
        "tokenId": row.token_id,
        "user": row.token.user.get_username() if row.token is not None else "",
        "maxTokens": row.max_tokens,
    }


def csv_file(name: str, lines: Iterable[str]) -> StreamingHttpResponse:
    """Return the lines of a CSV file as a streamed download."""
    return StreamingHttpResponse(
        lines,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )
