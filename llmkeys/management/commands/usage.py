"""`manage.py usage`: list usage rows, one for each attempt, newest first, with the API's filters."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from llmkeys.lib.money import format_usd
from llmkeys.management import printing
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import add_json_option
from llmkeys.management.picking import pick_key
from llmkeys.models import ProviderName, UsageRecord
from llmkeys.presentation import usage_json
from llmkeys.usage import filters
from llmkeys.usage.rows import csv_lines, in_chunks, newest_first

_LIMIT = 50
_HEADERS = ["ID", "TIME", "KEY", "MODEL", "TOKEN", "STATE", "STATUS", "IN", "OUT", "COST", "KNOWN BY", "MS"]
_TO_THE_RIGHT = ["ID", "STATUS", "IN", "OUT", "COST", "MS"]


class Command(BaseCommand):
    help = "List usage rows, one for each attempt, newest first."
    example = "usage --key Production --since 2026-11-01 --limit 20"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--key", metavar="ID", help="a key's id or its exact name; also of a deleted key")
        parser.add_argument("--provider", choices=ProviderName.values)
        parser.add_argument("--model", help="the model as the provider names it")
        parser.add_argument("--token", metavar="NAME", help="the access token's name")
        parser.add_argument("--state", choices=UsageRecord.State.values, type=str.upper)
        parser.add_argument("--cost", choices=filters.COSTS, help="how the cost is known")
        parser.add_argument("--success", choices=("true", "false"))
        parser.add_argument("--since", metavar="TIME", type=_checked("since"), help="a date, or date and time")
        parser.add_argument("--until", metavar="TIME", type=_checked("until"), help="a date includes that day")
        parser.add_argument(
            "--limit", metavar="N", type=_count, default=None, help=f"how many rows (default: {_LIMIT}; with --csv all)"
        )
        parser.add_argument("--csv", action="store_true", help="print CSV with the same columns as the JSON")
        add_json_option(parser)

    def handle(self, *, json: bool, csv: bool, limit: int | None, **options: Any) -> None:
        if json and csv:
            raise CommandError("Choose one of --json and --csv.")
        rows = in_chunks(newest_first(filters.read(filters.ROWS, _given(options)), at=timezone.now()))
        if csv:
            self._write_csv(islice(rows, limit))
            return
        limit = _LIMIT if limit is None else limit
        found = list(islice(rows, limit + 1))
        shown, has_more = found[:limit], len(found) > limit
        if json:
            self.write_json([usage_json(row) for row in shown])
        else:
            self._write_table(shown, has_more)

    def _write_csv(self, rows: Any) -> None:
        for line in csv_lines(rows):
            self.stdout.write(line, ending="")

    def _write_table(self, rows: list[UsageRecord], has_more: bool) -> None:
        if not rows:
            self.stdout.write("No usage row found.")
            return
        header, *lines = printing.table(_HEADERS, [_cells(row) for row in rows], right=_TO_THE_RIGHT)
        self.stdout.write(self.paint.MIGRATE_HEADING(header))
        for row, line in zip(rows, lines, strict=True):
            is_bad = row.success is False or row.state == UsageRecord.State.LOST
            self.stdout.write(self.paint.WARNING(line) if is_bad else line)
        if has_more:
            self.stdout.write(f"These are the newest {len(rows)}; there are more: --limit N, or --csv for all.")


def _given(options: Mapping[str, Any]) -> dict[str, str]:
    given = {name: options[name] for name in filters.ROWS if options[name] is not None}
    return given | ({"key": pick_key(given["key"], or_deleted=True).id} if "key" in given else {})


def _checked(name: str) -> Callable[[str], str]:
    """Return an argparse type that accepts the values which the filter of this name can read."""

    def check(text: str) -> str:
        try:
            filters.ROWS[name].read(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from None
        return text

    return check


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < len(text) < 10 or not int(text):
        raise ArgumentTypeError("must be a whole number of at least 1")
    return int(text)


def _cells(row: UsageRecord) -> list[str]:
    return [
        str(row.id), printing.when(row.created_at), row.key.name, row.model, row.token_name, row.state,
        _or_dash(row.http_status), _or_dash(row.input_tokens), _or_dash(row.output_tokens), format_usd(row.cost_nano),
        row.cost_source or "-", _or_dash(row.latency_ms),
    ]  # fmt: skip


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
