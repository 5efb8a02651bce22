"""What the scheduler child runs: the django-q2 cluster, and the lock that keeps it alone in its data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from django.db import Error, connection
from django_q import cluster

from llmkeys.database import outages

SUDDEN_DEATH = 70


class Sentinel(cluster.Sentinel):
    """django-q2's guard, except that a sudden death ends the whole cluster, which `serve` then starts anew.

    A process that was killed while it waited at a queue keeps that queue's lock for ever. The stock guard replaces it
    by another that waits for the same lock, and no task ever runs again. New queues are the only remedy.
    """

    def reincarnate(self, process) -> None:
        if self._died_suddenly(process):
            os._exit(SUDDEN_DEATH)  # its children die with it: `leave_no_orphans`
        super().reincarnate(process)

    def _died_suddenly(self, process) -> bool:
        if process in (self.monitor, self.pusher):
            return True
        timed_out, recycled = process.timer.value == 0, int(process.timer.value) == -2
        return not (timed_out or recycled)


def run() -> int:
    """Run the cluster until SIGTERM; return 0 after a stop that was asked for, else the guard's exit code."""
    if not _database_answers():
        return 1
    cluster.Sentinel = Sentinel
    main = cluster.Cluster()
    try:
        main.start()
    except RuntimeError:  # the guard ended at once; it has said why
        return 1
    while main.sentinel.is_alive():
        main.sentinel.join(1)
    return abs(main.sentinel.exitcode or 0)


def _database_answers() -> bool:
    """Ask before the cluster does, which would tell a page of tracebacks; `serve` tries again later."""
    try:
        connection.ensure_connection()
        return True
    except Error as error:
        outages.note(error)
        return False
    finally:
        connection.close()


def claim(data_dir: Path) -> IO[str] | None:
    """Take the data directory's scheduler lock; None where another `serve` has it.

    The lock lives as long as any process that inherited the file: it is free again only when the cluster has gone.
    """
    file = (data_dir / "scheduler.lock").open("a")
    (data_dir / "scheduler.lock").chmod(0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
