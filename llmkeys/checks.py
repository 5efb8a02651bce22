"""Configuration mistakes, told by id, each with an example of how it is right."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

from llmkeys import backup
from llmkeys.alerts import outbox
from llmkeys.vault.crypto import TOKEN_PREFIX
from refactai_site import env


@register(Tags.security)
def check_environment(app_configs, **kwargs) -> list[CheckMessage]:
    """llmkeys.E001: a variable that cannot be parsed."""
    return [
        Error(
            f"{fault.variable}: {fault.problem}.",
            hint=f"For example {fault.variable}={fault.example}",
            id="llmkeys.E001",
        )
        for fault in env.FAULTS
    ]


@register()
def check_data_directory(app_configs, **kwargs) -> list[CheckMessage]:
    """llmkeys.E002: the data directory cannot be used."""
    if not settings.DATA_DIR_PROBLEM:
        return []
    return [
        Error(settings.DATA_DIR_PROBLEM, hint="Set REFACTAI_DATA_DIR to a directory of your own.", id="llmkeys.E002")
    ]


@register()
def check_encryption_keys(app_configs, **kwargs) -> list[CheckMessage]:
    """llmkeys.E003: a master key too short to protect anything, or one of our own tokens."""
    bad = [key for key in settings.REFACTAI_ENCRYPTION_KEYS if len(key) < 16 or key.startswith(TOKEN_PREFIX)]
    if not bad:
        return []
    return [
        Error(
            f"REFACTAI_ENCRYPTION_KEYS: {len(bad)} of its keys has fewer than 16 characters.",
            hint='For example the output of: python3 -c "import secrets; print(secrets.token_urlsafe(32))"',
            id="llmkeys.E003",
        )
    ]


@register(Tags.database)
def check_database_is_there(app_configs, databases=None, **kwargs) -> list[CheckMessage]:
    """llmkeys.E004: there was a database here, and it is gone; only `serve --new-database` begins anew."""
    words = backup.lost_database() if databases else ""
    return [Error(words, id="llmkeys.E004")] if words else []


# It asks a process of its own (0.3 s), so that `serve` and `check` run it, and not every command: those run what is
# defined in this module.
register()(outbox.check_targets)


def leads_back_here(base_url: str, bind: str) -> bool:
    """Tell whether a provider's address is the one this product itself is about to listen on."""
    parts, (host, _, port) = urlsplit(base_url), bind.rpartition(":")
    loopback = {"127.0.0.1", "localhost", "::1", "0.0.0.0"}  # noqa: S104  (compared with, not bound to)
    same_host = parts.hostname == host.strip("[]") or (parts.hostname in loopback and host.strip("[]") in loopback)
    default_port = 443 if parts.scheme == "https" else 80
    return same_host and str(parts.port or default_port) == port
