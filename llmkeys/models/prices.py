"""The operator's own prices, and aliases of models."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone

from llmkeys.models.accounts import ProviderName

AUTO = "auto"  # sent by clients that leave the choice of the model to us
MOST_ALIASED = 20  # models per alias

PRICES = ("input_usd_per_mtok", "output_usd_per_mtok")
OPTIONAL_PRICES = (
    "cached_input_usd_per_mtok", "cache_write_usd_per_mtok", "cache_write_1h_usd_per_mtok", "audio_input_usd_per_mtok",
    "cached_audio_input_usd_per_mtok", "image_input_usd_per_mtok", "reasoning_output_usd_per_mtok",
    "audio_output_usd_per_mtok", "image_output_usd_per_mtok", "search_usd", "request_usd",
)  # fmt: skip


def _usd_per_million(kind: str, **options: Any) -> models.DecimalField:
    return models.DecimalField(f"{kind}, USD per million tokens", max_digits=16, decimal_places=8, **options)


class ModelPrice(models.Model):
    """The operator's price of a model at a tier, for prompts above a length; it overrides the price data."""

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
        """Require a price of short prompts for one of long prompts, which would have no effect without it."""
        if not self.above_input_tokens or not (self.provider and self.model):
            return
        same = ModelPrice.objects.filter(provider=self.provider, model=self.model, service_tier=self.service_tier or "")
        shown = self.valid_from + timedelta(milliseconds=1)  # times are shown, and so given back, without microseconds
        if not same.filter(above_input_tokens=0, valid_from__lt=shown).exists():
            raise ValidationError(
                {"above_input_tokens": "Give the price of all prompts (0) first, from the same date or an earlier one."}
            )


class ModelAlias(models.Model):
    """A name that clients send for a list of models to try in turn, or at one provider for a single model.

    `auto` is such a name; without models of its own it stands for the primary and fallback models from the settings.
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
            return f"Must be a list of 1 to {MOST_ALIASED} model names."
        if not all(
            isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= 200 for name in names
        ):
            return "Each name must have 1 to 200 printable characters."
        if len(set(names)) < len(names):
            return "Each model may be listed only once."
        if AUTO in names:
            return f"“{AUTO}” is not a model."
        if self.provider and len(names) > 1:
            return "With a provider, an alias stands for one model only. Leave the provider empty to list several."
        return ""
