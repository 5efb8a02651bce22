"""What the scheduler child runs: the django-q2 cluster, of which a lock allows only one per data directory."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from django.db import Error, connection

from llmkeys.database import outages
from llmkeys.supervisor import engines


def run() -> int:
    """Run the cluster until SIGTERM; return the exit code."""
    return engines.run_cluster() if _database_answers() else 1


def _database_answers() -> bool:
    """Check the database before starting the cluster, which would log a page of tracebacks; `serve` retries later."""
    try:
        connection.ensure_connection()
        return True
    except Error as error:
        outages.note(error)
        return False
    finally:
        connection.close()


def claim(data_dir: Path) -> IO[str] | None:
    """Take the data directory's scheduler lock; None if another `serve` has it.

    It is held by every process that inherits the file, so it is free only when the whole cluster has ended.
    """
    file = (data_dir / "scheduler.lock").open("a")
    (data_dir / "scheduler.lock").chmod(0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
