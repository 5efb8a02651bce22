"""Secrets at rest and access tokens: encrypt, decrypt, fingerprint, mask. Works on bytes, without files or models.

A ciphertext is `version (1 byte) | key id (8) | nonce (12) | AES-256-GCM`. The key id says which master key it needs;
the row's id is bound in as associated data, so that a ciphertext copied to another row does not decrypt.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmkeys.lib.texts import TOKEN_PREFIX

HIDDEN = "***"  # the mask of a short secret

_VERSION = b"\x01"
_HEADER = 1 + 8 + 12


class DecryptionFailed(Exception):
    """None of the master keys decrypts the ciphertext, or it belongs to another row."""


@dataclass(frozen=True)
class MasterKey:
    """One master key: any text of at least 16 characters, stretched by HMAC into separate keys for each use."""

    text: str = field(repr=False)

    @cached_property
    def id(self) -> bytes:
        return self._derive(b"key id")[:8]

    @cached_property
    def cipher(self) -> AESGCM:
        return AESGCM(self._derive(b"encryption"))

    @cached_property
    def fingerprint_key(self) -> bytes:
        return self._derive(b"fingerprint")

    def _derive(self, purpose: bytes) -> bytes:
        return hmac.digest(self.text.encode(), b"llmkeys " + purpose, hashlib.sha256)


@dataclass(frozen=True)
class Keyring:
    """The master keys in force: the first encrypts, all decrypt."""

    keys: tuple[MasterKey, ...]

    def encrypt(self, plain: str, *, row_id: str) -> bytes:
        """Encrypt for the row `row_id` with the first key."""
        key, nonce = self.keys[0], os.urandom(12)
        return _VERSION + key.id + nonce + key.cipher.encrypt(nonce, plain.encode(), row_id.encode())

    def decrypt(self, stored: bytes, *, row_id: str) -> str:
        """Return the plaintext. Raises DecryptionFailed; never returns anything but what was encrypted."""
        stored = bytes(stored)
        key = next((key for key in self.keys if key.id == stored[1:9]), None)
        if stored[:1] != _VERSION or key is None:
            raise DecryptionFailed
        try:
            return key.cipher.decrypt(stored[9:_HEADER], stored[_HEADER:], row_id.encode()).decode()
        except (InvalidTag, ValueError):  # ValueError: truncated
            raise DecryptionFailed from None

    def fingerprint(self, plain: str, *, provider: str) -> str:
        """Return a keyed hash by which duplicates are recognised without revealing the secret."""
        return self.fingerprints(plain, provider=provider)[0]

    def fingerprints(self, plain: str, *, provider: str) -> list[str]:
        """Return the hash under each key, the first key's first; while keys are being changed, either may be stored."""
        text = f"{provider}\0{plain}".encode()
        return [hmac.digest(key.fingerprint_key, text, hashlib.sha256).hex() for key in self.keys]

    def is_current(self, stored: bytes) -> bool:
        """Return whether the ciphertext was made with the first key."""
        return bytes(stored[1:9]) == self.keys[0].id


def new_master_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def mask(secret: str, prefixes: tuple[str, ...]) -> str:
    """Return the known prefix and eight characters, `...`, the last four; `***` if that hides fewer than 12."""
    prefix = next((known for known in prefixes if secret.startswith(known)), "")
    head = len(prefix) + 8
    if len(secret) - head - 4 < 12:
        return HIDDEN
    return f"{secret[:head]}...{secret[-4:]}"


def new_access_token() -> str:
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def token_digest(token: str) -> str:
    """Return the hash by which an access token is stored; unsalted, because the token has 256 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
