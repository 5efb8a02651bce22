"""After a cooling, one request across all processes tries the key first: it claims the probe, others use other keys.

A claim is `probe_until` of the cooling rows that apply to the key and the model. It ends with the answer, or by itself
after a lease, so that a process that dies leaves nothing stuck. A new cooling stores the time of its writing there: a
time in the future shows that the clock was wrong, and such a cooling does not count.

Code that locks both a key and a cooling locks the key first, as the writer does, to avoid deadlocks on PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from llmkeys.database.sql import Cursor, as_instant, instant
from llmkeys.ledger.events import add_event

LEASE = timedelta(seconds=60)
AHEAD = timedelta(minutes=5)  # machines' clocks may differ by this much; more means that one was wrong
LOOK_AGAIN = timedelta(seconds=1)  # how long a key may take to become available while another request is trying it


@dataclass(frozen=True, slots=True)
class Probe:
    """The right of one request to try a key that was cooling; `until` tells it apart from other claims on its rows."""

    scopes: tuple[str, ...]
    model: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of a claim: the probe, or until when the key is cooling, or neither if the key is free to use."""

    probe: Probe | None = None
    cooling_until: datetime | None = None
    is_asked: bool = False  # it is unavailable only because another request is trying it


FREE = Claim()

_CONCERNED = "scope IN (%s, %s) AND model IN ('', %s)"

_TAKE = f"""UPDATE llmkeys_cooling
   SET probe_until = %s, until = CASE WHEN until > %s THEN %s ELSE until END
 WHERE {_CONCERNED} AND ((until <= %s AND (probe_until IS NULL OR probe_until <= %s)) OR probe_until > %s)
RETURNING scope, model"""

_ALL = f"SELECT scope, model, until FROM llmkeys_cooling WHERE {_CONCERNED}"

_GIVE_BACK = f"UPDATE llmkeys_cooling SET probe_until = NULL WHERE {_CONCERNED} AND probe_until = %s"


def ran_ahead(written_at: datetime | None, at: datetime) -> bool:
    """Return whether `probe_until` shows that a cooling was written by a process whose clock was wrong."""
    return written_at is not None and written_at > at + AHEAD


def claim(cursor: Cursor, scopes: tuple[str, ...], model: str, at: datetime) -> Claim:
    """Claim all coolings that apply to the key and the model, or none. Without `scopes` the key is free to use."""
    if not scopes:
        return FREE
    probe = Probe(scopes, model, at + LEASE)
    concerned = _concerned(probe)
    now = instant(at)
    cursor.execute(_TAKE, [instant(probe.until), now, now, *concerned, now, now, instant(at + AHEAD)])
    taken = {tuple(row) for row in cursor.fetchall()}
    cursor.execute(_ALL, concerned)
    others = [as_instant(until) for scope, name, until in cursor.fetchall() if (scope, name) not in taken]
    if not others:
        return Claim(probe if taken else None)
    give_back(cursor, probe if taken else None)
    until = max(others)
    return Claim(cooling_until=max(until, at + LOOK_AGAIN), is_asked=until <= at)


def give_back(cursor: Cursor, probe: Probe | None) -> None:
    """End a claim that did not show whether the key works: the next request may try it."""
    if probe is not None:
        cursor.execute(_GIVE_BACK, [*_concerned(probe), instant(probe.until)])


def forgive(cursor: Cursor, key_id: str, scopes: tuple[str, ...], model: str, at: datetime) -> None:
    """Delete the ended coolings of a key that has just served. Those that began in the meantime stay.

    A key that was exhausted gets an event, so that the operator is notified again when it next runs out of credit.
    """
    cursor.execute(
        f"DELETE FROM llmkeys_cooling WHERE {_CONCERNED} AND until <= %s RETURNING kind",
        [scopes[0], scopes[-1], model, instant(at)],
    )
    if ("exhausted",) in cursor.fetchall():
        cursor.execute("SELECT name FROM llmkeys_apikey WHERE id = %s", [key_id])
        add_event(cursor, "recovered", key_id, f"“{cursor.fetchone()[0]}” has credit again and is serving.", at)
    cursor.execute("UPDATE llmkeys_apikey SET last_error = '' WHERE id = %s AND rejected_at IS NULL", [key_id])


def forget(cursor: Cursor, key_id: str) -> None:
    """Delete the coolings of a key whose secret is another one now; its billing group's stay."""
    cursor.execute("DELETE FROM llmkeys_cooling WHERE scope = %s", [f"key:{key_id}"])


def try_again(cursor: Cursor, scopes: tuple[str, ...], at: datetime) -> None:
    """Let one request try a key that had no credit left, which a person has topped up; a refusal cools it again."""
    cursor.execute(
        "UPDATE llmkeys_cooling SET until = %s WHERE scope IN (%s, %s) AND kind = 'exhausted' AND until > %s",
        [instant(at), scopes[0], scopes[-1], instant(at)],
    )


def are_running(cursor: Cursor, scopes: tuple[str, ...], at: datetime) -> bool:
    cursor.execute(
        "SELECT 1 FROM llmkeys_cooling WHERE scope IN (%s, %s) AND until > %s LIMIT 1",
        [scopes[0], scopes[-1], instant(at)],
    )
    return cursor.fetchone() is not None


def _concerned(probe: Probe) -> list[str]:
    return [probe.scopes[0], probe.scopes[-1], probe.model]
