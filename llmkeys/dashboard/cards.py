"""What the dashboard shows of one key, worked out from rows that were read once for the whole page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from llmkeys.dashboard.bars import Bar, budget_bar
from llmkeys.dashboard.notes import Note, note_of
from llmkeys.key_state import ACTIVE, DISABLED, EXPIRED, LIMIT_REACHED, Budget
from llmkeys.models import ApiKey, Cooling
from llmkeys.templatetags.llmkeys_format import usd, usd_short

# the status in the contract's words → its colour and its shape
_BADGES = {
    ACTIVE: ("ok", "s-disc"),
    LIMIT_REACHED: ("full", "s-square"),
    EXPIRED: ("", "s-diamond"),
    DISABLED: ("", "s-cross"),
}
_MARKS = {"openrouter": "OR", "openai": "OA", "anthropic": "An", "google": "Go"}
_WORDS = {"day": "Day", "month": "Month", "total": "Total"}


@dataclass(frozen=True, slots=True)
class BudgetLine:
    word: str
    spent: int
    limit: int
    bar: Bar


@dataclass(frozen=True, slots=True)
class Card:
    """One key of the list. `rank` is its place in the serving order, None where it does not serve now."""

    key: ApiKey
    status: str
    tone: str
    shape: str
    cooling: Cooling | None
    budgets: tuple[BudgetLine, ...]
    open_requests: int
    success_rate: float | None
    note: Note
    room: Budget | None
    rank: int | None

    @property
    def provider_mark(self) -> str:
        return _MARKS.get(self.key.provider, "?")

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
    def is_dim(self) -> bool:
        return self.status in (DISABLED, EXPIRED)


def card_of(key: ApiKey, *, at: datetime, cooling: Cooling | None, open_requests: int, rank: int | None) -> Card:
    """Return the card of a key at the instant `at`; reads nothing from the database."""
    status = key.status_at(at)
    tone, shape = _BADGES[status]
    tried = key.successful_requests + key.failed_requests
    room = tightest_budget(key, at)
    return Card(
        key=key,
        status=status,
        tone="bad" if key.rejected_at else tone,
        shape=shape,
        cooling=cooling,
        budgets=tuple(_line(budget, idle=status in (DISABLED, EXPIRED)) for budget in key.budgets(at)),
        open_requests=open_requests,
        success_rate=100 * key.successful_requests / tried if tried else None,
        note=note_of(key, at=at, cooling=cooling, rank=rank, room=room),
        room=room,
        rank=rank,
    )


def tightest_budget(key: ApiKey, at: datetime) -> Budget | None:
    """Return the budget with the least room, None where the key has no limit at all."""
    limited = [budget for budget in key.budgets(at) if budget.limit]
    return min(limited, key=lambda budget: budget.remaining, default=None)


def _line(budget: Budget, *, idle: bool) -> BudgetLine:
    word = _WORDS[budget.window]
    held = f", {usd(budget.held)} held" if budget.held else ""
    limit = f"of {usd_short(budget.limit)}" if budget.limit else "no limit"
    words = f"{word} budget: {usd(budget.spent)} spent{held}, {limit}"
    bar = budget_bar(words, spent=budget.spent, held=budget.held, limit=budget.limit, idle=idle)
    return BudgetLine(word, budget.spent, budget.limit, bar)
