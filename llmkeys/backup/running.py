"""The lock of the data directory: every `serve` holds it shared, `restore` and `reencrypt --discard-…` exclusively."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmkeys.backup import archive, kept, sqlite
from llmkeys.backup.errors import CannotRestore
from llmkeys.database import sql
from llmkeys.vault import keyring

NAME = "serving.lock"
# Files of a restore that was killed: its unpacked archive and drafts of the key file, which contain secrets.
_LEFT_BEHIND = (".restore.*", f".{keyring.DRAFT}*", f"..{keyring.DRAFT}*")


def announce_serving(data_dir: Path) -> int | None:
    """Take the shared lock for the life of this process and its children; None if a restore is in progress."""
    descriptor = _lock(data_dir, fcntl.LOCK_SH)
    if descriptor is not None:
        _tidy(data_dir)
    return descriptor


@contextmanager
def without_server(data_dir: Path) -> Iterator[None]:
    """Hold the exclusive lock. Raises CannotRestore if a server is running."""
    descriptor = _lock(data_dir, fcntl.LOCK_EX)
    if descriptor is None:
        raise CannotRestore(
            f"A server is running on {data_dir}. Stop it (Ctrl-C, or `systemctl stop`), run this again, then start it."
        )
    try:
        _tidy(data_dir)
        yield
    finally:
        os.close(descriptor)


def _tidy(data_dir: Path) -> None:
    """Remove what killed backups and restores left; the caller holds the lock, so no restore is in progress."""
    archive.remove_abandoned(data_dir / kept.NAME)
    if sql.is_sqlite():
        with suppress(OSError):
            sqlite.draft_file().unlink(missing_ok=True)
    for pattern in _LEFT_BEHIND:
        for left in data_dir.glob(pattern):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _lock(data_dir: Path, kind: int) -> int | None:
    descriptor = os.open(data_dir / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
