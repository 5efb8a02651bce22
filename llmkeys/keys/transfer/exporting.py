"""Writes all stored keys to a file that `import_keys` can read, here or in another installation."""

from __future__ import annotations

import json
import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from llmkeys.exceptions import LLMKeysError
from llmkeys.models import ApiKey
from llmkeys.presentation import instant_json, keys_json
from llmkeys.vault import keyring


class CannotExport(LLMKeysError):
    """The file was not written; what was there before is unchanged."""


def export_file(path: Path, *, at: datetime, include_secrets: bool = False, overwrite: bool = False) -> int:
    """Write every key that is not deleted to a file that only its owner can read; return how many.

    The file is replaced atomically. Raises CannotExport, or WrongEncryptionKey if the secrets are to be included and
    cannot be decrypted.
    """
    keys = list(ApiKey.objects.stored().in_serving_order())
    entries = [_entry(key, shown, include_secrets) for key, shown in zip(keys, keys_json(keys, at=at), strict=True)]
    _write(path, json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n", overwrite)
    return len(entries)


def _entry(key: ApiKey, shown: dict[str, Any], include_secrets: bool) -> dict[str, Any]:
    """Return the JSON of a key, with why it is `DISABLED` and, if asked for, its secret."""
    if key.is_off:
        shown |= {"enabled": key.enabled, "rejectedAt": instant_json(key.rejected_at), "lastError": key.last_error}
    if include_secrets and (secret := keyring.reveal(key)):
        shown["apiKey"] = secret
    return shown


def _write(path: Path, text: str, overwrite: bool) -> None:
    if not path.name:
        raise CannotExport("Name the file to write.")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # `link` fails if the file exists; `replace` does not.
            draft.replace(path) if overwrite else os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        raise CannotExport(f"{path} already exists. Choose another name, or repeat with --force.") from None
    except OSError as error:
        raise CannotExport(f"{path} cannot be written: {error.strerror}.") from None
