"""Usage and its cost: single rows, corrections, and daily totals."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from llmkeys.models.accounts import AccessToken, ApiKey


def token_of_history() -> models.ForeignKey:
    """Return a reference to the access token without a constraint: history stays when the token is deleted."""
    return models.ForeignKey(
        AccessToken, on_delete=models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+"
    )


class UsageRecord(models.Model):
    """One attempt of a request: which key and why, its tokens, its cost and the source of the cost.

    Written by `ledger/`.
    """

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
    # A digest of the answer's last sealed thought, or of its id; the next turn of the conversation prefers this key.
    sealed_thought = models.CharField(max_length=32, null=True)
    day = models.DateField()
    month = models.DateField()
    lease_owner = models.CharField(max_length=40, blank=True, default="")
    lease_until = models.DateTimeField(null=True)
    # For rows that may be corrected later: the newest reset before the charge. What a later reset has removed from a
    # budget is not removed again by a correction.
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
            # rows whose actual cost the provider may still report
            models.Index(
                fields=["created_at"],
                condition=Q(provider="openrouter", cost_source="estimated"),
                name="usage_to_reconcile",
            ),
            # rare rows that a list filters by: without these it would read all rows to fill its page
            models.Index(fields=["model", "-id"], name="usage_by_model"),
            models.Index(fields=["token_name", "-id"], name="usage_by_token"),
            models.Index(fields=["token", "-id"], condition=Q(token__isnull=False), name="usage_by_token_id"),
            models.Index(fields=["-id"], condition=Q(success=False), name="usage_failed"),
            models.Index(fields=["-id"], condition=Q(state="RELEASED"), name="usage_released"),
            # with what they can also be filtered by: there may be many, of which few fit
            models.Index(
                fields=["-id", "key", "provider", "model", "token_name", "token", "success"],
                condition=Q(cost_source__in=["estimated", "fallback"]),
                name="usage_estimated",
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
    """A signed correction of what an account has spent in its windows; usage rows themselves are never edited."""

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
    # The change in each window. They differ if a reset removes a different amount from each, or if a reset has already
    # removed what the correction of a row would remove.
    day_nano = models.BigIntegerField(default=0)
    month_nano = models.BigIntegerField(default=0)
    total_nano = models.BigIntegerField(default=0)
    cost_nano = models.BigIntegerField(default=0, help_text="What the row's cost is corrected by; charts show it.")
    # The source of the actual cost of a `late` or `reconcile` correction; empty: the provider's figure, or computed.
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
    """The usage of a budget day by key, model and token; charts and summaries read this instead of single rows."""

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
    # The parts of the cost that are neither reported nor computed (`ledger/records.py`).
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
    """Sums derived from the daily totals of past days, so that a summary of a year reads few rows.

    Written only by `usage/closed_days.py`, when a summary first needs them; they may be deleted at any time. Code that
    corrects a past day need not update them: database triggers (migration 0004) reopen that day.
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
    """The totals of a closed day by provider, model and token, summed over keys."""

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
    """The usage of a key up to the end of a closed day; the difference of two gives the sum of any span."""

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
    """A day whose `DayTotal` rows are valid, and with `running` its `RunningTotal` rows too."""

    day = models.DateField(primary_key=True)
    running = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"{self.day}"


class SealedDay(models.Model):
    """A day whose usage rows were pruned after its totals had been verified; the audit then relies on the totals."""

    day = models.DateField(primary_key=True)
    rows = models.BigIntegerField(default=0, help_text="Usage rows that were pruned.")
    cost_nano = models.BigIntegerField(default=0)
    sealed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-day"]

    def __str__(self) -> str:
        return f"{self.day}"
