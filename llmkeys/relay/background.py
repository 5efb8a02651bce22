"""Background work, which continues after its client has gone; a worker that stops waits for it."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from django.db import close_old_connections

from llmkeys.database import outages, sql

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LARGE_BYTES = 64 * 1024  # larger bodies are parsed off the event loop

_tasks: set[asyncio.Task[Any]] = set()
# For work that waits for the database: storing what a failure means for a key, reading prices and aliases. A separate
# pool, because the loop's default one resolves host names.
_threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="llmkeys-relay")
# For work that waits for a provider, which must not hold up the other: model lists, tests that confirm a rejection.
_askers = ThreadPoolExecutor(max_workers=8, thread_name_prefix="llmkeys-asker")
# Parsing holds the GIL: more than two at once would only hold up everything else.
_parsers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="llmkeys-bodies")


def start(work: Coroutine[Any, Any, T], *, is_awaited: bool = False) -> asyncio.Task[T]:
    """Start a task that is cancelled only when the worker stops; its failure is logged unless it is awaited."""
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    if not is_awaited:
        task.add_done_callback(_log_failure)
    return task


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("A background task failed", exc_info=task.exception())


async def in_thread(call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Run a blocking call in a thread. Raises RecordingUnavailable if the database does not answer."""
    return await _in(_threads, functools.partial(call, *args, **named))


async def in_asker(call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Run a call to a provider in a thread. Raises what `in_thread` raises."""
    return await _in(_askers, functools.partial(call, *args, **named))


async def _in(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, _on_a_live_connection, work)


def _on_a_live_connection(work: Callable[[], T]) -> T:
    """Do the work on a connection that is not stale: the database may have been restarted while the thread was idle.

    Afterwards it goes back to the pool, if there is one: idle threads would leave none for the pages.
    """
    close_old_connections()
    try:
        with outages.recording_errors():
            return work()
    finally:
        sql.release()


async def in_parser(call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Run a call that parses a large body off the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_parsers, functools.partial(call, *args, **named))


def count() -> int:
    """Return the number of tasks in progress on this worker."""
    return len(_tasks)


async def finish(seconds: float) -> None:
    """Wait at most `seconds` for the tasks in progress, then cancel the rest, whose attempts are recorded as lost."""
    if not _tasks:
        return
    _, late = await asyncio.wait(set(_tasks), timeout=seconds)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=5)
