"""`manage.py stats`: totals over all keys, and a line for each key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from llmkeys.key_state import ACTIVE, Budget
from llmkeys.lib.money import format_usd, usd_to_nano
from llmkeys.management import printing
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import add_json_option, count
from llmkeys.models import ApiKey
from llmkeys.presentation import keys_json, success_rate
from llmkeys.usage.sums import statistics


class Command(BaseCommand):
    help = "Show the cost, budgets and requests of all keys together and of each key."
    example = "stats --json"

    def add_arguments(self, parser: CommandParser) -> None:
        add_json_option(parser)

    def handle(self, *, json: bool, **_: Any) -> None:
        at = timezone.now()
        sums = statistics(at=at)
        keys = list(ApiKey.objects.stored().defer("secret").in_serving_order())
        if json:
            self.write_json({**sums, "keys": keys_json(keys, at=at)})
            return
        self.write_lines(printing.pairs(_card(sums)))
        if keys:
            self.stdout.write("")
            self._write_table(keys, at)

    def _write_table(self, keys: list[ApiKey], at: datetime) -> None:
        headers = ["KEY", "STATUS", "TODAY", "MONTH", "TOTAL", "REQUESTS", "SUCCESS"]
        deleted = list(ApiKey.objects.filter(deleted_at__isnull=False).defer("secret"))
        rows = [_row(key, at) for key in keys] + ([_deleted_row(deleted, at)] if deleted else [])
        header, *lines = printing.table(headers, rows, right=headers[2:])
        self.stdout.write(self.paint.MIGRATE_HEADING(header))
        for key, line in zip(keys, lines, strict=False):  # the line for deleted keys comes last
            self.stdout.write(line if key.status_at(at) == ACTIVE else self.paint.WARNING(line))
        self.write_lines(lines[len(keys) :])


def _card(sums: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Keys", f"{sums['totalKeys']}, {sums['activeKeys']} active"),
        ("Total cost", _usd(sums["totalCost"])),
        ("Today", f"{_used(sums, 'daily')}; resets {_instant(sums['dailyResetsAt'])}"),
        ("This month", f"{_used(sums, 'monthly')}; resets {_instant(sums['monthlyResetsAt'])}"),
        ("Held now", _usd(sums["reservedCost"])),
        ("Requests", printing.requests(sums["totalRequests"], sums["successfulRequests"], sums["failedRequests"])),
        ("Success rate", f"{sums['successRate']} %"),
    ]


def _used(sums: Mapping[str, Any], word: str) -> str:
    cost, limit = _usd(sums[f"{word}Cost"]), sums[f"{word}Limit"]
    if not limit:
        return f"{cost}, no limit"
    return f"{cost}; the keys with a limit have spent {sums[f'{word}BudgetUsed']} % of their {_usd(limit)}"


def _usd(amount: float) -> str:
    return format_usd(usd_to_nano(f"{amount:.9f}"))


def _instant(text: str) -> str:
    return printing.when(parse_datetime(text))


def _row(key: ApiKey, at: datetime) -> list[str]:
    return [
        key.name + (" (default)" if key.is_default else ""),
        key.status_at(at),
        *(_budget(budget) for budget in key.budgets(at)),
        str(key.total_requests),
        f"{success_rate(key.successful_requests, key.failed_requests)} %",
    ]


def _deleted_row(keys: list[ApiKey], at: datetime) -> list[str]:
    """Return the row of all deleted keys together, which still count in the totals."""
    spent = [sum(budget.spent for budget in window) for window in zip(*(key.budgets(at) for key in keys), strict=True)]
    good, failed = sum(key.successful_requests for key in keys), sum(key.failed_requests for key in keys)
    return [
        count(len(keys), "deleted key"),
        "",
        *map(format_usd, spent),
        str(sum(key.total_requests for key in keys)),
        f"{success_rate(good, failed)} %",
    ]


def _budget(budget: Budget) -> str:
    spent = format_usd(budget.spent)
    return f"{spent} of {format_usd(budget.limit)}" if budget.limit else spent
