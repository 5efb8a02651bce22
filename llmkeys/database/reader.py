"""Reads for the event loop: one thread with its own connection, which never writes and waits for no writer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from llmkeys.database import outages, sqlite
from llmkeys.database.queues import DatabaseThread, Job, OncePerProcess
from llmkeys.database.sql import is_sqlite, lean_cursor
from llmkeys.exceptions import RecordingUnavailable

T = TypeVar("T")

HAND_OVER_SECONDS = 0.05  # how long a result may wait for the rest of its group


async def run(work: Callable[[Any], T]) -> T:
    """Run a read-only function of a cursor, outside any transaction.

    Raises RecordingUnavailable if the database does not answer within 8 s, and what `work` raises.
    """
    return await _of_this_process.get().run(Job(work))


class Reader(DatabaseThread):
    name = "llmkeys-reader"

    def _serve_group(self, first: Job) -> None:
        done, began = [], time.monotonic()
        for job in self._gather(first):
            if not job.given_up:
                try:
                    job.result = self._read(job)
                except BaseException as error:
                    job.error = error
            done.append(job)
            if time.monotonic() - began >= HAND_OVER_SECONDS:  # nobody waits for the slow reads of others
                self._finish(done)
                done, began = [], time.monotonic()
        self._finish(done)

    def _read(self, job: Job) -> Any:
        """Do the job; repeat it once if the server was restarted while our connection was idle."""
        may_be_stale = self._connection.connection is not None and not is_sqlite()
        while True:
            try:
                return self._ask(job)
            except Exception as error:
                if not outages.is_outage(error):
                    raise
                self._connection.close()
                if not may_be_stale:
                    outages.note(error)
                    raise RecordingUnavailable(outages.UNAVAILABLE) from error
                may_be_stale = False

    def _ask(self, job: Job) -> Any:
        sqlite.require_same_file()
        with lean_cursor(self._connection) as cursor:
            return job.work(cursor)


_of_this_process = OncePerProcess(Reader)
forget = _of_this_process.forget
