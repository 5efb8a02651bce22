"""`manage.py audit`: check that the counters equal what the history adds up to, or name what differs."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from llmkeys.ledger import audit
from llmkeys.lib.money import usd_json
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import actor, add_json_option

_MOST_NAMES = 5


class Command(BaseCommand):
    help = (
        "Check in one snapshot, without blocking writers, that every cost, held amount, request counter and daily "
        "total is what the usage rows and adjustments add up to. Each difference is named; then the exit code is 1."
    )
    example = "audit --fix"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--fix",
            action="store_true",
            help="write an adjustment for each cost that differs (the budgets stay as they are), and set held "
            "amounts, request counters and daily totals to what the rows say; each key gets an event",
        )
        add_json_option(parser)

    def handle(self, *, fix: bool, json: bool, **_: Any) -> None:
        report = audit.audit()
        corrected = audit.fix(report, at=timezone.now(), actor=actor()) if fix and report.differences else []
        if corrected:
            report = audit.audit()
        if json:
            self.write_json(_as_json(report, corrected))
        else:
            self._tell(report, corrected)
        if report.differences:
            raise CommandError(_verdict(report))

    def _tell(self, report: audit.Report, corrected: list[audit.Difference]) -> None:
        for difference in corrected:
            self.stdout.write(f"Corrected: {difference}.")
        for difference in report.differences:
            self.stdout.write(self.paint.ERROR(f"{difference}."))
        if report.uncounted:
            self.stdout.write(_uncounted(report.uncounted))
        if not report.differences:
            self.stdout.write(self.paint.SUCCESS(f"The books are right: {_checked(report)}."))


def _checked(report: audit.Report) -> str:
    return f"{_count(report.keys, 'key')} and {_count(report.rows, 'usage row')} checked"


REMEDY = "`./manage.py audit --fix` corrects them, with an event for each key; please report how they came about."


def _verdict(report: audit.Report) -> str:
    return f"{_count(len(report.differences), 'difference')} found ({_checked(report)}). {REMEDY}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _uncounted(names: list[str]) -> str:
    shown = ", ".join(f"“{name}”" for name in names[:_MOST_NAMES]) + (" and others" if len(names) > _MOST_NAMES else "")
    return f"Request counters that came from an import have no rows and were not checked: {shown}."


def _as_json(report: audit.Report, corrected: list[audit.Difference]) -> dict[str, Any]:
    return {
        "ok": not report.differences,
        "keys": report.keys,
        "rows": report.rows,
        "differences": [_difference_json(difference) for difference in report.differences],
        "corrected": [_difference_json(difference) for difference in corrected],
        "requestsNotChecked": report.uncounted,
    }


def _difference_json(difference: audit.Difference) -> dict[str, Any]:
    amount = int if difference.what in audit.REQUESTS else usd_json
    return {
        "keyId": difference.key_id,
        "keyName": difference.key_name,
        "what": difference.what,
        "day": str(difference.day) if difference.day else None,
        "stored": amount(difference.stored),
        "expected": amount(difference.expected),
    }
