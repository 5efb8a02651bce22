"""Authentication and permissions of the API: an access token with a scope, or a session with Django's permissions."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NoReturn

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from llmkeys import ledger
from llmkeys.database import writer
from llmkeys.exceptions import RecordingUnavailable
from llmkeys.models import AccessToken
from llmkeys.tokens.rights import caller_of
from llmkeys.tokens.throttle import address_of, note_failure

# The actions for a method that the view does not support, and for OPTIONS: the view answers 405.
_NOT_DECLARED = (None, "metadata")
NOTE_SECONDS = 1.0  # how long a request waits at most until its token's last use is recorded
ANY_TOKEN = ""  # in a view's table: allowed for everyone who is authenticated, with a token of any scope
_INVALID = (
    "Invalid or missing access token. Send one as “Authorization: Bearer rfk_…”; `./manage.py tokens create NAME "
    "--scope read` makes one."
)


class AccessTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer rfk_…`: `request.user` is the token's user, `request.auth` the token."""

    def authenticate(self, request: Request) -> tuple[Any, AccessToken] | None:
        scheme, _, text = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        at = timezone.now()
        caller = caller_of(text.strip(), at)
        if caller is None:
            self.refuse(request)
        token_id = caller.token_id
        if caller.notes_use and token_id is not None:
            with suppress(RecordingUnavailable):  # reading must not depend on a writable database
                writer.run_now(lambda cursor: ledger.note_token_use(cursor, token_id, at), patience=NOTE_SECONDS)
        token = AccessToken.objects.select_related("user").filter(pk=caller.token_id or 0).first()
        return (token.user, token) if token is not None else self.refuse(request)

    def refuse(self, request: Request) -> NoReturn:
        """Refuse an invalid token. Raises AuthenticationFailed, or TooManyFailures if its address sent too many."""
        note_failure(address_of(request.META), at=timezone.now())
        raise AuthenticationFailed(_INVALID)

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class ScopeOrModelPermission(BasePermission):
    """Requires the permission that the view's table names for the action and, with a token, the scope as well.

    An action that is not in the table is refused to everyone.
    """

    message = "You may not do this: it needs a permission that this user or access token lacks."

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user.is_authenticated:
            return False
        if view.action in _NOT_DECLARED:
            return True
        needed = view.permissions.get(view.action)
        if needed == ANY_TOKEN:
            return True
        if isinstance(request.auth, AccessToken) and _scope(request.method) not in request.auth.scopes:
            self.message = f"This token may not do this: it lacks the scope “{_scope(request.method)}”."
            return False
        return needed is not None and request.user.has_perm(needed)


def _scope(method: str | None) -> str:
    return "read" if method in SAFE_METHODS else "manage"


def actor_of(request: Request) -> str:
    """Return the name of the user and token, for events and adjustments."""
    name = request.user.get_username()
    if isinstance(request.auth, AccessToken):
        name = f"{name} (token {request.auth.name})"
    return name[:150]
