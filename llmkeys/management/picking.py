"""A stored key by its id or its exact name."""

from __future__ import annotations

from django.core.management.base import CommandError

from llmkeys.models import ApiKey


def pick_key(named: str) -> ApiKey:
    """Return the key that a person named. Raises CommandError where there is none, or more than one."""
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
