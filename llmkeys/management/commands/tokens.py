"""`manage.py tokens`: the access tokens that programs use. A token is printed once, at its making, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.management.base import CommandError, CommandParser
from django.db.models import Q
from django.utils import timezone

from llmkeys.exceptions import InvalidInput
from llmkeys.keys.fields import parse_instant
from llmkeys.management import printing
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import add_verb
from llmkeys.management.picking import pick_key
from llmkeys.models import AccessToken
from llmkeys.presentation import token_json
from llmkeys.tokens import making as service


class Command(BaseCommand):
    help = "Make, list and revoke the access tokens of programs."
    example = "tokens create my-program"

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        _add_create(verbs)
        add_verb(verbs, "list", "Show all access tokens; never their text.", "tokens list --json")
        revoke = add_verb(verbs, "revoke", "End a token at once, for good.", "tokens revoke my-program", json=False)
        revoke.add_argument("token", metavar="TOKEN", help="its id or its exact name")

    def handle(self, *, verb: str, **options: Any) -> None:
        getattr(self, f"_{verb}")(options)

    def _create(self, options: Mapping[str, Any]) -> None:
        at = timezone.now()
        token, text = service.create_token(
            name=options["name"],
            user=_user(options["user"]),
            at=at,
            scopes=options["scope"] or ["gateway"],
            expires_at=_expiry(options["expires"]),
            key_ids=[pick_key(named).id for named in options["key"] or ()] or None,
        )
        if options["json"]:
            self.write_json(token_json(token) | {"token": text})
        else:
            self.stdout.write(text)  # alone, so that a script can take it

    def _list(self, options: Mapping[str, Any]) -> None:
        tokens = list(AccessToken.objects.select_related("user").prefetch_related("keys"))
        if options["json"]:
            self.write_json([token_json(token) for token in tokens])
        elif tokens:
            self._write_table(tokens, timezone.now())
        else:
            self.stdout.write("There is no access token. Make one: ./manage.py tokens create my-program")

    def _write_table(self, tokens: list[AccessToken], at: datetime) -> None:
        headers = ["ID", "NAME", "SCOPES", "USER", "KEYS", "STATE", "EXPIRES", "LAST USED"]
        header, *lines = printing.table(headers, [_row(token, at) for token in tokens], right=["ID"])
        self.stdout.write(self.paint.MIGRATE_HEADING(header))
        for token, line in zip(tokens, lines, strict=True):
            self.stdout.write(line if _state(token, at) == "active" else self.paint.WARNING(line))

    def _revoke(self, options: Mapping[str, Any]) -> None:
        token = _pick(options["token"])
        service.revoke_token(token, at=timezone.now())
        self.stdout.write(f"The token “{token.name}” is revoked.")


def _add_create(verbs: Any) -> None:
    create = add_verb(
        verbs,
        "create",
        "Make an access token and print it, alone, on stdout. It cannot be shown again.",
        "tokens create my-program --scope gateway --expires 2027-12-31",
    )
    create.add_argument("name", metavar="NAME", help="what the token is for")
    create.add_argument(
        "--scope", action="append", metavar="S", help=f"{', '.join(service.SCOPES)}; may be repeated (default: gateway)"
    )
    create.add_argument("--expires", metavar="DATE", help="such as 2027-01-31 or 2027-01-31T12:00:00Z")
    create.add_argument("--user", metavar="NAME", help="the owner of the token (default: the first administrator)")
    create.add_argument("--key", action="append", metavar="ID", help="only this key serves it; may be repeated")


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


def _expiry(text: str | None) -> datetime | None:
    if text is None or text.strip().lower() == "never":
        return None
    try:
        return parse_instant(text)
    except ValueError as error:
        raise InvalidInput({"expiresAt": [str(error)]}) from None


def _pick(named: str) -> AccessToken:
    """Return the token of that id or name; of several with one name, the one that is not revoked."""
    by_id = Q(pk=int(named)) if named.isascii() and named.isdecimal() and len(named) < 19 else Q(pk__in=[])
    found = list(AccessToken.objects.filter(by_id)) or list(AccessToken.objects.filter(name=named))
    found = [token for token in found if token.revoked_at is None] or found[:1]
    if not found:
        raise CommandError(f"There is no token “{named}”. `./manage.py tokens list` shows the ids and names.")
    if len(found) > 1:
        ids = ", ".join(str(token.id) for token in found)
        raise CommandError(f"{len(found)} tokens have the name “{named}”. Name one by its id: {ids}.")
    return found[0]


def _row(token: AccessToken, at: datetime) -> list[str]:
    keys = ", ".join(key.name for key in token.keys.all()) or ("none" if token.limited_to_keys else "all")
    return [
        str(token.id), token.name, ", ".join(token.scopes), token.user.get_username(), keys, _state(token, at),
        printing.when(token.expires_at), printing.when(token.last_used_at),
    ]  # fmt: skip


def _state(token: AccessToken, at: datetime) -> str:
    if token.revoked_at is not None:
        return "revoked"
    if token.expires_at is not None and token.expires_at <= at:
        return "expired"
    return "active" if token.user.is_active else "its user is disabled"
