"""Keys taken from the environment: registered at start, read at use, never written to the database (contract 4)."""

from __future__ import annotations

import logging
import os
from datetime import datetime

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from llmkeys import ledger, providers
from llmkeys.key_state import current_windows
from llmkeys.keys.default import ensure_default, hand_default_on
from llmkeys.lib.money import usd_to_nano
from llmkeys.models import ApiKey
from llmkeys.providers.base import Provider
from llmkeys.vault.crypto import TOKEN_PREFIX, mask

logger = logging.getLogger(__name__)


def register_environment_keys(*, at: datetime | None = None) -> list[ApiKey]:
    """Make a key of every variable that is set, and disable the keys whose variable is gone. Idempotent."""
    at = at or timezone.now()
    found = []
    for provider in providers.PROVIDERS.values():
        variable = _variable_of(provider)
        with transaction.atomic():
            key = ApiKey.objects.filter(source=ApiKey.Source.ENVIRONMENT, provider=provider.name).first()
            if variable is None:
                _gone(key, at)
            else:
                found.append(_present(key, provider, variable, at))
    return found


def _variable_of(provider: Provider) -> str | None:
    for variable in provider.environment_variables:
        value = os.environ.get(variable, "").strip()
        if value.startswith(TOKEN_PREFIX):
            logger.warning("%s holds an access token of this product, not a provider's key; it is ignored.", variable)
        elif value:
            return variable
    return None


def _present(key: ApiKey | None, provider: Provider, variable: str, at: datetime) -> ApiKey:
    masked = mask(os.environ[variable].strip(), provider.secret_prefixes)
    if key is None:
        key = _create(provider, variable, masked, at)
    elif (key.environment_variable, key.masked_secret, key.secret_missing) != (variable, masked, False):
        # Another secret behind the variable: what the provider said of the old one does not hold any more.
        new_secret = key.masked_secret != masked
        key.environment_variable, key.masked_secret, key.secret_missing = variable, masked, False
        key.last_error, key.updated_at = "", at
        if new_secret:
            key.rejected_at = None
        key.save(
            update_fields=[
                "environment_variable", "masked_secret", "secret_missing", "last_error", "updated_at", "rejected_at",
            ]
        )  # fmt: skip
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
        daily_limit_nano=usd_to_nano(settings.DAILY_LIMIT_USD),
        monthly_limit_nano=usd_to_nano(settings.MONTHLY_LIMIT_USD),
        total_limit_nano=usd_to_nano(settings.TOTAL_LIMIT_USD),
        day=windows.day,
        month=windows.month,
        created_at=at,
        updated_at=at,
    )
    with connection.cursor() as cursor:
        ledger.add_event(cursor, "added", key.id, f"“{key.name}” was found in {variable}.", at)
    return key


def _gone(key: ApiKey | None, at: datetime) -> None:
    if key is None or key.secret_missing:
        return
    words = f"The environment variable {key.environment_variable} is not set any more. Set it and start again."
    ApiKey.objects.filter(pk=key.pk).update(secret_missing=True, last_error=words, updated_at=at)
    with connection.cursor() as cursor:
        ledger.add_event(cursor, "changed", key.id, f"“{key.name}”: {words}", at)
        hand_default_on(cursor, key.id, at)
