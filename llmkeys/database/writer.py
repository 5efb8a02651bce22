"""Short write transactions of a process, committed in groups by one thread on one connection.

With `synchronous=FULL` a commit costs a flush of the disk, and callers that queue in SQLite's busy handler sleep for
tens of milliseconds. Here they queue in the process instead: the thread takes all that is queued, runs it in one
transaction, commits, and wakes the callers. The processes of one machine take turns by a file lock rather than by
sleeping. PostgreSQL gains too: one hot key row is locked once per group.

A job is a function of a cursor. It may run a second time (if another job of its group failed), so it must have no
effects outside the database and use only its cursor. Jobs of a class with a static method `together(cursor, jobs)` are
done by one call of it.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections

from llmkeys.database import outages, postgresql, sqlite
from llmkeys.database.queues import DatabaseThread, Job, OncePerProcess
from llmkeys.database.sql import is_sqlite, lean_cursor
from llmkeys.exceptions import RecordingUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[Any], T]
Row = tuple[str, Any]  # a table and the id of its row

BLOCKED_MILLISECONDS = 250  # the wait for a lock after one that timed out
TRIES = 5  # for a transaction that was rolled back because of others
RETRY_SECONDS = 1.0  # between attempts to undo a job while the database is at fault
TIDY_SECONDS = 5.0  # between checks of the write-ahead log


async def run(work: Work[T], *, undo: Callable[[Any, T], None] | None = None, accounts: Iterable[Row] = ()) -> T:
    """Run `work` in a transaction and return its result once it is committed; for coroutines.

    `undo` reverts a commit that the caller does not know of, because it gave up or was cancelled, or because the
    outcome of the COMMIT is unknown; then there may be nothing to undo. `accounts` are the rows that `work` will lock,
    which makes deadlocks impossible. Raises RecordingUnavailable after at most 8 s, and what `work` raises.
    """
    return await _of_this_process.get().run(Job(work, undo, accounts))


def run_now(
    work: Work[T],
    *,
    undo: Callable[[Any, T], None] | None = None,
    accounts: Iterable[Row] = (),
    patience: float | None = None,
) -> T:
    """Do what `run` does, blocking; for threads. Inside an open transaction of this thread it joins that one.

    With `patience` it raises RecordingUnavailable after that many seconds.
    """
    ours = connections[DEFAULT_DB_ALIAS]
    if ours.in_atomic_block:
        with ours.cursor() as cursor:
            lock_accounts(cursor, accounts)
            return work(cursor)
    return _of_this_process.get().run_now(Job(work, undo, accounts, patience))


def lock_accounts(cursor: Any, rows: Iterable[Row]) -> None:
    """Lock the rows that a transaction will change before it changes any, in the order that all transactions use."""
    rows = set(rows)
    if _this_group.declared is not None:
        _this_group.declared |= rows
    postgresql.lock_rows(cursor, rows)


class _ThisGroup(threading.local):
    """The rows that the jobs of this thread's transaction have declared; None outside the writer."""

    declared: set[Row] | None = None


_this_group = _ThisGroup()
checks_accounts = False  # enabled by the tests


def require_declared(rows: Iterable[Row]) -> None:
    """Raise RuntimeError if a job is about to change a row that it has not declared. Only in tests: it costs time."""
    if checks_accounts and _this_group.declared is not None:
        missing = set(rows) - _this_group.declared
        if missing:
            raise RuntimeError(f"A job must declare the accounts that it changes: {missing}")


class Writer(DatabaseThread):
    """The thread that does all writes of a process that involve money."""

    name = "llmkeys-writer"

    def __init__(self) -> None:
        self._turn = sqlite.Turn()
        self._begun = self._committing = self._has_written = False
        self._again: list[Job] = []
        self._is_untidy = False
        super().__init__()

    def _serve(self) -> None:
        super()._serve()
        self._turn.close()

    def _serve_group(self, first: Job) -> None:
        """Commit one group, which is gathered only once it is our turn, because more jobs queue up until then."""
        group = [first]
        try:
            with self._turn:
                self._queue_again()
                group = self._gather(first)
                if group:
                    self._try(group)
        except BaseException:
            logger.exception("The writer failed")
        for job in group:
            if not job.committed and job.error is None:
                job.error = RecordingUnavailable(outages.UNAVAILABLE)
        self._is_untidy = True
        self._finish(group)

    def _try(self, group: list[Job]) -> None:
        try:
            self._transact_patiently(group)
        except BaseException as error:
            if outages.is_outage(error):
                self._give_up_on(group, error)
            elif len(group) == 1:
                group[0].error = error
            else:
                for job in group:  # one of them is at fault, so each gets its own transaction
                    self._try([job])
        else:
            for job in group:
                job.committed = True
            self._turn.unblock()
            if self._has_written:
                outages.is_over()

    def _give_up_on(self, group: list[Job], error: BaseException) -> None:
        self._connection.close()
        if outages.is_locked(error):
            self._turn.block()
        outages.note(error)
        for job in group:
            job.uncertain = self._committing
            job.error = RecordingUnavailable(outages.UNAVAILABLE)

    def _transact_patiently(self, group: list[Job]) -> None:
        """Do the transaction; repeat it if the server was restarted in the meantime or other transactions got ahead."""
        was_open = self._connection.connection is not None and not is_sqlite()
        tries = 1
        while True:
            try:
                self._transact(group)
                return
            except Exception as error:
                if tries < TRIES and postgresql.is_worth_another_try(error):
                    tries += 1
                    time.sleep(random.uniform(0.001, 0.02))  # noqa: S311  (separates competitors, not for security)
                elif was_open and not self._begun and outages.is_outage(error):
                    was_open = False
                    self._connection.close()
                else:
                    raise

    def _transact(self, group: list[Job]) -> None:
        self._begun = self._committing = self._has_written = False
        sqlite.require_same_file()
        with lean_cursor(self._connection) as cursor:
            begin = sqlite.begin if is_sqlite() else postgresql.begin
            begin(cursor, BLOCKED_MILLISECONDS if self._turn.is_blocked() else None)
            self._begun = True
            try:
                before = _rows_written(cursor)
                _this_group.declared = set()
                lock_accounts(cursor, (row for job in group for row in job.accounts))
                _do(group, cursor)
                self._has_written = before is None or _rows_written(cursor) != before
                self._committing = True
                cursor.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to report
                    cursor.execute("ROLLBACK")
                raise

    # --- undoing what no caller knows of, and idle work ---------------------------------------------------------------

    def _take_back(self, job: Job) -> None:
        if job.undo is not None:
            undo, result = job.undo, job.result
            self._queue.put(_unattended(lambda cursor: undo(cursor, result), job.accounts))

    def _finish(self, jobs: list[Job]) -> None:
        super()._finish(jobs)
        for job in jobs:
            if job.is_unattended and isinstance(job.error, RecordingUnavailable):
                self._again.append(_unattended(job.work, job.accounts))
            elif job.is_unattended and job.error is not None:
                logger.error("A job whose caller had gone could not be undone", exc_info=job.error)

    def _queue_again(self) -> None:
        while self._again:
            self._queue.put(self._again.pop())

    def _pause(self) -> float | None:
        if self._again:
            return RETRY_SECONDS
        return TIDY_SECONDS if self._is_untidy else None

    def _idle(self) -> None:
        self._queue_again()
        if sqlite.log_is_long():
            with contextlib.suppress(Exception), self._turn, lean_cursor(self._connection) as cursor:
                sqlite.shorten_log(cursor)
        self._is_untidy = sqlite.log_is_long()  # it is still being read


def _rows_written(cursor: Any) -> int | None:
    """Return a count that grows with each row written, during an outage only.

    On a full disk a transaction that changes no row can still be committed, which does not mean that the outage is
    over. None if there is no outage, and on PostgreSQL, where locking a row is already a write.
    """
    return sqlite.rows_written(cursor) if is_sqlite() and outages.lasts() else None


def _do(group: list[Job], cursor: Any) -> None:
    """Do the jobs of each kind that has `together` in one call, and the others one by one."""
    alike: dict[Any, list[Job]] = {}
    for job in group:
        alike.setdefault(getattr(type(job.work), "together", job), []).append(job)
    for together, jobs in alike.items():
        if isinstance(together, Job):
            together.result = together.work(cursor)
        else:
            for job, result in zip(jobs, together(cursor, [job.work for job in jobs]), strict=True):
                job.result = result


def _unattended(work: Work[Any], accounts: Iterable[Row]) -> Job:
    """Return a job for which no caller waits."""
    job = Job(work, None, accounts)
    job.deadline = float("inf")
    return job


_of_this_process = OncePerProcess(Writer)
forget = _of_this_process.forget
