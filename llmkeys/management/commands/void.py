"""`manage.py void`: take back the charges of lost requests that the provider did not bill."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from llmkeys.exceptions import KeyConflict
from llmkeys.lib.money import format_usd, usd_json
from llmkeys.management import asking, printing
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import actor, add_json_option
from llmkeys.models import UsageRecord
from llmkeys.usage.rows import lost_rows
from llmkeys.usage.voiding import void_usage

_MOST_SHOWN = 20
_LARGEST_ID = 2**63 - 1


class Command(BaseCommand):
    help = (
        "Take back the charges of lost usage rows: requests that were sent but never answered, which were charged at "
        "the hold because the provider may have billed them. Compare with the provider's bill first. "
        + asking.ASKS_ON_A_TERMINAL
    )
    example = 'void 1042 1043 --reason "not on the bill of November"'

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", metavar="ID", nargs="*", help="the id of a usage row, as `usage` shows it")
        parser.add_argument("--lost", action="store_true", help="all lost rows that were not corrected yet")
        parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        add_json_option(parser)

    def handle(self, *, ids: list[str], lost: bool, reason: str, yes: bool, json: bool, **_: Any) -> None:
        if lost == bool(ids):
            raise CommandError("Give the ids of usage rows, or --lost for all lost ones.")
        rows = list(lost_rows()) if lost else _named(ids)
        if rows and not yes and asking.is_possible():
            self.write_error(_preview(rows))
            asking.confirm(f"Take back {_sum(rows)} of {_count(rows)}?", "Nothing was taken back.")
        voided, refused = self._void(rows, reason)
        if json:
            self.write_json(_as_json(voided, refused))
        else:
            self._tell(voided, refused)
        if refused:
            raise CommandError("\n".join(f"{row.id}: {words}" for row, words in refused))

    def _void(self, rows: list[UsageRecord], reason: str) -> tuple[list, list]:
        """Void one row after the other; rows that were corrected in the meantime do not stop the rest."""
        at, by, voided, refused = timezone.now(), actor(), [], []
        for row in rows:
            try:
                voided.append((row, void_usage(row.id, at=at, actor=by, reason=reason)))
            except KeyConflict as error:
                refused.append((row, str(error)))
        return voided, refused

    def _tell(self, voided: list, refused: list) -> None:
        for row, amount in voided:
            self.stdout.write(f"{row.id}: {format_usd(amount)} taken back on “{row.key.name}”.")
        total = format_usd(sum(amount for _, amount in voided))
        if len(voided) > 1:
            self.stdout.write(f"{total} of {len(voided)} rows taken back.")
        if not voided and not refused:
            self.stdout.write("There is no lost row to take back.")


def _named(ids: list[str]) -> list[UsageRecord]:
    """Return the rows with these ids. Raises CommandError naming every unknown id."""
    numbers = [int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0 for text in ids]
    known = [number for number in numbers if 0 < number <= _LARGEST_ID]
    found = UsageRecord.objects.select_related("key").defer("key__secret").in_bulk(known)
    unknown = [text for text, number in zip(ids, numbers, strict=True) if number not in found]
    if unknown:
        raise CommandError(f"There is no usage row {', '.join(unknown)}. `./manage.py usage` shows the ids.")
    return [found[number] for number in dict.fromkeys(numbers)]


def _preview(rows: list[UsageRecord]) -> list[str]:
    headers = ["ID", "TIME", "KEY", "MODEL", "STATE", "COST"]
    cells = [
        [str(row.id), printing.when(row.created_at), row.key.name, row.model, row.state, format_usd(row.cost_nano)]
        for row in rows[:_MOST_SHOWN]
    ]
    more = [f"… and {len(rows) - _MOST_SHOWN} more"] if len(rows) > _MOST_SHOWN else []
    return [*printing.table(headers, cells, right=["ID", "COST"]), *more]


def _sum(rows: list[UsageRecord]) -> str:
    return format_usd(sum(row.cost_nano for row in rows))


def _count(rows: list[UsageRecord]) -> str:
    return "1 row" if len(rows) == 1 else f"{len(rows)} rows"


def _as_json(voided: list, refused: list) -> dict[str, Any]:
    return {
        "success": not refused,
        "amount": usd_json(sum(amount for _, amount in voided)),
        "voided": [{"id": row.id, "keyId": row.key_id, "amount": usd_json(amount)} for row, amount in voided],
        "refused": [{"id": row.id, "message": words} for row, words in refused],
    }
