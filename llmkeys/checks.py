"""System checks for configuration mistakes, each with an id and an example of the right value."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from llmkeys import backup, providers
from llmkeys.alerts import outbox
from llmkeys.keys import environment
from llmkeys.lib.texts import TOKEN_PREFIX
from llmkeys.vault import keys_in_use
from refactai_site import data_dir, env, settings_file


@register(Tags.security)
def check_environment(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """llmkeys.E001: a variable that cannot be parsed."""
    return [
        Error(f"{fault.variable}: {fault.problem}.", hint=_example(fault), id="llmkeys.E001") for fault in env.FAULTS
    ]


def _example(fault: env.Fault) -> str:
    if not fault.example:
        return "Check who owns it."
    return f"For example {fault.example if '=' in fault.example else f'{fault.variable}={fault.example}'}"


@register()
def check_names(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """llmkeys.W001: an unknown variable, most likely misspelt."""
    known = {*env.IN_FORCE, *settings_file.KEY_VARIABLES}
    unknown = {name for name in os.environ if name.startswith("REFACTAI_") and name not in known}
    return [_unknown_name(name, known) for name in sorted(unknown | set(settings_file.UNKNOWN))]


def _unknown_name(name: str, known: set[str]) -> CheckMessage:
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]}?" if nearest else "The README lists the settings."
    return Warning(f"{name} is not a setting of this product and is ignored.", hint=hint, id="llmkeys.W001")


@register()
def check_data_directory(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """llmkeys.E002: the data directory cannot be used."""
    if not settings.DATA_DIR_PROBLEM:
        return []
    problem = settings.DATA_DIR_PROBLEM
    return [Error(problem, hint=data_dir.remedy(problem), id="llmkeys.E002")]


@register()
def check_encryption_keys(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """llmkeys.E003: an encryption key that is too short to protect anything, or one of our own tokens."""
    given = settings.REFACTAI_ENCRYPTION_KEYS
    bad = [key for key in given if len(key) < 16 or key.startswith(TOKEN_PREFIX)]
    if not bad:
        return []
    return [
        Error(
            f"REFACTAI_ENCRYPTION_KEYS: {len(bad)} of its {len(given)} keys cannot be used: fewer than 16 "
            "characters, or an access token.",
            hint='For example the output of: python3 -c "import secrets; print(secrets.token_urlsafe(32))"',
            id="llmkeys.E003",
        )
    ]


@register(Tags.database)
def check_database_is_there(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """llmkeys.E004: a database that was here is gone, or is elsewhere: no command creates another one in silence."""
    lost = backup.lost_database() if databases else ""
    return [Error(keys_in_use.another_database() or lost, id="llmkeys.E004")] if lost else []


@register(Tags.security)
def check_environment_keys(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """llmkeys.E006: a variable for a provider's key contains something else, which is never sent.

    llmkeys.W007: it also contains quotes or invisible characters, which are not sent.
    """
    found: list[CheckMessage] = []
    for provider in providers.PROVIDERS.values():
        seen = environment.look(provider)
        for variable, words in seen.faults:
            hint = f"For example {variable}={provider.secret_hint}, or unset it and add the key on the dashboard."
            found.append(Error(words, hint=hint, id="llmkeys.E006"))
        if seen.dress:
            found.append(Warning(seen.dress, hint=f"Set {seen.variable} to just the key.", id="llmkeys.W007"))
    return found


# It starts a separate process (0.3 s), so only `serve` and `check` run it; other commands run only the checks that are
# defined in this module.
register()(outbox.check_targets)


def warnings() -> list[str]:
    """Return a line for each unknown setting."""
    return [in_one_line(message) for message in check_names(None)]


def in_one_line(message: CheckMessage) -> str:
    return " ".join(f"{message.msg} {message.hint or ''}".split())


def leads_back_here(base_url: str, bind: str) -> bool:
    """Return whether a provider's address is the one that this product is about to listen on."""
    parts, (host, _, port) = urlsplit(base_url), bind.rpartition(":")
    asked, bound = (parts.hostname or "").rstrip("."), host.strip("[]")
    every = {"0.0.0.0", "::"}  # noqa: S104  (compared with, not bound to)
    usual = {"127.0.0.1", "localhost", "::1", *every}
    same_host = asked == bound or (asked in usual and bound in usual) or (asked.startswith("127.") and bound in every)
    default_port = 443 if parts.scheme == "https" else 80
    return same_host and str(parts.port or default_port) == port
