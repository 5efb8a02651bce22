"""What the ledger takes and returns: bids, attempts, holds, refusals, outcomes. Amounts are in nano-dollars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from llmkeys.ledger import coolings
from llmkeys.ledger.accounts import Account, Pace

GUESSES = ("estimated", "fallback")  # the cost sources that are neither reported nor computed
PARTS = ("estimated_nano", "lost_nano")  # columns of the daily totals; the rest of the cost is known
# SQL: a released attempt that was never sent has no HTTP status and is not counted.
SENT = "(state IN ('SETTLED', 'LOST') OR (state = 'RELEASED' AND http_status IS NOT NULL))"


def parts_of(state: str, source: str, cost_nano: int) -> tuple[int, int]:
    """Return how much of a row's cost is estimated, and how much is charged because the row is lost."""
    is_lost = state == "LOST"
    return cost_nano if source in GUESSES and not is_lost else 0, cost_nano if is_lost else 0


@dataclass(frozen=True, slots=True)
class Bid:
    """A key that may serve, and the most that the request can cost there."""

    key_id: str
    provider: str
    model: str
    hold_nano: int
    passed_over: tuple[dict[str, str], ...] = ()  # the keys before it that cannot serve now, and why
    cooled_scopes: tuple[str, ...] = ()  # of a key that was cooling: one request tries it first (`coolings.py`)
    max_tokens: int | None = None  # the output limit, if it was lowered to fit the room


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is known about an attempt before it is sent."""

    request_id: str
    number: int
    at: datetime
    dialect: str
    requested_model: str
    token_name: str
    streamed: bool
    lease_owner: str
    token_id: int | None = None  # the access token, which pays too
    others: Mapping[str, Any] = field(default_factory=dict)  # other accounts that pay, by column
    leased_at: datetime | None = None  # by the database's clock (`leases.now`); None: `at`

    @property
    def is_first(self) -> bool:
        """True for the first attempt of a request, which is the one that requests per minute count."""
        return self.number == 1


@dataclass(frozen=True, slots=True)
class Hold:
    """Money set aside on a key for one attempt."""

    usage_id: int
    key_id: str
    amount_nano: int
    probe: coolings.Probe | None = None  # set if this request is the first to try a key that was cooling
    request_id: str = ""
    locks: tuple[tuple[str, Any], ...] = ()  # its accounts, as the writer locks them


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a bid was refused, and by which account: the key, or the token.

    `window` and the figures in nano-dollars are set if there was no room.
    """

    key_id: str
    reason: str
    account: Account
    need_nano: int = 0
    room_nano: int = 0
    limit_nano: int = 0
    window: str = ""
    held_nano: int = 0
    fits_nano: int | None = None  # the most that fits into all windows of the account now; None if it accepts nothing
    only_holds: bool = False  # it would fit without the open holds
    never_fits: bool = False  # it is more than the whole limit
    pace: Pace | None = None  # set if the account has used up its requests of this minute
    cooling_until: datetime | None = None  # set if the key is cooling
    is_asked: bool = False  # another request is finding out whether the key works again


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, as written to its usage row."""

    state: str  # SETTLED, RELEASED or LOST
    at: datetime
    success: bool | None = None  # None: neither a success nor a failure of the key, such as a client's own mistake
    sent: bool = True
    cost_nano: int = 0
    cost_source: str = ""
    http_status: int | None = None
    error: str = ""
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    latency_ms: int | None = None
    first_byte_ms: int | None = None
    upstream_id: str = ""
    sealed_thought: str | None = None  # a digest of the last encrypted reasoning in the answer


@dataclass(frozen=True, slots=True)
class Placed:
    """The result of placing a hold: the hold, or None; and the refusals of the keys that were tried."""

    hold: Hold | None
    refusals: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finished:
    """What the key has left today after an attempt ended; None if it has no daily limit."""

    remaining_day_nano: int | None
