"""Access tokens: make, see, revoke. The token in clear exists only in the answer to its making."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet

from llmkeys.exceptions import InvalidInput
from llmkeys.lib.texts import name_problem
from llmkeys.models import AccessToken, ApiKey
from llmkeys.vault.crypto import new_access_token, token_digest

SCOPES = ("gateway", "read", "manage")


def create_token(
    *,
    name: str,
    user: User,
    at: datetime,
    scopes: Iterable[str] = ("gateway",),
    expires_at: datetime | None = None,
    key_ids: Collection[str] | None = None,
) -> tuple[AccessToken, str]:
    """Return the stored token and its text, which is shown once. Raises InvalidInput."""
    name, scopes, wanted = name.strip(), set(scopes), set(key_ids or ())
    errors: dict[str, list[str]] = {}
    if not 1 <= len(name) <= 100:
        errors["name"] = ["Must be 1 to 100 characters."]
    elif problem := name_problem(name):
        errors["name"] = [problem]
    if not scopes or not scopes <= set(SCOPES):
        errors["scopes"] = [f"Choose from: {', '.join(SCOPES)}."]
    if expires_at is not None and expires_at <= at:
        errors["expiresAt"] = ["The expiry is in the past."]
    keys = list(ApiKey.objects.stored().filter(pk__in=wanted))
    if len(keys) != len(wanted):
        errors["keyIds"] = ["There is no such key: " + ", ".join(sorted(wanted - {key.id for key in keys}))]
    if errors:
        raise InvalidInput(errors)
    text = new_access_token()
    with transaction.atomic():
        token = AccessToken.objects.create(
            name=name,
            digest=token_digest(text),
            user=user,
            scope_gateway="gateway" in scopes,
            scope_read="read" in scopes,
            scope_manage="manage" in scopes,
            limited_to_keys=bool(keys),
            expires_at=expires_at,
            created_at=at,
        )
        token.keys.set(keys)
    return token, text


def visible_tokens(user: User) -> QuerySet[AccessToken]:
    """Return the tokens that a user may see and revoke: their own, an administrator every one."""
    rows = AccessToken.objects.select_related("user")
    return rows if user.is_superuser else rows.filter(user=user)


def revoke_token(token: AccessToken, *, at: datetime) -> None:
    """End a token at once, for good."""
    AccessToken.objects.filter(pk=token.pk, revoked_at__isnull=True).update(revoked_at=at)


def first_administrator() -> User | None:
    return get_user_model().objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
