"""`manage.py reset_costs`: set the costs of a day, a month or in total back to zero, with an event that says who."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from llmkeys.keys.resets import Reset, reset_costs
from llmkeys.lib.money import format_usd, usd_json
from llmkeys.management import asking, printing
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import actor, add_json_option
from llmkeys.management.picking import pick_key
from llmkeys.models import ApiKey

_WORDS = ("daily", "monthly", "total")


class Command(BaseCommand):
    help = (
        "Set the chosen costs of one key, or of all, back to zero, so that a spent budget serves again. Charts and "
        "summaries keep the spending; an event names who did it. Days and months begin anew by themselves."
    )
    example = "reset_costs --key Production --daily"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--key", action="append", metavar="ID", help="a key's id or its exact name; may be repeated (default: all)"
        )
        for word, what in zip(_WORDS, ("today's cost", "this month's cost", "the cost of all time"), strict=True):
            parser.add_argument(f"--{word}", action="store_true", help=what)
        parser.add_argument("--yes", action="store_true", help="do not ask")
        add_json_option(parser)

    def handle(self, *, key: list[str] | None, yes: bool, json: bool, **options: Any) -> None:
        chosen = {word: options[word] for word in _WORDS}
        if not any(chosen.values()):
            raise CommandError("Choose at least one of --daily, --monthly and --total.")
        at = timezone.now()
        keys = _keys(key)
        names = {one.id: one.name for one in keys}
        planned = [(one, _spent(one, chosen, at)) for one in keys if any(_spent(one, chosen, at))]
        if planned and not yes:
            self.write_error(_preview(planned))
            count = "1 key" if len(planned) == 1 else f"{len(planned)} keys"
            asking.confirm(f"Set these costs of {count} back to zero?", "Nothing was reset.")
        done = reset_costs(keys, **chosen, at=at, actor=actor())
        if json:
            self.write_json([_as_json(reset, names) for reset in done])
        else:
            self.write_lines([_line(reset, names) for reset in done] or ["Nothing to reset: these costs are zero."])


def _keys(named: list[str] | None) -> list[ApiKey]:
    if named is None:
        return list(ApiKey.objects.stored().defer("secret").in_serving_order())
    return list({key.id: key for key in map(pick_key, named)}.values())


def _spent(key: ApiKey, chosen: dict[str, bool], at: datetime) -> list[int]:
    return [budget.spent if chosen[word] else 0 for word, budget in zip(_WORDS, key.budgets(at), strict=True)]


def _preview(planned: list[tuple[ApiKey, list[int]]]) -> list[str]:
    headers = ["KEY", "TODAY", "MONTH", "TOTAL"]
    rows = [[key.name, *(format_usd(nano) if nano else "-" for nano in spent)] for key, spent in planned]
    return printing.table(headers, rows, right=headers[1:])


def _amounts(reset: Reset) -> dict[str, int]:
    return {"daily": reset.day_nano, "monthly": reset.month_nano, "total": reset.total_nano}


def _line(reset: Reset, names: dict[str, str]) -> str:
    taken = ", ".join(f"{word} {format_usd(nano)}" for word, nano in _amounts(reset).items() if nano)
    return f"The costs of “{names[reset.key_id]}” were reset: {taken}."


def _as_json(reset: Reset, names: dict[str, str]) -> dict[str, Any]:
    amounts = {word: usd_json(nano) for word, nano in _amounts(reset).items()}
    return {"keyId": reset.key_id, "keyName": names[reset.key_id], **amounts}
