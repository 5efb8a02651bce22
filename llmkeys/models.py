"""What is stored. Facts and deadlines only: moods such as the status are derived (`key_state.py`).

Money is integer nano-dollars (10^-9 USD), `_nano` in the name; instants are aware and stored in UTC; `day` is a budget
day and `month` the first day of a budget month in the operator's zone.
"""

from __future__ import annotations

import secrets
import time
from datetime import date
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from llmkeys.key_state import AccessTokenQuerySet, ApiKeyQuerySet, BudgetState, KeyState, TokenState

_last_millisecond = 0


def new_key_id() -> str:
    """Return a public id such as `key-1795478400123-4821`: milliseconds and four random digits.

    No two of one process share the milliseconds, so that an import of many keys at once meets no twin.
    """
    global _last_millisecond
    _last_millisecond = max(time.time_ns() // 1_000_000, _last_millisecond + 1)
    return f"key-{_last_millisecond}-{secrets.randbelow(9000) + 1000}"


class ProviderName(models.TextChoices):
    OPENROUTER = "openrouter", "OpenRouter"
    OPENAI = "openai", "OpenAI"
    ANTHROPIC = "anthropic", "Anthropic"
    GOOGLE = "google", "Google"


class Budgeted(BudgetState, models.Model):
    """An account of the ledger: a limit for each of `WINDOWS`, what is spent in it, and what is held.

    Spent, held, windows and counters belong to `ledger/`: nothing else writes them.
    """

    class Window(models.TextChoices):
        NONE = ""
        DAY = "day"
        MONTH = "month"
        TOTAL = "total"

    class BudgetMode(models.TextChoices):
        STRICT = "strict", "strict: never exceeded"
        SOFT = "soft", "soft: checked before, charged after"

    NEVER = date(2000, 1, 1)  # no window was opened yet: the first hold opens one

    daily_limit_nano = models.BigIntegerField(default=0)
    monthly_limit_nano = models.BigIntegerField(default=0)
    total_limit_nano = models.BigIntegerField(default=0)
    budget_mode = models.CharField(
        max_length=10, choices=BudgetMode, null=True, blank=True, help_text="Empty: as REFACTAI_BUDGET_MODE says."
    )
    day = models.DateField(default=NEVER, editable=False)
    month = models.DateField(default=NEVER, editable=False)
    spent_day_nano = models.BigIntegerField(default=0, editable=False)
    spent_month_nano = models.BigIntegerField(default=0, editable=False)
    spent_total_nano = models.BigIntegerField(default=0, editable=False)
    held_nano = models.BigIntegerField(default=0, editable=False)

    refused_window = models.CharField(max_length=10, choices=Window, blank=True, default="", editable=False)
    refused_day = models.DateField(null=True, editable=False)
    refused_need_nano = models.BigIntegerField(default=0, editable=False)
    refused_room_nano = models.BigIntegerField(default=0, editable=False)

    total_requests = models.BigIntegerField(default=0, editable=False)
    successful_requests = models.BigIntegerField(default=0, editable=False)
    failed_requests = models.BigIntegerField(default=0, editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        abstract = True


def account_constraints(name: str) -> list[models.CheckConstraint]:
    """Return the constraints that every table of accounts has, under names of its own."""
    return [
        models.CheckConstraint(condition=Q(held_nano__gte=0), name=f"{name}_held_not_negative"),
        models.CheckConstraint(
            condition=Q(daily_limit_nano__gte=0, monthly_limit_nano__gte=0, total_limit_nano__gte=0),
            name=f"{name}_limits_not_negative",
        ),
    ]


class ApiKey(KeyState, Budgeted):
    """A provider's API key with its budgets."""

    class Source(models.TextChoices):
        DATABASE = "database"
        ENVIRONMENT = "environment"

    id = models.CharField(primary_key=True, max_length=40, default=new_key_id, editable=False)
    provider = models.CharField(max_length=20, choices=ProviderName)
    name = models.CharField(max_length=100)
    description = models.CharField(max_length=500, blank=True, default="")
    source = models.CharField(max_length=20, choices=Source, default=Source.DATABASE, editable=False)
    environment_variable = models.CharField(max_length=40, blank=True, default="", editable=False)

    secret = models.BinaryField(default=b"", editable=False)
    fingerprint = models.CharField(max_length=64, null=True, editable=False)
    masked_secret = models.CharField(max_length=60, default="***", editable=False)
    secret_missing = models.BooleanField(default=False, editable=False)

    enabled = models.BooleanField(default=True)
    rejected_at = models.DateTimeField(null=True, blank=True, editable=False)
    is_default = models.BooleanField(default=False)
    priority = models.IntegerField(default=100, help_text="Lower serves earlier, after the default key.")
    expires_at = models.DateTimeField(null=True, blank=True)
    billing_group = models.CharField(
        max_length=100,
        blank=True,
        default="",
        help_text="Keys of one provider account share its limits and rest together.",
    )
    workspace_id = models.CharField(max_length=100, blank=True, default="", help_text="Anthropic keys that need one.")
    last_error = models.CharField(max_length=1000, blank=True, default="", editable=False)
    last_test_at = models.DateTimeField(null=True, editable=False)
    last_test = models.JSONField(default=dict, blank=True, editable=False)  # what the provider said of the key

    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(null=True, editable=False)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        verbose_name_plural = "API keys"
        ordering = ["-is_default", "priority", "created_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="apikey_one_default"),
            models.UniqueConstraint(fields=["provider", "fingerprint"], name="apikey_secret_stored_once"),
            models.UniqueConstraint(
                fields=["environment_variable"], condition=~Q(environment_variable=""), name="apikey_one_per_variable"
            ),
            models.CheckConstraint(condition=Q(provider__in=ProviderName.values), name="apikey_known_provider"),
            models.CheckConstraint(condition=~Q(name=""), name="apikey_has_a_name"),
            *account_constraints("apikey"),
            models.CheckConstraint(
                condition=Q(deleted_at__isnull=True) | Q(fingerprint__isnull=True, is_default=False, enabled=False),
                name="apikey_deleted_is_wiped",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.get_provider_display()})"


class Cooling(models.Model):
    """A key, or every key of a billing group, rests until an instant: for one model, or for all (`model` empty)."""

    class Kind(models.TextChoices):
        RATE_LIMITED = "rate_limited"
        EXHAUSTED = "exhausted"

    scope = models.CharField(max_length=160, help_text="`key:ID`, or `group:PROVIDER:NAME`.")
    model = models.CharField(max_length=200, blank=True, default="")
    kind = models.CharField(max_length=20, choices=Kind)
    until = models.DateTimeField(db_index=True)
    reason = models.CharField(max_length=500, blank=True, default="")
    strikes = models.PositiveIntegerField(default=1, help_text="Coolings in a row, for the back-off without a hint.")
    # After `until` one request asks first; the others see the key as cooling until it is answered, or until this.
    probe_until = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["scope", "model"], name="cooling_one_per_scope_and_model")]

    def __str__(self) -> str:
        return f"{self.scope} {self.model or 'all models'} until {self.until:%Y-%m-%d %H:%M:%S}"


class AccessToken(TokenState, Budgeted):
    """What a program of ours holds, and may have budgets as a key has; only the digest of the token is stored."""

    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    # After a rotation the secret before it holds until then.
    previous_digest = models.CharField(max_length=64, null=True, unique=True, editable=False)
    previous_until = models.DateTimeField(null=True, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="access_tokens")
    maker = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        editable=False,
        related_name="children",
        help_text="The token that made it, and whose end is its own.",
    )
    scope_gateway = models.BooleanField(default=True)
    scope_read = models.BooleanField(default=False)
    scope_manage = models.BooleanField(default=False)
    keys = models.ManyToManyField(ApiKey, blank=True, help_text="Only these keys serve it; none chosen: all.")
    limited_to_keys = models.BooleanField(default=False, editable=False)
    allowed_models = models.JSONField(
        null=True, blank=True, help_text="Names of models, or patterns such as openai/*; empty: every model."
    )
    requests_per_minute = models.PositiveIntegerField(default=0, help_text="0: no limit.")
    # The minute that was counted last, in minutes since 1970, and its requests; they belong to `ledger/`.
    minute = models.BigIntegerField(default=0, editable=False)
    minute_requests = models.PositiveIntegerField(default=0, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = AccessTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        permissions = [("use_gateway", "Can send requests through the gateway")]
        constraints = [
            models.CheckConstraint(condition=~Q(name=""), name="accesstoken_has_a_name"),
            *account_constraints("accesstoken"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def scopes(self) -> list[str]:
        given = {"gateway": self.scope_gateway, "read": self.scope_read, "manage": self.scope_manage}
        return [scope for scope, has in given.items() if has or self.scope_manage]

    @property
    def has_limits(self) -> bool:
        """True where it has a budget or a pace of its own."""
        limits = (self.daily_limit_nano, self.monthly_limit_nano, self.total_limit_nano, self.requests_per_minute)
        return any(limits)


class FailedAuthentication(models.Model):
    """A wrong access token came from an address; kept for a minute, to slow down whoever guesses."""

    address = models.CharField(max_length=45)
    at = models.DateTimeField(db_index=True)

    class Meta:
        indexes = [models.Index(fields=["address", "at"], name="failedauthentication_recent")]

    def __str__(self) -> str:
        return f"{self.address} at {self.at:%Y-%m-%d %H:%M:%S}"


def token_of_history() -> models.ForeignKey:
    """Return the column that names the access token beside its name: history stays when the token has gone."""
    return models.ForeignKey(
        AccessToken, on_delete=models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+"
    )


class UsageRecord(models.Model):
    """One attempt of one request: which key, why, tokens, cost, and how the cost is known. Written by `ledger/`."""

    class State(models.TextChoices):
        HELD = "HELD"
        SETTLED = "SETTLED"
        RELEASED = "RELEASED"
        LOST = "LOST"

    class CostSource(models.TextChoices):
        NONE = ""
        PROVIDER = "provider"
        COMPUTED = "computed"
        FALLBACK = "fallback"
        ESTIMATED = "estimated"

    request_id = models.CharField(max_length=40)
    attempt = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField(db_index=True)
    finished_at = models.DateTimeField(null=True)
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="usage", db_index=False)
    provider = models.CharField(max_length=20)
    dialect = models.CharField(max_length=30)
    requested_model = models.CharField(max_length=200, blank=True)
    model = models.CharField(max_length=200)
    token_name = models.CharField(max_length=100, blank=True, default="")
    token = token_of_history()
    state = models.CharField(max_length=10, choices=State)
    success = models.BooleanField(null=True)
    http_status = models.PositiveSmallIntegerField(null=True)
    error = models.CharField(max_length=1000, blank=True, default="")
    input_tokens = models.BigIntegerField(null=True)
    cached_input_tokens = models.BigIntegerField(null=True)
    cache_write_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField(null=True)
    reasoning_tokens = models.BigIntegerField(null=True)
    max_tokens = models.PositiveIntegerField(null=True, help_text="The output limit, lowered to fit a budget.")
    hold_nano = models.BigIntegerField()
    cost_nano = models.BigIntegerField(default=0)
    cost_source = models.CharField(max_length=10, choices=CostSource, blank=True, default="")
    overrun = models.BooleanField(default=False)
    streamed = models.BooleanField(default=False)
    latency_ms = models.PositiveIntegerField(null=True)
    first_byte_ms = models.PositiveIntegerField(null=True)
    skipped = models.JSONField(default=list)
    upstream_id = models.CharField(max_length=100, blank=True, default="")
    # A digest of the last sealed thought in the answer: the next turn of its conversation prefers this key.
    sealed_thought = models.CharField(max_length=32, null=True)
    day = models.DateField()
    month = models.DateField()
    lease_owner = models.CharField(max_length=40, blank=True, default="")
    lease_until = models.DateTimeField(null=True)
    # Of a row that may be corrected later: the newest reset before it was charged. What a reset after it has taken
    # out of a budget, a correction does not take out again.
    charged_after = models.BigIntegerField(null=True)

    class Meta:
        verbose_name = "usage row"
        ordering = ["-id"]
        indexes = [
            # the key's page and `?key=`, newest first
            models.Index(fields=["key", "-id"], name="usage_by_key"),
            # open holds: renewed, settled when their lease ends, summed by the audit
            models.Index(fields=["lease_until"], condition=Q(state="HELD"), name="usage_open_holds"),
            models.Index(fields=["state", "-id"], condition=Q(state="LOST"), name="usage_lost"),
            # what the provider may still tell the true cost of
            models.Index(
                fields=["created_at"],
                condition=Q(provider="openrouter", cost_source="estimated"),
                name="usage_to_reconcile",
            ),
            # what a list looks for and finds seldom: without these it would read all rows to fill its page
            models.Index(fields=["model", "-id"], name="usage_by_model"),
            models.Index(fields=["token_name", "-id"], name="usage_by_token"),
            models.Index(fields=["token", "-id"], condition=Q(token__isnull=False), name="usage_by_token_id"),
            models.Index(fields=["-id"], condition=Q(success=False), name="usage_failed"),
            models.Index(fields=["-id"], condition=Q(state="RELEASED"), name="usage_released"),
            models.Index(
                fields=["-id"], condition=Q(cost_source__in=["estimated", "fallback"]), name="usage_estimated"
            ),
            # which key wrote a sealed thought
            models.Index(
                fields=["sealed_thought"], condition=Q(sealed_thought__isnull=False), name="usage_by_sealed_thought"
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["request_id", "attempt"], name="usage_one_row_per_attempt"),
            models.CheckConstraint(
                condition=Q(state__in=["HELD", "SETTLED", "RELEASED", "LOST"]), name="usage_known_state"
            ),
            models.CheckConstraint(condition=Q(hold_nano__gte=0, cost_nano__gte=0), name="usage_money_not_negative"),
            models.CheckConstraint(
                condition=~Q(state="HELD") | Q(lease_until__isnull=False, cost_nano=0), name="usage_held_has_a_lease"
            ),
            models.CheckConstraint(condition=~Q(state="RELEASED") | Q(cost_nano=0), name="usage_released_is_free"),
        ]

    def __str__(self) -> str:
        return f"{self.request_id}/{self.attempt} {self.state}"


class Adjustment(models.Model):
    """A signed correction of what an account has spent in its windows; history itself is never edited."""

    class Kind(models.TextChoices):
        OPENING = "opening"
        RESET = "reset"
        VOID = "void"
        LATE = "late"
        RECONCILE = "reconcile"
        AUDIT = "audit"

    kind = models.CharField(max_length=10, choices=Kind)
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, null=True, related_name="adjustments")
    token = models.ForeignKey(
        AccessToken, on_delete=models.DO_NOTHING, null=True, db_constraint=False, related_name="adjustments"
    )
    usage = models.ForeignKey(UsageRecord, on_delete=models.PROTECT, null=True, related_name="adjustments")
    # What moves in each window. They differ where a reset takes a different amount out of each, and where one has
    # taken out before what a row's correction would take out.
    day_nano = models.BigIntegerField(default=0)
    month_nano = models.BigIntegerField(default=0)
    total_nano = models.BigIntegerField(default=0)
    cost_nano = models.BigIntegerField(default=0, help_text="What the row's cost is corrected by; charts show it.")
    # How the true cost of a `late` or `reconcile` correction is known; empty: the provider's figure, or computed.
    cost_source = models.CharField(max_length=10, blank=True, db_default="")
    day = models.DateField()
    month = models.DateField()
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.CharField(max_length=150, blank=True, default="")
    reason = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "usage", "key"],
                condition=Q(usage__isnull=False, key__isnull=False),
                name="adjustment_once_per_source",
            ),
            models.UniqueConstraint(
                fields=["kind", "usage", "token"],
                condition=Q(usage__isnull=False, token__isnull=False),
                name="adjustment_once_per_source_and_token",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.total_nano} on {self.key_id or self.token_id}"


class DailyUsage(models.Model):
    """What was spent on a budget day by key, model and token: charts and summaries read this, never single rows."""

    day = models.DateField()
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="daily_usage", db_index=False)
    model = models.CharField(max_length=200)
    token_name = models.CharField(max_length=100, default="", blank=True)
    token = token_of_history()
    requests = models.BigIntegerField(default=0)
    successful = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost_nano = models.BigIntegerField(default=0)
    # Parts of the cost that nobody reported or computed (`ledger/records.py`); the rest is known.
    estimated_nano = models.BigIntegerField(default=0)
    lost_nano = models.BigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "daily usage"
        ordering = ["-day"]
        constraints = [
            models.UniqueConstraint(
                "key", "day", "model", "token_name", Coalesce("token", 0), name="dailyusage_one_per_group"
            )
        ]
        indexes = [
            models.Index(fields=["day"], name="dailyusage_by_day"),
            models.Index(fields=["token", "day"], condition=Q(token__isnull=False), name="dailyusage_by_token"),
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.key_id} {self.model}"


class Totals(models.Model):
    """Sums derived from the daily totals of days that are over, so that a summary of a year reads few rows.

    Written by `usage/closed_days.py` alone, at a summary's first need; they may be thrown away at any time. Whoever
    corrects a day that is over need not know of them: triggers of the database (migration 0004) reopen that day.
    """

    day = models.DateField()
    model = models.CharField(max_length=200)
    token_name = models.CharField(max_length=100)
    token = token_of_history()
    requests = models.BigIntegerField()
    successful = models.BigIntegerField()
    failed = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cost_nano = models.BigIntegerField()
    estimated_nano = models.BigIntegerField(default=0)
    lost_nano = models.BigIntegerField(default=0)

    class Meta:
        abstract = True


class DayTotal(Totals):
    """A closed day by provider, model and token: the daily totals without their keys."""

    provider = models.CharField(max_length=20)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "day", "provider", "model", "token_name", Coalesce("token", 0), name="daytotal_one_per_group"
            )
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.provider} {self.model}"


class RunningTotal(Totals):
    """All that a key was used for until the end of a closed day: two of these give the sum of any span."""

    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="+", db_index=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "day", "key", "model", "token_name", Coalesce("token", 0), name="runningtotal_one_per_group"
            )
        ]

    def __str__(self) -> str:
        return f"until {self.day} {self.key_id} {self.model}"


class ClosedDay(models.Model):
    """A day whose `DayTotal` rows hold, and, where `running`, whose `RunningTotal` rows hold too."""

    day = models.DateField(primary_key=True)
    running = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"{self.day}"


class KeyEvent(models.Model):
    """Something that changed by itself, or by a person's hand, in words."""

    class Kind(models.TextChoices):
        LIMIT_REACHED = "limit_reached"
        ROTATED = "rotated"
        COOLED = "cooled"
        EXHAUSTED = "exhausted"
        REJECTED = "rejected"
        ACCEPTED = "accepted"
        EXPIRED = "expired"
        WINDOW_RESET = "window_reset"
        COST_RESET = "cost_reset"
        DEFAULT_CHANGED = "default_changed"
        ADDED = "added"
        CHANGED = "changed"
        DELETED = "deleted"
        WARNED = "warned"
        EXPIRING = "expiring"
        RECOVERED = "recovered"
        RECONCILED = "reconciled"
        VOIDED = "voided"
        PRUNED = "pruned"

    kind = models.CharField(max_length=20, choices=Kind)
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="events", null=True)
    token = models.ForeignKey(AccessToken, on_delete=models.SET_NULL, related_name="events", null=True)
    message = models.CharField(max_length=1000)
    actor = models.CharField(max_length=150, blank=True, default="", help_text="Who did it; empty: by itself.")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    # Set where a kind happens once per key and window; the database then refuses the second.
    once = models.CharField(max_length=120, null=True, unique=True, editable=False)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.message


class Alert(models.Model):
    """What the operator must hear of, once per key, kind and window: an outbox that a dead target cannot block."""

    class Kind(models.TextChoices):
        WARNING_THRESHOLD = "warning_threshold"
        LIMIT_REACHED = "limit_reached"
        KEY_REJECTED = "key_rejected"
        KEY_EXHAUSTED = "key_exhausted"
        KEY_EXPIRES = "key_expires"
        KEY_EXPIRED = "key_expired"
        NO_KEY_LEFT = "no_key_left"
        FALLBACK_PRICE = "fallback_price"
        SCHEDULER_STALLED = "scheduler_stalled"
        BACKUP_FAILED = "backup_failed"
        TEST = "test"

    kind = models.CharField(max_length=20, choices=Kind)
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="alerts", null=True)
    token = models.ForeignKey(AccessToken, on_delete=models.SET_NULL, related_name="alerts", null=True)
    message = models.CharField(max_length=1000)
    created_at = models.DateTimeField(default=timezone.now)
    once = models.CharField(max_length=160, null=True, unique=True, editable=False)
    claimed_until = models.DateTimeField(null=True, editable=False)  # a process is sending it now
    sent_at = models.DateTimeField(null=True, editable=False)
    tries = models.PositiveSmallIntegerField(default=0, editable=False)
    delivery_error = models.CharField(max_length=500, blank=True, default="", editable=False)
    seen_at = models.DateTimeField(null=True, editable=False, help_text="When a person dismissed it on the dashboard.")

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["id"], condition=Q(sent_at__isnull=True), name="alert_unsent"),
            models.Index(fields=["-id"], condition=Q(seen_at__isnull=True), name="alert_unseen"),
        ]

    def __str__(self) -> str:
        return self.message

    @property
    def of(self) -> tuple[str | None, int | None] | None:
        """The key or token that it is about, None where it is about neither."""
        return (self.key_id, self.token_id) if self.key_id or self.token_id else None


class SealedDay(models.Model):
    """A day whose single rows were pruned after its totals had been verified: the audit trusts the totals since."""

    day = models.DateField(primary_key=True)
    rows = models.BigIntegerField(default=0, help_text="Usage rows that were pruned.")
    cost_nano = models.BigIntegerField(default=0)
    sealed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-day"]

    def __str__(self) -> str:
        return f"{self.day}"


class ServingKey(models.Model):
    """The key that served a model last, so that a rotation is told once and not per request."""

    model = models.CharField(max_length=200, primary_key=True)
    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE)

    def __str__(self) -> str:
        return f"{self.model}: {self.key_id}"


AUTO = "auto"  # what clients send who leave the model to us
MOST_ALIASED = 20  # models of one alias

PRICES = ("input_usd_per_mtok", "output_usd_per_mtok")
OPTIONAL_PRICES = (
    "cached_input_usd_per_mtok", "cache_write_usd_per_mtok", "cache_write_1h_usd_per_mtok", "audio_input_usd_per_mtok",
    "cached_audio_input_usd_per_mtok", "image_input_usd_per_mtok", "reasoning_output_usd_per_mtok",
    "audio_output_usd_per_mtok", "image_output_usd_per_mtok", "search_usd", "request_usd",
)  # fmt: skip


def _usd_per_million(kind: str, **options: Any) -> models.DecimalField:
    return models.DecimalField(f"{kind}, USD per million tokens", max_digits=16, decimal_places=8, **options)


class ModelPrice(models.Model):
    """The operator's own price of a model at a tier, for prompts above a length; it wins over the price data."""

    class Tier(models.TextChoices):
        STANDARD = "", "Standard"
        FLEX = "flex", "Flex"
        PRIORITY = "priority", "Priority"
        FAST = "fast", "Fast"

    provider = models.CharField(max_length=20, choices=ProviderName)
    model = models.CharField(max_length=200, help_text="The provider's own name of the model.")
    service_tier = models.CharField(max_length=20, choices=Tier, default=Tier.STANDARD, blank=True)
    above_input_tokens = models.PositiveIntegerField(
        default=0, help_text="For prompts with more input tokens than this; 0: for all."
    )
    valid_from = models.DateTimeField(default=timezone.now)
    input_usd_per_mtok = _usd_per_million("input")
    output_usd_per_mtok = _usd_per_million("output")
    cached_input_usd_per_mtok = _usd_per_million("cached input", null=True, blank=True)
    cache_write_usd_per_mtok = _usd_per_million("cache write", null=True, blank=True)
    cache_write_1h_usd_per_mtok = _usd_per_million("cache write for an hour", null=True, blank=True)
    audio_input_usd_per_mtok = _usd_per_million("audio input", null=True, blank=True)
    cached_audio_input_usd_per_mtok = _usd_per_million("cached audio input", null=True, blank=True)
    image_input_usd_per_mtok = _usd_per_million("image input", null=True, blank=True)
    reasoning_output_usd_per_mtok = _usd_per_million("reasoning output", null=True, blank=True)
    audio_output_usd_per_mtok = _usd_per_million("audio output", null=True, blank=True)
    image_output_usd_per_mtok = _usd_per_million("image output", null=True, blank=True)
    search_usd = models.DecimalField("a search, USD", max_digits=16, decimal_places=8, null=True, blank=True)
    request_usd = models.DecimalField("a request, USD", max_digits=16, decimal_places=8, null=True, blank=True)

    class Meta:
        ordering = ["provider", "model", "service_tier", "above_input_tokens", "-valid_from"]
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "model", "service_tier", "above_input_tokens", "valid_from"],
                name="modelprice_one_at_a_time",
            ),
            models.CheckConstraint(
                condition=Q(input_usd_per_mtok__gte=0, output_usd_per_mtok__gte=0), name="modelprice_not_negative"
            ),
            models.CheckConstraint(
                condition=Q(*(Q(**{name: None}) | Q(**{f"{name}__gte": 0}) for name in OPTIONAL_PRICES)),
                name="modelprice_kinds_not_negative",
            ),
        ]

    def __str__(self) -> str:
        parts = [self.get_provider_display(), self.model]
        if self.service_tier:
            parts.append(f"({self.get_service_tier_display()})")
        if self.above_input_tokens:
            parts.append(f"above {self.above_input_tokens:,} tokens")
        return " ".join([*parts, f"from {self.valid_from:%Y-%m-%d}"])

    def clean(self) -> None:
        """A price of long prompts goes with one of short prompts, or it would never count."""
        if not self.above_input_tokens or not (self.provider and self.model):
            return
        same = ModelPrice.objects.filter(provider=self.provider, model=self.model, service_tier=self.service_tier or "")
        if not same.filter(above_input_tokens=0, valid_from__lte=self.valid_from).exists():
            raise ValidationError(
                {"above_input_tokens": "Give the price of all prompts (0) first, from the same date or an earlier one."}
            )


class ModelAlias(models.Model):
    """A name that clients send: for some models in turn, or at one provider another name of one model.

    `auto` is such a name; where the operator gives it no models, the settings' primary and fallback models count.
    """

    provider = models.CharField(
        max_length=20,
        choices=ProviderName,
        blank=True,
        default="",
        help_text="Empty: the models are tried in turn, at every provider that has them. Else: how this provider "
        "calls the one model.",
    )
    alias = models.CharField(max_length=200, help_text="The name that clients send.")
    model_names = models.JSONField(default=list, help_text="Names of models, in the order in which they are tried.")

    class Meta:
        verbose_name_plural = "model aliases"
        ordering = ["alias", "provider"]
        constraints = [models.UniqueConstraint(fields=["provider", "alias"], name="modelalias_one_per_provider")]

    def __str__(self) -> str:
        return f"{self.alias} → {', '.join(self.model_names)}"

    def clean(self) -> None:
        problem = self._problem_of_names()
        if problem:
            raise ValidationError({"model_names": problem})

    def _problem_of_names(self) -> str:
        names = self.model_names
        if not isinstance(names, list) or not names or len(names) > MOST_ALIASED:
            return f"Must be a list of 1 to {MOST_ALIASED} names of models."
        if not all(
            isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= 200 for name in names
        ):
            return "Each name must have 1 to 200 printable characters."
        if len(set(names)) < len(names):
            return "Each model may be named once."
        if AUTO in names:
            return f"“{AUTO}” is not a model."
        if self.provider and len(names) > 1:
            return "At one provider the name stands for one model. Leave the provider empty for several."
        return ""
