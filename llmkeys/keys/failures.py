"""What a provider's failure does to a key: it cools down, is exhausted or is rejected."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from llmkeys import providers
from llmkeys.database import writer
from llmkeys.database.sql import Cursor, as_instant, instant
from llmkeys.exceptions import LLMKeysError
from llmkeys.key_state import cooling_scopes
from llmkeys.keys.default import all_keys, hand_default_on
from llmkeys.ledger import KEYS, Account, add_event, coolings
from llmkeys.ledger.coolings import Probe
from llmkeys.providers.base import Failure, FailureKind, Scope
from llmkeys.upstream import asked
from llmkeys.vault.keyring import SecretHolder, is_registered

LONGEST = timedelta(days=31)
SHORTEST = timedelta(seconds=1)  # even if a provider says 0, so that not every refusal leaves an event
BACK_OFF_SECONDS = (10, 30, 60, 120, 300, 600)  # without a hint from the provider, by consecutive coolings
ASK_AGAIN = timedelta(minutes=30)  # for an exhausted key if the provider does not say until when
DAILY_QUOTA = "Daily quota: "  # the beginning of the reason of such a cooling
DAY = timedelta(days=1)

# The providers whose base URL in a command's shell is not the one that the running server has (`management.base`). What
# is heard there says nothing about the keys that the server sends to its own.
asked_elsewhere: set[str] = set()

CONFIRM_SECONDS = 5.0
TEST_REST = timedelta(seconds=BACK_OFF_SECONDS[0])


class TriedKey(SecretHolder, Protocol):
    """What is needed of a key that failed: a candidate of the relay."""

    @property
    def model(self) -> str: ...
    @property
    def billing_group(self) -> str: ...


def report_failure(candidate: TriedKey, failure: Failure, *, at: datetime, probe: Probe | None = None) -> bool:
    """Store what the failure means for the key and its billing group, in one transaction with the event.

    Returns True for a rejection that has to be confirmed: the key is cooling until the caller has run
    `confirm_rejection` in the background. `probe` is the claim that ends with this. Raises RecordingUnavailable.
    """
    accounts = [Account(KEYS, candidate.id).lock]
    if failure.kind is FailureKind.REJECTED:
        return writer.run_now(lambda cursor: _cool_for_test(cursor, candidate, at, probe), accounts=accounts)
    work = {
        FailureKind.RATE_LIMITED: _cool,
        FailureKind.EXHAUSTED: _exhaust,
        FailureKind.FORBIDDEN_HERE: _note,
        FailureKind.TOO_EXPENSIVE: _note,
        FailureKind.TOO_LARGE: _note,
        FailureKind.WRONG_ADDRESS: _note,
    }.get(failure.kind)
    if work is None:
        return False

    def store(cursor: Cursor) -> None:
        if still_has_secret(cursor, candidate):
            work(cursor, candidate, failure, at)
        coolings.give_back(cursor, probe)

    writer.run_now(store, accounts=accounts)
    return False


def confirm_rejection(candidate: TriedKey, failure: Failure, *, at: datetime) -> None:
    """Confirm a rejection with the free test, because providers have rejected good keys by mistake.

    The test takes up to 5 seconds, with no transaction open. Raises RecordingUnavailable.
    """
    is_rejected, words = _free_test(candidate, at)
    verdict = _reject if is_rejected else _refuse
    stored = failure if is_rejected else _with_words(failure, words)

    def store(cursor: Cursor) -> None:
        if still_has_secret(cursor, candidate):
            verdict(cursor, candidate, stored, at)

    writer.run_now(store, accounts=all_keys() if is_rejected else [Account(KEYS, candidate.id).lock])


def still_has_secret(cursor: Cursor, tried: SecretHolder) -> bool:
    """Return whether the key, which is locked, still has the secret that was tried.

    If not, an answer to that secret says nothing about the key. A re-encrypted secret counts as another one; whatever
    is skipped for that reason shows up again at the next request or test. The same goes for an environment key whose
    variable has another value in a command's shell than on the server, and for a provider that was asked elsewhere.
    """
    if tried.provider in asked_elsewhere:
        return False
    cursor.execute(
        "SELECT masked_secret FROM llmkeys_apikey WHERE id = %s AND secret = %s AND deleted_at IS NULL",
        [tried.id, bytes(tried.secret)],
    )
    row = cursor.fetchone()
    return row is not None and is_registered(tried, row[0])


def _cool(cursor: Cursor, candidate: TriedKey, failure: Failure, at: datetime) -> None:
    scope = _scope(candidate, Scope.ACCOUNT)
    until, reason = failure.until or at + _back_off(cursor, scope, candidate.model, at), failure.message
    if failure.until_if_repeated is not None:
        if _was_refused_again(cursor, scope, candidate.model, failure.until_if_repeated, at):
            until = failure.until_if_repeated
        reason = f"{DAILY_QUOTA}{reason}"
    until = _store_cooling(cursor, scope, candidate.model, "rate_limited", until, reason, at)
    words = f"Rate limit for {candidate.model} until {until:%Y-%m-%d %H:%M:%S} UTC: {failure.message}"
    _set_error(cursor, candidate.id, words)
    add_event(cursor, "cooled", candidate.id, f"“{candidate.name}” is cooling down. {words}", at)


def _was_refused_again(cursor: Cursor, scope: str, model: str, day_ends: datetime, at: datetime) -> bool:
    """Return whether the daily quota refused again after the wait that it asked for: it lasts until the day ends."""
    cursor.execute("SELECT reason, until FROM llmkeys_cooling WHERE scope = %s AND model = %s", [scope, model])
    row = cursor.fetchone()
    return row is not None and row[0].startswith(DAILY_QUOTA) and day_ends - DAY < as_instant(row[1]) <= at


def _exhaust(cursor: Cursor, candidate: TriedKey, failure: Failure, at: datetime) -> None:
    scope = _scope(candidate, failure.scope)
    until = _store_cooling(cursor, scope, "", "exhausted", failure.until or at + ASK_AGAIN, failure.message, at)
    words = f"Exhausted at its provider until {until:%Y-%m-%d %H:%M:%S} UTC: {failure.message}"
    _set_error(cursor, candidate.id, words)
    add_event(cursor, "exhausted", candidate.id, f"“{candidate.name}” has no credit left. {words}", at)


def _cool_for_test(cursor: Cursor, candidate: TriedKey, at: datetime, probe: Probe | None) -> bool:
    """Let the key cool down for the test; return False if there is nothing to test.

    Either another request is testing it, so that it is cooling already, or its secret was replaced in the meantime.
    """
    if not still_has_secret(cursor, candidate):
        coolings.give_back(cursor, probe)
        return False
    cursor.execute(
        """INSERT INTO llmkeys_cooling (scope, model, kind, until, reason, strikes, probe_until)
           VALUES (%s, '', 'rate_limited', %s, 'Its rejection is being confirmed.', 1, %s)
           ON CONFLICT (scope, model) DO UPDATE SET
             kind = excluded.kind, until = excluded.until, reason = excluded.reason,
             strikes = llmkeys_cooling.strikes + 1, probe_until = excluded.probe_until
            WHERE llmkeys_cooling.until <= %s OR llmkeys_cooling.probe_until > %s""",
        [f"key:{candidate.id}", instant(at + TEST_REST), instant(at), instant(at), instant(at + coolings.AHEAD)],
    )
    begins = cursor.rowcount == 1
    coolings.give_back(cursor, probe)
    return begins


def _free_test(candidate: TriedKey, at: datetime) -> tuple[bool, str]:
    """Return whether the provider definitely rejects the key, and what it said in the free test."""
    try:
        answer = asked.check_key(candidate, seconds=CONFIRM_SECONDS)
    except (asked.TransportError, LLMKeysError) as error:
        return False, f"The free test was inconclusive: {error}"
    check = providers.get(candidate.provider).check_answer(
        status=answer.status, headers=answer.headers, body=answer.body, at=at
    )
    if check.ok:
        return False, "The free test accepts the key."
    is_rejected = check.failure is not None and check.failure.kind is FailureKind.REJECTED
    return is_rejected, f"The free test was inconclusive: {check.message}"


def _with_words(failure: Failure, words: str) -> Failure:
    return replace(failure, message=f"{failure.message} {words}")


def _refuse(cursor: Cursor, candidate: TriedKey, failure: Failure, at: datetime) -> None:
    """Let a key cool down that was refused but is not definitely rejected."""
    scope = f"key:{candidate.id}"
    until = at + _back_off(cursor, scope, "", at)
    until = _store_cooling(cursor, scope, "", "rate_limited", until, failure.message, at)
    words = f"Refused by its provider, and cooling down until {until:%Y-%m-%d %H:%M:%S} UTC: {failure.message}"
    _set_error(cursor, candidate.id, words)
    add_event(cursor, "cooled", candidate.id, f"“{candidate.name}”: {words}", at)


def _reject(cursor: Cursor, candidate: TriedKey, failure: Failure, at: datetime) -> None:
    # Once the key is accepted again, there must be nothing left to wait for.
    cursor.execute("DELETE FROM llmkeys_cooling WHERE scope = %s AND model = ''", [f"key:{candidate.id}"])
    words = f"Rejected by its provider: {failure.message} Replace the secret, or test the key again."
    cursor.execute(
        "UPDATE llmkeys_apikey SET rejected_at = %s, last_error = %s, updated_at = %s "
        "WHERE id = %s AND rejected_at IS NULL",
        [instant(at), words[:1000], instant(at), candidate.id],
    )
    if cursor.rowcount:
        add_event(cursor, "rejected", candidate.id, f"“{candidate.name}”: {words}", at)
        hand_default_on(cursor, candidate.id, at)


def _note(cursor: Cursor, candidate: TriedKey, failure: Failure, at: datetime) -> None:
    _set_error(cursor, candidate.id, failure.message)


def _scope(candidate: TriedKey, scope: Scope) -> str:
    scopes = cooling_scopes(candidate.id, candidate.provider, candidate.billing_group)
    return scopes[-1] if scope is Scope.ACCOUNT else scopes[0]


def _back_off(cursor: Cursor, scope: str, model: str, at: datetime) -> timedelta:
    """Return how long to cool down without a hint; failures of requests that were in progress together count as one."""
    cursor.execute("SELECT strikes, until FROM llmkeys_cooling WHERE scope = %s AND model = %s", [scope, model])
    row = cursor.fetchone()
    before = 0 if row is None else row[0] - (as_instant(row[1]) > at)
    return timedelta(seconds=BACK_OFF_SECONDS[min(before, len(BACK_OFF_SECONDS) - 1)])


def _store_cooling(
    cursor: Cursor, scope: str, model: str, kind: str, until: datetime, reason: str, at: datetime
) -> datetime:
    """Store the cooling and return its end: the later one, unless the stored one comes from a clock that ran ahead."""
    until = min(max(until, at + SHORTEST), at + LONGEST)
    cursor.execute(
        """INSERT INTO llmkeys_cooling (scope, model, kind, until, reason, strikes, probe_until)
           VALUES (%s, %s, %s, %s, %s, 1, %s)
           ON CONFLICT (scope, model) DO UPDATE SET
             kind = excluded.kind, reason = excluded.reason, probe_until = excluded.probe_until,
             strikes = llmkeys_cooling.strikes + CASE WHEN llmkeys_cooling.until > %s THEN 0 ELSE 1 END,
             until = CASE WHEN llmkeys_cooling.until > excluded.until
                           AND (llmkeys_cooling.probe_until IS NULL OR llmkeys_cooling.probe_until <= %s)
                          THEN llmkeys_cooling.until ELSE excluded.until END
           RETURNING until""",
        [scope, model, kind, instant(until), reason[:500], instant(at), instant(at), instant(at + coolings.AHEAD)],
    )
    return as_instant(cursor.fetchone()[0])


def _set_error(cursor: Cursor, key_id: str, words: str) -> None:
    cursor.execute("UPDATE llmkeys_apikey SET last_error = %s WHERE id = %s", [words[:1000], key_id])
