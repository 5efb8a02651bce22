"""Which keys may serve a request, in order, and why the others may not: the reads before a hold is placed.

Plain SQL for the reason given in `ledger/`. What is read here may be stale a moment later; the hold decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from llmkeys import providers
from llmkeys.database import writer
from llmkeys.database.sql import as_instant, instant, lean_cursor
from llmkeys.exceptions import ModelNotAvailable, NoKeyAvailable
from llmkeys.ledger import probes
from llmkeys.lib.texts import TOKEN_PREFIX
from llmkeys.prices import catalogue
from llmkeys.relay import model_lists
from llmkeys.vault.crypto import token_digest


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: an access token's rights, or a person or command of ours (no token)."""

    name: str = ""
    token_id: int | None = None
    may_gateway: bool = True
    key_ids: frozenset[str] | None = None  # None: every key


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key that can serve the model by name; `model` is the provider's own name of it."""

    id: str
    provider: str
    name: str
    model: str
    billing_group: str
    workspace_id: str
    environment_variable: str
    secret: bytes = field(repr=False)
    obstacle: str = ""  # why it cannot serve now: disabled, rejected, expired, cooling, not allowed
    cooling_until: datetime | None = None
    has_rested: bool = False  # for this model: one request asks first, and its success wipes that out

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of the coolings that concern this key."""
        group = (f"group:{self.provider}:{self.billing_group}",) if self.billing_group else ()
        return (f"key:{self.id}", *group)


_KEYS = """SELECT id, provider, name, billing_group, workspace_id, environment_variable, secret, enabled,
   rejected_at IS NOT NULL, secret_missing, expires_at, EXISTS (SELECT 1 FROM llmkeys_cooling)
   FROM llmkeys_apikey WHERE deleted_at IS NULL
   ORDER BY is_default DESC, CASE WHEN source = 'environment' THEN 1 ELSE 0 END, priority, created_at, id"""

_COOLINGS = "SELECT scope, model, until, probe_until FROM llmkeys_cooling"

_ACCESS = """SELECT t.id, t.name, t.scope_gateway OR t.scope_manage, t.limited_to_keys, t.expires_at, t.last_used_at
   FROM llmkeys_accesstoken t JOIN auth_user u ON u.id = t.user_id
   WHERE t.digest = %s AND t.revoked_at IS NULL AND u.is_active"""


def caller_of(token: str, at: datetime) -> Caller | None:
    """Return whose access token this is; None where it is unknown, revoked, expired, or its user is disabled."""
    if not token.startswith(TOKEN_PREFIX):
        return None
    with lean_cursor() as cursor:
        cursor.execute(_ACCESS, [token_digest(token)])
        row = cursor.fetchone()
        if row is None or (row[4] is not None and as_instant(row[4]) <= at):
            return None
        allowed = None
        if row[3]:
            cursor.execute("SELECT apikey_id FROM llmkeys_accesstoken_keys WHERE accesstoken_id = %s", [row[0]])
            allowed = frozenset(key_id for (key_id,) in cursor.fetchall())
        if row[5] is None or (at - as_instant(row[5])).total_seconds() > 60:
            _stamp_token(row[0], at)
    return Caller(name=row[1], token_id=row[0], may_gateway=bool(row[2]), key_ids=allowed)


def _stamp_token(token_id: int, at: datetime) -> None:
    """Note the last use, at most once a minute: it is for people, and every request would pay for it."""
    writer.run(
        lambda cursor: cursor.execute(
            "UPDATE llmkeys_accesstoken SET last_used_at = %s WHERE id = %s", [instant(at), token_id]
        )
    )


def candidates(model: str, *, caller: Caller, at: datetime, ask: bool = True) -> list[Candidate]:
    """Return every stored key that can serve `model`, in serving order, with what stands in its way.

    For a name that no rule knows, each provider is asked for its model list; not so without `ask`.

    Raises NoKeyAvailable where no key is stored, ModelNotAvailable where none can serve the model.
    """
    with lean_cursor() as cursor:
        cursor.execute(_KEYS)
        rows = cursor.fetchall()
        coolings = {}
        if rows and rows[0][-1]:
            cursor.execute(_COOLINGS)
            coolings = _by_scope(cursor.fetchall(), at)
    names = _names(model, {row[1] for row in rows})
    found = [_candidate(row, names[row[1]], caller, coolings, at) for row in rows if names.get(row[1])]
    if not rows:
        raise NoKeyAvailable(
            "No API key available: none is stored. Add one on the dashboard (/llm-settings) or with "
            "`manage.py keys add`."
        )
    if not found and not any(provider.model_name(model) for provider in providers.PROVIDERS.values()):
        found = [
            _candidate(row, model, caller, coolings, at)
            for row in rows
            if model_lists.lists_model(row[0], row[1], model, ask=ask)
        ]
    if not found:
        raise ModelNotAvailable(
            f"No stored key can serve model “{model}”. GET /v1/models lists what can be served; "
            "a model of another provider needs a key of that provider or of OpenRouter."
        )
    return found


def _names(model: str, stored_providers: Collection[str]) -> Mapping[str, str | None]:
    """Return each provider's own name of the model; the operator's aliases come before the naming rules."""
    aliases = catalogue.aliases()
    return {name: aliases.get((name, model)) or providers.get(name).model_name(model) for name in stored_providers}


def _candidate(row: tuple, model: str, caller: Caller, coolings: dict, at: datetime) -> Candidate:
    key_id, provider, name, group, workspace, variable, secret, *state = row
    rests = [
        until
        for scope in (f"key:{key_id}", f"group:{provider}:{group}")
        for cooled_model, until in coolings.get(scope, ())
        if cooled_model in ("", model)
    ]
    until = max(rests, default=None)
    resting = until is not None and until > at
    return Candidate(
        id=key_id,
        provider=provider,
        name=name,
        model=model,
        billing_group=group,
        workspace_id=workspace,
        environment_variable=variable,
        secret=bytes(secret or b""),
        obstacle=_obstacle(key_id, state, caller, at) or ("cooling" if resting else ""),
        cooling_until=until if resting else None,
        has_rested=bool(rests) and not resting,
    )


def _obstacle(key_id: str, state: list, caller: Caller, at: datetime) -> str:
    enabled, rejected, missing, expires_at, _ = state
    if caller.key_ids is not None and key_id not in caller.key_ids:
        return "not allowed for this token"
    if rejected:
        return "rejected by its provider"
    if not enabled:
        return "disabled"
    if missing:
        return "its environment variable is not set"
    if expires_at is not None and as_instant(expires_at) <= at:
        return "expired"
    return ""


def _by_scope(rows: list[tuple], at: datetime) -> dict[str, list[tuple[str, datetime]]]:
    found: dict[str, list[tuple[str, datetime]]] = {}
    for scope, model, until, written_at in rows:
        ahead = written_at is not None and probes.ran_ahead(as_instant(written_at), at)
        found.setdefault(scope, []).append((model, at if ahead else as_instant(until)))
    return found
