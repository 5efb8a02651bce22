"""Ten coding agents on one key of 10 USD a day: how many of their turns are served, in each mode.

A turn sends 76 kB, asks Opus 5.5 for up to 64,000 tokens, streams for 20 s and costs 0.05 USD in the end. The figures
of docs/concepts.md come from here: the budgets' arithmetic on the product's own holds, second by second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llmkeys.dialects.base import Usage
from llmkeys.prices.worst_case import fitted, shrunk_hold
from tests.pricing.helpers import held

LIMIT, COST = 10_000_000_000, 50_000_000
AGENTS, STREAM_SECONDS, FIRST_EVENT_SECONDS, PATIENCE_SECONDS = 10, 20, 1, 2
TURN = held("anthropic", "claude-opus-5-5", input_tokens=76_000, output_tokens=64_000, can_write_cache=True)
TOLD = Usage(input_tokens=20_000, cached_input_tokens=19_000, output_tokens=1, region="global")
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "concepts.md"


@dataclass
class Day:
    is_strict: bool = True
    fits: bool = False
    shrinks: bool = False
    spent: int = 0
    served: int = 0
    lowered: int = 0
    at_once: int = 0
    seconds: int = 0
    waiting: list[int] = field(default_factory=lambda: [0] * AGENTS)  # seconds that an idle agent has waited
    open: list[list] = field(default_factory=list)  # [ends at, hold, worst case]

    def run(self) -> Day:
        """Let time pass until a turn is refused though no other is under way."""
        while True:
            for turn in [turn for turn in self.open if turn[0] <= self.seconds]:
                self.open.remove(turn)
                self.spent += COST
                self.served += 1
                self.waiting.append(0)
            if self.shrinks:
                for turn in self.open:
                    if turn[0] - STREAM_SECONDS + FIRST_EVENT_SECONDS == self.seconds:
                        turn[1] = shrunk_hold(turn[2], TOLD, turn[1])
            if not self._begin_what_fits() and not self.open:
                return self
            self.at_once = max(self.at_once, len(self.open))
            self.waiting = [waited + 1 for waited in self.waiting]
            self.seconds += 1

    def _begin_what_fits(self) -> bool:
        begun = False
        for waited in sorted(self.waiting, reverse=True):
            room = LIMIT - self.spent - sum(hold for _, hold, _ in self.open)
            worst = TURN
            if not self.is_strict:
                worst = TURN if self.spent < LIMIT else None
            elif TURN.nano > room:
                may_fit = self.fits and (waited >= PATIENCE_SECONDS or not self.open)
                worst = fitted(TURN, room) if may_fit else None
            if worst is not None:
                self.open.append([self.seconds + STREAM_SECONDS, worst.nano, worst])
                self.waiting.remove(waited)
                self.lowered += worst is not TURN
                begun = True
        return begun


DAYS = {
    "strict, nothing lowered": Day(shrinks=True),
    "strict": Day(fits=True, shrinks=True),
    "soft": Day(is_strict=False),
}


def test_a_turn_holds_thirty_times_what_it_costs():
    # 76,000 × 5 (written to the cache) + 64,000 × 20 = 1,660,000, and a tenth more for a workspace that stays in the
    # US; once input and region are told: 1,000 × 4 + 19,000 × 0.2 + 64,000 × 20 = 1,287,800
    assert TURN.nano == 1_826_000_000
    assert shrunk_hold(TURN, TOLD, TURN.nano) == 1_287_800_000


@pytest.mark.parametrize(("mode", "served"), [("strict, nothing lowered", 164), ("strict", 185), ("soft", 200)])
def test_what_the_document_says_is_what_happens(mode, served):
    # Without lowering the last one begins at 10 - 1.826 = 8.17 spent at most: 164 turns. Lowered to a quarter, 16,000
    # tokens, a turn holds 1.1 × (0.38 + 0.32) = 0.77: it begins at 9.23 at most: 185. Soft: until 10 are spent.
    day = DAYS[mode].run()
    assert day.served == served
    row = next(line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| {mode} |"))
    figures = [int(re.sub(r"\D", "", cell)) for cell in row.split("|")[2:-1]]
    assert figures == [day.served, day.at_once, day.lowered, day.seconds // 60, day.spent // 10**7], (row, day)
