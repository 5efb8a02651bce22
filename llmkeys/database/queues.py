"""A thread with a database connection of its own, and the queue of what callers want done on it.

A caller on an event loop awaits, any other blocks; either gives up by itself after `PATIENCE_SECONDS`, for the thread
may hang in a lock or a COMMIT. All callers of one loop are woken by one call.
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

PATIENCE_SECONDS = 8.0  # the longest a caller waits: a blocked database is a 503 within 10 s
GROUP_SIZE = 64
ITS_CURSOR_ALONE = "A job works with the cursor it is given: it must not call the writer, the reader or the ORM."


class Job:
    """One caller's wish, and what came of it."""

    __slots__ = (
        "accounts", "committed", "deadline", "done", "error", "future", "gate", "given_up", "loop", "result",
        "uncertain", "undo", "work",
    )  # fmt: skip

    def __init__(self, work: Callable[[Any], Any], undo: Callable[[Any, Any], None] | None = None, accounts: Any = ()):
        self.work, self.undo, self.accounts = work, undo, accounts
        self.deadline = time.monotonic() + PATIENCE_SECONDS
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[None] | None = None
        self.gate: threading.Lock | None = None
        self.done = self.committed = False  # the thread's: it has come to an end, which was a COMMIT
        self.uncertain = False  # the database broke in the middle of the COMMIT: it may have been done
        self.given_up = False  # the caller's: nobody waits any more
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def is_unattended(self) -> bool:
        """True for what the thread itself wants done: nobody waits for it."""
        return self.loop is None and self.gate is None

    def outcome(self) -> Any:
        if self.given_up:
            raise RecordingUnavailable(outages.UNAVAILABLE)
        if self.error is not None:
            raise self.error
        return self.result


class DatabaseThread:
    """One thread, one connection, one queue. It belongs to the process that made it."""

    name = "llmkeys-database"

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._mutex = threading.Lock()  # of `done` and `given_up`: a caller that gives up and a result may meet
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
        """Block until the job is done. Raises as `run` does."""
        self._refuse_itself()
        job.gate = threading.Lock()  # held until the job is done; an Event costs ten times as much
        job.gate.acquire()
        self._queue.put(job)
        try:
            if not job.gate.acquire(timeout=PATIENCE_SECONDS):
                self._give_up(job)
        except BaseException:  # Ctrl-C
            self._forsake(job)
            raise
        return job.outcome()

    def close(self) -> None:
        """Do what is queued, then end the thread and its connection; returns when it has ended, or hangs."""
        self._queue.put(None)
        if threading.current_thread() is not self.thread:
            self.thread.join(PATIENCE_SECONDS)

    def _refuse_itself(self) -> None:
        if threading.current_thread() is self.thread:
            raise RuntimeError(ITS_CURSOR_ALONE)

    def _time_out(self, job: Job) -> None:
        self._give_up(job)
        if job.future is not None and not job.future.done():
            job.future.set_result(None)

    def _give_up(self, job: Job) -> None:
        """Wait no longer, unless the result came at the last moment."""
        with self._mutex:
            job.given_up = not job.done

    def _forsake(self, job: Job) -> None:
        """Wait no longer: nobody will hear of the result, even where it is there already."""
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
        """Do the first job, and all that have queued up behind it. Never raises."""
        raise NotImplementedError

    def _pause(self) -> float | None:
        """Return after how many seconds without a job `_idle` is called; None: never."""
        return None

    def _idle(self) -> None:
        pass

    def _gather(self, first: Job) -> list[Job]:
        """Return the first job and all that wait, but those that are too late already."""
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
        """Wake the callers, and take back what was committed, or may have been, for callers that have gone."""
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
        """Undo a job of whose result nobody knows. Called by either side, with the mutex held."""


class OncePerProcess:
    """Holds the one thread of its kind of this process, made at its first use, and again after a fork."""

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
                    sqlite.know_the_file()
                    found = self.current = self._kind()
        return found

    def forget(self) -> None:
        """End the thread when it has done what is queued: before a fork, and at a stop."""
        with self._creation:
            ended, self.current = self.current, None
        if ended is not None and ended.is_usable:
            ended.close()


class _NoOtherConnection:
    """Stands in place of Django's connection in these threads: a job that used the ORM would be outside."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(ITS_CURSOR_ALONE)


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future is not None and not job.future.done():
            job.future.set_result(None)
