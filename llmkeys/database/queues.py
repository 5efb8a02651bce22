"""A thread with its own database connection, and the queue of jobs that callers want done on it.

Callers on an event loop await, others block; both give up after `PATIENCE_SECONDS`, because the thread may hang in a
lock or a COMMIT. All callers of one loop are woken by one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

from llmkeys.database import outages, sqlite
from llmkeys.database.sql import connection_of_our_own
from llmkeys.exceptions import RecordingUnavailable

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 8.0  # how long a caller waits at most, so that a blocked database gives a 503 within 10 s
GROUP_SIZE = 64
ONLY_ITS_CURSOR = "A job may only use the cursor that it is given, not the writer, the reader or the ORM."


class Job:
    """The work that a caller wants done, and its result."""

    __slots__ = (
        "accounts", "committed", "deadline", "done", "error", "future", "gate", "given_up", "loop", "result",
        "uncertain", "undo", "work",
    )  # fmt: skip

    def __init__(
        self,
        work: Callable[[Any], Any],
        undo: Callable[[Any, Any], None] | None = None,
        accounts: Any = (),
        patience: float | None = None,
    ):
        self.work, self.undo, self.accounts = work, undo, accounts
        self.deadline = time.monotonic() + (PATIENCE_SECONDS if patience is None else patience)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[None] | None = None
        self.gate: threading.Lock | None = None
        self.done = self.committed = False  # set by the thread: the job has ended, and was committed
        self.uncertain = False  # the database failed during the COMMIT, which may have succeeded
        self.given_up = False  # set by the caller: it no longer waits
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def is_unattended(self) -> bool:
        """True for a job of the thread itself, for which no caller waits."""
        return self.loop is None and self.gate is None

    def outcome(self) -> Any:
        if self.given_up:
            raise RecordingUnavailable(outages.UNAVAILABLE)
        if self.error is not None:
            raise self.error
        return self.result


class DatabaseThread:
    """One thread with one connection and one queue; it belongs to the process that created it."""

    name = "llmkeys-database"

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._mutex = threading.Lock()  # guards `done` and `given_up`: a caller may give up just as the result arrives
        self._closing = False
        self._connection = connection_of_our_own()
        self._connection.inc_thread_sharing()  # made here, used in the thread
        self.thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
        self.thread.start()

    @property
    def is_usable(self) -> bool:
        return self.process_id == os.getpid() and self.thread.is_alive()

    # --- the callers' side -----------------------------------------------------------------------------------------

    async def run(self, job: Job) -> Any:
        """Await the job's result. Raises RecordingUnavailable after `PATIENCE_SECONDS`, and what the job raises."""
        self._refuse_itself()
        job.loop = asyncio.get_running_loop()
        job.future = job.loop.create_future()
        timer = job.loop.call_later(PATIENCE_SECONDS, self._time_out, job)
        self._queue.put(job)
        try:
            await job.future
        except asyncio.CancelledError:
            self._forsake(job)
            raise
        finally:
            timer.cancel()
        return job.outcome()

    def run_now(self, job: Job) -> Any:
        """Block until the job is done. Raises what `run` raises."""
        self._refuse_itself()
        job.gate = threading.Lock()  # held until the job is done; an Event costs ten times as much
        job.gate.acquire()
        self._queue.put(job)
        try:
            if not job.gate.acquire(timeout=max(0.0, job.deadline - time.monotonic())):
                self._give_up(job)
        except BaseException:  # Ctrl-C
            self._forsake(job)
            raise
        return job.outcome()

    def close(self) -> None:
        """Do what is queued, then end the thread and its connection; waits at most `PATIENCE_SECONDS` for that."""
        self._queue.put(None)
        if threading.current_thread() is not self.thread:
            self.thread.join(PATIENCE_SECONDS)

    def _refuse_itself(self) -> None:
        if threading.current_thread() is self.thread:
            raise RuntimeError(ONLY_ITS_CURSOR)

    def _time_out(self, job: Job) -> None:
        self._give_up(job)
        if job.future is not None and not job.future.done():
            job.future.set_result(None)

    def _give_up(self, job: Job) -> None:
        """Stop waiting, unless the result has just arrived."""
        with self._mutex:
            job.given_up = not job.done

    def _forsake(self, job: Job) -> None:
        """Stop waiting, and undo the job even if its result is there, because the caller will not get it."""
        with self._mutex:
            if job.done and job.committed and not job.given_up:
                self._take_back(job)
            job.given_up = True

    # --- the thread's side -----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        connections[DEFAULT_DB_ALIAS] = _NoOtherConnection()  # type: ignore[assignment]
        while not self._closing or not self._queue.empty():
            try:
                first = self._queue.get(timeout=self._pause())
            except Empty:
                self._idle()
                continue
            if first is None:
                self._closing = True
            else:
                self._serve_group(first)
        with contextlib.suppress(Exception):
            self._connection.close()

    def _serve_group(self, first: Job) -> None:
        """Do the first job and those queued behind it. Never raises."""
        raise NotImplementedError

    def _pause(self) -> float | None:
        """Return after how many seconds without a job to call `_idle`; None for never."""
        return None

    def _idle(self) -> None:
        pass

    def _gather(self, first: Job) -> list[Job]:
        """Return the first job and those waiting, except those whose time is up."""
        waiting = [first]
        with contextlib.suppress(Empty):
            while len(waiting) < GROUP_SIZE:
                job = self._queue.get_nowait()
                if job is None:
                    self._closing = True
                else:
                    waiting.append(job)
        now = time.monotonic()
        group = []
        for job in waiting:
            if not job.given_up and job.deadline > now:
                group.append(job)
            else:
                self._refuse(job)
        return group

    def _refuse(self, job: Job) -> None:
        job.error = RecordingUnavailable(outages.UNAVAILABLE)
        self._finish([job])

    def _finish(self, jobs: list[Job]) -> None:
        """Wake the callers, and undo what was committed, or may have been, for callers that have gone."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        with self._mutex:
            for job in jobs:
                job.done = True
                if job.uncertain or (job.committed and job.given_up):
                    self._take_back(job)
        for job in jobs:
            if job.gate is not None:
                job.gate.release()
            elif job.loop is not None:
                by_loop.setdefault(job.loop, []).append(job)
        for loop, its_jobs in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, its_jobs)
            except RuntimeError:  # the loop is closed
                for job in its_jobs:
                    self._forsake(job)

    def _take_back(self, job: Job) -> None:
        """Undo a job whose caller does not know the result. Called by either side, with the mutex held."""


class OncePerProcess:
    """Holds this process's thread of one kind, created at its first use, and again after a fork."""

    def __init__(self, kind: type[DatabaseThread]) -> None:
        self._kind = kind
        self._creation = threading.Lock()
        self.current: DatabaseThread | None = None

    def get(self) -> DatabaseThread:
        found = self.current
        if found is None or not found.is_usable:
            with self._creation:
                found = self.current
                if found is None or not found.is_usable:
                    sqlite.remember_file()
                    found = self.current = self._kind()
        return found

    def forget(self) -> None:
        """End the thread once it has done what is queued: before a fork, and when the process stops."""
        with self._creation:
            ended, self.current = self.current, None
        if ended is not None and ended.is_usable:
            ended.close()


class _NoOtherConnection:
    """Replaces Django's connection in these threads: a job that used the ORM would be outside the transaction."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(ONLY_ITS_CURSOR)


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future is not None and not job.future.done():
            job.future.set_result(None)
