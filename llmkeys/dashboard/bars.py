"""The one drawing of the product: spent is solid, held is hatched, room is empty. Shares as SVG percentages."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar in per cent of its width, with the words that say the same."""

    words: str
    spent: float = 0.0
    held: float = 0.0
    tone: str = ""  # "full", "idle" or none
    tick: bool = False  # marks the share of a budget at which the operator is warned

    @property
    def spent_width(self) -> str:
        return _css_percent(self.spent)

    @property
    def held_width(self) -> str:
        return _css_percent(self.held)

    @property
    def tick_at(self) -> str:
        return _css_percent(float(settings.WARNING_THRESHOLD) * 100)


def _css_percent(value: float) -> str:
    return f"{value:.2f}%"


def budget_bar(words: str, *, spent: int, held: int, limit: int, idle: bool = False) -> Bar:
    """Return the bar of amounts (nano-dollars) against a limit; the spent part alone never looks full before it is."""
    if not limit:
        return Bar(words, tone="idle")
    spent_share = min(100.0, max(0.0, 100 * spent / limit))
    held_share = min(100.0 - spent_share, 100 * held / limit)
    tone = "idle" if idle else "full" if spent >= limit * settings.WARNING_THRESHOLD else ""
    return Bar(words, spent_share, held_share, tone, tick=True)
