"""The configuration: values that cannot be parsed, and settings that are not safe on a network."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

from django.conf import settings
from django.core import checks

from llmkeys.doctor.finding import FAIL, WARN, About, Finding, good
from llmkeys.key_state import current_windows
from llmkeys.lib.windows import day_end

_LOOPBACK = {"localhost", "127.0.0.1", "[::1]", "::1"}


def configuration(about: About) -> Iterable[Finding]:
    """Report what `check --deploy` reports, without silenced checks."""
    found = [
        message for message in checks.run_checks(include_deployment_checks=True)
        if not message.is_silenced() and message.level >= checks.WARNING
    ]  # fmt: skip
    for message in found:
        level = FAIL if message.is_serious() else WARN
        remedy = " ".join(str(message.hint or "`./manage.py check --deploy` has the details.").split())
        yield Finding(level, f"Settings ({message.id})", " ".join(str(message.msg).split()), remedy)
    if not found:
        yield good("Settings", "Every variable can be parsed; `check --deploy` finds nothing.")


def debug(about: About) -> Iterable[Finding]:
    if settings.DEBUG:
        words = "Error pages show internal details to everyone."
        yield Finding(FAIL, "Debug", words, "Remove REFACTAI_DEBUG=true.")


def hosts(about: About) -> Iterable[Finding]:
    outside = [host for host in settings.ALLOWED_HOSTS if host not in _LOOPBACK]
    if "*" in outside:
        words = "Any host name is accepted, which allows attacks with forged ones."
        yield Finding(WARN, "Host names", words, "Name them: REFACTAI_ALLOWED_HOSTS=keys.example.com")
    if outside and not settings.REFACTAI_HTTPS:
        words = "Other machines can connect, and passwords and tokens travel unencrypted."
        remedy = "Put it behind a proxy with TLS and set REFACTAI_HTTPS=true."
        yield Finding(WARN, "HTTPS", words, remedy)
    elif not outside:
        yield good("Host names", "Only this machine can open the dashboard by name.")


def time_zone(about: About) -> Iterable[Finding]:
    zone = settings.TIME_ZONE
    ends = day_end(current_windows(about.at).day, zone).astimezone(UTC)
    yield good("Time zone", f"{zone}: the budget day ends at {ends:%Y-%m-%d %H:%M} UTC (REFACTAI_TIME_ZONE).")


CHECKS = (configuration, debug, hosts, time_zone)
