"""Everything on the dashboard, read in a number of queries that does not grow with the number of keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

from django.conf import settings

from llmkeys.dashboard.cards import Card
from llmkeys.dashboard.notes import room_words
from llmkeys.key_state import ACTIVE, DISABLED, EXPIRED, LIMIT_REACHED, current_windows
from llmkeys.models import ApiKey, Cooling
from llmkeys.relay.serving import serving_order
from llmkeys.usage.open_rows import open_requests
from llmkeys.usage.spend import DaySum, day_sums

CHART_DAYS = 30


@dataclass(eq=False)
class Overview:
    """The keys' cards in serving order, and what follows from all of them together."""

    at: datetime
    everyone: list[Card]  # deleted keys too: what they cost stays in the sums
    days: dict[date, DaySum]
    model: str = ""  # that the first of `serving` serves

    @cached_property
    def cards(self) -> list[Card]:
        return [card for card in self.everyone if card.key.deleted_at is None]

    @property
    def today(self) -> date:
        return current_windows(self.at).day

    @cached_property
    def serving(self) -> list[Card]:
        return sorted((card for card in self.cards if card.rank is not None), key=lambda card: card.rank or 0)

    @cached_property
    def available(self) -> list[Card]:
        return [card for card in self.cards if card.is_available]

    @cached_property
    def attention(self) -> list[Card]:
        return [card for card in self.cards if card.needs_attention]

    @cached_property
    def held(self) -> int:
        return sum(card.key.held_nano for card in self.everyone)

    @cached_property
    def trouble(self) -> str:
        return _trouble(self)


def overview(*, at: datetime) -> Overview:
    """Read keys, coolings, open holds, the serving order, the sums and the days' totals as of `at`."""
    keys = list(ApiKey.objects.in_serving_order().defer("secret", "fingerprint", "last_test"))
    coolings, holds = coolings_at(at), open_requests()
    cards = [
        Card(key, at, key.status_at(at), cooling_of(key, coolings), open_requests=holds.get(key.id, 0)) for key in keys
    ]
    active = {card.key.id: card for card in cards if card.status == ACTIVE}
    model, order = serving_order(active, at=at) if active else ("", [])
    for rank, key_id in enumerate(order):
        active[key_id].rank = rank
    return Overview(at, cards, day_sums(_first_day(at), current_windows(at).day), model)


def _first_day(at: datetime) -> date:
    """Return the first day that a figure or its change looks at: 60 days back, or the month before this one."""
    windows = current_windows(at)
    return min(windows.day - timedelta(days=2 * CHART_DAYS - 1), (windows.month - timedelta(days=1)).replace(day=1))


def coolings_at(at: datetime) -> dict[str, Cooling]:
    """Return for each scope the cooling that says most: one for every model, then the latest."""
    rows = Cooling.objects.filter(until__gt=at)
    return {row.scope: row for row in sorted(rows, key=lambda row: (row.model == "", row.until))}


def cooling_of(key: ApiKey, coolings: dict[str, Cooling]) -> Cooling | None:
    if not coolings:
        return None
    scopes = [f"key:{key.id}"] + ([f"group:{key.provider}:{key.billing_group}"] if key.billing_group else [])
    found = [coolings[scope] for scope in scopes if scope in coolings]
    return max(found, key=lambda row: (row.model == "", row.until), default=None)


# --- the serving strip ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """One cell of the strip: a heading, a key or a number of them, and why."""

    heading: str
    name: str
    why: Any
    card: Card | None = None
    kind: str = ""
    model: str = ""


def turns(view: Overview) -> list[Turn]:
    """Return who serves now, who is next, who is passed over for a while, and who is out of service."""
    waiting = [
        card
        for card in view.cards
        if card.status == LIMIT_REACHED or (card.cooling and card.rank is None and not card.is_dim)
    ]
    out = [card for card in view.cards if card.status in (DISABLED, EXPIRED)]
    return [
        _turn(
            "Serving now", view.serving[:1], "No key", "nothing can be sent for the primary model", "now", view.model
        ),
        _turn("Next", view.serving[1:2], "No other key", "add one, so that work goes on", "next"),
        _turn("Passed over", waiting, "None", "every key has room"),
        _turn("Out of service", out, "None", "no key is off or expired"),
    ]


def _turn(heading: str, cards: Sequence[Card], nobody: str, why: str, kind: str = "", model: str = "") -> Turn:
    if not cards:
        return Turn(heading, nobody, why, kind=kind and "none")
    if len(cards) > 1:
        return Turn(heading, f"{len(cards)} keys", _counted(cards), kind=kind)
    words = room_words(cards[0].room) if cards[0].rank is not None else cards[0].note.title.rstrip(".")
    return Turn(heading, cards[0].key.name, words, card=cards[0], kind=kind, model=model)


def _counted(cards: Iterable[Card]) -> str:
    """Return how many are how: `2 spent, 1 rejected`."""
    counts: dict[str, int] = {}
    for card in cards:
        word = _one_word(card)
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{number} {word}" for word, number in counts.items())


def _one_word(card: Card) -> str:
    if card.key.rejected_at:
        return "rejected"
    if card.status == LIMIT_REACHED:
        return "without room"
    if card.status == EXPIRED:
        return "expired"
    return "switched off" if card.status == DISABLED else "cooling"


def _trouble(view: Overview) -> str:
    """Return why no key can serve, in a sentence with the remedy; empty while one can."""
    if view.serving or not view.cards:
        return ""
    if view.available:
        models = ", ".join((settings.PRIMARY_MODEL, *settings.FALLBACK_MODELS))
        return (
            f"No stored key can serve the primary model or a fallback ({models}). Requests that name another model are "
            "served. Add a key of another provider, or set REFACTAI_PRIMARY_MODEL."
        )
    return (
        f"All are out: {_counted(view.cards)}. Requests are refused until one is back. "
        "Each card below says what to do; or add another key."
    )
