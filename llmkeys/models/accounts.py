"""The accounts of the ledger, API keys and access tokens, and what can block them: coolings and failed logins."""

from __future__ import annotations

import secrets
import time
from datetime import date

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from llmkeys.key_state import AccessTokenQuerySet, ApiKeyQuerySet, BudgetState, KeyState, TokenState

_last_millisecond = 0


def new_key_id() -> str:
    """Return a public id such as `key-1795478400123-4821`: milliseconds and four random digits.

    The milliseconds are unique within a process, so that importing many keys at once causes no collision.
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
    """An account of the ledger: a limit and the amount spent for each of `WINDOWS`, and the amount held.

    Only `ledger/` writes the spent and held amounts, the windows and the counters.
    """

    class Window(models.TextChoices):
        NONE = ""
        DAY = "day"
        MONTH = "month"
        TOTAL = "total"

    class BudgetMode(models.TextChoices):
        STRICT = "strict", "strict: never exceeded"
        SOFT = "soft", "soft: checked before, charged after"

    NEVER = date(2000, 1, 1)  # no window has been opened yet: the first hold opens one

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
    """Return the constraints that every table of accounts has; their names begin with `name`."""
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
    last_test = models.JSONField(default=dict, blank=True, editable=False)  # the provider's answer about the key

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

    def forget_verdicts(self) -> list[str]:
        """Clear what the provider said about a secret that is being replaced; return the names of these fields."""
        self.rejected_at, self.last_error, self.last_test_at, self.last_test = None, "", None, {}
        return ["rejected_at", "last_error", "last_test_at", "last_test"]


class Cooling(models.Model):
    """A pause of a key, or of every key in a billing group, for one model or (`model` empty) for all."""

    class Kind(models.TextChoices):
        RATE_LIMITED = "rate_limited"
        EXHAUSTED = "exhausted"

    scope = models.CharField(max_length=160, help_text="`key:ID`, or `group:PROVIDER:NAME`.")
    model = models.CharField(max_length=200, blank=True, default="")
    kind = models.CharField(max_length=20, choices=Kind)
    until = models.DateTimeField(db_index=True)
    reason = models.CharField(max_length=500, blank=True, default="")
    strikes = models.PositiveIntegerField(default=1, help_text="Coolings in a row, for the back-off without a hint.")
    # After `until` one request tries the key first; for others it is cooling until that one is answered, or until this.
    probe_until = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["scope", "model"], name="cooling_one_per_scope_and_model")]

    def __str__(self) -> str:
        return f"{self.scope} {self.model or 'all models'} until {self.until:%Y-%m-%d %H:%M:%S}"


class AccessToken(TokenState, Budgeted):
    """An access token of a program, which can have budgets like a key; only the digest of the token is stored."""

    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    # After a rotation the previous secret is valid until this time.
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
    # The last minute that was counted, in minutes since 1970, and its requests; only `ledger/` writes them.
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
    def stored_keys(self) -> list[ApiKey]:
        """The keys that it is limited to, without deleted ones, which no longer serve."""
        return [key for key in self.keys.all() if key.deleted_at is None]

    @property
    def has_limits(self) -> bool:
        """True if it has a budget or a rate limit."""
        limits = (self.daily_limit_nano, self.monthly_limit_nano, self.total_limit_nano, self.requests_per_minute)
        return any(limits)


class FailedAuthentication(models.Model):
    """A request with an invalid access token; kept for a minute, to slow down guessing from its address."""

    address = models.CharField(max_length=45)
    at = models.DateTimeField(db_index=True)

    class Meta:
        indexes = [models.Index(fields=["address", "at"], name="failedauthentication_recent")]

    def __str__(self) -> str:
        return f"{self.address} at {self.at:%Y-%m-%d %H:%M:%S}"
