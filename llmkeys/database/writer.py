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
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.conf import settings
from django.db import Error, OperationalError, connection
from django.db.backends.utils import CursorWrapper

from llmkeys.database import outages
from llmkeys.database.sql import connection_of_our_own, lean_cursor
from llmkeys.exceptions import RecordingUnavailable

T = TypeVar("T")
Work = Callable[[CursorWrapper], T]

PATIENCE_SECONDS = 8.0  # the longest a caller waits: a blocked database is a 503 within 10 s
GROUP_SIZE = 64
BLOCKED_MILLISECONDS = 250  # after one try has waited in vain for a lock, the next ones do not wait that long again
BLOCKED_SECONDS = 5.0  # nor do those of the other processes, so long after it
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
    uncertain: bool = False  # the database broke in the middle of the COMMIT: it may have been done
    result: Any = None
    error: BaseException | None = None


def run(work: Work[T], *, undo: Callable[[CursorWrapper, T], None] | None = None) -> T:
    """Run `work` in a transaction and return its result once it is committed.

    Inside an open transaction of this thread it joins that one. `undo` takes back a commit that came after the
    caller had given up, or whose end nobody saw; then it may find nothing. Raises RecordingUnavailable after at most
    8 s.
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
        self._connection = connection_of_our_own()
        self._connection.inc_thread_sharing()  # one leader at a time uses it, whichever thread that is
        self._turn = _FileTurn()
        self._begun = self._committing = False

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
                self._queue.extend(_undoing(job) for job in group if job.undo and _may_be_unwanted(job))
                self._queue.extend(_once_more(job) for job in group if _must_still_be_done(job))
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
            self._transact_on_a_live_connection(group)
        except Exception as error:
            if outages.is_outage(error):
                self._give_up(group, error)
            elif len(group) == 1:
                group[0].error = error
            else:
                for job in group:  # one of them is at fault: each gets a transaction of its own
                    self._try([job])
        else:
            self._turn.unblock()
            outages.is_over()

    def _give_up(self, group: list[_Job], error: Exception) -> None:
        self._connection.close()
        if outages.is_locked(error):
            self._turn.block()
        outages.note(error)
        for job in group:
            job.uncertain = self._committing
            job.error = RecordingUnavailable(UNAVAILABLE)

    def _transact_on_a_live_connection(self, group: list[_Job]) -> None:
        """Begin once more where a server was restarted while our connection to it was idle."""
        was_open = self._connection.connection is not None and self._connection.vendor != "sqlite"
        try:
            self._transact(group)
        except Exception as error:
            if self._begun or not was_open or not outages.is_outage(error):
                raise
            self._connection.close()
            self._transact(group)

    def _transact(self, group: list[_Job]) -> None:
        self._begun = self._committing = False
        require_the_file()
        with lean_cursor(self._connection) as cursor:
            self._begin(cursor)
            self._begun = True
            try:
                for job in group:
                    job.result = job.work(cursor)
                self._committing = True
                cursor.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    cursor.execute("ROLLBACK")
                raise

    def _begin(self, cursor: CursorWrapper) -> None:
        blocked = self._turn.is_blocked()
        if self._connection.vendor != "sqlite":
            cursor.execute("BEGIN")
            if blocked:
                cursor.execute(f"SET LOCAL lock_timeout = {BLOCKED_MILLISECONDS}")
            return
        if blocked:
            cursor.execute(f"PRAGMA busy_timeout = {BLOCKED_MILLISECONDS}")
        cursor.execute("BEGIN IMMEDIATE")
        if blocked:
            cursor.execute(f"PRAGMA busy_timeout = {settings.DATABASE_BUSY_SECONDS * 1000}")


def _open(job: _Job) -> None:
    """Wake the thread that waits for the job; a leader's own gate may be open already."""
    with contextlib.suppress(RuntimeError):
        job.gate.release()


def _undoing(late: _Job) -> _Job:
    """Return the job that takes back what was committed after its caller had given up."""
    undo, result = late.undo, late.result
    return _Job(lambda cursor: undo(cursor, result), None, deadline=float("inf"), waited_for=False)


def _may_be_unwanted(job: _Job) -> bool:
    """True where something was, or may have been, committed that the caller does not know of."""
    return job.uncertain or (job.abandoned and job.error is None)


def _must_still_be_done(job: _Job) -> bool:
    """True for what nobody waits for, where the database was at fault."""
    return not job.waited_for and isinstance(job.error, RecordingUnavailable)


def _once_more(job: _Job) -> _Job:
    """Return it as new."""
    return _Job(job.work, None, deadline=float("inf"), waited_for=False)


class _FileTurn:
    """Processes that share an SQLite file take turns to write; nothing on other databases.

    Whoever has waited for a lock in vain tells the others: else each would wait in its turn, and a request for all.
    The word is the time of the file's last change, which then lies ahead.
    """

    def __init__(self) -> None:
        self._file = None
        self._blocked_until = 0.0  # of this process alone, where there is no file
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

    def block(self) -> None:
        self._set(time.time() + BLOCKED_SECONDS)

    def is_blocked(self) -> bool:
        until = self._blocked_until if self._file is None else os.fstat(self._file).st_mtime
        return 0 < until - time.time() <= BLOCKED_SECONDS

    def unblock(self) -> None:
        if self.is_blocked():
            self._set(time.time())

    def _set(self, until: float) -> None:
        self._blocked_until = until
        if self._file is not None:
            with contextlib.suppress(OSError):  # of another user: then each finds out for itself
                os.utime(self._file, (until, until))


_creation = threading.Lock()
_current: GroupWriter | None = None
_known_file: tuple[int, int] | None = None


def _writer() -> GroupWriter:
    global _current
    if _current is None or _current.process_id != os.getpid():
        with _creation:
            if _current is None or _current.process_id != os.getpid():
                know_the_file()
                _current = GroupWriter()
    return _current


def forget() -> None:
    """Close the shared connection: before a fork."""
    global _current
    if _current is not None:
        _current.close()
        _current = None


def know_the_file() -> None:
    """Remember which file the database is, unless that is known: `serve` does before it forks."""
    global _known_file
    if _known_file is None:
        with contextlib.suppress(OSError):  # not there yet: told by whoever opens it
            _known_file = _file_now()


def require_the_file() -> None:
    """Raise OperationalError where another file lies in the place of the SQLite database, or none.

    Connections go on in a file that has lost its name: what they acknowledge would be lost with them. And whoever
    opens the new one writes the old one's log into it. So nothing is done until the file is back, or `serve` new.
    """
    if _known_file is None:
        return
    try:
        if _file_now() == _known_file:
            return
    except OSError:
        pass
    raise OperationalError(f"The database file {outages.REPLACED}.")


def _file_now() -> tuple[int, int] | None:
    """Tell the file's identity; None on other databases. Raises OSError."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor != "sqlite" or "memory" in name:
        return None
    found = os.stat(name)  # noqa: PTH116  (asked for at every request: a Path costs ten times as much)
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def recording_errors() -> Iterator[None]:
    """Turn a database that does not answer into RecordingUnavailable, around reads that decide whether to send."""
    try:
        require_the_file()
        yield
    except Error as error:
        if not outages.is_outage(error):
            raise
        outages.note(error)
        with contextlib.suppress(Error):
            connection.close()
        raise RecordingUnavailable(UNAVAILABLE) from error
