"""Finds a stored key, or an access token, by its id or its exact name."""

from __future__ import annotations

from django.core.management.base import CommandError
from django.db.models import Q, QuerySet

from llmkeys.models import AccessToken, ApiKey


def pick_key(named: str, *, or_deleted: bool = False) -> ApiKey:
    """Return the key with this id or name; `or_deleted`: if no stored key has it, a deleted one.

    Raises CommandError if there is none, or more than one.
    """
    found = _with_id_or_name(ApiKey.objects.stored(), named)
    if not found and or_deleted:
        found = _with_id_or_name(ApiKey.objects.filter(deleted_at__isnull=False), named)
    if not found:
        raise CommandError(f"There is no key “{named}”. `./manage.py keys list` shows the ids and names.")
    if len(found) > 1:
        ids = ", ".join(key.id for key in found)
        raise CommandError(f"{len(found)} keys have the name “{named}”. Name one by its id: {ids}.")
    return found[0]


def _with_id_or_name(keys: QuerySet[ApiKey], named: str) -> list[ApiKey]:
    return list(keys.filter(pk=named)) or list(keys.filter(name=named).order_by("created_at"))


def pick_token(named: str) -> AccessToken:
    """Return the token with this id or name, preferring tokens that are not revoked.

    Raises CommandError if there is none, or more than one.
    """
    tokens = AccessToken.objects.select_related("user", "maker")
    by_id = Q(pk=int(named)) if named.isascii() and named.isdecimal() and len(named) < 19 else Q(pk__in=[])
    found = list(tokens.filter(by_id)) or list(tokens.filter(name=named))
    found = [token for token in found if token.revoked_at is None] or found[:1]
    if not found:
        raise CommandError(f"There is no token “{named}”. `./manage.py tokens list` shows the ids and names.")
    if len(found) > 1:
        ids = ", ".join(str(token.id) for token in found)
        raise CommandError(f"{len(found)} tokens have the name “{named}”. Name one by its id: {ids}.")
    return found[0]
