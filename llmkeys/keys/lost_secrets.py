"""After the encryption key is lost for good: the secrets are discarded, everything else is kept."""

from __future__ import annotations

from datetime import datetime

from llmkeys import ledger
from llmkeys.exceptions import WrongEncryptionKey
from llmkeys.keys.default import changing_keys, hand_default_on
from llmkeys.models import ApiKey
from llmkeys.vault import keyring
from llmkeys.vault.crypto import DecryptionFailed, Keyring

LOST = "Its secret was lost together with the encryption key. Enter a new one: edit the key and replace its secret."


def unreadable_keys() -> list[ApiKey]:
    """Return the stored keys whose secret no master key decrypts; all keys with a secret if there is no master key."""
    stored = ApiKey.objects.stored().exclude(secret=b"").in_serving_order()
    try:
        ring = keyring.keyring()
    except WrongEncryptionKey:
        return list(stored)
    return [key for key in stored if not _opens(ring, key)]


def _opens(ring: Keyring, key: ApiKey) -> bool:
    try:
        ring.decrypt(bytes(key.secret), row_id=key.id)
    except DecryptionFailed:
        return False
    return True


def discard(keys: list[ApiKey], *, at: datetime, actor: str = "") -> None:
    """Wipe the secrets of these keys, with an event for each, in one transaction; everything else about them stays.

    A key is disabled until it gets a new secret. A key whose secret was replaced in the meantime is left alone.
    """
    with changing_keys() as cursor:
        for key in keys:
            wiped = ApiKey.objects.filter(pk=key.pk, secret=key.secret).update(
                secret=b"", fingerprint=None, secret_missing=True, last_error=LOST, updated_at=at
            )
            if wiped:
                ledger.add_event(cursor, "changed", key.id, f"“{key.name}”: {LOST}", at, actor=actor)
                hand_default_on(cursor, key.id, at)
