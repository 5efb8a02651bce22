"""Whose access token came with a request: checked before its body is read."""

from __future__ import annotations

from collections.abc import Mapping

from django.utils import timezone
from starlette.types import Scope

from llmkeys.database import reader
from llmkeys.gateway.errors import GatewayError
from llmkeys.relay import under_way
from llmkeys.tokens.rights import Caller, read_caller
from llmkeys.tokens.throttle import address_of, note_failure


async def authenticate(headers: Mapping[str, str], scope: Scope) -> Caller:
    """Return who asks. Raises GatewayError 401 or 403, TooManyFailures, RecordingUnavailable."""
    token, at = _token(headers), timezone.now()
    caller = await reader.run(lambda cursor: read_caller(cursor, token, at)) if token else None
    if caller is None:
        if token:
            await under_way.in_thread(note_failure, _address(headers, scope), at=at)
        raise GatewayError(
            401,
            "invalid_token",
            "Invalid or missing access token. Send one as “Authorization: Bearer rfk_…”; "
            "`manage.py tokens create NAME` makes one.",
            {"WWW-Authenticate": "Bearer"},
        )
    if not caller.has_gateway_scope:
        raise GatewayError(403, "missing_scope", "This token may not send requests: it lacks the scope “gateway”.")
    if not caller.may_send:
        raise GatewayError(
            403,
            "missing_scope",
            "This token may not send requests: its user lacks the permission llmkeys.use_gateway, which an "
            "administrator gives (admin, Users).",
        )
    return caller


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
