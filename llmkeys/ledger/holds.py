"""Holds: before anything is sent, room is taken on the key and on the token, and the attempt is recorded."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from llmkeys.database.sql import Cursor, instant
from llmkeys.key_state import current_windows
from llmkeys.ledger import accounts, coolings
from llmkeys.ledger.accounts import KEYS, Account, Amount
from llmkeys.ledger.records import Attempt, Bid, Hold, Outcome, Placed, Refusal
from llmkeys.ledger.refusals import refusal_of, remember_refusals
from llmkeys.ledger.settling import LEASE, finish
from llmkeys.lib.windows import Windows


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """The job that places a hold on the first bid for which there is room."""

    bids: list[Bid]
    attempt: Attempt
    last_try: bool = True

    @property
    def accounts(self) -> list[tuple[str, Any]]:
        return [account.lock for bid in self.bids for account in payers(bid, self.attempt)]

    def __call__(self, cursor: Cursor) -> Placed:
        return place_hold(cursor, self.bids, self.attempt, last_try=self.last_try)

    @staticmethod
    def together(cursor: Cursor, jobs: list[PlaceHold]) -> list[Placed]:
        """Place many holds: the first bids with one statement per table, if each account has room for all of its bids.

        The others are placed one by one afterwards, in order.
        """
        at_once = [job for job in jobs if job.bids and not job.bids[0].cooled_scopes]
        placed = dict(zip(map(id, at_once), _place_at_once(cursor, at_once), strict=True))
        return [placed.get(id(job)) or job(cursor) for job in jobs]

    def undo(self, cursor: Cursor, placed: Placed) -> None:
        """Release a hold that was committed after its caller had given up; do nothing if it was never committed."""
        hold = placed.hold
        if hold is None:
            return
        # Also match the request: the id of a row that was never committed may belong to another row by now.
        cursor.execute(
            "SELECT 1 FROM llmkeys_usagerecord WHERE id = %s AND request_id = %s", [hold.usage_id, hold.request_id]
        )
        if cursor.fetchone() is not None:
            coolings.give_back(cursor, hold.probe)
            error = "The database was too slow; nothing was sent."
            finish(cursor, hold.usage_id, Outcome(state="RELEASED", at=self.attempt.at, sent=False, error=error))


@dataclass(frozen=True, slots=True)
class LowerHold:
    """The job that lowers a hold to `nano` and gives back the rest; does nothing if the attempt has ended."""

    hold: Hold
    nano: int

    @property
    def accounts(self) -> tuple[tuple[str, Any], ...]:
        return self.hold.locks

    def __call__(self, cursor: Cursor) -> None:
        columns = ", ".join(accounts.columns())
        cursor.execute(
            f"""UPDATE llmkeys_usagerecord SET hold_nano = %s
                 WHERE id = %s AND request_id = %s AND state = 'HELD' AND hold_nano = %s RETURNING {columns}""",
            [self.nano, self.hold.usage_id, self.hold.request_id, self.hold.amount_nano],
        )
        for ids in cursor.fetchall():
            for account in accounts.of_row(ids):
                accounts.give_back(cursor, account, self.hold.amount_nano - self.nano)


def payers(bid: Bid, attempt: Attempt) -> list[Account]:
    """Return the accounts that pay for a bid: the key, and the token and others that the attempt names."""
    ids = {KEYS.column: bid.key_id, "token_id": attempt.token_id, **attempt.others}
    return [Account(of, ids[of.column]) for of in accounts.TABLES if ids.get(of.column) is not None]


def place_hold(cursor: Cursor, bids: list[Bid], attempt: Attempt, *, last_try: bool = True) -> Placed:
    """Place a hold for the first bid for which there is room, and record the attempt, in one transaction.

    Unless this is the `last_try`, lower bids may follow if none fits, so that no account is marked as full yet.
    """
    refusals: list[Refusal] = []
    for bid in bids:
        claim = coolings.claim(cursor, bid.cooled_scopes, bid.model, attempt.at)
        found = _cooling(bid, claim) or _take_room(cursor, bid, attempt)
        if isinstance(found, Refusal):
            coolings.give_back(cursor, claim.probe)
            refusals.append(found)
            if found.pace is not None:
                break  # the token's pace is the same with any other key
            continue
        remember_refusals(cursor, refusals, attempt.at)
        [hold] = _insert(cursor, [_Row(bid, attempt, found, refusals)])
        return Placed(replace(hold, probe=claim.probe), refusals)
    if last_try:
        remember_refusals(cursor, refusals, attempt.at)
    return Placed(None, refusals)


def _cooling(bid: Bid, claim: coolings.Claim) -> Refusal | None:
    if claim.cooling_until is None:
        return None
    reason = "cooling: another request is trying it first" if claim.is_asked else "cooling"
    account = Account(KEYS, bid.key_id)
    return Refusal(bid.key_id, reason, account, cooling_until=claim.cooling_until, is_asked=claim.is_asked)


def _take_room(cursor: Cursor, bid: Bid, attempt: Attempt) -> Windows | Refusal:
    """Hold the bid on all of its accounts or on none; return the windows that are charged, or the refusal."""
    windows, of_bid, amount = current_windows(attempt.at), payers(bid, attempt), _amount(bid, attempt)
    lacking = _hold_on_all(cursor, of_bid, amount, windows, attempt.at)
    if lacking is not None:
        opened = accounts.open_windows(cursor, of_bid, windows)
        paced = [account for account in of_bid if account.of.is_paced]
        turned = [account for account in paced if accounts.open_minute(cursor, account, attempt.at)]
        if opened is not None or turned:
            windows = opened or windows
            lacking = _hold_on_all(cursor, of_bid, amount, windows, attempt.at)
    return windows if lacking is None else refusal_of(cursor, lacking, bid, attempt)


def _amount(bid: Bid, attempt: Attempt) -> Amount:
    return Amount(bid.hold_nano, int(attempt.is_first))


def _hold_on_all(
    cursor: Cursor, of_bid: list[Account], amount: Amount, windows: Windows, at: datetime
) -> Account | None:
    """Hold the amount on each account, or on none; return the first account that refuses it, or None."""
    for position, account in enumerate(of_bid):
        if not accounts.hold(cursor, account.of, {account.id: amount}, windows, at):
            for taken in of_bid[:position]:
                _give_back(cursor, taken, amount)
            return account
    return None


def _give_back(cursor: Cursor, account: Account, amount: Amount) -> None:
    requests = amount.requests if account.of.is_paced else 0
    accounts.give_back(cursor, account, amount.nano, requests=requests)


# --- many at once -----------------------------------------------------------------------------------------------------


def _place_at_once(cursor: Cursor, jobs: list[PlaceHold]) -> list[Placed | None]:
    """Place the first bids of the jobs whose accounts have room for all of them together; None for the other jobs."""
    if not jobs:
        return []
    windows, minute = current_windows(jobs[0].attempt.at), accounts.minute_of(jobs[0].attempt.at)
    going = [
        _First(job, {account.of.column: account.id for account in payers(job.bids[0], job.attempt)})
        for job in jobs
        if current_windows(job.attempt.at) == windows and accounts.minute_of(job.attempt.at) == minute
    ]
    at = max(first.job.attempt.at for first in going)
    for position, of in enumerate(accounts.TABLES):
        amounts = _amounts(going, of)
        full = amounts.keys() - accounts.hold(cursor, of, amounts, windows, at)
        if full:
            refused = [first for first in going if first.ids.get(of.column) in full]
            for before in accounts.TABLES[:position]:
                for account_id, amount in _amounts(refused, before).items():
                    _give_back(cursor, Account(before, account_id), amount)
            going = [first for first in going if first.ids.get(of.column) not in full]
    holds = _insert(cursor, [_Row(first.job.bids[0], first.job.attempt, windows, []) for first in going])
    found = {id(first.job): Placed(hold) for first, hold in zip(going, holds, strict=True)}
    return [found.get(id(job)) for job in jobs]


class _First(NamedTuple):
    """A job with the ids of the accounts of its first bid, by column."""

    job: PlaceHold
    ids: dict[str, Any]


def _amounts(firsts: list[_First], of: accounts.AccountTable) -> dict[Any, Amount]:
    amounts: dict[Any, Amount] = defaultdict(Amount)
    for job, ids in firsts:
        if of.column in ids:
            amounts[ids[of.column]].nano += job.bids[0].hold_nano
            amounts[ids[of.column]].requests += int(job.attempt.is_first)
    return amounts


# --- the rows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    bid: Bid
    attempt: Attempt
    windows: Windows
    refusals: list[Refusal]


_COLUMNS = (
    "request_id", "attempt", "created_at", "provider", "dialect", "requested_model", "model", "token_name", "hold_nano",
    "streamed", "skipped", "day", "month", "lease_owner", "lease_until", "max_tokens",
)  # fmt: skip
_ALWAYS = {
    "state": "'HELD'", "error": "''", "cost_nano": "0", "cost_source": "''", "upstream_id": "''", "overrun": "FALSE",
}  # fmt: skip


@lru_cache(maxsize=64)
def _insert_sql(count: int, tables: int) -> str:
    names = [*_COLUMNS, *accounts.columns(), *_ALWAYS]
    row = ", ".join([*["%s"] * (len(_COLUMNS) + tables), *_ALWAYS.values()])
    return f"""INSERT INTO llmkeys_usagerecord ({", ".join(names)}) VALUES {", ".join([f"({row})"] * count)}
      RETURNING id, request_id, attempt"""


def _insert(cursor: Cursor, rows: list[_Row]) -> list[Hold]:
    """Record the attempts and return their holds in the same order."""
    if not rows:
        return []
    cursor.execute(_insert_sql(len(rows), len(accounts.TABLES)), [value for row in rows for value in _values(row)])
    ids = {(request_id, attempt): usage_id for usage_id, request_id, attempt in cursor.fetchall()}
    return [
        Hold(
            ids[row.attempt.request_id, row.attempt.number], row.bid.key_id, row.bid.hold_nano,
            request_id=row.attempt.request_id, locks=tuple(account.lock for account in payers(row.bid, row.attempt)),
        )
        for row in rows
    ]  # fmt: skip


def _values(row: _Row) -> list[Any]:
    bid, attempt = row.bid, row.attempt
    skipped = [*bid.passed_over, *({"keyId": refusal.key_id, "reason": refusal.reason} for refusal in row.refusals)]
    ids = {account.of.column: account.id for account in payers(bid, attempt)}
    return [
        attempt.request_id, attempt.number, instant(attempt.at), bid.provider, attempt.dialect, attempt.requested_model,
        bid.model, attempt.token_name, bid.hold_nano, attempt.streamed, json.dumps(skipped[:50]) if skipped else "[]",
        str(row.windows.day), str(row.windows.month), attempt.lease_owner,
        instant((attempt.leased_at or attempt.at) + LEASE), bid.max_tokens,
        *(ids.get(column) for column in accounts.columns()),
    ]  # fmt: skip


def note_token_use(cursor: Cursor, token_id: int, at: datetime) -> None:
    """Record when a token was last used; callers do this at most once a minute, as it is only shown to people."""
    cursor.execute("UPDATE llmkeys_accesstoken SET last_used_at = %s WHERE id = %s", [instant(at), token_id])
