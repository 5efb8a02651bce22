"""`manage.py import_keys`: import keys with their costs from the older product's file, or from an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import CommandParser
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from llmkeys.keys.transfer.importing import Report, import_file
from llmkeys.lib.money import format_usd
from llmkeys.management import printing
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import actor, add_json_option, in_home
from llmkeys.models import ApiKey
from llmkeys.presentation import keys_json
from llmkeys.vault import keys_in_use


class Command(BaseCommand):
    help = (
        "Import the keys of the older product's llm_api_keys.json, or of an export: all fields, costs and counters. "
        "All keys or none: a mistake is reported with its line, and nothing changes. A key that is already stored is "
        "skipped, so that a second run changes nothing. A daily or monthly cost counts in the current day or month "
        "only if the file says that the key was used or changed in it; the total cost always counts."
    )
    example = "import_keys ~/.refactai/data/llm_api_keys.json"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE")
        parser.add_argument("--dry-run", action="store_true", help="show what would be done, and change nothing")
        add_json_option(parser)

    def handle(self, *, file: Path, dry_run: bool, json: bool, **_: Any) -> None:
        if not MigrationRecorder(connection).has_table():  # before the first `serve`
            call_command("migrate", interactive=False, verbosity=0, skip_checks=True)
        keys_in_use.require_first_key_known()
        at = timezone.now()
        report = import_file(in_home(file), at=at, actor=actor(), dry_run=dry_run)
        if json:
            self.write_json(_as_json(report, keys_json(report.imported, at=at), dry_run))
        else:
            self._tell(report, at, dry_run)

    def _tell(self, report: Report, at: Any, dry_run: bool) -> None:
        if report.imported:
            headers = ["ID", "NAME", "PROVIDER", "STATUS", "DEFAULT", "TODAY", "MONTH", "TOTAL", "REQUESTS"]
            self.write_lines(printing.table(headers, [_row(key, at) for key in report.imported], right=headers[-4:]))
        for one in report.skipped:
            self.stdout.write(f"Skipped key {one.number} (“{one.name}”): {one.reason}.")
        for words in report.warnings:
            self.stdout.write(self.paint.WARNING(f"Note: {words}"))
        did = "would be imported; nothing was changed" if dry_run else "imported"
        self.stdout.write(self.paint.SUCCESS(f"{_count(report.imported)} {did}, {len(report.skipped)} skipped."))


def _row(key: ApiKey, at: Any) -> list[str]:
    day, month, total = key.budgets(at)
    return [
        key.id, key.name, key.provider, key.status_at(at), "default" if key.is_default else "",
        format_usd(day.spent), format_usd(month.spent), format_usd(total.spent), str(key.total_requests),
    ]  # fmt: skip


def _count(keys: list[ApiKey]) -> str:
    return f"{len(keys)} key" + ("" if len(keys) == 1 else "s")


def _as_json(report: Report, imported: list[dict[str, Any]], dry_run: bool) -> dict[str, Any]:
    return {
        "dryRun": dry_run,
        "imported": imported,
        "skipped": [{"number": one.number, "name": one.name, "reason": one.reason} for one in report.skipped],
        "warnings": report.warnings,
    }
