"""After a cooling one request asks first, across all processes: it claims the probe, and the others go elsewhere.

A claim is `probe_until` of the cooling rows that concern the key and the model. It ends with the answer, and by
itself after a lease, so that a process that dies leaves nothing stuck. A cooling that is written has the instant of
its writing there: one that lies in the future tells of a clock that ran ahead, and does not count.

Whoever locks a cooling and a key locks the cooling first: PostgreSQL would else find deadlocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from llmkeys.database.sql import Cursor, as_instant, instant
from llmkeys.ledger.events import add_event

LEASE = timedelta(seconds=60)
AHEAD = timedelta(minutes=5)  # machines may differ so much; more is a clock that was wrong
LOOK_AGAIN = timedelta(seconds=1)  # when a key may serve for which another request asks just now


@dataclass(frozen=True, slots=True)
class Probe:
    """The right of one request to ask a key that rested; `until` tells it from other claims on the same rows."""

    scopes: tuple[str, ...]
    model: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """What came of a claim: the probe, or until when the key rests, or neither: nothing is in the way any more."""

    probe: Probe | None = None
    rests_until: datetime | None = None
    is_asked: bool = False  # it rests only because another request asks it just now


FREE = Claim()

_CONCERNED = "scope IN (%s, %s) AND model IN ('', %s)"

_TAKE = f"""UPDATE llmkeys_cooling
   SET probe_until = %s, until = CASE WHEN until > %s THEN %s ELSE until END
 WHERE {_CONCERNED} AND ((until <= %s AND (probe_until IS NULL OR probe_until <= %s)) OR probe_until > %s)
RETURNING scope, model"""

_ALL = f"SELECT scope, model, until FROM llmkeys_cooling WHERE {_CONCERNED}"

_GIVE_BACK = f"UPDATE llmkeys_cooling SET probe_until = NULL WHERE {_CONCERNED} AND probe_until = %s"


def ran_ahead(written_at: datetime | None, at: datetime) -> bool:
    """True where `probe_until` of a cooling shows that a clock wrote it which was wrong."""
    return written_at is not None and written_at > at + AHEAD


def claim(cursor: Cursor, scopes: tuple[str, ...], model: str, at: datetime) -> Claim:
    """Claim all that concerns the key and the model, or nothing. Without `scopes` nothing was in the way."""
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
    return Claim(rests_until=max(until, at + LOOK_AGAIN), is_asked=until <= at)


def give_back(cursor: Cursor, probe: Probe | None) -> None:
    """End a claim that brought no verdict on the key: the next request may ask."""
    if probe is not None:
        cursor.execute(_GIVE_BACK, [*_concerned(probe), instant(probe.until)])


def forgive(cursor: Cursor, key_id: str, scopes: tuple[str, ...], model: str, at: datetime) -> None:
    """Forget that a key rested: it has just served. What began to rest again meanwhile goes on.

    A key that was exhausted leaves an event, so that the operator hears anew when it runs dry again.
    """
    cursor.execute(
        f"DELETE FROM llmkeys_cooling WHERE {_CONCERNED} AND until <= %s RETURNING kind",
        [scopes[0], scopes[-1], model, instant(at)],
    )
    if ("exhausted",) in cursor.fetchall():
        cursor.execute("SELECT name FROM llmkeys_apikey WHERE id = %s", [key_id])
        add_event(cursor, "recovered", key_id, f"“{cursor.fetchone()[0]}” has credit again and serves.", at)
    cursor.execute("UPDATE llmkeys_apikey SET last_error = '' WHERE id = %s AND rejected_at IS NULL", [key_id])


def _concerned(probe: Probe) -> list[str]:
    return [probe.scopes[0], probe.scopes[-1], probe.model]
