"""What the dashboard shows of one key, worked out from rows that were read once for the whole page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

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

    @property
    def tone(self) -> str:
        return "bad" if self.key.rejected_at else _BADGES[self.status][0]

    @property
    def shape(self) -> str:
        return _BADGES[self.status][1]

    @cached_property
    def facts(self) -> tuple[Budget, Budget, Budget]:
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


def _line(budget: Budget, *, idle: bool) -> BudgetLine:
    word = _WORDS[budget.window]
    held = f", {usd(budget.held)} held" if budget.held else ""
    limit = f"of {usd_short(budget.limit)}" if budget.limit else "no limit"
    words = f"{word} budget: {usd(budget.spent)} spent{held}, {limit}"
    bar = budget_bar(words, spent=budget.spent, held=budget.held, limit=budget.limit, idle=idle)
    return BudgetLine(word, budget.spent, budget.limit, bar, budget.remaining, budget.resets_at)
