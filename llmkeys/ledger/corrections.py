"""What is charged or credited after an attempt has ended: signed adjustments, one per cause and account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from llmkeys.database.sql import Cursor, as_date, instant
from llmkeys.ledger import accounts
from llmkeys.ledger.accounts import KEYS, Account
from llmkeys.ledger.events import note_limits
from llmkeys.ledger.records import GUESSES, parts_of
from llmkeys.lib.windows import WINDOWS, Windows
from llmkeys.models import UsageRecord

REPORTED_LATER = ("late", "reconcile")  # costs that a provider reports after the attempt has ended

# The cost of a row `u` with its corrections, and its parts as in `records.parts_of`. A late or reconciled
# cost counts as its own source says; a row has at most one such correction.
_OF_ROW = "FROM llmkeys_adjustment a WHERE a.usage_id = u.id AND a.key_id IS NOT NULL"
_LATER_SOURCE = f"(SELECT MAX(a.cost_source) {_OF_ROW} AND a.kind IN {REPORTED_LATER})"  # NULL: no such correction
_GUESSED = f"IN {GUESSES}"
COST_OF_ROW = f"(u.cost_nano + COALESCE((SELECT SUM(a.cost_nano) {_OF_ROW}), 0))"
_SOURCE = f"COALESCE({_LATER_SOURCE}, CASE u.state WHEN 'LOST' THEN '' ELSE u.cost_source END)"
ESTIMATED_OF_ROW = f"CASE WHEN {_SOURCE} {_GUESSED} THEN {COST_OF_ROW} ELSE 0 END"
LOST_OF_ROW = f"CASE WHEN u.state = 'LOST' AND {_LATER_SOURCE} IS NULL THEN {COST_OF_ROW} ELSE 0 END"
# The same before any correction, for queries over all rows, of which few have one.
FIRST_ESTIMATED = f"CASE WHEN u.state = 'SETTLED' AND u.cost_source {_GUESSED} THEN u.cost_nano ELSE 0 END"
FIRST_LOST = "CASE WHEN u.state = 'LOST' THEN u.cost_nano ELSE 0 END"


def adjust(
    cursor: Cursor,
    kind: str,
    account: Account,
    windows: Windows,
    amounts: Mapping[str, int],
    at: datetime,
    *,
    usage_id: int | None = None,
    cost_nano: int = 0,
    source: str = "",
    by: str = "",
    reason: str = "",
) -> bool:
    """Write a signed adjustment, with an amount for each of `WINDOWS`, and change what is spent by the same amounts.

    `cost_nano` is the correction of the row's own cost, `source` how it is known. Returns False if the same adjustment
    was written before.
    """
    names = ", ".join(window.amount for window in WINDOWS)
    marks = ", ".join(["%s"] * len(WINDOWS))
    cursor.execute(
        f"""INSERT INTO llmkeys_adjustment
             (kind, {account.of.column}, usage_id, cost_nano, cost_source, {names}, day, month, created_at, created_by,
              reason)
           VALUES (%s, %s, %s, %s, %s, {marks}, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        [
            kind, account.id, usage_id, cost_nano, source, *(amounts[window.name] for window in WINDOWS),
            str(windows.day), str(windows.month), instant(at), by, reason[:500],
        ],
    )  # fmt: skip
    if cursor.rowcount != 1:
        return False
    after = accounts.move(cursor, account, windows, amounts)
    if after is not None and kind in REPORTED_LATER and cost_nano > 0:
        note_limits(cursor, account, after, cost_nano, windows, at)
    return True


@dataclass(frozen=True, slots=True)
class _Charged:
    """A finished row, the accounts that it was charged to, and what it costs with all its corrections."""

    id: int
    state: str
    payers: list[Account]
    windows: Windows
    model: str
    token_name: str
    charged_nano: int
    cost_nano: int
    source: str  # how the cost is known
    known_as: str  # the state, or SETTLED if the cost of a lost row was reported later
    charged_after: int


def correct_cost(
    cursor: Cursor,
    usage_id: int,
    true_nano: int,
    at: datetime,
    *,
    reason: str,
    source: str = "provider",
    only_lost: bool = False,
) -> int | None:
    """Charge what a row really cost, whatever was charged so far; return the difference, or None if it was done before.

    A lost row gets a `late` adjustment, a settled one `reconcile`, even of 0, so that its cost is not asked for again.
    """
    row = _charged(cursor, usage_id)
    if row is None or (only_lost and row.state != "LOST"):
        return None
    kind = "late" if row.state == "LOST" else "reconcile"
    return _correct(cursor, kind, row, true_nano - row.cost_nano, at, source=source, reason=reason)


def void_lost(cursor: Cursor, usage_id: int, at: datetime, *, by: str, reason: str) -> int | None:
    """Take back the charge of a lost row; return the amount, or None if the row is not lost or was voided before."""
    row = _charged(cursor, usage_id)
    if row is None or row.state != "LOST":
        return None
    done = _correct(cursor, "void", row, -row.cost_nano, at, by=by, reason=reason)
    return None if done is None else -done


def _correct(
    cursor: Cursor,
    kind: str,
    row: _Charged,
    difference: int,
    at: datetime,
    *,
    source: str = "",
    by: str = "",
    reason: str,
) -> int | None:
    """Adjust every account of the row and the daily total of its group; return None if that was done before."""
    for account in row.payers:
        amounts = {window.name: difference for window in WINDOWS}
        if difference < 0:
            left = _left_to_give_back(cursor, account, row)
            amounts = {name: max(amount, -max(0, left[name])) for name, amount in amounts.items()}
        done = adjust(
            cursor, kind, account, row.windows, amounts, at, usage_id=row.id, cost_nano=difference, source=source,
            by=by, reason=reason,
        )  # fmt: skip
        if account.of is KEYS and not done:
            return None
    was = parts_of(row.known_as, row.source, row.cost_nano)
    known_as, source = ("SETTLED", source) if kind in REPORTED_LATER else (row.known_as, row.source)
    now = parts_of(known_as, source, row.cost_nano + difference)
    moved = [after - before for before, after in zip(was, now, strict=True)]
    _correct_daily(cursor, row, difference, *moved)
    return difference


def _left_to_give_back(cursor: Cursor, account: Account, row: _Charged) -> dict[str, int]:
    """Return how much of the row's cost the account's spending still contains, for each window, after any resets."""
    left = {}
    for window in WINDOWS:
        same, params = ("", [])
        if window.ends:
            same, params = f"AND {window.name} = %s", [str(getattr(row.windows, window.name))]
        cursor.execute(
            f"""SELECT reset, (SELECT COALESCE(SUM({window.amount}), 0) FROM llmkeys_adjustment
                                WHERE usage_id = %s AND {account.of.column} = %s AND id > reset)
                  FROM (SELECT COALESCE(MAX(id), 0) AS reset FROM llmkeys_adjustment
                         WHERE {account.of.column} = %s AND kind = 'reset' AND {window.amount} <> 0 {same}) AS last""",
            [row.id, account.id, account.id, *params],
        )
        reset, corrected = cursor.fetchone()
        left[window.name] = int(corrected) + (row.charged_nano if reset <= row.charged_after else 0)
    return left


def payers_of(usage_id: int) -> list[Account]:
    """Return the accounts that a row was charged to, which never change; a job that corrects the row declares them."""
    ids = UsageRecord.objects.filter(pk=usage_id).values_list(*accounts.columns()).first()
    return [] if ids is None else accounts.of_row(ids)


def _charged(cursor: Cursor, usage_id: int) -> _Charged | None:
    """Read what a settled or lost row costs so far, and keep others from correcting it until this transaction ends.

    The lock is an UPDATE that changes nothing: of two concurrent corrections, the second must see the first.
    """
    columns = ", ".join(accounts.columns())
    cursor.execute(
        f"""UPDATE llmkeys_usagerecord SET state = state WHERE id = %s AND state IN ('SETTLED', 'LOST')
           RETURNING state, day, month, model, token_name, cost_nano, cost_source, charged_after, {columns}""",
        [usage_id],
    )
    row = cursor.fetchone()
    if row is None:
        return None
    state, day, month, model, token_name, charged, source, charged_after, *ids = row
    payers = accounts.of_row(ids)
    cursor.execute(
        "SELECT kind, cost_nano, cost_source FROM llmkeys_adjustment WHERE usage_id = %s AND key_id IS NOT NULL",
        [usage_id],
    )
    cost, known_as = charged, state
    for kind, amount, its_source in cursor.fetchall():
        cost += amount
        if kind in REPORTED_LATER:
            known_as, source = "SETTLED", its_source
    windows = Windows(as_date(day), as_date(month))
    return _Charged(
        usage_id, state, payers, windows, model, token_name, charged, cost, source, known_as, charged_after or 0
    )


def _correct_daily(cursor: Cursor, row: _Charged, cost: int, estimated: int, lost: int) -> None:
    """Change the daily total of a row's group and its parts, because charts show the corrected spending."""
    paid = {account.of: account.id for account in row.payers}
    others = [of for of in accounts.TABLES if of is not KEYS]
    # The columns of the unique index and in its form: others wait while this runs, and there are years of totals.
    same = "".join(f" AND COALESCE({of.column}, 0) = %s" for of in others)
    cursor.execute(
        f"""UPDATE llmkeys_dailyusage SET cost_nano = cost_nano + %s, estimated_nano = estimated_nano + %s,
                  lost_nano = lost_nano + %s
            WHERE key_id = %s AND day = %s AND model = %s AND token_name = %s{same}""",
        [
            cost, estimated, lost, paid.get(KEYS), str(row.windows.day), row.model, row.token_name,
            *(paid.get(of, 0) for of in others),
        ],
    )  # fmt: skip
