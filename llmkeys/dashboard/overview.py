"""What the dashboard knows of all keys, read in a number of queries that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

from django.db.models import Sum
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from llmkeys import providers
from llmkeys.dashboard.charts import MOST_SERIES, Bar, Chart, Series, budget_bar, days_until, stacked
from llmkeys.key_state import ACTIVE, DISABLED, EXPIRED, LIMIT_REACHED, Budget, cooling_scopes, current_windows
from llmkeys.models import ApiKey, Cooling, DailyUsage
from llmkeys.presentation import error_words
from llmkeys.prices import catalogue
from llmkeys.relay.serving import serving_order
from llmkeys.templatetags.llmkeys_format import moment, usd, usd_short
from llmkeys.usage.rows import open_requests
from llmkeys.usage.sums import Sums, Wanted, daily_sums, dearest_keys_by_day

CHART_DAYS = 30


@dataclass(eq=False)
class Overview:
    """The keys' cards in serving order, and what follows from all of them together."""

    at: datetime
    everyone: list[Card]  # deleted keys too: what they cost stays in the sums
    days: dict[date, Sums]
    ever: Sums
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
    wanted = Wanted(since=_first_day(at), until=current_windows(at).day)
    days = {day: sums for (day,), sums in daily_sums(wanted, "day", at=at).items()}
    ever = Sums.over(daily_sums(Wanted(), at=at).values())
    return Overview(at, cards, days, ever, model)


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
    scopes = cooling_scopes(key.id, key.provider, key.billing_group)
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
        models = ", ".join(catalogue.models_to_try(""))
        return (
            f"No stored key can serve the primary model or a fallback ({models}). Requests that name another model are "
            "served. Add a key of another provider, or set REFACTAI_PRIMARY_MODEL or the alias “auto”."
        )
    return (
        f"All are out: {_counted(view.cards)}. Requests are refused until one is back. "
        "Each card below says what to do; or add another key."
    )


# --- one key's card ---------------------------------------------------------------------------------------------------


# the status in the contract's words → its colour and its shape
_BADGES = {
    ACTIVE: ("ok", "s-disc"),
    LIMIT_REACHED: ("full", "s-square"),
    EXPIRED: ("", "s-diamond"),
    DISABLED: ("", "s-cross"),
}
_WORDS = {"day": "Day", "month": "Month", "total": "Total"}


@dataclass(frozen=True, slots=True)
class BudgetLine:
    word: str
    spent: int
    limit: int
    bar: Bar
    left: int | None
    resets_at: datetime | None


@dataclass(eq=False)
class Card:
    """One key of the list. `rank` is its place in the serving order, None where it does not serve now.

    What only its drawing needs is worked out when it is drawn: of a thousand keys one page is.
    """

    key: ApiKey
    at: datetime
    status: str
    cooling: Cooling | None
    open_requests: int = 0
    rank: int | None = None
    projected: int | None = None  # nano-dollars: the month at this pace, where that is drawn

    @property
    def tone(self) -> str:
        return "bad" if self.key.rejected_at else _BADGES[self.status][0]

    @property
    def shape(self) -> str:
        return _BADGES[self.status][1]

    @cached_property
    def facts(self) -> tuple[Budget, ...]:
        return self.key.budgets(self.at)

    @cached_property
    def budgets(self) -> tuple[BudgetLine, ...]:
        return tuple(_line(budget, idle=self.is_dim) for budget in self.facts)

    @property
    def success_rate(self) -> float | None:
        tried = self.key.successful_requests + self.key.failed_requests
        return 100 * self.key.successful_requests / tried if tried else None

    @property
    def room(self) -> Budget | None:
        """The budget with the least room, None where the key has no limit at all."""
        limited = (budget for budget in self.facts if budget.limit)
        return min(limited, key=lambda budget: budget.remaining or 0, default=None)

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
        """Something that does not end by itself, or that a person did not choose."""
        return (
            self.status in (EXPIRED, LIMIT_REACHED)
            or self.key.rejected_at is not None
            or self.key.secret_missing
            or bool(self.key.last_error and not self.cooling)
        )

    @property
    def pace_is_too_high(self) -> bool:
        """Tell whether the month will not stay below its limit at this pace."""
        limit = self.key.monthly_limit_nano
        return bool(limit and self.projected is not None and self.projected > limit and not self.is_dim)

    @property
    def is_dim(self) -> bool:
        return self.status in (DISABLED, EXPIRED)


def _line(budget: Budget, *, idle: bool) -> BudgetLine:
    word = _WORDS[budget.window]
    held = f", {usd(budget.held)} held" if budget.held else ""
    limit = f"of {usd_short(budget.limit)}" if budget.limit else "no limit"
    words = f"{word} budget: {usd(budget.spent)} spent{held}, {limit}"
    bar = budget_bar(words, spent=budget.spent, held=budget.held, limit=budget.limit, idle=idle)
    return BudgetLine(word, budget.spent, budget.limit, bar, budget.remaining, budget.resets_at)


# --- what a card says in words ----------------------------------------------------------------------------------------


_MOVE, _RAISE, _REPLACE = "Move the date", "Raise the limit", "Then replace the secret"
_FIELDS = {_MOVE: "expires", _RAISE: "dailyLimit", _REPLACE: "apiKey"}
_LEFT = {"day": "today", "month": "this month", "total": "in total"}
_SPENT = {"day": "Daily budget", "month": "Monthly budget", "total": "Total budget"}


@dataclass(frozen=True, slots=True)
class Note:
    """A line in a card. `remedy` is the words of a link to the key's form, shown to those who may use it."""

    tone: str
    icon: str
    title: str
    text: SafeString | str = ""
    remedy: str = ""

    @property
    def field(self) -> str:
        """The field of the key's form that the remedy is about."""
        return _FIELDS.get(self.remedy, "")


def room_words(room: Budget | None) -> str:
    return "no limit" if room is None else f"{usd(room.remaining)} left {_LEFT[room.window]}"


def note_of(key: ApiKey, *, at: datetime, cooling: Cooling | None, rank: int | None, room: Budget | None) -> Note:
    """Return the first of these that applies; the order is that of the status."""
    return (
        _off(key, at)
        or _expired(key, at)
        or _spent(key, at)
        or _refused(key, at)
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
            moment(key.rejected_at), _sentence(key.last_error), page, label,
        )  # fmt: skip
        return Note("bad", "i-alert", f"Rejected by {label}", text, remedy=_REPLACE)
    if key.secret_missing:
        return Note("bad", "i-alert", "Its secret is missing.", error_words(key, at=at))
    if not key.enabled:
        return Note("", "i-power", "Switched off by a person.", "Enable it to let it serve again.")
    return None


def _sentence(text: str) -> str:
    return f"{text.rstrip('. ')}." if text else "no reason was given."


def _expired(key: ApiKey, at: datetime) -> Note | None:
    if key.expires_at is None or not key.is_expired(at):
        return None
    return Note("", "i-clock", "Expired", format_html("at {}.", moment(key.expires_at)), remedy=_MOVE)


def _spent(key: ApiKey, at: datetime) -> Note | None:
    budget = key.reached_budget(at)
    if budget is None:
        return None
    figures = f"{usd(budget.spent)} of {usd_short(budget.limit)}."
    if budget.resets_at is None:
        text = f"{figures} It serves again when its limit is raised or its cost is reset."
    else:
        text = format_html("{} Serves again at {}.", figures, moment(budget.resets_at))
    return Note("full", "i-gauge", f"{_SPENT[budget.window]} spent.", text, remedy=_RAISE)


def _refused(key: ApiKey, at: datetime) -> Note | None:
    if not key.is_refused(at):
        return None
    budget = next(budget for budget in key.budgets(at) if budget.window == key.refused_window)
    again = format_html(" Serves again at {}.", moment(budget.resets_at)) if budget.resets_at else ""
    text = format_html(
        "The last request needed up to {}; {} was left.{}",
        usd(key.refused_need_nano),
        usd(key.refused_room_nano),
        again,
    )
    return Note("full", "i-gauge", f"{_SPENT[budget.window]}: no room.", text, remedy=_RAISE)


def _cooling(key: ApiKey, cooling: Cooling) -> Note:
    label = key.get_provider_display()
    where = f"for {cooling.model}" if cooling.model else "for every model"
    reason = f"“{cooling.reason.rstrip('. ')}.” " if cooling.reason else ""
    if cooling.kind == Cooling.Kind.EXHAUSTED:
        text = format_html(
            "{}Asked again at {}. Top up the account at {}, then test it.", reason, moment(cooling.until), label
        )
        return Note("cool", "i-gauge", f"Exhausted at {label}, {where}.", text)
    rest = " Other models are served." if cooling.model else ""
    text = format_html("{}Back at {} by itself.{}", reason, moment(cooling.until), rest)
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
    """Return what was spent on each of the last 30 days, stacked by key or by model."""
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
    """Return the dearest keys; deleted ones are in the sums too, and say so."""
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


def key_chart(key: ApiKey, today: date) -> Chart:
    """Return what one key cost on each of the last 30 days, with its daily limit and what it holds."""
    days = days_until(today, CHART_DAYS)
    rows = DailyUsage.objects.filter(key=key, day__gte=days[0], day__lte=today).order_by()
    by_day = {day: int(cost) for day, cost in rows.values_list("day").annotate(Sum("cost_nano"))}
    return stacked(
        days, [Series(key.name, by_day)], title="Spend per day", today=today, held=key.held_nano,
        limit=key.daily_limit_nano,
    )  # fmt: skip


def first_day(today: date) -> date:
    return today - timedelta(days=CHART_DAYS - 1)
