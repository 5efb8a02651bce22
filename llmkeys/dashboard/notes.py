"""What a key's card says in words: what is the matter, and what a person does about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html
from django.utils.safestring import SafeString

from llmkeys import providers
from llmkeys.key_state import Budget
from llmkeys.models import ApiKey, Cooling
from llmkeys.presentation import error_words
from llmkeys.templatetags.llmkeys_format import moment, usd, usd_short

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
