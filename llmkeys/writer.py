"""Short write transactions of one process, committed in groups.

With `synchronous=FULL` a commit costs a flush of the disk, and threads that queue in SQLite's busy handler sleep for
tens of milliseconds. Here they queue in the process instead: the first to come leads, and commits its own job together
with all that queued up meanwhile; then it hands the lead to the next in the queue. So a lone request pays for no
thread switch, and a crowd pays for one flush per group. The processes of one machine take turns by a file lock rather
than by sleeping. PostgreSQL gains too: one hot key row is locked once per group.

A job is a function of a cursor. It may run a second time (when another job of its group failed), so it must not
touch anything but the database.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, connection, connections
from django.db.backends.utils import CursorWrapper

from llmkeys.exceptions import RecordingUnavailable
from llmkeys.sql import lean_cursor

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[CursorWrapper], T]

PATIENCE_SECONDS = 8.0  # the longest a caller waits: a blocked database is a 503 within 10 s
GROUP_SIZE = 64
UNAVAILABLE = (
    "The database cannot be written now, so nothing can be recorded and nothing is sent. Try again in 10 seconds; "
    "if it goes on, look at the disk space and at what else holds the database."
)


def _closed_gate() -> threading.Lock:
    """A lock that is held: whoever waits for it goes on when it is released. An Event costs ten times as much."""
    gate = threading.Lock()
    gate.acquire()
    return gate


@dataclass(slots=True, eq=False)
class _Job:
    work: Work
    undo: Callable[[CursorWrapper, Any], None] | None
    deadline: float = field(default_factory=lambda: time.monotonic() + PATIENCE_SECONDS)
    gate: threading.Lock = field(default_factory=_closed_gate)
    leads: bool = False
    done: bool = False
    waited_for: bool = True
    abandoned: bool = False
    result: Any = None
    error: BaseException | None = None


def run(work: Work[T], *, undo: Callable[[CursorWrapper, T], None] | None = None) -> T:
    """Run `work` in a transaction and return its result once it is committed.

    Inside an open transaction of this thread it joins that one. `undo` takes back a commit that came after the
    caller had given up. Raises RecordingUnavailable after at most 8 s.
    """
    if connection.in_atomic_block:
        with connection.cursor() as cursor:
            return work(cursor)
    return _writer().run(_Job(work, undo))


class GroupWriter:
    """The queue of one process and the connection that its leaders share. Made anew after a fork."""

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self._mutex = threading.Lock()
        self._queue: deque[_Job] = deque()
        self._led = False
        self._connection = connections.create_connection(DEFAULT_DB_ALIAS)
        self._connection.inc_thread_sharing()  # one leader at a time uses it, whichever thread that is
        self._turn = _FileTurn()

    def run(self, job: _Job) -> Any:
        """Have the job committed, by this thread or by another that leads."""
        with self._mutex:
            if self._led:
                self._queue.append(job)
            else:
                self._led = job.leads = True
        if not job.leads and not job.gate.acquire(timeout=PATIENCE_SECONDS):
            self._abandon(job)
        if job.leads:
            self._lead(job)
        if job.error is not None:
            raise job.error
        return job.result

    def close(self) -> None:
        """Close the shared connection, unless a leader is using it."""
        with self._mutex:
            if not self._led:
                self._connection.close()

    def _abandon(self, job: _Job) -> None:
        """Give up waiting. Raises RecordingUnavailable unless the result or the lead came at the last moment."""
        with self._mutex:
            if job.done or job.leads:
                return
            job.abandoned = True
        raise RecordingUnavailable(UNAVAILABLE)

    def _lead(self, own: _Job) -> None:
        """Commit one group, this thread's own job among it, and hand the lead on.

        The group is gathered when the turn has come, for while other processes write, more jobs queue up here.
        """
        group, committed = [own], False
        try:
            with self._turn:
                group = self._gather(own)
                self._commit(group)
            committed = True
        finally:
            with self._mutex:
                for job in group:
                    job.done = True
                    if not committed and job.error is None:  # this thread is being torn down
                        job.error = RecordingUnavailable(UNAVAILABLE)
                late = [job for job in group if job.abandoned and job.error is None and job.undo]
                self._queue.extend(_undoing(job) for job in late)
                self._hand_on()
            for job in group:
                _open(job)

    def _gather(self, own: _Job) -> list[_Job]:
        with self._mutex:
            waiting = [job for job in self._queue if not job.abandoned]
            self._queue = deque(waiting[GROUP_SIZE - 1 :])
        return [own, *waiting[: GROUP_SIZE - 1]]

    def _hand_on(self) -> None:
        """Wake the next leader. What nobody waits for stays for the next group: the leases' beat brings one soon."""
        following = next((job for job in self._queue if job.waited_for and not job.abandoned), None)
        self._led = following is not None
        if following is not None:
            self._queue.remove(following)
            following.leads = True
            _open(following)

    def _commit(self, group: list[_Job]) -> None:
        now = time.monotonic()  # the turn may have taken long: what is too late already is not tried any more
        live = [job for job in group if not job.abandoned and job.deadline > now]
        for job in group:
            if job not in live:
                job.error = RecordingUnavailable(UNAVAILABLE)
        if live:
            self._try(live)

    def _try(self, group: list[_Job]) -> None:
        try:
            self._transact(group)
        except (OperationalError, InterfaceError) as error:
            self._connection.close()
            logger.warning("The database could not be written: %s", type(error).__name__)
            for job in group:
                job.error = RecordingUnavailable(UNAVAILABLE)
        except Exception as error:
            if len(group) == 1:
                group[0].error = error
                return
            for job in group:  # one of them is at fault: each gets a transaction of its own
                self._try([job])

    def _transact(self, group: list[_Job]) -> None:
        with lean_cursor(self._connection) as cursor:
            cursor.execute("BEGIN IMMEDIATE" if self._connection.vendor == "sqlite" else "BEGIN")
            try:
                for job in group:
                    job.result = job.work(cursor)
                cursor.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    cursor.execute("ROLLBACK")
                raise


def _open(job: _Job) -> None:
    """Wake the thread that waits for the job; a leader's own gate may be open already."""
    with contextlib.suppress(RuntimeError):
        job.gate.release()


def _undoing(late: _Job) -> _Job:
    """Return the job that takes back what was committed after its caller had given up."""
    undo, result = late.undo, late.result
    return _Job(lambda cursor: undo(cursor, result), None, deadline=float("inf"), waited_for=False)


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


_creation = threading.Lock()
_current: GroupWriter | None = None


def _writer() -> GroupWriter:
    global _current
    if _current is None or _current.process_id != os.getpid():
        with _creation:
            if _current is None or _current.process_id != os.getpid():
                _current = GroupWriter()
    return _current


def forget() -> None:
    """Drop the shared connection: before a fork, and between tests that change databases."""
    global _current
    if _current is not None:
        _current.close()
        _current = None


@contextlib.contextmanager
def recording_errors() -> Iterator[None]:
    """Turn a database that does not answer into RecordingUnavailable, around reads that decide whether to send."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        connection.close()
        raise RecordingUnavailable(UNAVAILABLE) from error
