"""The master keys in use, and whether they decrypt what is stored.

A stored secret is read with `open_secret`, for the request that sends it, or with `reveal`, for an export.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from django.conf import settings
from django.db.models import QuerySet

from llmkeys import providers
from llmkeys.exceptions import DataDirectoryProblem, SecretMissing, WrongEncryptionKey
from llmkeys.models import ApiKey
from llmkeys.providers.base import Provider
from llmkeys.providers.pasted import read_secret
from llmkeys.vault.crypto import DecryptionFailed, Keyring, MasterKey, mask, new_master_key
from refactai_site.data_dir import create_private_file

SEALED = (
    "The stored secrets cannot be decrypted with the encryption keys given. Put back the file {file} (or "
    "REFACTAI_ENCRYPTION_KEYS) that was in use when the keys were stored; nothing stored was changed."
)
UNUSABLE = "The encryption key file {file} {fault}. Put back the key that was in it; nothing stored was changed."
WAYS_BACK = (
    " A backup that was made without --without-key holds that key: ./manage.py restore FILE. If it is lost for good, "
    "./manage.py reencrypt --discard-unreadable discards only the secrets; then enter each of them again."
)

DRAFT = "replaced-key."  # the beginning of the name of a new key file's draft


def key_file() -> Path:
    return settings.DATA_DIR / "encryption.key"


def keyring() -> Keyring:
    """Return the master keys, generating `encryption.key` if it is missing and the database holds no secret.

    Raises WrongEncryptionKey if secrets are stored but no key is given, DataDirectoryProblem if the file
    cannot be read or written.
    """
    given = settings.REFACTAI_ENCRYPTION_KEYS
    return _keyring(tuple(given)) if given else _keyring_from_file(f"{settings.DATA_DIR}/encryption.key")


@lru_cache(maxsize=8)
def _keyring(texts: tuple[str, ...]) -> Keyring:
    return Keyring(tuple(MasterKey(text) for text in texts))


def _keyring_from_file(path: str) -> Keyring:
    try:
        try:
            stat = os.stat(path)  # noqa: PTH116  (called for every request: a Path costs ten times as much)
        except FileNotFoundError:
            _create_key_file(Path(path))
            stat = os.stat(path)  # noqa: PTH116
        texts = _read_version(path, stat.st_ino, stat.st_mtime_ns)
    except OSError as error:
        raise DataDirectoryProblem(f"The encryption key file {path} cannot be used: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise WrongEncryptionKey(UNUSABLE.format(file=path, fault="is not a text file") + WAYS_BACK) from None
    if not texts:
        raise WrongEncryptionKey(UNUSABLE.format(file=path, fault="is empty") + WAYS_BACK)
    return _keyring(texts)


@lru_cache(maxsize=8)
def _read_version(path: str, _inode: int, _mtime_ns: int) -> tuple[str, ...]:
    """Read the keys in the file; cached until the file changes."""
    return split_keys(Path(path).read_text())


def split_keys(text: str) -> tuple[str, ...]:
    """Return the master keys in the text of a key file: one per line, or separated by commas."""
    return tuple(line.strip() for line in text.replace(",", "\n").splitlines() if line.strip())


def keys_of(path: Path) -> tuple[str, ...]:
    """Return the master keys of a key file; none if it does not exist or is not text. Raises OSError."""
    try:
        return split_keys(path.read_text())
    except (FileNotFoundError, UnicodeDecodeError):
        return ()


def replace_key_file(text: str) -> None:
    """Replace the content of `encryption.key` atomically; running servers read it again at their next request."""
    path = key_file()
    draft = path.with_name(f".{DRAFT}{secrets.token_hex(8)}")
    create_private_file(draft, text.strip() + "\n")
    draft.replace(path)


def set_unusable_file_aside() -> Path | None:
    """Rename `encryption.key` if no key can be read from it, so that a new one is made; return its new name."""
    path = key_file()
    if settings.REFACTAI_ENCRYPTION_KEYS or not path.is_file() or keys_of(path):
        return None
    return path.replace(path.with_name(f"{path.name}.unusable-{secrets.token_hex(4)}"))


def ids_in_file() -> list[str]:
    """Return the ids of the master keys in `encryption.key`, whether or not they are in use here."""
    try:
        texts = keys_of(key_file())
    except OSError:
        return []
    return [MasterKey(text).id.hex() for text in texts]


def _create_key_file(path: Path) -> None:
    if _stored_secrets().exists():
        raise WrongEncryptionKey(SEALED.format(file=path) + WAYS_BACK)
    create_private_file(path, new_master_key() + "\n")


def _stored_secrets() -> QuerySet[ApiKey]:
    return ApiKey.objects.stored().exclude(secret=b"")


def verify() -> None:
    """Check that every stored secret can be decrypted. Raises WrongEncryptionKey with a message for the operator."""
    ring = keyring()
    closed = []
    for key in _stored_secrets().only("id", "name", "secret").iterator():
        try:
            ring.decrypt(bytes(key.secret), row_id=key.id)
        except DecryptionFailed:
            closed.append(key.name)
    if closed:
        names = ", ".join(f"“{name}”" for name in closed[:3]) + (" and others" if len(closed) > 3 else "")
        raise WrongEncryptionKey(f"{SEALED.format(file=key_file())} Affected: {names}.{WAYS_BACK}")


def seal_secret(plain: str, *, row_id: str) -> bytes:
    """Encrypt a secret for its row. Raises WrongEncryptionKey if other stored secrets cannot be decrypted (sealed)."""
    verify()
    return seal_one_of_many(plain, row_id=row_id)


def seal_one_of_many(plain: str, *, row_id: str) -> bytes:
    """Encrypt without checking the other secrets: the caller has called `verify` once for all of them."""
    return keyring().encrypt(plain, row_id=row_id)


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is stored for a secret."""

    secret: bytes
    fingerprint: str


def reseal(stored: bytes, fingerprint: str | None, *, row_id: str, provider: str) -> Sealed | None:
    """Return a new ciphertext and fingerprint under the first key; None if both are under it already.

    Raises DecryptionFailed if no master key decrypts it.
    """
    ring = keyring()
    plain = ring.decrypt(stored, row_id=row_id)
    wanted = ring.fingerprint(plain, provider=provider)
    if ring.is_current(stored) and fingerprint == wanted:
        return None
    return Sealed(ring.encrypt(plain, row_id=row_id), wanted)


def reveal(key: ApiKey) -> str:
    """Return a stored secret in plaintext, for an export that asked for it; "" if none is stored.

    Raises WrongEncryptionKey if it does not decrypt.
    """
    return "" if key.environment_variable or not key.secret else open_secret(key)


def fingerprint(plain: str, *, provider: str) -> str:
    return keyring().fingerprint(plain, provider=provider)


def twin_of(plain: str, *, provider: str, other_than: str = "") -> ApiKey | None:
    """Return the key, if any, that already has this secret; fingerprints under every master key are compared."""
    prints = keyring().fingerprints(plain, provider=provider)
    return ApiKey.objects.filter(provider=provider, fingerprint__in=prints).exclude(pk=other_than).first()


def read_variable(variable: str, provider: Provider) -> str:
    """Return the key in an environment variable. Raises SecretMissing, naming the variable, if it cannot be sent.

    The value is never written to the database.
    """
    value = os.environ.get(variable, "")
    if not value.strip():
        raise SecretMissing(f"The environment variable {variable} is not set any more.")
    try:
        return read_secret(value, provider, base_url=settings.PROVIDER_BASE_URLS[provider.name])
    except ValueError as error:
        raise SecretMissing(f"The environment variable {variable} does not hold a key: {_lower(str(error))}") from None


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def is_registered(key: SecretHolder, masked: str) -> bool:
    """Return whether this process has the secret of an environment key that `serve` registered; True for other keys.

    A command's shell may hold another value. Only the mask is stored, so two short secrets, which are masked entirely,
    count as the same.
    """
    if not key.environment_variable:
        return True
    try:
        secret = open_secret(key)
    except SecretMissing:
        return False
    return mask(secret, providers.get(key.provider).secret_prefixes) == masked


class SecretHolder(Protocol):
    """What is needed of a key to read its secret: an ApiKey, or a candidate of the relay."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def environment_variable(self) -> str: ...
    @property
    def workspace_id(self) -> str: ...
    @property
    def secret(self) -> bytes | memoryview: ...


def open_secret(key: SecretHolder) -> str:
    """Return the secret in plaintext, for the one request that sends it.

    Raises WrongEncryptionKey if it does not decrypt, SecretMissing if there is none to send.
    """
    if key.environment_variable:
        return read_variable(key.environment_variable, providers.get(key.provider))
    if not key.secret:
        raise SecretMissing(f"The key “{key.name}” has no secret.")
    try:
        return keyring().decrypt(bytes(key.secret), row_id=key.id)
    except DecryptionFailed:
        raise WrongEncryptionKey(SEALED.format(file=key_file())) from None
