"""What a provider's failure does to a key: it rests, it is exhausted, it is rejected (contract 4, point 6)."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.backends.utils import CursorWrapper

from llmkeys import writer
from llmkeys.admission import Candidate
from llmkeys.ledger import add_event
from llmkeys.providers.base import Failure, FailureKind
from llmkeys.services.defaults import hand_default_on
from llmkeys.sql import as_instant, instant

LONGEST = timedelta(days=31)
BACK_OFF_SECONDS = (10, 30, 60, 120, 300, 600)  # without a hint of the provider, by coolings in a row
ASK_AGAIN = timedelta(minutes=30)  # an exhausted key of which nobody says until when


def report_failure(candidate: Candidate, failure: Failure, *, at: datetime) -> None:
    """Store what the failure means for the key, and its billing group, in one transaction with its event."""
    work = {
        FailureKind.RATE_LIMITED: _cool,
        FailureKind.EXHAUSTED: _exhaust,
        FailureKind.REJECTED: _reject,
        FailureKind.FORBIDDEN_HERE: _note,
        FailureKind.TOO_EXPENSIVE: _note,
    }.get(failure.kind)
    if work is not None:
        writer.run(lambda cursor: work(cursor, candidate, failure, at))


def forgive(cursor: CursorWrapper, candidate: Candidate) -> None:
    """Forget that a key rested: it has just served."""
    scopes = [f"key:{candidate.id}", f"group:{candidate.provider}:{candidate.billing_group}"]
    cursor.execute(
        "DELETE FROM llmkeys_cooling WHERE scope IN (%s, %s) AND model IN ('', %s)", [*scopes, candidate.model]
    )
    cursor.execute("UPDATE llmkeys_apikey SET last_error = '' WHERE id = %s AND rejected_at IS NULL", [candidate.id])


def _cool(cursor: CursorWrapper, candidate: Candidate, failure: Failure, at: datetime) -> None:
    scope = _scope(candidate, whole_group=True)
    until = failure.until or (
        at + timedelta(seconds=failure.retry_after_seconds)
        if failure.retry_after_seconds is not None
        else at + timedelta(seconds=_back_off(cursor, scope, candidate.model))
    )
    until = _rest(cursor, scope, candidate.model, "rate_limited", until, failure.message, at)
    words = f"Rate limit for {candidate.model} until {until:%Y-%m-%d %H:%M:%S} UTC: {failure.message}"
    _set_error(cursor, candidate.id, words)
    add_event(cursor, "cooled", candidate.id, f"“{candidate.name}” is cooling down. {words}", at)


def _exhaust(cursor: CursorWrapper, candidate: Candidate, failure: Failure, at: datetime) -> None:
    scope = _scope(candidate, whole_group=failure.whole_group)
    until = failure.until
    if until is None and failure.retry_after_seconds is not None:
        until = at + timedelta(seconds=failure.retry_after_seconds)
    until = _rest(cursor, scope, "", "exhausted", until or at + ASK_AGAIN, failure.message, at)
    words = f"Exhausted at its provider until {until:%Y-%m-%d %H:%M:%S} UTC: {failure.message}"
    _set_error(cursor, candidate.id, words)
    add_event(cursor, "exhausted", candidate.id, f"“{candidate.name}” has no credit left. {words}", at)


def _reject(cursor: CursorWrapper, candidate: Candidate, failure: Failure, at: datetime) -> None:
    words = f"Rejected by its provider: {failure.message} Replace the secret, or test the key again."
    cursor.execute(
        "UPDATE llmkeys_apikey SET rejected_at = %s, last_error = %s, updated_at = %s "
        "WHERE id = %s AND rejected_at IS NULL",
        [instant(at), words[:1000], instant(at), candidate.id],
    )
    if cursor.rowcount:
        add_event(cursor, "rejected", candidate.id, f"“{candidate.name}”: {words}", at)
        hand_default_on(cursor, candidate.id, at)


def _note(cursor: CursorWrapper, candidate: Candidate, failure: Failure, at: datetime) -> None:
    _set_error(cursor, candidate.id, failure.message)


def _scope(candidate: Candidate, *, whole_group: bool) -> str:
    if whole_group and candidate.billing_group:
        return f"group:{candidate.provider}:{candidate.billing_group}"
    return f"key:{candidate.id}"


def _back_off(cursor: CursorWrapper, scope: str, model: str) -> int:
    cursor.execute("SELECT strikes FROM llmkeys_cooling WHERE scope = %s AND model = %s", [scope, model])
    row = cursor.fetchone()
    return BACK_OFF_SECONDS[min(row[0] if row else 0, len(BACK_OFF_SECONDS) - 1)]


def _rest(
    cursor: CursorWrapper, scope: str, model: str, kind: str, until: datetime, reason: str, at: datetime
) -> datetime:
    """Store the cooling; the longer deadline wins. Return the deadline in force."""
    until = min(until, at + LONGEST)
    cursor.execute(
        """INSERT INTO llmkeys_cooling (scope, model, kind, until, reason, strikes) VALUES (%s, %s, %s, %s, %s, 1)
           ON CONFLICT (scope, model) DO UPDATE SET
             kind = excluded.kind, reason = excluded.reason, strikes = llmkeys_cooling.strikes + 1,
             until = CASE WHEN llmkeys_cooling.until > excluded.until THEN llmkeys_cooling.until
                          ELSE excluded.until END
           RETURNING until""",
        [scope, model, kind, instant(until), reason[:500]],
    )
    return as_instant(cursor.fetchone()[0])


def _set_error(cursor: CursorWrapper, key_id: str, words: str) -> None:
    cursor.execute("UPDATE llmkeys_apikey SET last_error = %s WHERE id = %s", [words[:1000], key_id])
