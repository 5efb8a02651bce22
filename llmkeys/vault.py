"""The master keys in force and whether they open what is stored. The one door to a stored secret is `open_secret`."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

from llmkeys.crypto import DecryptionFailed, Keyring, MasterKey, new_master_key
from llmkeys.exceptions import DataDirectoryProblem, SecretMissing, WrongEncryptionKey
from refactai_site.data_dir import create_private_file

if TYPE_CHECKING:
    from llmkeys.models import ApiKey

SEALED = (
    "The stored secrets cannot be decrypted with the encryption keys given. Put back the file {file} (or "
    "REFACTAI_ENCRYPTION_KEYS) that was in use when the keys were stored; nothing stored was changed."
)


def key_file() -> Path:
    return settings.DATA_DIR / "encryption.key"


def keyring() -> Keyring:
    """Return the master keys, generating `encryption.key` only while the database holds no secret.

    Raises WrongEncryptionKey where secrets are stored but no key is given, DataDirectoryProblem where the file
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
            stat = os.stat(path)  # noqa: PTH116  (asked for at every request: a Path costs ten times as much)
        except FileNotFoundError:
            _create_key_file(Path(path))
            stat = os.stat(path)  # noqa: PTH116
        texts = _read_version(path, stat.st_ino, stat.st_mtime_ns)
    except OSError as error:
        raise DataDirectoryProblem(f"The encryption key file {path} cannot be used: {error.strerror}.") from None
    if not texts:
        raise WrongEncryptionKey(f"The encryption key file {path} is empty. Put back the key that was in it.")
    return _keyring(texts)


@lru_cache(maxsize=8)
def _read_version(path: str, _inode: int, _mtime_ns: int) -> tuple[str, ...]:
    """Read the keys of the file; again only when it changed."""
    lines = Path(path).read_text().replace(",", "\n").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _create_key_file(path: Path) -> None:
    if _stored_secrets().exists():
        raise WrongEncryptionKey(SEALED.format(file=path))
    create_private_file(path, new_master_key() + "\n")


def _stored_secrets():
    from llmkeys.models import ApiKey

    return ApiKey.objects.stored().exclude(secret=b"")


def verify() -> None:
    """Check that every stored secret decrypts. Raises WrongEncryptionKey with a sentence for the operator."""
    ring = keyring()
    closed = []
    for key in _stored_secrets().only("id", "name", "secret").iterator():
        try:
            ring.decrypt(key.secret, row_id=key.id)
        except DecryptionFailed:
            closed.append(key.name)
    if closed:
        names = ", ".join(f"“{name}”" for name in closed[:3]) + (" and others" if len(closed) > 3 else "")
        raise WrongEncryptionKey(SEALED.format(file=key_file()) + f" Affected: {names}.")


def seal_secret(plain: str, *, row_id: str) -> bytes:
    """Encrypt a secret for its row. Raises WrongEncryptionKey where other stored secrets do not open (sealed)."""
    verify()
    return keyring().encrypt(plain, row_id=row_id)


def fingerprint(plain: str, *, provider: str) -> str:
    return keyring().fingerprint(plain, provider=provider)


def open_secret(key: ApiKey) -> str:
    """Return the secret in clear, for the one call that sends it.

    Raises WrongEncryptionKey where it does not decrypt, SecretMissing where there is none to send.
    """
    if key.environment_variable:
        plain = os.environ.get(key.environment_variable, "").strip()
        if not plain:
            raise SecretMissing(f"The environment variable {key.environment_variable} is not set any more.")
        return plain
    if not key.secret:
        raise SecretMissing(f"The key “{key.name}” has no secret.")
    try:
        return keyring().decrypt(key.secret, row_id=key.id)
    except DecryptionFailed:
        raise WrongEncryptionKey(SEALED.format(file=key_file())) from None
