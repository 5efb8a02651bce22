"""The end of an attempt: settled, released or lost; and the leases that show when its process has died."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from llmkeys.database.sql import Cursor, as_date, cast, instant
from llmkeys.ledger import accounts, coolings
from llmkeys.ledger.accounts import Account, AccountTable, Charge, Standing
from llmkeys.ledger.corrections import correct_cost
from llmkeys.ledger.events import note_limits, note_serving_keys
from llmkeys.ledger.records import PARTS, Finished, Hold, Outcome, parts_of
from llmkeys.lib.windows import DAY, Windows

LEASE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class End:
    """The job that ends an attempt: its row, its probe, the coolings of its key, and which key serves the model."""

    hold: Hold
    outcome: Outcome
    cooled_scopes: tuple[str, ...] = ()  # the scopes of a key that was cooling: a success ends them
    model: str = ""  # the provider's name of the model
    serves: str = ""  # the model's common name, if the key is to be recorded as the one that serves it
    keeps_probe: bool = False  # the key's coolings are updated next, and no other request may try it until then

    @property
    def accounts(self) -> tuple[tuple[str, Any], ...]:
        return self.hold.locks

    def __call__(self, cursor: Cursor) -> Finished | None:
        return self.together(cursor, [self])[0]

    @staticmethod
    def together(cursor: Cursor, ends: list[End]) -> list[Finished | None]:
        """End many attempts with one statement for the rows and one for each table of accounts."""
        for end in ends:
            if end.outcome.success and end.cooled_scopes:
                coolings.forgive(cursor, end.hold.key_id, end.cooled_scopes, end.model, end.outcome.at)
            elif not end.keeps_probe:
                coolings.give_back(cursor, end.hold.probe)
        finished = finish_all(cursor, [(end.hold.usage_id, end.outcome) for end in ends])
        serving = {end.serves: end for end in ends if end.serves and end.outcome.success}
        note_serving_keys(cursor, {model: (end.hold.key_id, end.outcome.at) for model, end in serving.items()})
        return finished

    def as_lost(self) -> End:
        """Return the end, charged at the hold, of an attempt whose own end cannot be written."""
        error = f"The end of this request could not be recorded ({self.outcome.state}). Charged at the hold."
        outcome = Outcome(
            state="LOST", at=self.outcome.at, success=False, cost_nano=self.hold.amount_nano,
            cost_source="estimated" if self.hold.amount_nano else "", error=error,
        )  # fmt: skip
        return End(self.hold, outcome)


# The columns that an outcome writes, with their types in PostgreSQL.
_WRITTEN = {
    "state": "text", "finished_at": "timestamptz", "success": "boolean", "http_status": "smallint", "error": "text",
    "input_tokens": "bigint", "cached_input_tokens": "bigint", "cache_write_tokens": "bigint",
    "output_tokens": "bigint", "reasoning_tokens": "bigint", "cost_nano": "bigint", "cost_source": "text",
    "latency_ms": "integer", "first_byte_ms": "integer", "upstream_id": "text",
    "sealed_thought": "text",
}  # fmt: skip


def _written(outcome: Outcome) -> list[Any]:
    return [
        outcome.state, instant(outcome.at), outcome.success, outcome.http_status, outcome.error[:1000],
        outcome.input_tokens, outcome.cached_input_tokens, outcome.cache_write_tokens, outcome.output_tokens,
        outcome.reasoning_tokens, outcome.cost_nano, outcome.cost_source, outcome.latency_ms, outcome.first_byte_ms,
        outcome.upstream_id[:100], outcome.sealed_thought,
    ]  # fmt: skip


@lru_cache(maxsize=64)
def _finish_sql(count: int, columns: tuple[str, ...]) -> str:
    places = {name: cast(f"v.column{place}", kind) for place, (name, kind) in enumerate(_WRITTEN.items(), 2)}
    places |= {"overrun": f"(hold_nano < {places['cost_nano']})", "lease_until": "NULL"}
    written = ", ".join(f"{name} = {value}" for name, value in places.items())
    return f"""UPDATE llmkeys_usagerecord SET {written}
      FROM {accounts.values(count, 1 + len(_WRITTEN))}
     WHERE llmkeys_usagerecord.id = v.column1 AND llmkeys_usagerecord.state = 'HELD'
    RETURNING id, model, token_name, hold_nano, day, month, {", ".join(columns)}"""


@dataclass(slots=True)
class _Ended:
    """A row that has just been ended."""

    id: int
    model: str
    token_name: str
    hold_nano: int
    windows: Windows
    accounts: list[Account]
    outcome: Outcome

    def account(self, of: AccountTable) -> Account | None:
        return next((account for account in self.accounts if account.of is of), None)


def finish(cursor: Cursor, usage_id: int, outcome: Outcome) -> Finished | None:
    """Settle or release an attempt or declare it lost; return None if the row was finished before.

    If the row was declared lost before, the difference is written as one `late` adjustment, which for a release is the
    whole charge.
    """
    return finish_all(cursor, [(usage_id, outcome)])[0]


def finish_all(cursor: Cursor, ends: list[tuple[int, Outcome]]) -> list[Finished | None]:
    """Do what `finish` does for many rows."""
    ended = _end_rows(cursor, dict(ends))
    after = _charge_accounts(cursor, list(ended.values()))
    _add_to_days(cursor, ended.values())
    for usage_id, outcome in ends:
        if usage_id in ended:
            if outcome.state == "LOST" or outcome.cost_source == "estimated":
                _note_what_came_before(cursor, usage_id)
        elif outcome.state != "LOST":
            what = "true cost" if outcome.state == "SETTLED" else "release"
            reason = f"The {what} arrived after the hold was declared lost: {outcome.error or outcome.cost_source}"
            correct_cost(
                cursor, usage_id, outcome.cost_nano, outcome.at, reason=reason, source=outcome.cost_source,
                only_lost=True,
            )  # fmt: skip
    return [Finished(_left_today(ended[usage_id], after)) if usage_id in ended else None for usage_id, _ in ends]


def _end_rows(cursor: Cursor, outcomes: dict[int, Outcome]) -> dict[int, _Ended]:
    ended = {}
    parameters: list[Any] = []
    for usage_id, outcome in outcomes.items():
        parameters += [usage_id, *_written(outcome)]
    cursor.execute(_finish_sql(len(outcomes), accounts.columns()), parameters)
    for usage_id, model, token_name, hold, day, month, *ids in cursor.fetchall():
        payers = accounts.of_row(ids)
        windows = Windows(as_date(day), as_date(month))
        ended[usage_id] = _Ended(usage_id, model, token_name, hold, windows, payers, outcomes[usage_id])
    return ended


def _counts(outcome: Outcome) -> tuple[int, int, int]:
    """Return 0 or 1 for each of the counters of requests sent, succeeded and failed."""
    sent = int(outcome.sent)
    return sent, int(outcome.success is True), int(outcome.success is False and outcome.sent)


def _charge_accounts(cursor: Cursor, ended: list[_Ended]) -> dict[tuple[Account, Windows], Standing]:
    """Give back the holds and charge the costs on every account; return each account's standing afterwards."""
    after: dict[tuple[Account, Windows], Standing] = {}
    for of in accounts.TABLES:
        charges: dict[tuple[Any, Windows], Charge] = defaultdict(Charge)
        newest: dict[tuple[Any, Windows], datetime] = {}
        for row in ended:
            account = row.account(of)
            if account is None:
                continue
            one, (sent, good, bad) = charges[account.id, row.windows], _counts(row.outcome)
            one.hold += row.hold_nano
            one.cost += row.outcome.cost_nano
            one.sent, one.good, one.bad = one.sent + sent, one.good + good, one.bad + bad
            newest[account.id, row.windows] = row.outcome.at
        for (account_id, windows), standing in accounts.charge(cursor, of, charges).items():
            account = Account(of, account_id)
            after[account, windows] = standing
            if cost := charges[account_id, windows].cost:
                note_limits(cursor, account, standing, cost, windows, newest[account_id, windows])
    return after


def _left_today(row: _Ended, after: dict[tuple[Account, Windows], Standing]) -> int | None:
    """Return what is left of the key's daily limit, or None if it has none."""
    key = row.account(accounts.KEYS)
    standing = after.get((key, row.windows)) if key is not None else None
    if standing is None or not standing.limits[DAY]:
        return None
    return max(0, standing.limits[DAY] - standing.spent[DAY] - standing.held)


@lru_cache(maxsize=64)
def _daily_sql(count: int, others: tuple[str, ...]) -> str:
    sums = ("requests", "successful", "failed", "input_tokens", "output_tokens", "cost_nano", *PARTS)
    names = ["day", "key_id", "model", "token_name", *others, *sums]
    row = f"({', '.join(['%s'] * len(names))})"
    group = ", ".join(["key_id", "day", "model", "token_name", *(f"COALESCE({column}, 0)" for column in others)])
    added = ", ".join(f"{name} = llmkeys_dailyusage.{name} + excluded.{name}" for name in sums)
    return f"""INSERT INTO llmkeys_dailyusage ({", ".join(names)}) VALUES {", ".join([row] * count)}
      ON CONFLICT ({group}) DO UPDATE SET {added}"""


def _add_to_days(cursor: Cursor, ended: Iterable[_Ended]) -> None:
    """Add the attempts to the daily totals, which have one row for each day, key, model and token."""
    others = [of for of in accounts.TABLES if of is not accounts.KEYS]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row in ended:
        outcome, (sent, good, bad) = row.outcome, _counts(row.outcome)
        key = row.account(accounts.KEYS)
        if not sent or key is None:
            continue
        ids = [account.id if (account := row.account(of)) else None for of in others]
        parts = parts_of(outcome.state, outcome.cost_source, outcome.cost_nano)
        amounts = [sent, good, bad, outcome.input_tokens or 0, outcome.output_tokens or 0, outcome.cost_nano, *parts]
        known = groups.setdefault((str(row.windows.day), key.id, row.model, row.token_name, *ids), [0] * len(amounts))
        known[:] = [have + more for have, more in zip(known, amounts, strict=True)]
    if groups:
        parameters = [value for group, amounts in groups.items() for value in (*group, *amounts)]
        cursor.execute(_daily_sql(len(groups), tuple(of.column for of in others)), parameters)


def _note_what_came_before(cursor: Cursor, usage_id: int) -> None:
    """Record which adjustments preceded this charge: resets that come later take it out of the budget with the rest."""
    cursor.execute(
        """UPDATE llmkeys_usagerecord SET charged_after = COALESCE((SELECT MAX(id) FROM llmkeys_adjustment), 0)
            WHERE id = %s""",
        [usage_id],
    )


# --- leases -----------------------------------------------------------------------------------------------------------


def renew_leases(cursor: Cursor, owner: str, at: datetime, *, but: Collection[int] = ()) -> int:
    """Extend the leases of all open holds of one process with one statement; return how many there are."""
    others = f"AND id NOT IN ({', '.join(str(int(usage_id)) for usage_id in but)})" if but else ""
    cursor.execute(
        f"UPDATE llmkeys_usagerecord SET lease_until = %s WHERE state = 'HELD' AND lease_owner = %s {others}",
        [instant(at + LEASE), owner],
    )
    return cursor.rowcount


@dataclass(frozen=True, slots=True)
class DeadRow:
    """An open hold that no process renews any more."""

    usage_id: int
    hold_nano: int
    payers: tuple[Account, ...]

    @property
    def accounts(self) -> list[tuple[str, Any]]:
        return [account.lock for account in self.payers]


def dead_rows(cursor: Cursor, leased_at: datetime, *, of: Account | None = None) -> list[DeadRow]:
    """Return the open holds whose lease has ended by the database's clock, oldest first.

    No lease may end more than 60 s from now: one that does, because the clock was set back, is shortened first.
    """
    latest = instant(leased_at + LEASE)
    cursor.execute(
        "UPDATE llmkeys_usagerecord SET lease_until = %s WHERE state = 'HELD' AND lease_until > %s", [latest, latest]
    )
    mine, params = (f"AND {of.of.column} = %s", [of.id]) if of else ("", [])
    columns = ", ".join(accounts.columns())
    cursor.execute(
        f"""SELECT id, hold_nano, {columns} FROM llmkeys_usagerecord
             WHERE state = 'HELD' AND lease_until <= %s {mine} ORDER BY id""",
        [instant(leased_at), *params],
    )
    return [DeadRow(usage_id, hold, tuple(accounts.of_row(ids))) for usage_id, hold, *ids in cursor.fetchall()]


def lose(cursor: Cursor, row: DeadRow, at: datetime) -> bool:
    """Declare a dead row lost, charged at the hold; return False if it was ended in the meantime."""
    error = (
        "The process that served this request died; the provider may have billed it. Charged at the hold; void it if "
        "the provider's own bill does not have it."
    )
    outcome = Outcome(state="LOST", at=at, success=False, cost_nano=row.hold_nano, cost_source="estimated", error=error)
    return finish(cursor, row.usage_id, outcome) is not None
