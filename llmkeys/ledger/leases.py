"""This process's attempts: holds are placed and ended through the writer, and leases are renewed every 15 s.

An end that cannot be written, whatever the reason, is retried every second, separately from the others. If the
database works but keeps refusing it, the attempt is declared lost, with a row that is as simple as possible.
Leases use the database's clock: a machine whose clock is wrong neither loses its holds nor takes those of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from django.utils import timezone

from llmkeys.database import sql, writer
from llmkeys.exceptions import RecordingUnavailable
from llmkeys.ledger.accounts import Account
from llmkeys.ledger.holds import LowerHold, PlaceHold
from llmkeys.ledger.records import Attempt, Bid, Finished, Hold, Placed
from llmkeys.ledger.settling import End, dead_rows, lose, renew_leases

logger = logging.getLogger(__name__)

RENEW_SECONDS = 15.0
RETRY_SECONDS = 1.0
MOST_TRIES = 5  # for an end that a working database refuses; then the attempt is declared lost
MOST_IN_VAIN = 3  # consecutive ends for which the database did not answer; the rest are not tried in this second


async def place(bids: list[Bid], attempt: Attempt, *, last_try: bool = True) -> Placed:
    """Place a hold for the first bid for which there is room, and record the attempt, in one transaction.

    The hold is undone if this coroutine is cancelled. Raises RecordingUnavailable.
    """
    job = PlaceHold(bids, attempt, last_try)
    placed = await writer.run(job, undo=job.undo, accounts=job.accounts)
    for account in _full_of_holds(placed):
        dead = await writer.run(partial(dead_rows, leased_at=now(), of=account))
        for row in dead:
            await writer.run(partial(lose, row=row, at=attempt.at), accounts=row.accounts)
        if dead:
            return await writer.run(job, undo=job.undo, accounts=job.accounts)
    return placed


def _full_of_holds(placed: Placed) -> list[Account]:
    """Return the accounts that would have room without their open holds, some of which may be dead."""
    refusals = [] if placed.hold is not None else placed.refusals
    return list(dict.fromkeys(refusal.account for refusal in refusals if refusal.only_holds))


async def lower(hold: Hold, nano: int) -> None:
    """Lower a hold to `nano`, so that others may use the room; if that cannot be written, the hold stays as it is."""
    job = LowerHold(hold, nano)
    with contextlib.suppress(RecordingUnavailable):
        await writer.run(job, accounts=job.accounts)
        this_process().room.notify()


async def finish(end: End) -> Finished | None:
    """End an attempt. An end that cannot be written now is written later, even if this coroutine is cancelled.

    If the process dies before that, the lease ends and the attempt is charged at its hold. Raises only CancelledError.
    """
    process = this_process()
    try:
        return await writer.run(end, accounts=end.accounts)
    except asyncio.CancelledError:
        process.try_later(end)
        raise
    except Exception as error:
        process.try_later(end, error)
        return None
    finally:
        process.room.notify()


async def wait_for_room(seconds: float) -> None:
    """Wait until an attempt of this process ends, at most `seconds`; other processes are not noticed."""
    await this_process().room.wait(seconds)


def owner() -> str:
    """Return the name under which this process holds its leases."""
    return this_process().owner


def now() -> datetime:
    """Return the time that leases use: the database's if it is known, else this machine's."""
    return this_process().clock.now()


async def start() -> None:
    """Read the database's clock before a serving process places its first hold. Raises RecordingUnavailable."""
    process = this_process()
    await writer.run(process.clock.read)


def settle_dead(at: datetime) -> int:
    """Declare lost the holds that no process renews any more, each separately; return how many. For the scheduler."""
    clock, count = this_process().clock, 0
    writer.run_now(clock.read)
    for row in writer.run_now(partial(dead_rows, leased_at=clock.now())):
        try:
            count += writer.run_now(partial(lose, row=row, at=at), accounts=row.accounts)
        except RecordingUnavailable:
            raise
        except Exception:
            logger.exception("The hold of usage row %d, whose process died, cannot be settled", row.usage_id)
    return count


class _Room:
    """Wakes the threads and coroutines of this process that wait for an attempt to end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            with contextlib.suppress(RuntimeError):  # the future's loop is closed
                future.get_loop().call_soon_threadsafe(_wake, future)

    async def wait(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.add(future)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(future, seconds)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Clock:
    """The database's clock as this process knows it: read now and then, and advanced by the monotonic clock."""

    def __init__(self) -> None:
        self._read: tuple[datetime, float] | None = None

    def read(self, cursor: sql.Cursor) -> None:
        """Read the database server's clock; with SQLite it is this machine's."""
        server = sql.server_clock(cursor)
        self._read = None if server is None else (server, time.monotonic())

    def now(self) -> datetime:
        if self._read is None:
            return timezone.now()
        then, ticks = self._read
        return then + timedelta(seconds=time.monotonic() - ticks)


@dataclass
class _Overdue:
    """An end that could not be written yet."""

    end: End
    tries: int = 0  # how often a working database refused it


@dataclass
class _Process:
    """The state of this process; a forked process gets its own."""

    id: int = field(default_factory=os.getpid)
    owner: str = field(default_factory=lambda: secrets.token_hex(12))
    room: _Room = field(default_factory=_Room)
    clock: _Clock = field(default_factory=_Clock)
    overdue: deque[_Overdue] = field(default_factory=deque)
    given_up: set[int] = field(default_factory=set)  # rows that will be declared lost when their lease ends
    announced: int = 0
    wake: threading.Event = field(default_factory=threading.Event)

    def start(self) -> _Process:
        threading.Thread(target=self._beat, name="llmkeys-leases", daemon=True).start()
        return self

    def try_later(self, end: End, error: Exception | None = None) -> None:
        if error is not None and not isinstance(error, RecordingUnavailable):
            logger.error("The end of usage row %d cannot be recorded", end.hold.usage_id, exc_info=error)
        self.overdue.append(_Overdue(end))
        self.wake.set()

    def _beat(self) -> None:
        due = time.monotonic() + RENEW_SECONDS  # when the leases are renewed next
        while True:
            pause = max(0.0, due - time.monotonic())
            self.wake.wait(min(RETRY_SECONDS, pause) if self.overdue else pause)
            self.wake.clear()  # before looking: an end that is appended after this sets it again
            try:
                began = time.monotonic()
                if began >= due:
                    due = began + RETRY_SECONDS  # unless it succeeds: an outage must not cost a live hold its lease
                    writer.run_now(self._renew)
                    due = began + RENEW_SECONDS
                self.catch_up()
            except RecordingUnavailable:
                pass  # the writer notifies the operator
            except Exception:
                logger.exception("Renewing the leases failed")

    def _renew(self, cursor: sql.Cursor) -> None:
        self.clock.read(cursor)
        renew_leases(cursor, self.owner, self.clock.now(), but=self.given_up)

    def catch_up(self) -> None:
        """Try each overdue end once, but stop if the database does not answer."""
        in_vain = 0
        for _ in range(len(self.overdue)):
            late = self.overdue.popleft()
            try:
                self._write(late)
                in_vain = 0
            except RecordingUnavailable:
                self.overdue.append(late)
                in_vain += 1
                if in_vain == MOST_IN_VAIN:
                    break
            except Exception:
                late.tries += 1
                self._after_refusal(late)
        if len(self.overdue) != self.announced:
            self.announced = len(self.overdue)
            if self.announced:
                logger.warning("%d finished requests wait until they can be recorded", self.announced)

    def _write(self, late: _Overdue) -> None:
        end = late.end if late.tries < MOST_TRIES else late.end.as_lost()
        writer.run_now(end, accounts=end.accounts)

    def _after_refusal(self, late: _Overdue) -> None:
        """Queue the end again, at last as lost; if even that is refused, leave the row until its lease ends."""
        if late.tries <= MOST_TRIES:
            self.overdue.append(late)
            return
        self.given_up.add(late.end.hold.usage_id)
        logger.exception("Usage row %d cannot be ended; its lease will", late.end.hold.usage_id)


_lock = threading.Lock()
_process: _Process | None = None


def this_process() -> _Process:
    """Return the leases of this process; one that was forked starts its own."""
    global _process
    if _process is None or _process.id != os.getpid():
        with _lock:
            if _process is None or _process.id != os.getpid():
                _process = _Process().start()
    return _process
