"""Sums derived from the daily totals of days that are over, so that a summary of a year reads few rows.

Written by `usage/closed_days.py` alone, at a summary's first need; they may be thrown away at any time. Whoever corrects
a day that is over need not know of them: triggers of the database (migration 0004) reopen that day.
"""

from __future__ import annotations

from django.db import models


class Totals(models.Model):
    """The columns of both kinds: what to group by, and the sums."""

    day = models.DateField()
    model = models.CharField(max_length=200)
    token_name = models.CharField(max_length=100)
    requests = models.BigIntegerField()
    successful = models.BigIntegerField()
    failed = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cost_nano = models.BigIntegerField()

    class Meta:
        abstract = True


class DayTotal(Totals):
    """A closed day by provider, model and token: the daily totals without their keys."""

    provider = models.CharField(max_length=20)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["day", "provider", "model", "token_name"], name="daytotal_one_per_group")
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.provider} {self.model}"


class RunningTotal(Totals):
    """All that a key was used for until the end of a closed day: two of these give the sum of any span."""

    key = models.ForeignKey("llmkeys.ApiKey", on_delete=models.PROTECT, related_name="+", db_index=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["day", "key", "model", "token_name"], name="runningtotal_one_per_group")
        ]

    def __str__(self) -> str:
        return f"until {self.day} {self.key_id} {self.model}"


class ClosedDay(models.Model):
    """A day whose `DayTotal` rows hold, and, where `running`, whose `RunningTotal` rows hold too."""

    day = models.DateField(primary_key=True)
    running = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"{self.day}"
