"""The state of a running simulator, and its delays."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal

from .behaviour import KeyFailures
from .journal import Journal


@dataclass(slots=True)
class State:
    """The journal, the failures that keys have used up, and the USD billed to each key; delays are in milliseconds."""

    journal: Journal = field(default_factory=Journal)
    failures: KeyFailures = field(default_factory=KeyFailures, repr=False)
    spent: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal), repr=False)
    latency_ms: int = 0
    chunk_delay_ms: int = 0

    def reset(self) -> None:
        self.journal.clear()
        self.failures.clear()
        self.spent.clear()
