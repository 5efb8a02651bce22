"""Add, change, enable, disable and delete keys, replace their secrets, and choose the default.

Each function is one transaction that includes its event. It raises InvalidInput with a sentence per field,
DuplicateSecret, KeyConflict or WrongEncryptionKey (sealed), and then changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from llmkeys import ledger, providers
from llmkeys.database.sql import instant
from llmkeys.exceptions import DuplicateSecret, InvalidInput, KeyConflict
from llmkeys.key_state import current_windows
from llmkeys.keys import fields
from llmkeys.keys.default import changing_keys, ensure_default, give_default, hand_default_on, standing_default
from llmkeys.ledger import coolings
from llmkeys.models import ApiKey
from llmkeys.vault import keyring
from llmkeys.vault.crypto import mask


def add_key(*, values: Mapping[str, Any], at: datetime, actor: str = "") -> ApiKey:
    """Store a new key from fields named as in the API (`provider`, `name`, `apiKey`, …), and return it.

    Limits are in USD; those left out come from the settings. The first key of the database becomes the default.
    """
    cleaned = fields.clean_new(values, at=at)
    secret, wants_default = cleaned.pop("secret"), cleaned.pop("is_default", False)
    windows = current_windows(at)
    key = ApiKey(
        **{**fields.default_limits(), **cleaned}, day=windows.day, month=windows.month, created_at=at, updated_at=at
    )
    with changing_keys():
        _put_secret(key, secret)
        key.save(force_insert=True)
        with connection.cursor() as cursor:
            ledger.add_event(cursor, "added", key.id, f"“{key.name}” was added.", at, actor=actor)
            is_wanted = wants_default or standing_default(cursor) is None
            if is_wanted and key.enabled and not key.is_expired(at):
                give_default(cursor, key.id, at, actor=actor)
    key.refresh_from_db()
    return key


def check_new(values: Mapping[str, Any], *, at: datetime) -> None:
    """Check the fields of a new key before its secret is known. Raises InvalidInput, as `add_key` would."""
    try:
        fields.clean_new({**values, "apiKey": ""}, at=at)
    except InvalidInput as error:
        others = {name: texts for name, texts in error.errors.items() if name != "apiKey"}
        if others:
            raise InvalidInput(others) from None


def check_change(key: ApiKey, values: Mapping[str, Any], *, with_secret: bool, at: datetime) -> None:
    """Check a change before a new secret is known. Raises InvalidInput and KeyConflict, as `update_key` would."""
    fields.clean_change(values, key=key, at=at)
    if with_secret:
        _refuse_environment(key, "its secret comes from the variable")


def update_key(key: ApiKey, *, values: Mapping[str, Any], at: datetime, actor: str = "") -> ApiKey:
    """Change the fields in `values`; an empty `apiKey` leaves the secret as it is."""
    cleaned = fields.clean_change(values, key=key, at=at)
    secret = cleaned.pop("secret", "")
    changed = [name for name, value in cleaned.items() if getattr(key, name) != value]
    moves_default = bool(secret) or not {"enabled", "expires_at"}.isdisjoint(changed)
    with changing_keys() if moves_default else transaction.atomic():
        for name in changed:
            setattr(key, name, cleaned[name])
        if secret:
            _refuse_environment(key, "its secret comes from the variable")
            _put_secret(key, secret)
            key.secret_missing = False
            changed += ["secret", "fingerprint", "masked_secret", "secret_missing", *key.forget_verdicts()]
        if changed:
            _save_change(key, changed, at, actor, moves_default=moves_default)
    key.refresh_from_db()
    return key


def _save_change(key: ApiKey, changed: list[str], at: datetime, actor: str, *, moves_default: bool) -> None:
    if any(name.endswith("_limit_nano") or name == "budget_mode" for name in changed):
        key.refused_window = ""
        changed.append("refused_window")
    key.updated_at = at
    key.save(update_fields=[*changed, "updated_at"])
    words = ", ".join(sorted(fields.label_of(name) for name in changed if name in fields.LABELS))
    with connection.cursor() as cursor:
        if "secret" in changed:
            coolings.forget(cursor, key.id)
        if moves_default and (key.is_expired(at) or not key.enabled):
            hand_default_on(cursor, key.id, at)
        if moves_default:
            ensure_default(cursor, at)
        ledger.add_event(cursor, "changed", key.id, f"“{key.name}” was changed: {words}.", at, actor=actor)


def set_default(key: ApiKey, *, at: datetime, actor: str) -> ApiKey:
    """Make this the default key, and enable it if it is disabled. Raises KeyConflict if it has expired.

    The actor is required: an environment key keeps the mark only if a person gave it.
    """
    if key.is_expired(at):
        raise KeyConflict(f"“{key.name}” expired on {key.expires_at:%Y-%m-%d %H:%M} UTC. Change its expiry date first.")
    with changing_keys() as cursor:
        cursor.execute(
            "UPDATE llmkeys_apikey SET enabled = %s, updated_at = %s WHERE id = %s AND NOT enabled",
            [True, instant(at), key.id],
        )
        if standing_default(cursor) is None:  # this key may be the default by itself: from now on a person chose it
            cursor.execute("UPDATE llmkeys_apikey SET is_default = %s WHERE id = %s", [False, key.id])
        give_default(cursor, key.id, at, actor=actor)
    key.refresh_from_db()
    return key


def toggle(key: ApiKey, *, active: bool | None, at: datetime, actor: str = "") -> ApiKey:
    """Enable or disable the key; None toggles. A rejection is not cleared: only a test or a new secret does that."""
    with changing_keys() as cursor:
        wanted = (not key.enabled) if active is None else active
        cursor.execute(
            "UPDATE llmkeys_apikey SET enabled = %s, updated_at = %s WHERE id = %s AND enabled <> %s",
            [wanted, instant(at), key.id, wanted],
        )
        if cursor.rowcount:
            words = f"“{key.name}” was switched {'on' if wanted else 'off'}."
            ledger.add_event(cursor, "changed", key.id, words, at, actor=actor)
        if wanted:
            ensure_default(cursor, at)
        else:
            hand_default_on(cursor, key.id, at)
    key.refresh_from_db()
    return key


def delete_key(key: ApiKey, *, at: datetime, actor: str = "") -> None:
    """Delete the key by wiping its secret and fingerprint; its history, its part of the sums and its open holds stay.

    Raises KeyConflict for an environment key.
    """
    check_deletable(key)
    with changing_keys() as cursor:
        cursor.execute(
            """UPDATE llmkeys_apikey SET secret = %s, fingerprint = NULL, enabled = %s, is_default = %s,
                 deleted_at = %s, updated_at = %s WHERE id = %s AND deleted_at IS NULL""",
            [b"", False, False, instant(at), instant(at), key.id],
        )
        cursor.execute("DELETE FROM llmkeys_servingkey WHERE key_id = %s", [key.id])
        coolings.forget(cursor, key.id)
        ledger.add_event(cursor, "deleted", key.id, f"“{key.name}” was deleted.", at, actor=actor)
        ensure_default(cursor, at)


def check_deletable(key: ApiKey) -> None:
    """Raise KeyConflict for an environment key."""
    if key.environment_variable:
        raise KeyConflict(
            f"“{key.name}” comes from the environment and cannot be deleted. Disable it, or unset the variable "
            f"{key.environment_variable} and start again."
        )


# --- parts -----------------------------------------------------------------------------------------------------------


def _put_secret(key: ApiKey, secret: str) -> None:
    """Encrypt and mark the secret. Raises DuplicateSecret, naming the key that has it."""
    twin = keyring.twin_of(secret, provider=key.provider, other_than=key.pk)
    if twin is not None:
        raise DuplicateSecret(twin.name)
    key.secret = keyring.seal_secret(secret, row_id=key.id)
    key.fingerprint = keyring.fingerprint(secret, provider=key.provider)
    key.masked_secret = mask(secret, providers.get(key.provider).secret_prefixes)


def _refuse_environment(key: ApiKey, why: str) -> None:
    if key.environment_variable:
        raise KeyConflict(f"“{key.name}” comes from the environment: {why} {key.environment_variable}.")
