"""The status and room of a key or token at an instant, derived: in SQL (the querysets), and for a row (the mixins).

`tests/test_key_state.py` holds the two together with a property-based test. Admission never reads any of this: the
conditional UPDATE in `ledger/` decides for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol

from django.conf import settings
from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Cast, Least
from django.utils import timezone

from llmkeys.database.sql import as_date
from llmkeys.lib.windows import TOTAL, WINDOWS, Windows, window_end, windows_at

ACTIVE, LIMIT_REACHED, EXPIRED, DISABLED = "ACTIVE", "LIMIT_REACHED", "EXPIRED", "DISABLED"
REVOKED = "REVOKED"
STATUSES = (ACTIVE, LIMIT_REACHED, EXPIRED, DISABLED)
TOKEN_STATUSES = (ACTIVE, LIMIT_REACHED, EXPIRED, REVOKED)


def current_windows(at: datetime) -> Windows:
    """Return the budget day and month of `at` in the operator's time zone."""
    return windows_at(at, settings.TIME_ZONE)


def cooling_scopes(key_id: str, provider: str, billing_group: str) -> tuple[str, ...]:
    """Return the scopes of the coolings that apply to a key: its own, and its billing group's if it has one."""
    return (f"key:{key_id}", f"group:{provider}:{billing_group}") if billing_group else (f"key:{key_id}",)


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget of an account at a given time, in nano-dollars; a `limit` of 0 means none."""

    window: str
    limit: int
    spent: int
    held: int
    resets_at: datetime | None

    @property
    def remaining(self) -> int | None:
        """What is left for new holds, never below zero; None if there is no limit."""
        return None if self.limit == 0 else max(0, self.limit - self.spent - self.held)

    @property
    def is_reached(self) -> bool:
        return 0 < self.limit <= self.spent


class AccountRow(Protocol):
    """The columns that determine an account's budgets."""

    held_nano: int
    refused_window: str
    refused_day: date | None

    def budgets(self, at: datetime) -> tuple[Budget, ...]: ...


class KeyRow(AccountRow, Protocol):
    """The columns that determine a key's status."""

    enabled: bool
    rejected_at: datetime | None
    secret_missing: bool
    deleted_at: datetime | None
    expires_at: datetime | None

    @property
    def is_off(self) -> bool: ...

    def is_expired(self, at: datetime) -> bool: ...

    def reached_budget(self, at: datetime) -> Budget | None: ...

    def is_refused(self, at: datetime) -> bool: ...


class TokenRow(AccountRow, Protocol):
    """The columns that determine an access token's status."""

    revoked_at: datetime | None
    expires_at: datetime | None
    user: Any

    def is_expired(self, at: datetime) -> bool: ...

    def reached_budget(self, at: datetime) -> Budget | None: ...

    def is_refused(self, at: datetime) -> bool: ...


class BudgetState:
    """The state of an account's budgets at a given time. Mixed into `Budgeted`."""

    def budgets(self: AccountRow, at: datetime) -> tuple[Budget, ...]:
        """Return a budget for each of `WINDOWS`. A stored window later than ours still counts: they never go back."""
        now = current_windows(at)
        found = []
        for window in WINDOWS:
            spent, resets_at = getattr(self, window.spent), None
            if window.ends:
                stored, current = getattr(self, window.name), getattr(now, window.name)
                spent = spent if stored >= current else 0
                resets_at = window_end(window, max(stored, current), settings.TIME_ZONE)
            found.append(Budget(window.name, getattr(self, window.limit), max(0, spent), self.held_nano, resets_at))
        return tuple(found)

    def reached_budget(self: AccountRow, at: datetime) -> Budget | None:
        """Return the spent budget whose window ends last, or None if none is spent."""
        if not settings.COST_TRACKING:
            return None
        return next((budget for budget in reversed(self.budgets(at)) if budget.is_reached), None)

    def is_refused(self: AccountRow, at: datetime) -> bool:
        """Return whether the last request for this account found no room in a window that has not ended."""
        if not self.refused_window or not settings.COST_TRACKING:
            return False
        if self.refused_window == TOTAL:
            return True
        return self.refused_day is not None and self.refused_day >= getattr(current_windows(at), self.refused_window)


def limit_reached_q(at: datetime) -> Q:
    """Return `reached_budget` or `is_refused` in SQL."""
    if not settings.COST_TRACKING:
        return Q(pk__in=[])
    now, found = current_windows(at), Q()
    for window in WINDOWS:
        runs = {f"{window.name}__gte": getattr(now, window.name)} if window.ends else {}
        refused = {"refused_day__gte": getattr(now, window.name)} if window.ends else {}
        found |= Q(**{f"{window.limit}__gt": 0, f"{window.spent}__gte": F(window.limit)}, **runs)
        found |= Q(refused_window=window.name, **refused)
    return found


class KeyState:
    """The state of a key at a given time. Mixed into `ApiKey`."""

    def status_at(self: KeyRow, at: datetime) -> str:
        """Return the first status that applies at the aware datetime `at`."""
        if self.is_off:
            return DISABLED
        if self.is_expired(at):
            return EXPIRED
        if self.reached_budget(at) or self.is_refused(at):
            return LIMIT_REACHED
        return ACTIVE

    @property
    def is_off(self: KeyRow) -> bool:
        return not self.enabled or self.rejected_at is not None or self.secret_missing or self.deleted_at is not None

    def is_expired(self: KeyRow, at: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= at


class TokenState:
    """The state of an access token at a given time. Mixed into `AccessToken`."""

    def status_at(self: TokenRow, at: datetime) -> str:
        """Return the first status that applies; a token is revoked while its user is disabled."""
        if self.revoked_at is not None or not self.user.is_active:
            return REVOKED
        if self.is_expired(at):
            return EXPIRED
        if self.reached_budget(at) or self.is_refused(at):
            return LIMIT_REACHED
        return ACTIVE

    def is_expired(self: TokenRow, at: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= at


def serving_place(key: Any, at: datetime) -> tuple[Any, ...]:
    """Return what keys are sorted by into serving order; `key` is an ApiKey, or a row with attributes named so.

    `fill`: the default key, then lower priority, then older ones: one key is used until it is full. `spread`: among
    keys of one priority the one with the largest share of its tightest budget left. Keys from the environment come
    last. The same in SQL is `in_serving_order`; a test holds the two together.
    """
    is_last, not_default, age = key.source == "environment", not key.is_default, (key.created_at, key.id)
    if settings.KEY_ORDER == "fill":
        return (not_default, is_last, key.priority, *age)
    return (is_last, key.priority, -_share_left(key, current_windows(at)), not_default, *age)


def _share_left(key: Any, now: Windows) -> float:
    shares = [1.0]
    for window in WINDOWS:
        limit = getattr(key, window.limit)
        if limit:
            runs = not window.ends or as_date(getattr(key, window.name)) >= getattr(now, window.name)
            left = limit - (getattr(key, window.spent) if runs else 0) - key.held_nano
            shares.append(left * 1.0 / limit)
    return min(shares)


def _share_left_in_sql(at: datetime) -> Least:
    now = current_windows(at)
    shares: list[Any] = [Value(1.0)]
    for window in WINDOWS:
        limit = F(window.limit)
        ended = {f"{window.name}__lt": getattr(now, window.name)} if window.ends else {"pk__in": []}
        spent_now = Case(
            When(Q(**ended), then=Value(0)), default=F(window.spent), output_field=models.BigIntegerField()
        )
        left = Cast(limit - spent_now - F("held_nano"), models.FloatField()) / Cast(limit, models.FloatField())
        no_limit = When(Q(**{window.limit: 0}), then=Value(1.0))
        shares.append(Case(no_limit, default=left, output_field=models.FloatField()))
    return Least(*shares, output_field=models.FloatField())


class ApiKeyQuerySet(models.QuerySet):
    """The state of keys, in SQL."""

    def stored(self) -> ApiKeyQuerySet:
        """Leave out deleted keys, which are kept only for their history."""
        return self.filter(deleted_at__isnull=True)

    def in_serving_order(self, at: datetime | None = None) -> ApiKeyQuerySet:
        """Order as `serving_place` does. `at` matters only with REFACTAI_KEY_ORDER=spread and defaults to now."""
        found = self.alias(from_environment=Case(When(source="environment", then=Value(1)), default=Value(0)))
        if settings.KEY_ORDER == "fill":
            return found.order_by("-is_default", "from_environment", "priority", "created_at", "id")
        found = found.alias(share_left=_share_left_in_sql(at or timezone.now()))
        return found.order_by("from_environment", "priority", "-share_left", "-is_default", "created_at", "id")

    def with_status(self, at: datetime) -> ApiKeyQuerySet:
        """Annotate `status`, the same as `status_at`."""
        return self.annotate(
            status=Case(
                When(self.off_q(), then=Value(DISABLED)),
                When(expires_at__lte=at, then=Value(EXPIRED)),
                When(limit_reached_q(at), then=Value(LIMIT_REACHED)),
                default=Value(ACTIVE),
                output_field=models.CharField(),
            )
        )

    @staticmethod
    def off_q() -> Q:
        return Q(enabled=False) | Q(rejected_at__isnull=False) | Q(secret_missing=True) | Q(deleted_at__isnull=False)

    def usable(self, at: datetime) -> ApiKeyQuerySet:
        """Keep the keys that are enabled, not rejected and not expired, whatever their budgets and coolings."""
        return self.exclude(self.off_q()).filter(Q(expires_at__isnull=True) | Q(expires_at__gt=at))


class AccessTokenQuerySet(models.QuerySet):
    """The state of access tokens as SQL."""

    def live(self, at: datetime) -> AccessTokenQuerySet:
        """Keep the tokens that are valid at `at`: neither revoked nor expired, and with an active user."""
        not_expired = Q(expires_at__isnull=True) | Q(expires_at__gt=at)
        return self.filter(not_expired, revoked_at__isnull=True, user__is_active=True)

    def with_status(self, at: datetime) -> AccessTokenQuerySet:
        """Annotate `status`, the same as `status_at`."""
        return self.annotate(
            status=Case(
                When(Q(revoked_at__isnull=False) | Q(user__is_active=False), then=Value(REVOKED)),
                When(expires_at__lte=at, then=Value(EXPIRED)),
                When(limit_reached_q(at), then=Value(LIMIT_REACHED)),
                default=Value(ACTIVE),
                output_field=models.CharField(),
            )
        )
