"""Usage rows together with the daily totals that the ledger writes beside them."""

from __future__ import annotations

from typing import Any

from django.db.models import F

from llmkeys.models import ApiKey, DailyUsage, UsageRecord
from tests.helpers import make_usage, parts_of


def make_counted(key: ApiKey, **columns: Any) -> UsageRecord:
    """Write a usage row and add it to its day's total, as the ledger does for what was sent."""
    row = make_usage(key, **columns)
    if row.state != UsageRecord.State.HELD:
        _count(row)
    return row


def _count(row: UsageRecord) -> None:
    total, _ = DailyUsage.objects.get_or_create(
        key=row.key, day=row.day, model=row.model, token_name=row.token_name
    )  # fmt: skip
    DailyUsage.objects.filter(pk=total.pk).update(
        requests=F("requests") + 1,
        successful=F("successful") + int(row.success is True),
        failed=F("failed") + int(row.success is False),
        input_tokens=F("input_tokens") + (row.input_tokens or 0),
        output_tokens=F("output_tokens") + (row.output_tokens or 0),
        cost_nano=F("cost_nano") + row.cost_nano,
        **{column: F(column) + nano for column, nano in parts_of(row).items()},
    )
