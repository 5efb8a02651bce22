"""This process's open holds: renewed every 15 s while it lives, finished later where the database did not answer."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from dataclasses import dataclass, field

from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from llmkeys import ledger
from llmkeys.database import sql, writer
from llmkeys.exceptions import RecordingUnavailable
from llmkeys.ledger import probes

logger = logging.getLogger(__name__)

RENEW_SECONDS = 15.0
RETRY_SECONDS = 1.0


@dataclass
class _Process:
    """One per process, made anew after a fork."""

    id: int = field(default_factory=os.getpid)
    owner: str = field(default_factory=lambda: secrets.token_hex(12))
    overdue: list[writer.Work] = field(default_factory=list)
    told: int = 0
    wake: threading.Event = field(default_factory=threading.Event)
    room: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> _Process:
        threading.Thread(target=self._beat, name="llmkeys-leases", daemon=True).start()
        return self

    def _beat(self) -> None:
        while True:
            self.wake.wait(RETRY_SECONDS if self.overdue else RENEW_SECONDS)
            self.wake.clear()
            try:
                writer.run_now(lambda cursor: ledger.renew_leases(cursor, self.owner, timezone.now()))
                self._catch_up()
            except RecordingUnavailable:
                self._tell_of_waiting()
            except Exception:
                logger.exception("Renewing the leases failed")

    def _tell_of_waiting(self) -> None:
        """Say how many wait, when it has changed: why they do, and what is to be done, the writer tells."""
        if len(self.overdue) != self.told:
            self.told = len(self.overdue)
            logger.warning("%d finished requests wait until they can be recorded", self.told)

    def _catch_up(self) -> None:
        while self.overdue:
            writer.run_now(self.overdue[0])
            self.overdue.pop(0)
        self.told = 0


_lock = threading.Lock()
_process: _Process | None = None


def _this() -> _Process:
    global _process
    if _process is None or _process.id != os.getpid():
        with _lock:
            if _process is None or _process.id != os.getpid():
                _process = _Process().start()
    return _process


def owner() -> str:
    """Return the name under which this process holds its leases."""
    return _this().owner


def finish(work: writer.Work[writer.T]) -> writer.T | None:
    """Run the end of an attempt; where the database does not answer, keep it and try again until it does.

    Should the process die meanwhile, the lease ends and the attempt is charged at its hold.
    """
    process = _this()
    try:
        return writer.run_now(work)
    except RecordingUnavailable:
        process.overdue.append(work)
        process.wake.set()
        return None
    finally:
        with process.room:
            process.room.notify_all()


def wait_for_room(seconds: float) -> None:
    """Wait until an attempt of this process ends, at most `seconds` (other processes give no sign)."""
    sql.release()  # many may wait, and those they wait for need a connection to end
    room = _this().room
    with room:
        room.wait(seconds)


def undo_hold(cursor: CursorWrapper, placed: ledger.Placed) -> None:
    """Release a hold of which its caller does not know: committed after it had given up, or perhaps not at all."""
    if placed.hold is not None and _is_there(cursor, placed.hold):
        probes.give_back(cursor, placed.hold.probe)
        outcome = ledger.Outcome(
            state="RELEASED", at=timezone.now(), sent=False, error="The database was too slow; nothing was sent."
        )
        ledger.finish(cursor, placed.hold.usage_id, outcome)


def _is_there(cursor: CursorWrapper, hold: ledger.Hold) -> bool:
    """Look by the request too: the id of a row that was never committed is given to another one."""
    cursor.execute(
        "SELECT 1 FROM llmkeys_usagerecord WHERE id = %s AND request_id = %s", [hold.usage_id, hold.request_id]
    )
    return cursor.fetchone() is not None
