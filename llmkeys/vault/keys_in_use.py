"""The encryption keys and settings of the running servers of this data directory.

With them `reencrypt` avoids locking a server out, and commands say if their own settings differ. Each `serve` writes a
file with the ids of its keys (not secret: every ciphertext contains them) and keyed digests of its settings, and keeps
it locked while any of its processes lives. A server whose keys come from the file `encryption.key` re-reads that file.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from django.conf import settings

from llmkeys.exceptions import DataDirectoryProblem, LLMKeysError
from llmkeys.vault import keyring, settings_in_use
from refactai_site import settings_file
from refactai_site.data_dir import create_private_file

_open_file: IO[str] | None = None  # kept open and locked while this process or a child of it lives


class ServerWouldBeLockedOut(LLMKeysError):
    """A running server does not have the key that is about to be used."""


def announce() -> None:
    """Publish this server's keys and settings. Raises DataDirectoryProblem if the directory cannot be written."""
    global _open_file
    # Servers in two containers that share the directory may have the same process id.
    path = settings.DATA_DIR / f"server-{os.getpid()}-{secrets.token_hex(8)}.keys"
    draft = path.with_name(f".{path.name}")  # renamed only once it is locked, because others remove unlocked files
    published = {"pid": os.getpid(), "keys": None if _from_file() else _ids(), "settings": settings_in_use.digests()}
    try:
        create_private_file(draft, json.dumps(published))
        _open_file = draft.open()
        fcntl.flock(_open_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise DataDirectoryProblem(f"The file {path} cannot be written: {error.strerror}.") from None


def require_first_key_known() -> None:
    """Raise ServerWouldBeLockedOut if a running server could not decrypt what the first key encrypts.

    For a command that is about to encrypt. It does not make a missing `encryption.key`, as `keyring()` would.
    """
    for server in running():
        known = server["keys"]
        if known is None:
            if _from_file():
                continue  # both read the same file
            known = keyring.ids_in_file()
        here = keyring.ids_in_file() if _from_file() else _ids()
        if not here or here[0] not in known:
            raise ServerWouldBeLockedOut(
                f"The running server (process {server['pid']}) does not have the first encryption key of this command, "
                "and could not read what it encrypts. Use the server's keys here too: REFACTAI_ENCRYPTION_KEYS in "
                f"{settings.DATA_DIR / settings_file.NAME} applies to both. If you change the key, first restart the "
                "server with REFACTAI_ENCRYPTION_KEYS=NEW,OLD. Nothing was changed."
            )


def _from_file() -> bool:
    return not settings.REFACTAI_ENCRYPTION_KEYS


def _ids() -> list[str]:
    return [key.id.hex() for key in keyring.keyring().keys]


def different_settings() -> list[tuple[int, list[str]]]:
    """Return the process id of each running server whose settings differ from those here, and which they are."""
    return [
        (server["pid"], names)
        for server in running()
        if (names := settings_in_use.different_from(server.get("settings", {})))
    ]


def another_database() -> str:
    """Return that a running server has another database, which may be why there is none here; or ""."""
    file = settings.DATA_DIR / settings_file.NAME
    for pid, names in different_settings():
        if "DATABASE_URL" in names:
            return (
                f"The database of the running server (process {pid}) is another one, because its DATABASE_URL is not "
                f"the one here. Set it here as well, or in {file}, which both read."
            )
    return ""


def running() -> Iterator[dict]:
    """Yield what the running servers have published, and remove what others left behind."""
    for path in sorted(settings.DATA_DIR.glob("server-*.keys")):
        with suppress(OSError, ValueError), path.open() as file:  # just ending, or not readable
            if _is_locked(file):
                yield json.load(file)
            else:
                Path(path).unlink(missing_ok=True)


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
