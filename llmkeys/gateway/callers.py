"""Authentication at the gateway: the access token is checked before the body is read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.utils import timezone
from starlette.types import Scope

from llmkeys.database import reader
from llmkeys.gateway.errors import GatewayError
from llmkeys.relay import background
from llmkeys.relay.candidates import Stored, read_stored
from llmkeys.tokens.rights import Caller, may_send, read_caller
from llmkeys.tokens.throttle import address_of, note_failure


async def authenticate(headers: Mapping[str, str], scope: Scope) -> tuple[Caller, Stored]:
    """Return the caller and the stored keys, which are read together because each use of the reader costs time.

    Raises GatewayError 401 or 403, TooManyFailures, RecordingUnavailable.
    """
    token, at = _token(headers), timezone.now()
    found = await reader.run(lambda cursor: _read(cursor, token, at)) if token else None
    if found is None:
        if token:
            await background.in_thread(note_failure, _address(headers, scope), at=at)
        raise GatewayError(
            401,
            "invalid_token",
            "Invalid or missing access token. Send one as “Authorization: Bearer rfk_…”; "
            "`./manage.py tokens create NAME` makes one.",
            {"WWW-Authenticate": "Bearer"},
        )
    caller, stored = found
    if not caller.has_gateway_scope:
        raise GatewayError(403, "missing_scope", "This token may not send requests: it lacks the scope “gateway”.")
    if stored is None:
        raise GatewayError(
            403,
            "missing_scope",
            "This token may not send requests: its user lacks the permission llmkeys.use_gateway, which an "
            "administrator can grant (admin, Users).",
        )
    return caller, stored


def _read(cursor: Any, token: str, at: datetime) -> tuple[Caller, Stored | None] | None:
    caller = read_caller(cursor, token, at)
    if caller is None:
        return None
    return caller, read_stored(cursor, at) if caller.has_gateway_scope and may_send(cursor, caller) else None


def _token(headers: Mapping[str, str]) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return headers.get("x-api-key", "") or headers.get("x-goog-api-key", "")


def _address(headers: Mapping[str, str], scope: Scope) -> str:
    client = scope.get("client")
    return address_of(
        {"HTTP_X_FORWARDED_FOR": headers.get("x-forwarded-for", ""), "REMOTE_ADDR": client[0] if client else ""}
    )
