"""Events of keys and tokens, and alerts for the operator."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from llmkeys.models.accounts import AccessToken, ApiKey


class KeyEvent(models.Model):
    """Something that happened automatically or was done by a person, as a sentence."""

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
    # Set for events that occur at most once per key and window; the database refuses a second one.
    once = models.CharField(max_length=120, null=True, unique=True, editable=False)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.message


class Alert(models.Model):
    """An alert for the operator, once per key, kind and window; an outbox that a failing target cannot block."""

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
    def title(self) -> str:
        """What it is about in two words; a token expires as a key does."""
        words = self.Kind(self.kind).label.capitalize()
        return words.replace("Key", "Access token") if self.token_id else words

    @property
    def of(self) -> tuple[str | None, int | None] | None:
        """The key or token that it concerns, or None."""
        return (self.key_id, self.token_id) if self.key_id or self.token_id else None


class ServingKey(models.Model):
    """The key that last served a model, so that a rotation is recorded once and not for every request."""

    model = models.CharField(max_length=200, primary_key=True)
    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE)

    def __str__(self) -> str:
        return f"{self.model}: {self.key_id}"
