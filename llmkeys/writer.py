"""One writer thread per process commits short transactions in groups.

With `synchronous=FULL` a commit costs a flush of the disk, and threads that queue in SQLite's busy handler sleep for
tens of milliseconds. Here they queue in the process instead: whatever waits while one group is committed becomes the
next group, and the processes of one machine take turns by a file lock rather than by sleeping. PostgreSQL gains too:
one hot key row is locked once per group.

A job is a function of a cursor. It may run a second time (when another job of its group failed), so it must not
touch anything but the database.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper

from llmkeys.exceptions import RecordingUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[CursorWrapper], T]

PATIENCE_SECONDS = 8.0  # the longest a caller waits: a blocked database is a 503 within 10 s
GROUP_SIZE = 64
UNAVAILABLE = (
    "The database cannot be written now, so nothing can be recorded and nothing is sent. Try again in 10 seconds; "
    "if it goes on, look at the disk space and at what else holds the database (`manage.py doctor`)."
)


@dataclass(slots=True, eq=False)
class _Job:
    work: Work
    undo: Callable[[CursorWrapper, Any], None] | None
    deadline: float
    done: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    abandoned: bool = False
    result: Any = None
    error: BaseException | None = None

    def finish(self) -> bool:
        """Wake the caller; False where it has gone."""
        with self.lock:
            self.done.set()
            return not self.abandoned

    def abandon(self) -> bool:
        """Give up waiting; False where the result came at the last moment."""
        with self.lock:
            self.abandoned = not self.done.is_set()
            return self.abandoned


def run(work: Work[T], *, undo: Callable[[CursorWrapper, T], None] | None = None) -> T:
    """Run `work` in a transaction and return its result once it is committed.

    Inside an open transaction of this thread it joins that one. `undo` takes back a commit that came after the
    caller had given up. Raises RecordingUnavailable after at most 8 s.
    """
    if connection.in_atomic_block:
        with connection.cursor() as cursor:
            return work(cursor)
    job = _Job(work, undo, time.monotonic() + PATIENCE_SECONDS)
    _writer().submit(job)
    if not job.done.wait(PATIENCE_SECONDS) and job.abandon():
        raise RecordingUnavailable(UNAVAILABLE)
    if job.error is not None:
        raise job.error
    return job.result


class GroupWriter:
    """The thread and its queue. One per process, made anew after a fork."""

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self._queue: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._turn = _FileTurn()
        threading.Thread(target=self._serve, name="llmkeys-writer", daemon=True).start()

    def submit(self, job: _Job) -> None:
        self._queue.put(job)

    def _serve(self) -> None:
        while True:
            group = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(group) < GROUP_SIZE:
                    group.append(self._queue.get_nowait())
            try:
                self._commit(group)
            except BaseException as error:  # the thread must outlive whatever a job does
                logger.exception("The writer failed")
                self._fail(group, error)

    def _commit(self, group: list[_Job]) -> None:
        now = time.monotonic()
        group = [job for job in group if not job.abandoned and job.deadline > now]
        if not group:
            return
        try:
            with self._turn:
                self._transact(group)
        except (OperationalError, InterfaceError) as error:
            connection.close()
            logger.warning("The database could not be written: %s", type(error).__name__)
            self._fail(group, RecordingUnavailable(UNAVAILABLE))
        except Exception as error:
            if len(group) == 1:
                self._fail(group, error)
                return
            for job in group:  # one of them is at fault: each gets a transaction of its own
                self._commit([job])
        else:
            self._hand_out(group)

    @staticmethod
    def _transact(group: list[_Job]) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            for job in group:
                job.result = job.work(cursor)

    def _hand_out(self, group: list[_Job]) -> None:
        for job in group:
            if not job.finish() and job.undo is not None:
                undo, result = job.undo, job.result
                self.submit(_Job(lambda cursor, u=undo, r=result: u(cursor, r), None, float("inf")))

    @staticmethod
    def _fail(group: list[_Job], error: BaseException) -> None:
        for job in group:
            job.error = error
            job.finish()


class _FileTurn:
    """Processes that share an SQLite file take turns to write; nothing on other databases."""

    def __init__(self) -> None:
        self._file = None
        name = str(connection.settings_dict["NAME"])
        if connection.vendor == "sqlite" and "memory" not in name:
            with contextlib.suppress(OSError):
                self._file = os.open(f"{name}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)


_writer_lock = threading.Lock()
_current: GroupWriter | None = None


def _writer() -> GroupWriter:
    global _current
    if _current is None or _current.process_id != os.getpid():
        with _writer_lock:
            if _current is None or _current.process_id != os.getpid():
                _current = GroupWriter()
    return _current


@contextlib.contextmanager
def recording_errors() -> Iterator[None]:
    """Turn a database that does not answer into RecordingUnavailable, around reads that decide whether to send."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        connection.close()
        raise RecordingUnavailable(UNAVAILABLE) from error
