"""What goes into the ledger and what comes out: bids, attempts, holds, refusals, outcomes. Amounts in nano-dollars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from llmkeys.ledger import coolings
from llmkeys.ledger.accounts import Account, Pace

GUESSES = ("estimated", "fallback")  # how a cost is known that nobody reported and that is not computed
PARTS = ("estimated_nano", "lost_nano")  # columns of the daily totals; what they leave of the cost is known


def parts_of(state: str, source: str, cost_nano: int) -> tuple[int, int]:
    """Return how much of a row's cost is estimated, and how much is charged because the row is lost."""
    is_lost = state == "LOST"
    return cost_nano if source in GUESSES and not is_lost else 0, cost_nano if is_lost else 0


@dataclass(frozen=True, slots=True)
class Bid:
    """A key that may serve, and what the request may cost there at most."""

    key_id: str
    provider: str
    model: str
    hold_nano: int
    passed_over: tuple[dict[str, str], ...] = ()  # the keys before it that cannot serve now, and why
    rested: tuple[str, ...] = ()  # the scopes of a key that rested before: one request asks first (`coolings.py`)
    max_tokens: int | None = None  # the output limit, where it was lowered to fit the room


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is known of an attempt before it is sent."""

    request_id: str
    number: int
    at: datetime
    dialect: str
    requested_model: str
    token_name: str
    streamed: bool
    lease_owner: str
    token_id: int | None = None  # the access token pays too
    others: Mapping[str, Any] = field(default_factory=dict)  # further accounts that do, by their column
    leased_at: datetime | None = None  # by the database's clock (`leases.now`); None: `at`

    @property
    def is_first(self) -> bool:
        """True for the attempt whose hold is its request's first: requests per minute count that."""
        return self.number == 1


@dataclass(frozen=True, slots=True)
class Hold:
    """Money set aside on a key for one attempt."""

    usage_id: int
    key_id: str
    amount_nano: int
    probe: coolings.Probe | None = None  # set where this request asks a key that rested
    request_id: str = ""
    locks: tuple[tuple[str, Any], ...] = ()  # its accounts, as the writer locks them


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a bid on a key was not taken, and by which account: the key, or the token that pays.

    `window` is set where room was lacking, with the figures in nano-dollars.
    """

    key_id: str
    reason: str
    account: Account
    need_nano: int = 0
    room_nano: int = 0
    limit_nano: int = 0
    window: str = ""
    held_nano: int = 0
    fits_nano: int | None = None  # the most that the account takes now, over all its windows; None: it takes nothing
    only_holds: bool = False  # it would fit if the open holds were not there
    never_fits: bool = False  # it is more than the whole limit
    pace: Pace | None = None  # the account has sent as many requests in this minute as it may
    rests_until: datetime | None = None  # the key cools
    is_asked: bool = False  # another request asks just now whether the key serves again


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: what is written on its usage row."""

    state: str  # SETTLED, RELEASED or LOST
    at: datetime
    success: bool | None = None  # None: no failure of the key, no success either (a client's own mistake)
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
    sealed_thought: str | None = None  # a digest of the last one in the answer


@dataclass(frozen=True, slots=True)
class Placed:
    """What came of a try to place a hold: a hold, or the refusals of every key asked."""

    hold: Hold | None
    refusals: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a key has left after an attempt ended; None where it has no daily limit."""

    remaining_day_nano: int | None
