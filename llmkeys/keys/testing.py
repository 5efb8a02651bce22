"""Test keys and secrets with a free call to their provider; a stored key's result sets or clears its rejection."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from llmkeys import ledger, providers
from llmkeys.database.sql import Cursor, instant
from llmkeys.exceptions import SecretMissing
from llmkeys.key_state import cooling_scopes
from llmkeys.keys import fields
from llmkeys.keys.default import changing_keys, ensure_default, hand_default_on
from llmkeys.keys.failures import asked_elsewhere, still_has_secret
from llmkeys.ledger import coolings
from llmkeys.models import ApiKey
from llmkeys.providers.base import FailureKind, KeyCheck
from llmkeys.upstream import asked
from llmkeys.vault import keyring


@dataclass(frozen=True, slots=True)
class TestResult:
    """The result of testing a key at its provider, as a message, with the milliseconds that it took."""

    __test__ = False  # not a test class, despite the name

    ok: bool
    message: str
    latency_ms: int
    details: dict[str, Any] = field(default_factory=dict)


def test_key(key: ApiKey, *, at: datetime, actor: str = "") -> TestResult:
    """Test a key with a free call to its provider, and set or clear its rejection. Does not count as a request.

    The result is kept in `last_test`, for the key's page. Nothing is stored if the secret was replaced meanwhile, if it
    is not the one that the server has in the variable of an environment key, or if the server asks at another address.
    `actor` is the person who tests it: after a success the next request tries a key that had no credit left.
    """
    started = time.monotonic()
    try:
        answer = asked.check_key(key)
    except SecretMissing as error:  # not stored, because the server may have the variable even if this process does not
        return TestResult(False, str(error), _milliseconds(started))
    except asked.TransportError as error:
        check, result = None, TestResult(False, str(error), _milliseconds(started))
    else:
        check = providers.get(key.provider).check_answer(
            status=answer.status, headers=answer.headers, body=answer.body, at=at
        )
        result = TestResult(check.ok, check.message, _milliseconds(started), check.details)
    if words := _not_the_servers(key):
        return replace(result, message=f"{result.message.rstrip('.')}. {words}")
    if check is not None and not _store_check(key, check, at, actor):
        words = f"“{key.name}” was deleted or its secret was replaced during the test. Test it again."
        return TestResult(False, words, _milliseconds(started))
    return _remembered(key, result, at)


def _not_the_servers(key: ApiKey) -> str:
    """Return why what was tested here says nothing about the key as the server uses it, or ""."""
    if key.provider in asked_elsewhere:
        return (
            f"That was asked at this shell's {key.provider.upper()}_BASE_URL, which is not the server's: nothing was "
            "stored. Test it with the server's value, or on the dashboard."
        )
    if not keyring.is_registered(key, key.masked_secret):
        return (
            f"That was the value of {key.environment_variable} here, which is not the server's: nothing was stored. "
            "Start every `serve` with the same value, or test it where the server's value is set."
        )
    return ""


def _remembered(key: ApiKey, result: TestResult, at: datetime) -> TestResult:
    facts = {"ok": result.ok, "message": result.message, "latencyMs": result.latency_ms, "details": result.details}
    plain = json.loads(json.dumps(facts, default=str))
    tried = ApiKey.objects.stored().filter(pk=key.pk, secret=key.secret)
    tried.update(last_test=plain, last_test_at=at)
    return result


def try_secret(*, values: Mapping[str, Any], at: datetime) -> TestResult:
    """Test a secret that a person has entered (`provider`, `apiKey`, `workspaceId`) without storing anything.

    Raises InvalidInput if it cannot be a key of this provider.
    """
    given = {name: values[name] for name in ("provider", "apiKey", "workspaceId") if values.get(name)}
    cleaned = fields.clean_new({"name": "not stored", **given}, at=at)
    return test_secret(
        provider=cleaned["provider"], secret=cleaned["secret"], workspace_id=cleaned.get("workspace_id", ""), at=at
    )


def test_secret(*, provider: str, secret: str, workspace_id: str = "", at: datetime) -> TestResult:
    """Test a secret that is not stored yet."""
    started = time.monotonic()
    try:
        answer = asked.check_secret(providers.get(provider), secret, workspace_id)
    except asked.TransportError as error:
        return TestResult(False, str(error), _milliseconds(started))
    check = providers.get(provider).check_answer(status=answer.status, headers=answer.headers, body=answer.body, at=at)
    return TestResult(check.ok, check.message, _milliseconds(started), check.details)


def _milliseconds(started: float) -> int:
    return int((time.monotonic() - started) * 1000)


def _store_check(key: ApiKey, check: KeyCheck, at: datetime, actor: str) -> bool:
    """Store what the provider said; return False if the key no longer has the secret that it said it about."""
    rejected = check.failure is not None and check.failure.kind is FailureKind.REJECTED
    with changing_keys() as cursor:
        if not still_has_secret(cursor, key):
            return False
        if check.ok:
            cursor.execute(
                "UPDATE llmkeys_apikey SET rejected_at = NULL, updated_at = %s "
                "WHERE id = %s AND rejected_at IS NOT NULL",
                [instant(at), key.id],
            )
            was_rejected = cursor.rowcount == 1
            if was_rejected:
                words = f"“{key.name}” is accepted by its provider again."
                ledger.add_event(cursor, "accepted", key.id, words, at, actor=actor)
            scopes = cooling_scopes(key.id, key.provider, key.billing_group)
            if actor:  # a person has a reason to expect that there is credit again, which a free call does not show
                coolings.try_again(cursor, scopes, at)
            if was_rejected or not coolings.are_running(cursor, scopes, at):  # the words of a cooling stay with it
                cursor.execute("UPDATE llmkeys_apikey SET last_error = '' WHERE id = %s", [key.id])
            ensure_default(cursor, at)
        elif rejected:
            _reject(cursor, key, check.message, at, actor)
    return True


def _reject(cursor: Cursor, key: ApiKey, message: str, at: datetime, actor: str) -> None:
    cursor.execute(
        """UPDATE llmkeys_apikey SET rejected_at = %s, updated_at = %s WHERE id = %s AND rejected_at IS NULL""",
        [instant(at), instant(at), key.id],
    )
    newly = cursor.rowcount
    cursor.execute("UPDATE llmkeys_apikey SET last_error = %s WHERE id = %s", [message[:1000], key.id])
    if newly:
        ledger.add_event(cursor, "rejected", key.id, f"“{key.name}”: {message}", at, actor=actor)
        hand_default_on(cursor, key.id, at)
