"""The outside world: do the providers answer, and does our clock agree with theirs? Free of charge, without a key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from django.conf import settings
from django.utils import timezone

from llmkeys import providers
from llmkeys.doctor.finding import FAIL, WARN, About, Finding, good
from llmkeys.models import ApiKey
from llmkeys.upstream import asked

PATIENCE_SECONDS = 5.0
SOME, MUCH = timedelta(seconds=30), timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class _Probe:
    """The result of trying to reach a provider; `ahead` is how far our clock is ahead of the provider's."""

    label: str
    host: str
    problem: str = ""
    milliseconds: int = 0
    ahead: timedelta | None = None


def providers_reachable(about: About) -> Iterable[Finding]:
    if about.offline:
        return
    names = list(ApiKey.objects.stored().usable(about.at).order_by().values_list("provider", flat=True).distinct())
    with ThreadPoolExecutor(max_workers=len(names) or 1) as pool:
        probes = list(pool.map(_probe, sorted(names)))
    for probe in probes:
        yield _reached(probe)
    yield from _clock(probes)


def _probe(name: str) -> _Probe:
    provider = providers.get(name)
    host = asked.base_url(provider)
    begin = timezone.now()
    try:
        answer = asked.reach(provider, seconds=min(PATIENCE_SECONDS, settings.TIMEOUT_SECONDS))
    except asked.TransportError as error:
        return _Probe(provider.label, host, problem=str(error))
    end = timezone.now()
    return _Probe(
        provider.label,
        host,
        milliseconds=int((end - begin) / timedelta(milliseconds=1)),
        ahead=_ahead(answer.headers.get("Date", ""), begin + (end - begin) / 2),
    )


def _ahead(date: str, now: datetime) -> timedelta | None:
    try:
        return now - parsedate_to_datetime(date)
    except (ValueError, TypeError):  # missing, or without a time zone
        return None


def _reached(probe: _Probe) -> Finding:
    if probe.problem:
        remedy = f"Check the network and the proxy of this machine; the provider's address here is {probe.host}."
        return Finding(FAIL, probe.label, probe.problem, remedy)
    return good(probe.label, f"{probe.host} answers within {probe.milliseconds} ms.")


def _clock(probes: list[_Probe]) -> Iterator[Finding]:
    """Compare our clock with the provider's clock that differs least, because one of them may be wrong."""
    known = [(probe.ahead, probe.label) for probe in probes if probe.ahead is not None]
    if not known:
        return
    ahead, label = min(known, key=lambda one: abs(one[0]))
    seconds = ahead.total_seconds()
    words = f"This machine's clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} that of {label}."
    remedy = "Synchronise it with NTP: budget days, leases and logins depend on it."
    if abs(ahead) > SOME:
        yield Finding(FAIL if abs(ahead) > MUCH else WARN, "Clock", words, remedy)
    else:
        yield good("Clock", words)


CHECKS = (providers_reachable,)
