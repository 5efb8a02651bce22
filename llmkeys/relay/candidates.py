"""The keys that may serve a request, in order, and why the others may not: what is read before a hold is placed.

Plain SQL, for the reason given in `ledger/`. What is read here may be stale a moment later; the hold decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, NoReturn

from django.conf import settings

from llmkeys import providers
from llmkeys.database import reader
from llmkeys.database.sql import as_instant, lean_cursor
from llmkeys.dialects import Door
from llmkeys.exceptions import ModelNotAvailable, NoKeyAvailable
from llmkeys.key_state import cooling_scopes, serving_place
from llmkeys.ledger.coolings import ran_ahead
from llmkeys.prices import catalogue
from llmkeys.relay import background, model_lists
from llmkeys.tokens.rights import Caller


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key whose provider has the model; `model` is the provider's own name for it."""

    id: str
    provider: str
    name: str
    model: str
    billing_group: str
    workspace_id: str
    environment_variable: str
    secret: bytes = field(repr=False)
    is_strict: bool = True  # its budgets are never exceeded
    obstacle: str = ""  # why it cannot serve now: disabled, rejected, expired, cooling
    cooling_until: datetime | None = None
    preferred_to: tuple[dict[str, str], ...] = ()  # keys usually tried before it, and why not here
    was_cooling: bool = False  # it was cooling: one request tries it first, and a success ends the coolings

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of the coolings that apply to this key."""
        return cooling_scopes(self.id, self.provider, self.billing_group)

    @property
    def chooses_model(self) -> bool:
        """True if the provider chooses among the models that a request names."""
        return providers.get(self.provider).picks_models


class _Row(NamedTuple):
    """A stored key; the last columns determine its place in the serving order."""

    id: str
    provider: str
    name: str
    billing_group: str
    workspace_id: str
    environment_variable: str
    secret: Any
    enabled: bool
    is_rejected: bool
    secret_missing: bool
    expires_at: Any
    any_cools: bool
    budget_mode: str | None
    source: str
    is_default: bool
    priority: int
    created_at: Any
    held_nano: int
    day: Any
    month: Any
    daily_limit_nano: int
    spent_day_nano: int
    monthly_limit_nano: int
    spent_month_nano: int
    total_limit_nano: int
    spent_total_nano: int


_KEYS = """SELECT id, provider, name, billing_group, workspace_id, environment_variable, secret, enabled,
   rejected_at IS NOT NULL, secret_missing, expires_at, EXISTS (SELECT 1 FROM llmkeys_cooling), budget_mode, source,
   is_default, priority, created_at, held_nano, day, month, daily_limit_nano, spent_day_nano, monthly_limit_nano,
   spent_month_nano, total_limit_nano, spent_total_nano FROM llmkeys_apikey WHERE deleted_at IS NULL"""

_COOLINGS = "SELECT scope, model, until, probe_until FROM llmkeys_cooling"

FRESH = timedelta(milliseconds=100)  # how long keys that were read with the access token are reused
Serves = Callable[[str], bool]  # whether a provider serves this kind of request
Coolings = dict[str, list[tuple[str, datetime]]]


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored keys in serving order and the coolings, as of a given time."""

    rows: Sequence[_Row]
    coolings: Coolings
    at: datetime

    def is_fresh(self, at: datetime) -> bool:
        """Return whether it is recent enough to be used without reading again; the hold decides anyway."""
        return abs(at - self.at) <= FRESH


def read_stored(cursor: Any, at: datetime) -> Stored:
    """Read the stored keys and coolings, from which candidates are made."""
    cursor.execute(_KEYS)
    rows = sorted((_Row(*row) for row in cursor.fetchall()), key=lambda row: serving_place(row, at))
    coolings: Coolings = {}
    if rows and rows[0].any_cools:
        cursor.execute(_COOLINGS)
        coolings = _by_scope(cursor.fetchall(), at)
    return Stored(rows, coolings, at)


_refresh: asyncio.Task[None] | None = None


async def refresh_catalogue() -> None:
    """Read the operator's prices and aliases again if they are stale: in a thread, once for all who wait for it.

    Raises RecordingUnavailable.
    """
    global _refresh
    if not catalogue.is_stale():
        return
    task = _refresh
    if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
        task = _refresh = background.start(background.in_thread(catalogue.refresh), is_awaited=True)
    await asyncio.shield(task)


async def find(
    model: str, *, door: Door, dialect: str, caller: Caller, at: datetime, stored: Stored | None = None
) -> list[Candidate]:
    """Return every key of the caller that can serve `model`, in serving order, with its obstacle if it has one.

    `stored` is what was read a moment ago; the keys are read again if it is missing or stale. If the naming rules find
    no key, model lists are fetched (`_keys_to_ask`). Raises NoKeyAvailable if no key is stored, ModelNotAvailable if
    none can serve the model, RecordingUnavailable.
    """
    if stored is None or not stored.is_fresh(at):
        stored = await reader.run(lambda cursor: read_stored(cursor, at))
    await refresh_catalogue()
    can_serve = _serving(dialect, door)
    found = _named(stored, model, caller, at, can_serve)
    if not found:
        to_ask = _keys_to_ask(stored, model, caller, at, can_serve)
        await model_lists.ask(to_ask.values())
        found = _listed(stored, model, caller, at, to_ask)
    if not found:
        _refuse(stored, model, caller)
    return found


def find_now(model: str, *, caller: Caller, at: datetime) -> list[Candidate]:
    """Do what `find` does, for pages, on this thread's connection, with the model lists last read and no request."""
    with lean_cursor() as cursor:
        stored = read_stored(cursor, at)
    found = _named(stored, model, caller, at, _any_provider)
    if not found:
        found = _listed(stored, model, caller, at, _keys_to_ask(stored, model, caller, at, _any_provider))
    if not found:
        _refuse(stored, model, caller)
    return found


def _named(stored: Stored, model: str, caller: Caller, at: datetime, can_serve: Serves) -> list[Candidate]:
    """Return the keys whose provider has a name for the model; the operator's aliases precede the naming rules."""
    aliases = catalogue.aliases()
    names: dict[str, str | None] = {}
    found = []
    for row in stored.rows:
        if not _is_allowed(row, caller):
            continue
        if row.provider not in names:
            provider = providers.get(row.provider)
            alias = aliases.get((row.provider, model))
            names[row.provider] = (alias or provider.model_name(model)) if can_serve(row.provider) else None
        if name := names[row.provider]:
            found.append(_candidate(row, name, stored.coolings, at))
    return found


def _listed(stored: Stored, model: str, caller: Caller, at: datetime, asked: dict[str, str]) -> list[Candidate]:
    """Return the keys of the providers whose model list contains the name."""
    having = {provider for provider, key_id in asked.items() if model_lists.lists_model(key_id, provider, model)}
    return [
        _candidate(row, model, stored.coolings, at)
        for row in stored.rows
        if row.provider in having and _is_allowed(row, caller)
    ]


def _keys_to_ask(stored: Stored, model: str, caller: Caller, at: datetime, can_serve: Serves) -> dict[str, str]:
    """Return one usable key of each provider whose model list may have a name that is not its own by the naming rules.

    If it is another provider's name by those rules, that may only be a server at a base URL of the operator's: vLLM and
    LM Studio list `meta-llama/Llama-3` and `gemma-3-27b-it`.
    """
    every, is_known = providers.PROVIDERS.values(), _is_known_name(model)
    may_have = {provider.name for provider in every if not is_known or catalogue.is_local(provider)}
    first: dict[str, str] = {}
    for row in stored.rows:
        if row.provider in may_have and can_serve(row.provider) and _is_allowed(row, caller) and not _obstacle(row, at):
            first.setdefault(row.provider, row.id)
    return first


def _serving(dialect: str, door: Door) -> Serves:
    return lambda provider: providers.get(provider).serves(dialect, door.action)


def _any_provider(_provider: str) -> bool:
    return True


def _is_known_name(model: str) -> bool:
    return any(provider.model_name(model) for provider in providers.PROVIDERS.values())


def _is_allowed(row: _Row, caller: Caller) -> bool:
    """Return whether the caller may use the key; for a token that is limited to some keys, others do not exist."""
    return caller.key_ids is None or row.id in caller.key_ids


def _refuse(stored: Stored, model: str, caller: Caller) -> NoReturn:
    if not any(_is_allowed(row, caller) for row in stored.rows):
        if stored.rows:
            raise NoKeyAvailable(
                "No API key available: this token may only use certain keys, and none of them is stored any more."
            )
        raise NoKeyAvailable(
            "No API key available: none is stored. Add one on the dashboard (/llm-settings) or with "
            "`./manage.py keys add`."
        )
    if caller.key_ids is not None:
        raise ModelNotAvailable(
            f"No stored key can serve model “{model}” for this token, which may only use certain keys. "
            "GET /v1/models lists what they can serve."
        )
    raise ModelNotAvailable(
        f"No stored key can serve model “{model}”. GET /v1/models lists what can be served; "
        "a model of another provider needs a key of that provider or of OpenRouter."
    )


def _candidate(row: _Row, model: str, coolings: Coolings, at: datetime) -> Candidate:
    cooled_until = [
        until
        for scope in cooling_scopes(row.id, row.provider, row.billing_group)
        for cooled_model, until in coolings.get(scope, ())
        if cooled_model in ("", model)
    ]
    until = max(cooled_until, default=None)
    is_cooling = until is not None and until > at
    return Candidate(
        id=row.id,
        provider=row.provider,
        name=row.name,
        model=model,
        billing_group=row.billing_group,
        workspace_id=row.workspace_id,
        environment_variable=row.environment_variable,
        secret=bytes(row.secret or b""),
        is_strict=(row.budget_mode or settings.BUDGET_MODE) == "strict",
        obstacle=_obstacle(row, at) or ("cooling" if is_cooling else ""),
        cooling_until=until if is_cooling else None,
        was_cooling=bool(cooled_until) and not is_cooling,
    )


def _obstacle(row: _Row, at: datetime) -> str:
    if row.is_rejected:
        return "rejected by its provider"
    if not row.enabled:
        return "disabled"
    if row.secret_missing:
        return "its environment variable is not set"
    if row.expires_at is not None and as_instant(row.expires_at) <= at:
        return "expired"
    return ""


def _by_scope(rows: Sequence[tuple[str, str, Any, Any]], at: datetime) -> Coolings:
    found: Coolings = {}
    for scope, model, until, written_at in rows:
        ahead = written_at is not None and ran_ahead(as_instant(written_at), at)
        found.setdefault(scope, []).append((model, at if ahead else as_instant(until)))
    return found
