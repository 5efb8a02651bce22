"""`manage.py reset_costs`: reset daily, monthly or total costs to zero, with an event that says who did it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from llmkeys.keys.resets import Reset, reset_costs
from llmkeys.ledger import KEYS
from llmkeys.lib.money import format_usd, usd_json
from llmkeys.management import asking, printing
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import actor, add_json_option, count
from llmkeys.management.picking import pick_key, pick_token
from llmkeys.models import AccessToken, ApiKey

Account = ApiKey | AccessToken
Names = dict[tuple[type, Any], str]

_WORDS = ("daily", "monthly", "total")


class Command(BaseCommand):
    help = (
        "Reset the chosen costs of keys or access tokens to zero, so that a spent budget can be used again. Charts and "
        "summaries keep the spending; an event says who did it. Daily and monthly costs also reset automatically."
    )
    example = "reset_costs --key Production --daily"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--key",
            action="append",
            metavar="ID",
            help="a key's id or its exact name; may be repeated (without --key and --token: all keys)",
        )
        parser.add_argument(
            "--token", action="append", metavar="ID", help="an access token's id or its exact name; may be repeated"
        )
        for word, what in zip(_WORDS, ("today's cost", "this month's cost", "the cost of all time"), strict=True):
            parser.add_argument(f"--{word}", action="store_true", help=what)
        parser.add_argument("--yes", action="store_true", help="do not ask")
        add_json_option(parser)

    def handle(self, *, key: list[str] | None, token: list[str] | None, yes: bool, json: bool, **options: Any) -> None:
        chosen = {word: options[word] for word in _WORDS}
        if not any(chosen.values()):
            raise CommandError("Choose at least one of --daily, --monthly and --total.")
        at = timezone.now()
        found: list[Account] = [*_keys(key, or_all=token is None), *_tokens(token)]
        names = {(type(one), one.pk): one.name for one in found}
        planned = [(one, _spent(one, chosen, at)) for one in found if any(_spent(one, chosen, at))]
        if planned and not yes:
            self.write_error(_preview(planned))
            asking.confirm(f"Reset these costs of {_count(planned)} to zero?", "Nothing was reset.")
        done = reset_costs(found, **chosen, at=at, actor=actor())
        if json:
            self.write_json([_as_json(reset, names) for reset in done])
        else:
            self.write_lines([_line(reset, names) for reset in done] or ["Nothing to reset: these costs are zero."])


def _keys(named: list[str] | None, *, or_all: bool) -> list[ApiKey]:
    if named is None:
        return list(ApiKey.objects.stored().defer("secret").in_serving_order()) if or_all else []
    return list({key.id: key for key in map(pick_key, named)}.values())


def _tokens(named: list[str] | None) -> list[AccessToken]:
    return list({token.pk: token for token in map(pick_token, named or ())}.values())


def _count(planned: list[tuple[Account, list[int]]]) -> str:
    tokens = sum(isinstance(one, AccessToken) for one, _ in planned)
    parts = [count(len(planned) - tokens, "key")] if len(planned) > tokens else []
    return " and ".join([*parts, count(tokens, "token")] if tokens else parts)


def _spent(key: Account, chosen: dict[str, bool], at: datetime) -> list[int]:
    return [budget.spent if chosen[word] else 0 for word, budget in zip(_WORDS, key.budgets(at), strict=True)]


def _preview(planned: list[tuple[Account, list[int]]]) -> list[str]:
    headers = ["NAME", "TODAY", "MONTH", "TOTAL"]
    rows = [[key.name, *(format_usd(nano) if nano else "-" for nano in spent)] for key, spent in planned]
    return printing.table(headers, rows, right=headers[1:])


def _amounts(reset: Reset) -> dict[str, int]:
    return {"daily": reset.day_nano, "monthly": reset.month_nano, "total": reset.total_nano}


def _name(reset: Reset, names: Names) -> str:
    return names[ApiKey if reset.account.of is KEYS else AccessToken, reset.account.id]


def _line(reset: Reset, names: Names) -> str:
    taken = ", ".join(f"{word} {format_usd(nano)}" for word, nano in _amounts(reset).items() if nano)
    return f"The costs of “{_name(reset, names)}” were reset: {taken}."


def _as_json(reset: Reset, names: Names) -> dict[str, Any]:
    amounts = {word: usd_json(nano) for word, nano in _amounts(reset).items()}
    kind = "key" if reset.account.of is KEYS else "token"
    return {f"{kind}Id": reset.account.id, f"{kind}Name": _name(reset, names), **amounts}
