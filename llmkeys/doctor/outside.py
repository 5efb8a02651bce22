"""The world outside: do the providers answer, and does our clock agree with theirs. Free, without a key, quickly."""

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
class _Knock:
    """What came of one try to reach a provider; `ahead` is how far our clock is before its own."""

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
        knocks = list(pool.map(_knock, sorted(names)))
    for knock in knocks:
        yield _reached(knock)
    yield from _clock(knocks)


def _knock(name: str) -> _Knock:
    provider = providers.get(name)
    host = asked.base_url(provider)
    begin = timezone.now()
    try:
        answer = asked.reach(provider, seconds=min(PATIENCE_SECONDS, settings.TIMEOUT_SECONDS))
    except asked.TransportError as error:
        return _Knock(provider.label, host, problem=str(error))
    end = timezone.now()
    return _Knock(
        provider.label,
        host,
        milliseconds=int((end - begin) / timedelta(milliseconds=1)),
        ahead=_ahead(answer.headers.get("Date", ""), begin + (end - begin) / 2),
    )


def _ahead(date: str, now: datetime) -> timedelta | None:
    try:
        return now - parsedate_to_datetime(date)
    except (ValueError, TypeError):  # none, or one without a zone
        return None


def _reached(knock: _Knock) -> Finding:
    if knock.problem:
        remedy = f"Check the network and the proxy of this machine; the provider's address here is {knock.host}."
        return Finding(FAIL, knock.label, knock.problem, remedy)
    return good(knock.label, f"{knock.host} answers within {knock.milliseconds} ms.")


def _clock(knocks: list[_Knock]) -> Iterator[Finding]:
    """Compare with the clock that differs least: one provider's own may be wrong."""
    known = [(knock.ahead, knock.label) for knock in knocks if knock.ahead is not None]
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
