"""Finds a stored key, or an access token, by its id or its exact name."""

from __future__ import annotations

from django.core.management.base import CommandError
from django.db.models import Q

from llmkeys.models import AccessToken, ApiKey


def pick_key(named: str) -> ApiKey:
    """Return the key with this id or name. Raises CommandError if there is none, or more than one."""
    stored = ApiKey.objects.stored()
    by_id = stored.filter(pk=named).first()
    if by_id is not None:
        return by_id
    found = list(stored.filter(name=named).order_by("created_at"))
    if not found:
        raise CommandError(f"There is no key “{named}”. `./manage.py keys list` shows the ids and names.")
    if len(found) > 1:
        ids = ", ".join(key.id for key in found)
        raise CommandError(f"{len(found)} keys have the name “{named}”. Name one by its id: {ids}.")
    return found[0]


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
