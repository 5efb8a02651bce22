"""Everything on the dashboard, read in a number of queries that does not grow with the number of keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count
from django.utils.dateparse import parse_datetime

from llmkeys.dashboard.bars import Bar, budget_bar
from llmkeys.dashboard.cards import Card, card_of
from llmkeys.dashboard.notes import room_words
from llmkeys.key_state import DISABLED, EXPIRED, LIMIT_REACHED
from llmkeys.models import ApiKey, Cooling, UsageRecord
from llmkeys.money import NANO
from llmkeys.services.serving import serving_keys
from llmkeys.services.statistics import statistics
from llmkeys.templatetags.llmkeys_format import percent, usd, usd_short


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the four cards."""

    title: str
    value: str
    beside: str
    bar: Bar
    lines: list[Any] = field(default_factory=list)
    resets_at: datetime | None = None
    held: int = 0
    open_requests: int = 0


@dataclass(frozen=True, slots=True)
class Overview:
    """The keys' cards in serving order, and what follows from all of them together."""

    at: datetime
    cards: list[Card]
    sums: dict[str, Any]

    @property
    def serving(self) -> list[Card]:
        return sorted((card for card in self.cards if card.rank is not None), key=lambda card: card.rank)

    @property
    def available(self) -> list[Card]:
        return [card for card in self.cards if card.is_available]

    @property
    def attention(self) -> list[Card]:
        return [card for card in self.cards if card.needs_attention]


def overview(*, at: datetime) -> Overview:
    """Read keys, coolings, open holds, the serving order and the sums as of `at`."""
    keys = list(ApiKey.objects.stored().in_serving_order().defer("secret", "fingerprint"))
    ranks = {key.id: rank for rank, key in enumerate(serving_keys(at=at))} if keys else {}
    coolings, holds = _coolings(at), _open_holds()
    cards = [
        card_of(
            key, at=at, cooling=_cooling_of(key, coolings), open_requests=holds.get(key.id, 0), rank=ranks.get(key.id)
        )
        for key in keys
    ]
    return Overview(at=at, cards=cards, sums=statistics(at=at))


def _coolings(at: datetime) -> dict[str, Cooling]:
    """Return for each scope the cooling that says most: one for every model, then the latest."""
    rows = Cooling.objects.filter(until__gt=at)
    return {row.scope: row for row in sorted(rows, key=lambda row: (row.model == "", row.until))}


def _cooling_of(key: ApiKey, coolings: dict[str, Cooling]) -> Cooling | None:
    scopes = [f"key:{key.id}"] + ([f"group:{key.provider}:{key.billing_group}"] if key.billing_group else [])
    found = [coolings[scope] for scope in scopes if scope in coolings]
    return max(found, key=lambda row: (row.model == "", row.until), default=None)


def _open_holds() -> dict[str, int]:
    rows = UsageRecord.objects.filter(state=UsageRecord.State.HELD).order_by()
    return dict(rows.values_list("key_id").annotate(number=Count("id")))


# --- the four figures ----------------------------------------------------------------------------------------------


def figures(view: Overview) -> list[Figure]:
    """Return the four cards: total cost, daily and monthly budget, requests."""
    return [
        _total(view),
        _window(view, "Daily Budget", "daily", 0, "today"),
        _window(view, "Monthly Budget", "monthly", 1, "this month"),
        _requests(view.sums),
    ]


def _sums(view: Overview, index: int) -> tuple[int, int, int]:
    """Return what was spent, is held and is the limit over the keys that have this limit, in nano-dollars."""
    lines = [(card.budgets[index], card.key.held_nano) for card in view.cards if card.budgets[index].limit]
    return sum(line.spent for line, _ in lines), sum(held for _, held in lines), sum(line.limit for line, _ in lines)


def _nano(usd_number: float) -> int:
    return round(usd_number * NANO)


def _total(view: Overview) -> Figure:
    cost, (spent, held, limit) = _nano(view.sums["totalCost"]), _sums(view, 2)
    beside = (
        f"of {usd_short(limit)}" if limit and cost == spent else f"limits {usd_short(limit)}" if limit else "no limit"
    )
    return Figure(
        title="Total Cost",
        value=usd(cost),
        beside=beside if view.cards else "",
        bar=budget_bar(f"Total cost: {usd(cost)}, {beside}", spent=spent, held=held, limit=limit),
        lines=[] if cost else ["Nothing spent yet"],
        held=_nano(view.sums["reservedCost"]),
        open_requests=sum(card.open_requests for card in view.cards),
    )


def _window(view: Overview, title: str, word: str, index: int, when: str) -> Figure:
    cost, (spent, held, limit) = _nano(view.sums[f"{word}Cost"]), _sums(view, index)
    beside = f"{usd(spent)} of {usd_short(limit)}" if limit else f"{when}, no limit"
    outside = cost - spent if limit else 0
    return Figure(
        title=title,
        value=percent(view.sums[f"{word}BudgetUsed"]) if limit else usd(cost),
        beside=beside,
        bar=budget_bar(f"{title}: {beside}, {usd(held)} held", spent=spent, held=held, limit=limit),
        lines=[f"and {usd(outside)} by keys outside these limits"] if outside > 0 else [],
        resets_at=parse_datetime(view.sums[f"{word}ResetsAt"]),
    )


def _requests(sums: dict[str, Any]) -> Figure:
    tried = sums["successfulRequests"] + sums["failedRequests"]
    # Not the rounded rate of the statistics: one failure in a million is no 100 %.
    rate, failed = (100 * sums["successfulRequests"] / tried if tried else 0.0), sums["failedRequests"]
    beside = f"{percent(rate)} succeeded" if tried else ""
    return Figure(
        title="Total Requests",
        value=f"{sums['totalRequests']:,}",
        beside=beside,
        bar=Bar(f"Success rate: {beside or 'nothing sent yet'}", spent=rate),
        lines=[f"{failed:,} failed" if failed else "None failed" if tried else "No request yet"],
    )


# --- the serving strip ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """One cell of the strip: a heading, a key or a number of them, and why."""

    heading: str
    name: str
    why: Any
    card: Card | None = None
    kind: str = ""


def turns(view: Overview) -> list[Turn]:
    """Return who serves now, who is next, who is passed over for a while, and who is out of service."""
    waiting = [
        card
        for card in view.cards
        if card.status == LIMIT_REACHED or (card.cooling and card.rank is None and not card.is_dim)
    ]
    out = [card for card in view.cards if card.status in (DISABLED, EXPIRED)]
    return [
        _turn("Serving now", view.serving[:1], "No key", "nothing can be sent for the primary model", kind="now"),
        _turn("Next", view.serving[1:2], "No other key", "add one, so that work goes on", kind="next"),
        _turn("Passed over", waiting, "None", "every key has room"),
        _turn("Out of service", out, "None", "no key is off or expired"),
    ]


def _turn(heading: str, cards: list[Card], nobody: str, why: str, kind: str = "") -> Turn:
    if not cards:
        return Turn(heading, nobody, why, kind=kind and "none")
    if len(cards) > 1:
        return Turn(heading, f"{len(cards)} keys", _counted(cards), kind=kind)
    words = room_words(cards[0].room) if cards[0].rank is not None else cards[0].note.title.rstrip(".")
    return Turn(heading, cards[0].key.name, words, card=cards[0], kind=kind)


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


def trouble(view: Overview) -> str:
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
