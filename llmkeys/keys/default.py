"""The default key: at most one key in the whole system is marked as such."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import connection, transaction

from llmkeys.database import postgresql
from llmkeys.database.sql import Cursor, instant
from llmkeys.ledger import KEYS, Account, add_event
from llmkeys.models import ApiKey

# Among environment keys, the present default keeps the mark.
_NEXT = """SELECT id, name FROM llmkeys_apikey
 WHERE deleted_at IS NULL AND enabled AND rejected_at IS NULL AND NOT secret_missing
   AND (expires_at IS NULL OR expires_at > %s)
 ORDER BY CASE WHEN source = 'environment' THEN 1 ELSE 0 END, is_default DESC, priority, created_at, id LIMIT 1"""

# Only what a person did has an actor.
_STANDING = """SELECT name FROM llmkeys_apikey k WHERE is_default AND (source <> 'environment' OR EXISTS (
  SELECT 1 FROM llmkeys_keyevent WHERE actor <> ''
     AND id = (SELECT MAX(id) FROM llmkeys_keyevent WHERE key_id = k.id AND kind = 'default_changed')))"""

_TURN = 0x6B657973  # the number of our advisory lock


@contextmanager
def changing_keys() -> Iterator[Cursor]:
    """Open a transaction that may move the default mark; others like it wait, so that it moves in one at a time.

    On SQLite writers take turns anyway. On PostgreSQL, two transactions that move the mark from the same key to
    different ones would violate the constraint, and one that locks two keys in any order would deadlock with requests.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        lock_keys(cursor)
        yield cursor


def lock_keys(cursor: Cursor) -> None:
    """Lock all keys until this transaction ends, because moving the default mark changes two of them."""
    postgresql.take_turn(cursor, _TURN)
    postgresql.lock_all_rows(cursor, KEYS.table)


def all_keys() -> list[tuple[str, str]]:
    """Return the accounts to declare for a writer's job that may move the default mark."""
    return [Account(KEYS, key_id).lock for key_id in ApiKey.objects.values_list("id", flat=True)]


def standing_default(cursor: Cursor) -> str | None:
    """Return the name of the default key; None if there is none, or only an environment key that gives way to others.

    An environment key is the default while no other key can be; then it gives way, unless a person has chosen it.
    """
    cursor.execute(_STANDING)
    row = cursor.fetchone()
    return row and row[0]


def give_default(cursor: Cursor, key_id: str, at: datetime, *, actor: str = "") -> None:
    """Make this the default key instead of any other, with an event if that is a change."""
    cursor.execute(
        "UPDATE llmkeys_apikey SET is_default = %s, updated_at = %s WHERE is_default AND id <> %s",
        [False, instant(at), key_id],
    )
    cursor.execute(
        "UPDATE llmkeys_apikey SET is_default = %s, updated_at = %s WHERE id = %s AND NOT is_default RETURNING name",
        [True, instant(at), key_id],
    )
    row = cursor.fetchone()
    if row is not None:
        add_event(cursor, "default_changed", key_id, f"“{row[0]}” is the default key now.", at, actor=actor)


def hand_default_on(cursor: Cursor, key_id: str, at: datetime) -> None:
    """Make the next available key the default if this one is."""
    cursor.execute(
        "UPDATE llmkeys_apikey SET is_default = %s, updated_at = %s WHERE id = %s AND is_default",
        [False, instant(at), key_id],
    )
    ensure_default(cursor, at)


def ensure_default(cursor: Cursor, at: datetime) -> None:
    """Make the first available key the default if there is no default key, or one that gives way."""
    if standing_default(cursor) is not None:
        return
    cursor.execute(_NEXT, [instant(at)])
    following = cursor.fetchone()
    if following is not None:
        give_default(cursor, following[0], at)
