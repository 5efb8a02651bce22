"""`manage.py tokens`: work with access tokens. A token's secret is printed only when it is created or rotated."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from llmkeys.exceptions import InvalidInput
from llmkeys.key_state import ACTIVE, TOKEN_STATUSES
from llmkeys.lib.money import format_usd
from llmkeys.management import printing
from llmkeys.management.account_options import add_account_options, budget_mode_words, given_fields
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import actor, add_verb
from llmkeys.management.picking import pick_key, pick_token
from llmkeys.models import AccessToken
from llmkeys.presentation import token_json, tokens_json
from llmkeys.tokens import making as service
from llmkeys.tokens.fields import SCOPES, read_overlap

# option → field of the API
_FIELDS = {
    "scope": "scopes",
    "rpm": "requestsPerMinute",
    "model": "models",
}


class Command(BaseCommand):
    help = "Create, list, change, rotate and revoke the access tokens of programs and people."
    example = "tokens create my-program"

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        _add_create(verbs)
        listing = add_verb(verbs, "list", "Show all access tokens, never their secrets.", "tokens list --json")
        listing.add_argument("--status", choices=TOKEN_STATUSES)
        _name_token(add_verb(verbs, "show", "Show one token with its budgets.", "tokens show my-program"))
        _add_edit(verbs)
        _add_rotate(verbs)
        words = "Revoke a token at once and for good, with the tokens that it created."
        _name_token(add_verb(verbs, "revoke", words, "tokens revoke my-program"))

    def handle(self, *, verb: str, **options: Any) -> None:
        getattr(self, f"_{verb}")(options)

    # --- looking -----------------------------------------------------------------------------------------------------

    def _list(self, options: Mapping[str, Any]) -> None:
        at = timezone.now()
        found = AccessToken.objects.select_related("user").prefetch_related("keys")
        tokens = [token for token in found if options["status"] in (None, token.status_at(at))]
        if options["json"]:
            self.write_json(tokens_json(tokens, at=at))
        elif tokens:
            self._write_table(tokens, at)
        else:
            self.stdout.write("There is no access token. Create one: ./manage.py tokens create my-program")

    def _write_table(self, tokens: list[AccessToken], at: datetime) -> None:
        headers = ["ID", "NAME", "SCOPES", "USER", "KEYS", "STATUS", "EXPIRES", "LAST USED", "TODAY", "MONTH", "TOTAL"]
        rows = [_row(token, at) for token in tokens]
        header, *lines = printing.table(headers, rows, right=["ID", *headers[-3:]])
        self.stdout.write(self.paint.MIGRATE_HEADING(header))
        for token, line in zip(tokens, lines, strict=True):
            self.stdout.write(line if token.status_at(at) == ACTIVE else self.paint.WARNING(line))

    def _show(self, options: Mapping[str, Any]) -> None:
        self._print(pick_token(options["token"]), options)

    def _print(self, token: AccessToken, options: Mapping[str, Any], words: str = "") -> None:
        at = timezone.now()
        if options["json"]:
            self.write_json(token_json(token, at=at))
        elif words:
            self.stdout.write(self.paint.SUCCESS(words))
        else:
            self.write_lines(printing.pairs(_card(token, at)))

    # --- changing ----------------------------------------------------------------------------------------------------

    def _create(self, options: Mapping[str, Any]) -> None:
        self.arguments = {"name": "NAME"}
        values = given_fields(options, _FIELDS) | _keys(options)
        user = _user(options["user"])
        token, text = service.create_token(user=user, values=values, at=timezone.now(), actor=actor())
        self._print_text(token, text, options)
        if "gateway" in token.scopes and not user.has_perm("llmkeys.use_gateway"):
            words = f"The user {user.get_username()} may not send requests yet, so this token cannot either."
            self.write_error([f"{words} Give them the permission llmkeys.use_gateway in the admin (Users)."])

    def _edit(self, options: Mapping[str, Any]) -> None:
        token = pick_token(options["token"])
        values = given_fields(options, _FIELDS) | _keys(options)
        if options["any_key"]:
            values["keyIds"] = None
        if options["any_model"]:
            values["models"] = None
        if not values:
            raise CommandError("No change was given. `./manage.py tokens edit --help` lists the options.")
        token = service.change_token(token, values=values, at=timezone.now(), actor=actor())
        self._print(token, options, f"The token “{token.name}” was changed.")

    def _rotate(self, options: Mapping[str, Any]) -> None:
        try:
            overlap = read_overlap(options["overlap"])
        except ValueError as error:
            raise InvalidInput({"overlapSeconds": [str(error)]}) from None
        token = pick_token(options["token"])
        token, text = service.rotate_token(token, overlap_seconds=overlap, at=timezone.now(), actor=actor())
        self._print_text(token, text, options)

    def _print_text(self, token: AccessToken, text: str, options: Mapping[str, Any]) -> None:
        if options["json"]:
            self.write_json(token_json(token, at=timezone.now()) | {"token": text})
        else:
            self.stdout.write(text)  # nothing else, so that a script can read it

    def _revoke(self, options: Mapping[str, Any]) -> None:
        token = pick_token(options["token"])
        service.revoke_token(token, at=timezone.now(), actor=actor())
        token.refresh_from_db()
        self._print(token, options, f"The token “{token.name}” was revoked.")


# --- arguments --------------------------------------------------------------------------------------------------------


def _add_create(verbs: Any) -> None:
    create = add_verb(
        verbs,
        "create",
        "Create an access token and print only that on stdout. It cannot be shown again.",
        "tokens create my-program --daily-limit 5 --model 'openai/*' --rpm 60 --expires 2027-12-31",
    )
    create.add_argument("name", metavar="NAME", help="what the token is for")
    create.add_argument("--user", metavar="NAME", help="the owner of the token (default: the first administrator)")
    _add_fields(create, scope="gateway")


def _add_edit(verbs: Any) -> None:
    edit = add_verb(
        verbs,
        "edit",
        "Change a token; options that are left out change nothing.",
        "tokens edit my-program --daily-limit 10 --any-model",
    )
    _name_token(edit)
    edit.add_argument("--name", help="a new name")
    _add_fields(edit, scope="as they are")
    edit.add_argument("--any-model", action="store_true", help="every model from now on")
    edit.add_argument("--any-key", action="store_true", help="every key from now on")


def _add_rotate(verbs: Any) -> None:
    rotate = add_verb(
        verbs,
        "rotate",
        "Give a token a new secret and print only that on stdout; budgets and history stay.",
        "tokens rotate my-program --overlap 3600",
    )
    _name_token(rotate)
    rotate.add_argument(
        "--overlap", type=int, default=0, metavar="SECONDS", help="how long the old secret stays valid (default: 0)"
    )


def _name_token(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("token", metavar="TOKEN", help="its id or its exact name")


def _add_fields(verb: argparse.ArgumentParser, *, scope: str) -> None:
    verb.add_argument(
        "--scope", action="append", metavar="S", help=f"{', '.join(SCOPES)}; may be repeated (default: {scope})"
    )
    add_account_options(verb)
    verb.add_argument(
        "--model",
        action="append",
        metavar="PATTERN",
        help="allow only these models, such as openai/* or gpt-6*; may be repeated",
    )
    verb.add_argument("--key", action="append", metavar="ID", help="allow only this key; may be repeated")
    verb.add_argument("--rpm", type=int, metavar="N", help="requests per minute; 0 means no limit")


def _keys(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"keyIds": [pick_key(named).id for named in options["key"]]} if options["key"] else {}


def _user(name: str | None) -> User:
    users = get_user_model()
    if name is None:
        user = service.first_administrator()
        if user is None:
            raise CommandError(
                "There is no administrator yet to own the token. Start the product once (make run), or create one: "
                "./manage.py createsuperuser"
            )
        return user
    user = users.objects.filter(**{users.USERNAME_FIELD: name}, is_active=True).first()
    if user is None:
        raise CommandError(f"There is no active user “{name}”.")
    return user


# --- for people -------------------------------------------------------------------------------------------------------


def _row(token: AccessToken, at: datetime) -> list[str]:
    day, month, total = token.budgets(at)
    return [
        str(token.id), token.name, ", ".join(token.scopes), token.user.get_username(), _key_words(token),
        token.status_at(at), printing.when(token.expires_at), printing.when(token.last_used_at),
        format_usd(day.spent), format_usd(month.spent), format_usd(total.spent),
    ]  # fmt: skip


def _key_words(token: AccessToken) -> str:
    return ", ".join(key.name for key in token.stored_keys) or ("none" if token.limited_to_keys else "all")


def _card(token: AccessToken, at: datetime) -> list[tuple[str, str]]:
    day, month, total = token.budgets(at)
    return [
        ("ID", str(token.id)),
        ("Name", token.name),
        ("User", token.user.get_username()),
        ("Scopes", ", ".join(token.scopes)),
        ("Status", token.status_at(at)),
        ("Keys", _key_words(token)),
        ("Models", "all" if token.allowed_models is None else ", ".join(token.allowed_models)),
        ("Requests per minute", str(token.requests_per_minute or "no limit")),
        ("Today", printing.budget(day)),
        ("This month", printing.budget(month)),
        ("Total", printing.budget(total)),
        ("Budget mode", budget_mode_words(token)),
        ("Held now", format_usd(token.held_nano)),
        ("Requests", printing.requests(token.total_requests, token.successful_requests, token.failed_requests)),
        ("Expires", printing.when(token.expires_at)),
        ("Last used", printing.when(token.last_used_at)),
        ("Created", printing.when(token.created_at)),
    ]
