"""Words for usage rows: state, how a cost is known, times, and why a key was used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from llmkeys.ledger import GUESSES, REPORTED_LATER
from llmkeys.lib.money import NANO
from llmkeys.models import UsageRecord
from llmkeys.templatetags.llmkeys_format import usd
from llmkeys.usage.sums import Sums

SOURCES = {
    "provider": "reported by the provider",
    "computed": "computed from tokens and prices",
    "estimated": "estimated: the answer was cut off, or reported no tokens",
    "fallback": "fallback price: no price is known for this model",
}
# Reasons in a row's `skipped`, as text; others are sentences already.
_SKIPPED = {
    "cooling": "was cooling down",
    "cooling: another request is trying it first": "was being tried by another request after cooling down",
    "cooling: another request asks it first": "was being tried by another request after cooling down",  # older rows
    "disabled": "was switched off",
    "expired": "had expired",
    "busy": "had no room while other requests were open",
    "rate limited": "hit its rate limit in this request",
    "exhausted": "is exhausted at its provider",
    "rejected": "was rejected by its provider in this request",
    "rejected by its provider": "is rejected by its provider",
    "not allowed for this token": "may not serve this token",  # older rows
    "its provider's address is wrong": "has a wrong provider address",
    "too expensive": "has too little credit left at its provider",
    "too large": "has a limit per minute that is too low for this request",
    "forbidden here": "may not be used from here, according to its provider",
    "its environment variable is not set": "has no secret: its environment variable is not set",
    "its provider failed": "failed at its provider in this request",
    "its provider does not have the model": "does not have the model at its provider",
}


# The three kinds in which a cost is known, for sums, rows and the filter (`usage/filters.COSTS`).
COSTS = {"known": "Reported or computed", "estimated": "Estimated", "lost": "Lost"}


@dataclass(frozen=True, slots=True)
class Badge:
    """A word with its colour and shape."""

    word: str
    tone: str
    shape: str


def badge_of(row: UsageRecord) -> Badge:
    match row.state:
        case UsageRecord.State.HELD:
            return Badge("Held", "cool", "s-half")
        case UsageRecord.State.LOST:
            return Badge("Lost", "full", "s-square")
        case UsageRecord.State.RELEASED:
            return Badge("Released", "", "s-diamond")
    if row.success is False:
        return Badge("Settled, failed", "bad", "s-cross")
    return Badge("Settled", "ok settled", "s-disc")


@dataclass(frozen=True, slots=True)
class Known:
    """How a row's cost is known: a word, the kind (of `COSTS`), and an explanation."""

    word: str
    kind: str
    title: str


def known_of(row: UsageRecord, kinds: Mapping[str, str]) -> Known | None:
    """Return how a row's cost is known; `kinds` are the kinds of its corrections and their cost sources."""
    source = next((kinds[kind] or "provider" for kind in REPORTED_LATER if kind in kinds), None)
    if source is not None:
        kind = "estimated" if source in GUESSES else "known"
        return Known(source, kind, f"corrected later: {SOURCES.get(source, source)}")
    if "void" in kinds:
        return Known("taken back", "known", "the charge of a lost request was taken back")
    if row.state == UsageRecord.State.LOST:
        return Known("lost", "lost", "lost: charged at the hold, because its outcome is unknown")
    if not row.cost_source:
        return None
    kind = "estimated" if row.cost_source in GUESSES else "known"
    return Known(row.cost_source, kind, SOURCES.get(row.cost_source, ""))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a sum: how it is known, and the query of its rows."""

    kind: str
    word: str
    nano: int
    query: str


def parts_of(sums: Sums, query: Callable[..., str]) -> list[Part]:
    """Return how much of a cost was reported or computed, estimated, and lost.

    `query` returns the query of the rows of one kind.
    """
    known = sums.cost_nano - sums.estimated_nano - sums.lost_nano
    amounts = {"known": known, "estimated": sums.estimated_nano, "lost": sums.lost_nano}
    return [Part(kind, COSTS[kind].lower(), nano, query(cost=kind)) for kind, nano in amounts.items()]


def guessed_parts(sums: Sums, query: Callable[..., str]) -> list[Part]:
    """Return the nonzero parts of a cost that were neither reported nor computed."""
    return [part for part in parts_of(sums, query) if part.kind != "known" and part.nano]


def cost_words(nano: int) -> str:
    """Return a row's cost with four decimals, so that a column lines up; smaller costs keep two significant digits."""
    if nano and abs(nano) < NANO // 1000:
        return usd(nano).replace("$", "")
    tenths_of_mills = round(abs(nano) / 100_000)
    return f"{'-' if nano < 0 else ''}{tenths_of_mills // 10_000:,}.{tenths_of_mills % 10_000:04d}"


def seconds_words(milliseconds: int | None) -> str:
    """Return a time with at most three significant digits: `4 ms`, `0.38 s`, `11.8 s`, `120 s`."""
    if milliseconds is None:
        return "–"
    if milliseconds < 10:
        return f"{milliseconds} ms"
    seconds = milliseconds / 1000
    decimals = 2 if seconds < 9.995 else 1 if seconds < 99.95 else 0
    return f"{seconds:,.{decimals}f} s"


def whole_words(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def short_number(number: int) -> str:
    """Return a large number of tokens in short: `9.41 M`."""
    for size, word in ((10**12, "T"), (10**9, "G"), (10**6, "M")):
        if abs(number) >= size:
            return f"{number / size:,.2f} {word}"
    return f"{number:,}"


@dataclass(frozen=True, slots=True)
class Skip:
    """A key that was passed over: its name, and why."""

    name: str
    reason: str
    words: str

    @property
    def short(self) -> str:
        """The words without figures, which are on the request's page."""
        budget, colon, _ = self.reason.partition(":")
        if not colon or not budget.endswith(" budget"):
            return self.words
        return f"had no room in {'its ' if budget.count(' ') == 1 else ''}{budget}"


def skips_of(row: UsageRecord, names: Mapping[str, str]) -> list[Skip]:
    """Return the keys that were passed over before this one; empty if the row's list cannot be read."""
    entries: Iterable = row.skipped if isinstance(row.skipped, list) else ()
    return [_skip(entry, names) for entry in entries if isinstance(entry, dict)]


def _skip(entry: dict, names: Mapping[str, str]) -> Skip:
    key_id, reason = str(entry.get("keyId", "")), str(entry.get("reason", ""))
    words = _SKIPPED.get(reason, f"– {reason}" if reason else "was passed over")
    return Skip(names.get(key_id, key_id), reason, words)


def skipped_ids(rows: Iterable[UsageRecord]) -> set[str]:
    """Return the ids of all keys that were passed over, to look up their names in one query."""
    lists = (row.skipped for row in rows if isinstance(row.skipped, list))
    return {str(entry.get("keyId")) for entries in lists for entry in entries if isinstance(entry, dict)}
