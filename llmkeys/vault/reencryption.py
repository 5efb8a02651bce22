"""Re-encryption of all stored secrets with the first master key, while the product serves.

One short transaction per key, conditional on the ciphertext that was read: a key that is changed in the meantime is
read again, and a run that is killed leaves every row intact, under the old key or the new one. Running it again
continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from django.db import IntegrityError
from django.db.backends.utils import CursorWrapper

from llmkeys.database import writer
from llmkeys.key_state import ApiKeyQuerySet
from llmkeys.models import ApiKey
from llmkeys.vault import keyring
from llmkeys.vault.crypto import DecryptionFailed

CLOSED = (
    "No key in REFACTAI_ENCRYPTION_KEYS decrypts it. "
    "Add the encryption key it was stored with, or enter its secret again."
)
TWIN = "It has the same secret as another key; delete one of the two."

_REPLACE = "UPDATE llmkeys_apikey SET secret = %s, fingerprint = %s WHERE id = %s AND secret = %s"


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A key that was not re-encrypted, and why."""

    key_id: str
    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class Report:
    """How many secrets were re-encrypted, how many were under the first key already, and which were left alone."""

    changed: int
    current: int
    left_alone: list[LeftAlone]


def stored_secrets() -> int:
    return _with_secret().count()


def reencrypt(*, on_each: Callable[[], object] = lambda: None) -> Report:
    """Encrypt every stored secret with the first key, and recompute its fingerprint; `on_each` is called per key.

    Raises RecordingUnavailable if the database cannot be written; what was done until then stays done.
    """
    changed = current = 0
    left_alone: list[LeftAlone] = []
    for key in _with_secret().only("id", "name", "provider", "secret", "fingerprint").iterator():
        try:
            done = _reseal(key)
        except DecryptionFailed:
            left_alone.append(LeftAlone(key.id, key.name, CLOSED))
        except IntegrityError:
            left_alone.append(LeftAlone(key.id, key.name, TWIN))
        else:
            changed, current = changed + done, current + (not done)
        on_each()
    return Report(changed, current, left_alone)


def _with_secret() -> ApiKeyQuerySet:
    return ApiKey.objects.stored().exclude(secret=b"").order_by("id")


def _reseal(key: ApiKey | None) -> bool:
    """Re-encrypt the key's secret; return False if that was not needed or the key is gone."""
    while key is not None:
        old = bytes(key.secret)
        sealed = keyring.reseal(old, key.fingerprint, row_id=key.id, provider=key.provider)
        if sealed is None:
            return False
        if writer.run_now(partial(_replace, key_id=key.id, old=old, sealed=sealed)):
            return True
        key = _with_secret().filter(pk=key.id).first()  # it was changed in the meantime: it has another secret, or none
    return False


def _replace(cursor: CursorWrapper, *, key_id: str, old: bytes, sealed: keyring.Sealed) -> bool:
    cursor.execute(_REPLACE, [sealed.secret, sealed.fingerprint, key_id, old])
    return cursor.rowcount == 1
