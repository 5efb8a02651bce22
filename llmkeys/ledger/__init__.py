"""Hold → settle, release or lost: the only writer of an account's counters and of usage rows.

Hand-written SQL, because every relayed request passes here twice: through the ORM it cost about four times the CPU.
Each function takes a cursor and runs inside its caller's transaction (`writer.run`). The row count is the lock: a
conditional UPDATE that changes no row means that another writer was faster, or that there is no room.

Invariants, checked by `audit.py`: for each account (a key or an access token), the cost of a window is the sum of its
settled and lost rows plus its adjustments, and `held_nano` is the sum of its open holds.

Imports go one way: accounts ← events, coolings ← records ← corrections ← settling ← refusals ← holds ← leases.
"""

from __future__ import annotations

from llmkeys.ledger.accounts import KEYS, TOKENS, Account
from llmkeys.ledger.corrections import (
    COST_OF_ROW,
    ESTIMATED_OF_ROW,
    LOST_OF_ROW,
    REPORTED_LATER,
    adjust,
    correct_cost,
    payers_of,
    void_lost,
)
from llmkeys.ledger.events import KEEP_EVENTS, add_alert, add_event, note_serving_keys
from llmkeys.ledger.holds import LowerHold, PlaceHold, note_token_use, place_hold
from llmkeys.ledger.records import GUESSES, SENT, Attempt, Bid, Finished, Hold, Outcome, Placed, Refusal
from llmkeys.ledger.settling import LEASE, End, dead_rows, finish, lose, renew_leases

__all__ = [
    "COST_OF_ROW",
    "ESTIMATED_OF_ROW",
    "GUESSES",
    "KEEP_EVENTS",
    "KEYS",
    "LEASE",
    "LOST_OF_ROW",
    "REPORTED_LATER",
    "SENT",
    "TOKENS",
    "Account",
    "Attempt",
    "Bid",
    "End",
    "Finished",
    "Hold",
    "LowerHold",
    "Outcome",
    "PlaceHold",
    "Placed",
    "Refusal",
    "add_alert",
    "add_event",
    "adjust",
    "correct_cost",
    "dead_rows",
    "finish",
    "lose",
    "note_serving_keys",
    "note_token_use",
    "payers_of",
    "place_hold",
    "renew_leases",
    "void_lost",
]
