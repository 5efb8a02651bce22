"""Environment keys: registered at start, read when used, their secrets never written to the database."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from datetime import datetime

from django.db import connection
from django.utils import timezone

from llmkeys import ledger, providers
from llmkeys.exceptions import SecretMissing
from llmkeys.key_state import current_windows
from llmkeys.keys.default import changing_keys, ensure_default, hand_default_on
from llmkeys.keys.fields import default_limits
from llmkeys.ledger import coolings
from llmkeys.models import ApiKey
from llmkeys.providers.base import Provider
from llmkeys.vault import keyring
from llmkeys.vault.crypto import HIDDEN, mask

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What the environment variables of one provider contain: a usable key, or what is wrong with them."""

    variable: str = ""
    secret: str = field(default="", repr=False)
    faults: tuple[tuple[str, str], ...] = ()  # (variable, message)
    dress: str = ""  # a message about quotes and the like around the key, which are ignored


def look(provider: Provider) -> Found:
    """Return the provider's first variable that contains a key, and what is wrong with those before it."""
    faults = []
    for variable in provider.environment_variables:
        if not os.environ.get(variable, "").strip():
            continue
        try:
            secret = keyring.read_variable(variable, provider)
        except SecretMissing as error:
            faults.append((variable, str(error)))
        else:
            bare = os.environ[variable].strip() == secret
            words = f"{variable} has quotes or invisible characters around the key; they are ignored."
            return Found(variable, secret, tuple(faults), "" if bare else words)
    return Found(faults=tuple(faults))


def register_environment_keys(*, at: datetime | None = None) -> list[ApiKey]:
    """Register a key for each provider whose variable contains one; mark those whose variable is gone. Idempotent."""
    at = at or timezone.now()
    found = []
    for provider in providers.PROVIDERS.values():
        seen = look(provider)
        for _, words in seen.faults:
            logger.warning("%s", words)
        with changing_keys():
            key = ApiKey.objects.filter(source=ApiKey.Source.ENVIRONMENT, provider=provider.name).first()
            if seen.variable:
                found.append(_present(key, provider, seen, at))
            else:
                _gone(key, at, next((words for _, words in seen.faults), ""))
    return found


def _present(key: ApiKey | None, provider: Provider, seen: Found, at: datetime) -> ApiKey:
    variable, masked = seen.variable, mask(seen.secret, provider.secret_prefixes)
    if key is None:
        key = _create(provider, variable, masked, at)
    else:
        # If the variable has another secret, what the provider said about the old one no longer applies. Short secrets
        # all have the same mask, so that a rejected one may have been corrected.
        new_secret = key.masked_secret != masked or (key.rejected_at is not None and masked == HIDDEN)
        if new_secret or (key.environment_variable, key.secret_missing) != (variable, False):
            key.environment_variable, key.masked_secret, key.secret_missing = variable, masked, False
            key.last_error, key.updated_at = "", at
            changed = ["environment_variable", "masked_secret", "secret_missing", "last_error", "updated_at"]
            key.save(update_fields=changed + (key.forget_verdicts() if new_secret else []))
            if new_secret:
                with connection.cursor() as cursor:
                    coolings.forget(cursor, key.id)
    with connection.cursor() as cursor:
        ensure_default(cursor, at)
    key.refresh_from_db()
    return key


def _create(provider: Provider, variable: str, masked: str, at: datetime) -> ApiKey:
    windows = current_windows(at)
    key = ApiKey.objects.create(
        provider=provider.name,
        name=f"Default {provider.label} Key",
        description="Auto-created from environment",
        source=ApiKey.Source.ENVIRONMENT,
        environment_variable=variable,
        masked_secret=masked,
        **default_limits(),
        day=windows.day,
        month=windows.month,
        created_at=at,
        updated_at=at,
    )
    with connection.cursor() as cursor:
        ledger.add_event(cursor, "added", key.id, f"“{key.name}” was found in {variable}.", at)
    return key


def _gone(key: ApiKey | None, at: datetime, fault: str) -> None:
    if key is None:
        return
    words = fault or f"The environment variable {key.environment_variable} is not set any more."
    words = f"{words} Set it and start again."
    if key.secret_missing and key.last_error == words:
        return
    ApiKey.objects.filter(pk=key.pk).update(secret_missing=True, last_error=words, updated_at=at)
    with connection.cursor() as cursor:
        ledger.add_event(cursor, "changed", key.id, f"“{key.name}”: {words}", at)
        hand_default_on(cursor, key.id, at)
