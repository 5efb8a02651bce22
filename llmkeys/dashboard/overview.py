"""What the dashboard shows about all keys; the number of queries does not grow with the number of keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

from django.contrib.auth.models import User
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from llmkeys import providers
from llmkeys.dashboard.accounts import (
    CHART_DAYS,
    REPLACE,
    AccountCard,
    Note,
    expired_note,
    refused_note,
    room_words,
    share_of,
    spent_note,
    width_of,
)
from llmkeys.dashboard.charts import MOST_SERIES, Chart, Series, days_until, stacked
from llmkeys.key_state import ACTIVE, DISABLED, EXPIRED, LIMIT_REACHED, Budget, cooling_scopes, current_windows
from llmkeys.models import AccessToken, ApiKey, Cooling
from llmkeys.presentation import Projections, error_words
from llmkeys.prices import catalogue
from llmkeys.relay.serving import serving_order
from llmkeys.templatetags.llmkeys_format import when
from llmkeys.tokens.making import visible_tokens
from llmkeys.usage.closed_days import ONE_DAY
from llmkeys.usage.rows import open_requests
from llmkeys.usage.sums import Sums, Wanted, daily_sums, dearest_keys_by_day, running_sums


@dataclass(eq=False)
class Overview:
    """The keys' cards in serving order, and what is derived from all of them."""

    at: datetime
    everyone: list[Card]  # including deleted keys, which still count in the sums
    days: dict[date, Sums]
    ever: Sums
    model: str = ""  # the model that the first of `serving` serves

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
    def paces(self) -> Projections:
        return Projections(self.at)

    @cached_property
    def trouble(self) -> str:
        return _trouble(self)


def overview(*, at: datetime) -> Overview:
    """Read the sums, daily totals, keys, coolings, open holds and serving order as of `at`."""
    # Totals are read before the keys' counters: a charge in between must not make a total exceed its counter, which
    # would look like a reset.
    first, today = _first_day(at), current_windows(at).day
    running, before = running_sums(first - ONE_DAY, at=at)
    since = running + ONE_DAY if running else None
    days = {day: sums for (day,), sums in daily_sums(Wanted(since=since), "day", at=at).items()}
    ever = Sums.over([before, *days.values()])
    days = {day: sums for day, sums in days.items() if first <= day <= today}
    keys = list(ApiKey.objects.in_serving_order().defer("secret", "fingerprint", "last_test"))
    coolings, holds = coolings_at(at), open_requests()
    cards = [
        Card(key, at, key.status_at(at), cooling_of(key, coolings), open_requests=holds.get(key.id, 0)) for key in keys
    ]
    active = {card.key.id: card for card in cards if card.status == ACTIVE}
    model, order = serving_order(active, at=at) if active else ("", [])
    for rank, key_id in enumerate(order):
        active[key_id].rank = rank
    return Overview(at, cards, days, ever, model)


def _first_day(at: datetime) -> date:
    """Return the first day that a figure or its change needs: 60 days ago, or the first of last month."""
    windows = current_windows(at)
    return min(windows.day - timedelta(days=2 * CHART_DAYS - 1), (windows.month - timedelta(days=1)).replace(day=1))


def coolings_at(at: datetime) -> dict[str, Cooling]:
    """Return the most important cooling of each scope: one for every model first, then the one that ends last."""
    rows = Cooling.objects.filter(until__gt=at)
    return {row.scope: row for row in sorted(rows, key=lambda row: (row.model == "", row.until))}


def cooling_of(key: ApiKey, coolings: dict[str, Cooling]) -> Cooling | None:
    if not coolings:
        return None
    scopes = cooling_scopes(key.id, key.provider, key.billing_group)
    found = [coolings[scope] for scope in scopes if scope in coolings]
    return max(found, key=lambda row: (row.model == "", row.until), default=None)


# --- the serving strip ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """A cell of the strip: a heading, a key or a number of keys, and why."""

    heading: str
    name: str
    why: Any
    card: Card | None = None
    kind: str = ""
    model: str = ""


def turns(view: Overview) -> list[Turn]:
    """Return the cells for the key that serves now, the next one, those passed over, and those out of service."""
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
        _turn("Next", view.serving[1:2], "No other key", "add one, so that requests can continue", "next"),
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
    """Return the number of cards in each state: `2 without room, 1 rejected`."""
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
    """Return why no key can serve, with the remedy, or an empty string if one can."""
    if view.serving or not view.cards:
        return ""
    if view.available:
        models = ", ".join(catalogue.models_to_try(""))
        return (
            f"No stored key can serve the primary model or a fallback ({models}). Requests that name another model are "
            "served. Add a key of another provider, or set REFACTAI_PRIMARY_MODEL or the alias “auto”."
        )
    return (
        f"None is available: {_counted(view.cards)}. Requests are refused until one is. "
        "Each card below says what to do; or add another key."
    )


# --- one key's card ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Card(AccountCard):
    """A key in the list. `rank` is its place in the serving order, None if it does not serve now."""

    key: ApiKey
    at: datetime
    status: str
    cooling: Cooling | None
    open_requests: int = 0
    rank: int | None = None
    projected: int | None = None  # nano-dollars: the month's cost at this pace, if it is to be shown

    @property
    def account(self) -> ApiKey:
        return self.key

    @property
    def tone(self) -> str:
        return "bad" if self.key.rejected_at else super().tone

    @cached_property
    def note(self) -> Note:
        return note_of(self.key, at=self.at, cooling=self.cooling, rank=self.rank, room=self.room)

    @property
    def provider_mark(self) -> str:
        return providers.get(self.key.provider).badge

    @property
    def is_available(self) -> bool:
        return self.status == ACTIVE and not (self.cooling and not self.cooling.model)

    @property
    def needs_attention(self) -> bool:
        """True for states that do not end by themselves, or that nobody chose."""
        return (
            self.status in (EXPIRED, LIMIT_REACHED)
            or self.key.rejected_at is not None
            or self.key.secret_missing
            or bool(self.key.last_error and not self.cooling)
        )


# --- what a card says in words ----------------------------------------------------------------------------------------


def note_of(key: ApiKey, *, at: datetime, cooling: Cooling | None, rank: int | None, room: Budget | None) -> Note:
    """Return the first note that applies, in the order of the status."""
    return (
        _off(key, at)
        or expired_note(key, at)
        or spent_note(key, at, again=_again)
        or refused_note(key, at, again=_again)
        or (_cooling(key, cooling) if cooling else None)
        or (Note("full", "i-alert", "Last answer:", key.last_error) if key.last_error else None)
        or _serving(key, rank, room)
    )


def _off(key: ApiKey, at: datetime) -> Note | None:
    label = key.get_provider_display()
    if key.rejected_at is not None:
        page = providers.get(key.provider).keys_page
        text = format_html(
            '{}: {} Create a new key <a href="{}" rel="noreferrer">at {}</a>.',
            when(key.rejected_at), _sentence(key.last_error), page, label,
        )  # fmt: skip
        return Note("bad", "i-alert", f"Rejected by {label}", text, remedy=REPLACE)
    if key.secret_missing:
        return Note("bad", "i-alert", "Its secret is missing.", error_words(key))
    if not key.enabled:
        return Note("", "i-power", error_words(key), "Enable it to let it serve again.")
    return None


def _sentence(text: str) -> str:
    return f"{text.rstrip('. ')}." if text else "no reason was given."


def _again(until: SafeString | str) -> SafeString | str:
    return format_html("Serves again {}.", until)


def _cooling(key: ApiKey, cooling: Cooling) -> Note:
    label = key.get_provider_display()
    where = f"for {cooling.model}" if cooling.model else "for every model"
    reason = f"“{cooling.reason.rstrip('. ')}.” " if cooling.reason else ""
    if cooling.kind == Cooling.Kind.EXHAUSTED:
        text = format_html(
            "{}Tried again {}. Top up the account at {}, then test it.", reason, when(cooling.until), label
        )
        return Note("cool", "i-gauge", f"Exhausted at {label}, {where}.", text)
    rest = " Other models are served." if cooling.model else ""
    text = format_html("{}Serves again {}, automatically.{}", reason, when(cooling.until), rest)
    return Note("cool", "i-rest", f"Cooling {where}.", text)


def _serving(key: ApiKey, rank: int | None, room: Budget | None) -> Note:
    if rank == 0:
        return Note("", "i-route", "Serving now.", f"{room_words(room).capitalize()}.")
    if rank is not None:
        return Note(
            "",
            "i-route",
            "Next in line." if rank == 1 else f"Number {rank + 1} in line.",
            f"{room_words(room).capitalize()}.",
        )
    return Note("", "i-route", "Ready.", f"Serves requests that name a model of {key.get_provider_display()}.")


# --- the spending of the last days ------------------------------------------------------------------------------------


def spend_chart(view: Overview, by: str) -> Chart:
    """Return the chart of the last 30 days, stacked by key or by model."""
    days = days_until(view.today, CHART_DAYS)
    series, others = _by_model(view, days) if by == "model" else _by_key(view, days)
    return stacked(days, series, title="Spend per day", what=by, today=view.today, held=view.held, others=others)


def _by_model(view: Overview, days: Sequence[date]) -> tuple[list[Series], int]:
    by_model: dict[str, dict[date, int]] = {}
    sums_by_day = daily_sums(Wanted(since=days[0], until=days[-1]), "model", "day", at=view.at)
    for (model, day), sums in sums_by_day.items():
        by_model.setdefault(model, {})[day] = sums.cost_nano
    return [Series(model, by_day) for model, by_day in by_model.items()], 0


def _by_key(view: Overview, days: Sequence[date]) -> tuple[list[Series], int]:
    """Return the series of the most expensive keys, including deleted ones, which are marked."""
    all_keys = {day: sums.cost_nano for day, sums in view.days.items() if day >= days[0]}
    wanted = Wanted(since=days[0], until=days[-1])
    found, others = dearest_keys_by_day(wanted, all_keys, most=MOST_SERIES, at=view.at)
    stored = {card.key.id: card.key.name for card in view.cards}
    gone = [key_id for key_id in found if key_id and key_id not in stored]
    names = dict(ApiKey.objects.filter(pk__in=gone).values_list("pk", "name")) if gone else {}
    return [_series(key_id, by_day, stored, names) for key_id, by_day in found.items()], others


def _series(key_id: str, by_day: dict[date, int], stored: dict[str, str], gone: dict[str, str]) -> Series:
    if not key_id:
        return Series("", by_day)
    if key_id in stored:
        return Series(stored[key_id], by_day, reverse("key", args=[key_id]))
    return Series(f"{gone.get(key_id, key_id)} (deleted)", by_day)


# --- who spent it -----------------------------------------------------------------------------------------------------


_TOP = 5


@dataclass(frozen=True, slots=True)
class TopToken:
    """What an access token cost in the last 30 days, and what it has left."""

    token: AccessToken
    sums: Sums
    share: str
    width: str
    left: str


def top_tokens(user: User, at: datetime) -> list[TopToken]:
    """Return the most expensive tokens that this user may see; none if there is only one token, or no spending."""
    visible = visible_tokens(user)
    if not user.has_perm("llmkeys.view_accesstoken") or len(visible.values_list("pk")[:2]) < 2:
        return []
    today = current_windows(at).day
    sums = daily_sums(Wanted(since=today - timedelta(days=CHART_DAYS - 1), until=today), "token_id", at=at)
    spent = {token_id: one for (token_id,), one in sums.items() if token_id is not None and one.cost_nano > 0}
    if not user.is_superuser:
        own = set(visible.values_list("pk", flat=True))
        spent = {token_id: one for token_id, one in spent.items() if token_id in own}
    ranked = sorted(spent, key=lambda token_id: (-spent[token_id].cost_nano, token_id))[:_TOP]
    found = visible.in_bulk(ranked)
    total, most = (
        sum(one.cost_nano for one in spent.values()),
        max((one.cost_nano for one in spent.values()), default=0),
    )
    return [_top_token(found[pk], spent[pk], total, most, at) for pk in ranked if pk in found]


def _top_token(token: AccessToken, sums: Sums, total: int, most: int, at: datetime) -> TopToken:
    limited = [budget for budget in token.budgets(at) if budget.limit]
    room = room_words(min(limited, key=lambda budget: budget.remaining or 0, default=None))
    return TopToken(token, sums, share_of(sums.cost_nano, total), width_of(sums.cost_nano, most), room)
