"""`manage.py keys`: work with the stored API keys; a key is named by its id or its exact name."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from llmkeys.key_state import ACTIVE, STATUSES
from llmkeys.keys import adding as service
from llmkeys.keys import testing
from llmkeys.lib.money import format_usd
from llmkeys.management import asking, printing
from llmkeys.management.account_options import add_account_options, budget_mode_words, given_fields
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import actor, add_verb
from llmkeys.management.picking import pick_key
from llmkeys.models import ApiKey, ProviderName
from llmkeys.presentation import Coolings, error_words, key_json, keys_json
from llmkeys.vault import keys_in_use

# option → field of the API
_FIELDS = {
    "description": "description",
    "priority": "priority",
    "billing_group": "billingGroup",
    "workspace_id": "workspaceId",
}


class Command(BaseCommand):
    help = "List, add, change, test and delete the stored API keys."
    example = "keys list"

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        listing = add_verb(verbs, "list", "Show all keys in serving order.", "keys list --json")
        listing.add_argument("--provider", choices=ProviderName.values)
        listing.add_argument("--status", choices=STATUSES)
        _add_add(verbs)
        _add_edit(verbs)
        for name, words in _VERBS.items():
            verb = add_verb(verbs, name, words, f'keys {name} "Production"')
            _name_key(verb)
            if name == "delete":
                verb.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *, verb: str, **options: Any) -> None:
        getattr(self, f"_{verb.replace('-', '_')}")(options)

    # --- looking -------------------------------------------------------------------------------------------------

    def _list(self, options: Mapping[str, Any]) -> None:
        at = timezone.now()
        found = ApiKey.objects.stored().defer("secret").in_serving_order()
        if options["provider"]:
            found = found.filter(provider=options["provider"])
        keys = [key for key in found if options["status"] in (None, key.status_at(at))]
        if options["json"]:
            self.write_json(keys_json(keys, at=at))
        elif keys:
            self._write_table(keys, at)
        else:
            self.stdout.write("No key found. Add one: ./manage.py keys add --provider openrouter --name Production")

    def _write_table(self, keys: list[ApiKey], at: datetime) -> None:
        headers = ["ID", "NAME", "PROVIDER", "STATUS", "DEFAULT", "KEY", "TODAY", "MONTH", "TOTAL", "REQUESTS"]
        header, *lines = printing.table(headers, [_row(key, at) for key in keys], right=headers[-4:])
        self.stdout.write(self.paint.MIGRATE_HEADING(header))
        for key, line in zip(keys, lines, strict=True):
            self.stdout.write(line if key.status_at(at) == ACTIVE else self.paint.WARNING(line))

    def _show(self, options: Mapping[str, Any]) -> None:
        self._print_key(pick_key(options["key"]), options)

    def _print_key(self, key: ApiKey, options: Mapping[str, Any], words: str = "") -> None:
        at = timezone.now()
        if options["json"]:
            self.write_json(key_json(key, at=at))
        elif words:
            self.stdout.write(self.paint.SUCCESS(words))
        else:
            self.write_lines(printing.pairs(_card(key, at)))

    # --- changing ------------------------------------------------------------------------------------------------

    def _add(self, options: Mapping[str, Any]) -> None:
        values = given_fields(options, _FIELDS) | {"provider": options["provider"]}
        if options["default"]:
            values["isDefault"] = True
        if options["disabled"]:
            values["enabled"] = False
        service.check_new(values, at=timezone.now())  # before the secret is asked for
        keys_in_use.require_first_key_known()
        values["apiKey"] = _read_secret(options["from_env"])
        key = service.add_key(values=values, at=timezone.now(), actor=actor())
        self._print_key(key, options, f"“{key.name}” was added as {key.id} ({key.masked_secret}).")

    def _edit(self, options: Mapping[str, Any]) -> None:
        key, values = pick_key(options["key"]), given_fields(options, _FIELDS)
        if options["new_secret"] or options["from_env"]:
            service.check_change(key, values, with_secret=True, at=timezone.now())
            keys_in_use.require_first_key_known()
            values["apiKey"] = _read_secret(options["from_env"])
        if not values:
            raise CommandError("No change was given. `./manage.py keys edit --help` lists the options.")
        key = service.update_key(key, values=values, at=timezone.now(), actor=actor())
        self._print_key(key, options, f"“{key.name}” was changed.")

    def _enable(self, options: Mapping[str, Any]) -> None:
        key = service.toggle(pick_key(options["key"]), active=True, at=timezone.now(), actor=actor())
        status = key.status_at(timezone.now())
        why = error_words(key)
        hint = "" if status == ACTIVE else f" Its status is {status}" + (f": {why}" if why else ".")
        self._print_key(key, options, f"“{key.name}” is switched on.{hint}")

    def _disable(self, options: Mapping[str, Any]) -> None:
        key = pick_key(options["key"])
        was_default = key.is_default
        key = service.toggle(key, active=False, at=timezone.now(), actor=actor())
        default = ApiKey.objects.stored().filter(is_default=True).exclude(pk=key.pk).values_list("name", flat=True)
        words = ""
        if was_default:
            words = f" “{default[0]}” is the default key now." if default else " No other key can be the default."
        self._print_key(key, options, f"“{key.name}” is switched off.{words}")

    def _set_default(self, options: Mapping[str, Any]) -> None:
        key = service.set_default(pick_key(options["key"]), at=timezone.now(), actor=actor())
        self._print_key(key, options, f"“{key.name}” is the default key now.")

    def _delete(self, options: Mapping[str, Any]) -> None:
        key = pick_key(options["key"])
        service.check_deletable(key)
        if not options["yes"] and asking.is_possible():
            question = f"Delete “{key.name}” ({key.id})? Its secret is lost for good."
            asking.confirm(question, "Nothing was deleted.")
        service.delete_key(key, at=timezone.now(), actor=actor())
        if options["json"]:
            self.write_json({"success": True, "message": "Key deleted"})
        else:
            self.stdout.write(f"“{key.name}” was deleted; its secret is wiped, its usage history stays.")

    def _test(self, options: Mapping[str, Any]) -> None:
        key = pick_key(options["key"])
        result = testing.test_key(key, at=timezone.now(), actor=actor())
        if options["json"]:
            self.write_json(
                {
                    "success": result.ok,
                    "message": result.message,
                    "latencyMs": result.latency_ms,
                    "details": result.details,
                }
            )
        elif result.ok:
            self.stdout.write(self.paint.SUCCESS(f"“{key.name}”: {result.message} ({result.latency_ms} ms)"))
        if not result.ok:
            raise CommandError(f"“{key.name}”: {result.message}")


_VERBS = {
    "show": "Show one key with its budgets.",
    "test": "Test a key with a call to its provider that costs nothing; exit code 1 if the key does not work.",
    "enable": "Enable a key.",
    "disable": "Disable a key; its history stays.",
    "set-default": "Make a key the default, and enable it.",
    "delete": f"Delete a key; its usage history stays. {asking.ASKS_ON_A_TERMINAL}",
}


# --- arguments ------------------------------------------------------------------------------------------------------


def _add_add(verbs: Any) -> None:
    words = (
        "Store a new key. The secret is prompted for, read from stdin if piped, or taken from a variable (--from-env)."
    )
    verb = add_verb(
        verbs, "add", words, "keys add --provider openrouter --name Production --daily-limit 10 --from-env MY_KEY"
    )
    verb.add_argument("--provider", required=True, help=f"one of: {', '.join(ProviderName.values)}")
    verb.add_argument("--name", required=True)
    _add_fields(verb)
    either = verb.add_mutually_exclusive_group()
    either.add_argument("--default", action="store_true", help="make it the default key")
    either.add_argument("--disabled", action="store_true", help="store it switched off")
    verb.add_argument("--from-env", metavar="VAR", help="read the secret from this environment variable")


def _add_edit(verbs: Any) -> None:
    verb = add_verb(
        verbs,
        "edit",
        "Change a key; options that are left out change nothing.",
        'keys edit "Production" --daily-limit 20 --expires never',
    )
    _name_key(verb)
    verb.add_argument("--name", help="a new name")
    _add_fields(verb)
    verb.add_argument("--new-secret", action="store_true", help="replace the secret: prompted for, or read from stdin")
    verb.add_argument("--from-env", metavar="VAR", help="replace the secret with the value of this variable")


def _name_key(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("key", metavar="KEY", help="its id or its exact name")


def _add_fields(verb: argparse.ArgumentParser) -> None:
    add_account_options(verb)
    verb.add_argument("--priority", type=int, metavar="N", help="lower serves earlier")
    verb.add_argument("--billing-group", metavar="NAME", help="keys of one provider account")
    verb.add_argument("--workspace-id", metavar="ID", help="Anthropic keys that need one")
    verb.add_argument("--description", metavar="TEXT")


def _read_secret(variable: str | None) -> str:
    """Return the secret from the variable, from stdin, or from a hidden prompt; never from the arguments."""
    if variable:
        if not os.environ.get(variable, "").strip():
            raise CommandError(f"The environment variable {variable} is not set, or empty.")
        return os.environ[variable]
    if sys.stdin is None or sys.stdin.isatty():
        return getpass.getpass("API key (not shown while you type): ")
    secret = asking.piped_in().strip()
    if not secret:
        raise CommandError(
            "There was no API key on stdin. Pipe it in, run this on a terminal, or name a variable: --from-env"
        )
    return secret


# --- for people -------------------------------------------------------------------------------------------------------


def _row(key: ApiKey, at: datetime) -> list[str]:
    day, month, total = key.budgets(at)
    return [
        key.id, key.name, key.provider, key.status_at(at), "default" if key.is_default else "", key.masked_secret,
        format_usd(day.spent), format_usd(month.spent), format_usd(total.spent), str(key.total_requests),
    ]  # fmt: skip


def _card(key: ApiKey, at: datetime) -> list[tuple[str, str]]:
    day, month, total = key.budgets(at)
    cooling = Coolings(at).until(key)
    return [
        ("ID", key.id),
        ("Name", key.name),
        ("Description", key.description),
        ("Provider", key.get_provider_display()),
        ("Key", key.masked_secret),
        ("Source", key.environment_variable or key.source),
        ("Status", key.status_at(at) + (", default" if key.is_default else "")),
        ("Last error", error_words(key)),
        ("Today", printing.budget(day)),
        ("This month", printing.budget(month)),
        ("Total", printing.budget(total)),
        ("Budget mode", budget_mode_words(key)),
        ("Held now", format_usd(key.held_nano)),
        ("Requests", printing.requests(key.total_requests, key.successful_requests, key.failed_requests)),
        ("Priority", str(key.priority)),
        ("Billing group", key.billing_group),
        ("Workspace", key.workspace_id),
        ("Expires", printing.when(key.expires_at)),
        ("Cooling until", printing.when(cooling) if cooling else ""),
        ("Last used", printing.when(key.last_used_at)),
        ("Added", printing.when(key.created_at)),
    ]
