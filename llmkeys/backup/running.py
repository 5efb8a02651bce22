"""Who serves from this data directory: every `serve` holds a shared lock, `restore` wants it alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmkeys.backup.errors import CannotRestore

NAME = "serving.lock"


def announce_serving(data_dir: Path) -> int | None:
    """Hold the shared lock for the life of this process and its children; None while a restore is under way."""
    return _lock(data_dir, fcntl.LOCK_SH)


@contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """Hold the lock alone. Raises CannotRestore while a server runs."""
    descriptor = _lock(data_dir, fcntl.LOCK_EX)
    if descriptor is None:
        raise CannotRestore(
            f"A server runs on {data_dir}. Stop it first (Ctrl-C, or `systemctl stop`), restore, then start it again."
        )
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(data_dir: Path, kind: int) -> int | None:
    descriptor = os.open(data_dir / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
