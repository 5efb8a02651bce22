"""Create, change, rotate and revoke access tokens. A token's secret is only returned when it is created or rotated.

Each function is one transaction that includes its event. It raises InvalidInput with a sentence per field,
TokenConflict or BeyondItsMaker, and then changes nothing. `maker` is the access token of the request, if any.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Q, QuerySet

from llmkeys import ledger
from llmkeys.exceptions import BeyondItsMaker, InvalidInput, TokenConflict
from llmkeys.lib.money import usd_to_nano
from llmkeys.models import AccessToken, ApiKey
from llmkeys.tokens import fields
from llmkeys.tokens.fields import SCOPES
from llmkeys.tokens.rights import is_within
from llmkeys.vault.crypto import new_access_token, token_digest

_LABELS = {column: name for name, column in fields.WRITABLE.items()}


def create_token(
    *, user: User, values: Mapping[str, Any], at: datetime, actor: str = "", maker: AccessToken | None = None
) -> tuple[AccessToken, str]:
    """Store a new token from fields named as in the API (`name`, `scopes`, …); return it and its secret.

    Limits are in USD; those left out come from the settings. An administrator may name another `user`.
    """
    given = fields.clean_new(values, at=at)
    owner = _owner(given.pop("user", None), user, maker)
    scopes, key_ids = given.pop("scopes", ["gateway"]), given.pop("key_ids", None)
    text = new_access_token()
    token = AccessToken(
        **{**_default_limits(), **given, **_scope_columns(scopes)},
        user=owner,
        maker=maker,
        digest=token_digest(text),
        limited_to_keys=key_ids is not None,
        created_at=at,
    )
    with transaction.atomic():
        if maker is not None:
            _lock(maker)
            _check_within(maker, token, key_ids, "The new token")
        token.save(force_insert=True)
        token.keys.set(ApiKey.objects.filter(pk__in=key_ids or ()))
        _note("added", token, f"The token “{token.name}” of {owner.get_username()} was created.", at, actor)
    return token, text


def change_token(
    token: AccessToken,
    *,
    values: Mapping[str, Any],
    at: datetime,
    actor: str = "",
    maker: AccessToken | None = None,
) -> AccessToken:
    """Change the fields in `values`; an earlier expiry date also applies to the tokens that it created."""
    given = fields.clean_change(values, token=token, at=at)
    with transaction.atomic():
        _lock_and_read(token, maker, with_descendants="expires_at" in given)
        _refuse_revoked(token)
        changed = _set_changed(token, given)
        key_ids = _new_key_ids(token, given, changed)
        _check_end(token)
        if maker is not None:
            _check_within(maker, token, key_ids, "The changed token")
        if changed:
            _save_change(token, changed, key_ids, at, actor)
    token.refresh_from_db()
    return token


def rotate_token(
    token: AccessToken, *, overlap_seconds: int = 0, at: datetime, actor: str = "", maker: AccessToken | None = None
) -> tuple[AccessToken, str]:
    """Give the token a new secret and return both; the old secret stays valid for another `overlap_seconds`.

    Budgets, counters and history stay, because it is the same account.
    """
    _refuse_revoked(token)
    text, old = new_access_token(), token.digest
    with transaction.atomic():
        if maker is not None:
            _lock(maker, [token.pk])
            _check_within(maker, token, _key_ids(token), "The rotated token")
        rotated = AccessToken.objects.filter(pk=token.pk, digest=old, revoked_at__isnull=True).update(
            digest=token_digest(text),
            previous_digest=old if overlap_seconds else None,
            previous_until=at + timedelta(seconds=overlap_seconds) if overlap_seconds else None,
        )
        if not rotated:
            raise TokenConflict(f"Somebody else has just rotated or revoked “{token.name}”. Check it and try again.")
        until = f"; the old one stays valid for another {overlap_seconds} s" if overlap_seconds else ""
        _note("changed", token, f"The token “{token.name}” has a new secret{until}.", at, actor)
    token.refresh_from_db()
    return token, text


def revoke_token(token: AccessToken, *, at: datetime, actor: str = "") -> None:
    """Revoke a token at once and for good, together with the tokens that it created."""
    with transaction.atomic():
        if not AccessToken.objects.filter(pk=token.pk, revoked_at__isnull=True).update(revoked_at=at):
            return
        _note("deleted", token, f"The token “{token.name}” was revoked.", at, actor)
        children = AccessToken.objects.filter(pk__in=_locked_descendants(token), revoked_at__isnull=True)
        for child in children:
            _note("deleted", child, f"The token “{child.name}” ended with “{token.name}”, which created it.", at, actor)
        children.update(revoked_at=at)


def visible_tokens(user: User) -> QuerySet[AccessToken]:
    """Return the tokens that a user may see, change and revoke: their own, or all for an administrator."""
    rows = AccessToken.objects.select_related("user")
    return rows if user.is_superuser else rows.filter(user=user)


def first_administrator() -> User | None:
    return get_user_model().objects.filter(is_superuser=True, is_active=True).order_by("pk").first()


# --- parts ------------------------------------------------------------------------------------------------------------


def _owner(named: str | None, user: User, maker: AccessToken | None) -> User:
    if named is None or named == user.get_username():
        return user
    if not user.is_superuser or maker is not None:
        raise InvalidInput({"user": ["Only an administrator who is logged in can create tokens for other users."]})
    users = get_user_model().objects
    found = users.filter(**{get_user_model().USERNAME_FIELD: named, "is_active": True}).first()
    if found is None:
        raise InvalidInput({"user": [f"There is no active user “{named}”."]})
    return found


def _default_limits() -> dict[str, int]:
    return {
        "daily_limit_nano": usd_to_nano(settings.TOKEN_DAILY_LIMIT_USD),
        "monthly_limit_nano": usd_to_nano(settings.TOKEN_MONTHLY_LIMIT_USD),
        "total_limit_nano": usd_to_nano(settings.TOKEN_TOTAL_LIMIT_USD),
    }


def _scope_columns(scopes: Collection[str]) -> dict[str, bool]:
    return {f"scope_{scope}": scope in scopes for scope in SCOPES}


def _set_changed(token: AccessToken, given: Mapping[str, Any]) -> list[str]:
    """Set the given columns on the token object; return the names of those that changed."""
    columns = {name: value for name, value in given.items() if name not in ("scopes", "key_ids")}
    if "scopes" in given and set(_implied(given["scopes"])) != set(token.scopes):
        columns |= _scope_columns(given["scopes"])
    changed = [name for name, value in columns.items() if getattr(token, name) != value]
    for name in changed:
        setattr(token, name, columns[name])
    return changed


def _implied(scopes: Collection[str]) -> Collection[str]:
    return SCOPES if "manage" in scopes else scopes


def _key_ids(token: AccessToken) -> list[str] | None:
    stored = token.keys.filter(deleted_at__isnull=True)
    return list(stored.values_list("pk", flat=True)) if token.limited_to_keys else None


def _new_key_ids(token: AccessToken, given: Mapping[str, Any], changed: list[str]) -> list[str] | None:
    """Return the ids of the keys that the token may use from now on, and add to `changed` if they differ."""
    before = _key_ids(token)
    if "key_ids" not in given:
        return before
    after = given["key_ids"]
    if (before is None) != (after is None) or set(before or ()) != set(after or ()):
        token.limited_to_keys = after is not None
        changed.append("limited_to_keys")
    return after


def _save_change(token: AccessToken, changed: list[str], key_ids: list[str] | None, at: datetime, actor: str) -> None:
    columns = {name: getattr(token, name) for name in changed}
    if any(name.endswith("_limit_nano") or name == "budget_mode" for name in changed):
        columns["refused_window"] = ""
    if "requests_per_minute" in changed:
        columns["minute"] = 0  # nothing is counted without a limit, so the next request counts the rows
    if not AccessToken.objects.filter(pk=token.pk, revoked_at__isnull=True).update(**columns):
        raise TokenConflict(_REVOKED.format(token.name))
    if "limited_to_keys" in changed:
        token.keys.set(ApiKey.objects.filter(pk__in=key_ids or ()))
    if "expires_at" in changed and token.expires_at is not None:
        later = Q(expires_at__isnull=True) | Q(expires_at__gt=token.expires_at)
        AccessToken.objects.filter(later, pk__in=_locked_descendants(token)).update(expires_at=token.expires_at)
    words = ", ".join(sorted({_label(name) for name in changed}))
    _note("changed", token, f"The token “{token.name}” was changed: {words}.", at, actor)


def _label(column: str) -> str:
    if column == "limited_to_keys":
        return "keyIds"
    return "scopes" if column.startswith("scope_") else _LABELS[column]


_REVOKED = "“{}” was revoked, for good. Create a new token."


def _refuse_revoked(token: AccessToken) -> None:
    if token.revoked_at is not None:
        raise TokenConflict(_REVOKED.format(token.name))


def _check_end(token: AccessToken) -> None:
    """Raise InvalidInput if a token would expire after the one that created it."""
    end = token.maker.expires_at if token.maker is not None else None
    if end is not None and (token.expires_at is None or token.expires_at > end):
        words = f"It ends with the token that created it, at {end:%Y-%m-%d %H:%M} UTC at the latest."
        raise InvalidInput({"expiresAt": [words]})


def _check_within(maker: AccessToken, token: AccessToken, key_ids: Collection[str] | None, whose: str) -> None:
    """Refuse a token with more rights or a later expiry date than the token of the request.

    Raises BeyondItsMaker.
    """
    if maker.has_limits:
        raise BeyondItsMaker(
            "This token has limits of its own, so it cannot create or change tokens: they would have none."
        )
    if not set(token.scopes) <= set(maker.scopes):
        raise BeyondItsMaker(f"{whose} would have a scope that this one lacks.")
    if maker.expires_at is not None and (token.expires_at is None or token.expires_at > maker.expires_at):
        words = f"{maker.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        raise BeyondItsMaker(f"{whose} needs an expiresAt of {words} at the latest, when this one ends.")
    own = _key_ids(maker)
    if own is not None and (key_ids is None or not set(key_ids) <= set(own)):
        raise BeyondItsMaker(f"This token is limited to some keys. {whose} needs keyIds among those.")
    if maker.allowed_models is not None and not is_within(token.allowed_models, maker.allowed_models):
        raise BeyondItsMaker(f"This token is limited to some models. {whose} needs models among those.")


def _lock(maker: AccessToken | None, others: Collection[int] = ()) -> list[int]:
    """Lock the maker and the tokens with the other ids, and read the maker again; return the ids that still exist.

    A maker is not revoked or shortened before its child is stored. Raises BeyondItsMaker if it was revoked already.
    """
    ids = _lock_in_order({*others} if maker is None else {*others, maker.pk})
    if maker is not None:
        if maker.pk in ids:
            maker.refresh_from_db()
        if maker.pk not in ids or maker.revoked_at is not None:
            raise BeyondItsMaker("This token was revoked a moment ago.")
    return ids


def _lock_and_read(token: AccessToken, maker: AccessToken | None, *, with_descendants: bool) -> None:
    """Lock a token with those that its change depends on, and read it again.

    The token that created it may have been shortened since it was read, and it itself with that one.
    """
    ids = {token.pk, *(_descendants(token) if with_descendants else ())}
    if token.maker_id is not None:
        ids.add(token.maker_id)
    if token.pk not in _lock(maker, ids):
        raise TokenConflict(_REVOKED.format(token.name))
    token.refresh_from_db()


def _locked_descendants(token: AccessToken) -> list[int]:
    """Lock the tokens that this one created, directly or indirectly; return their ids."""
    return _lock_in_order(_descendants(token))


def _descendants(token: AccessToken) -> set[int]:
    found: set[int] = set()
    newest = {token.pk}
    while newest:
        children = AccessToken.objects.filter(maker__in=newest).values_list("pk", flat=True)
        newest = set(children) - found - {token.pk}
        found |= newest
    return found


def _lock_in_order(ids: Collection[int]) -> list[int]:
    """Lock the tokens with these ids, in the order of requests, which prevents deadlocks; return those that exist."""
    rows = AccessToken.objects.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
    return list(rows.values_list("pk", flat=True))


def _note(kind: str, token: AccessToken, message: str, at: datetime, actor: str) -> None:
    with connection.cursor() as cursor:
        ledger.add_event(cursor, kind, None, message, at, token_id=token.pk, actor=actor)
