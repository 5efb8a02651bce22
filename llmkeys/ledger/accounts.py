"""Accounts: the tables of what has budgets (keys, access tokens), and the SQL that reads and updates them.

The SQL is built from `WINDOWS` and a table's name, so that another window or another table of accounts needs no new
SQL. Several accounts of a table are handled by one statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from django.conf import settings

from llmkeys.database.sql import Cursor, as_date, cast, instant
from llmkeys.database.writer import require_declared
from llmkeys.lib.windows import WINDOWS, Windows

ENDING = tuple(window for window in WINDOWS if window.ends)


@dataclass(frozen=True)
class AccountTable:
    """A table of accounts, and the column by which rows, daily totals, adjustments and events point at it."""

    table: str
    column: str
    unusable: str  # SQL: why it accepts no hold, apart from budgets, else ''; `%s` is the current time
    is_paced: bool = False  # has a column `requests_per_minute`


KEYS = AccountTable(
    "llmkeys_apikey",
    "key_id",
    """CASE WHEN NOT enabled OR secret_missing OR deleted_at IS NOT NULL THEN 'disabled'
       WHEN rejected_at IS NOT NULL THEN 'rejected by its provider' WHEN expires_at <= %s THEN 'expired' ELSE '' END""",
)
TOKENS = AccountTable(
    "llmkeys_accesstoken",
    "token_id",
    """CASE WHEN revoked_at IS NOT NULL THEN 'the access token was revoked'
       WHEN expires_at <= %s THEN 'the access token expired' ELSE '' END""",
    is_paced=True,
)
# In the order in which they are checked: a request that its token does not allow is refused for that reason, whatever
# its keys lack.
TABLES = [TOKENS, KEYS]


class Account(NamedTuple):
    """A row of an account table."""

    of: AccountTable
    id: Any

    @property
    def lock(self) -> tuple[str, Any]:
        """What the writer locks for this account."""
        return self.of.table, self.id

    @property
    def key_id(self) -> str | None:
        """The id with which an event refers to a key; None for other accounts."""
        return self.id if self.of is KEYS else None

    @property
    def token_id(self) -> int | None:
        """The id with which an event refers to an access token; None for other accounts."""
        return self.id if self.of is TOKENS else None


def columns() -> tuple[str, ...]:
    """Return the columns by which a row names the accounts that pay for it."""
    return tuple(of.column for of in TABLES)


def of_row(ids: Iterable[Any]) -> list[Account]:
    """Return the accounts that a row names, from its values of `columns()`."""
    return [Account(of, one) for of, one in zip(TABLES, ids, strict=True) if one is not None]


@dataclass(frozen=True, slots=True)
class Standing:
    """What an account has spent and may spend, in nano-dollars, keyed by the names of `WINDOWS`."""

    id: Any
    name: str
    is_soft: bool  # whatever is left is enough, and open holds do not count
    windows: Windows
    held: int
    spent: dict[str, int]
    limits: dict[str, int]

    def spent_in(self, windows: Windows) -> dict[str, int]:
        """Return what is spent in each of the current `windows`: 0 if the stored one has ended."""
        return {
            window.name: 0
            if window.ends and getattr(self.windows, window.name) < getattr(windows, window.name)
            else self.spent[window.name]
            for window in WINDOWS
        }


_STANDING = ", ".join(
    ["id", "name", "budget_mode", "day", "month", "held_nano", *(w.spent for w in WINDOWS), *(w.limit for w in WINDOWS)]
)


def _standing(row: Sequence[Any]) -> Standing:
    account_id, name, mode, day, month, held, *amounts = row
    count = len(WINDOWS)
    return Standing(
        account_id,
        name,
        (mode or settings.BUDGET_MODE) == "soft",
        Windows(as_date(day), as_date(month)),
        held,
        {window.name: spent for window, spent in zip(WINDOWS, amounts[:count], strict=True)},
        {window.name: limit for window, limit in zip(WINDOWS, amounts[count:], strict=True)},
    )


@lru_cache(maxsize=256)
def values(rows: int, columns: int) -> str:
    row = f"({', '.join(['%s'] * columns)})"
    return f"(VALUES {', '.join([row] * rows)}) AS v"


# --- holding ----------------------------------------------------------------------------------------------------------


# The current minute, or the next one, which a process whose clock is slightly ahead has opened.
_THIS_MINUTE = "minute BETWEEN %s AND %s + 1"
_COUNTED = "CASE WHEN requests_per_minute = 0 THEN 0 ELSE {} END"  # nothing is counted without a limit


@lru_cache(maxsize=256)
def _hold(of: AccountTable, count: int, tracked: bool) -> str:
    asked = """CASE WHEN COALESCE(budget_mode, %s) <> 'soft' THEN held_nano + v.column2
            WHEN v.column2 > 0 THEN 1 ELSE 0 END"""
    room = "".join(f" AND ({w.limit} = 0 OR {w.spent} + {asked} <= {w.limit})" for w in WINDOWS)
    pace = f""" AND (requests_per_minute = 0 OR v.column3 = 0
            OR ({_THIS_MINUTE} AND minute_requests + v.column3 <= requests_per_minute))"""
    return f"""UPDATE {of.table} SET held_nano = held_nano + v.column2, refused_window = '', last_used_at = %s
           {f", minute_requests = minute_requests + {_COUNTED.format('v.column3')}" if of.is_paced else ""}
      FROM {values(count, 3)}
     WHERE {of.table}.id = v.column1 AND day = %s AND month = %s AND {of.unusable} = ''
           {pace if of.is_paced else ""}{room if tracked else ""}
    RETURNING {of.table}.id"""


@dataclass(slots=True)
class Amount:
    """An amount to hold on an account, in nano-dollars, and the number of requests for which this is the first hold."""

    nano: int = 0
    requests: int = 0


def hold(cursor: Cursor, of: AccountTable, amounts: Mapping[Any, Amount], windows: Windows, at: datetime) -> set[Any]:
    """Hold an amount on each account that is usable, has these windows open and has room and pace.

    Returns the ids of the accounts on which the amount is now held.
    """
    if not amounts:
        return set()
    tracked, now = settings.COST_TRACKING, instant(at)
    modes = [settings.BUDGET_MODE] * len(WINDOWS) if tracked else []
    minute = [minute_of(at)] * 2 if of.is_paced else []
    require_declared((of.table, account_id) for account_id in amounts)
    rows = [value for account_id, amount in amounts.items() for value in (account_id, amount.nano, amount.requests)]
    parameters = [now, *rows, str(windows.day), str(windows.month), now, *minute, *modes]
    cursor.execute(_hold(of, len(amounts), tracked), parameters)
    return {row[0] for row in cursor.fetchall()}


def give_back(cursor: Cursor, account: Account, nano: int, *, requests: int = 0) -> None:
    """Give back a hold because another account of the same request has no room, or the part that is not needed."""
    counted = f", minute_requests = minute_requests - {_COUNTED.format('%s')}" if requests else ""
    cursor.execute(
        f"UPDATE {account.of.table} SET held_nano = held_nano - %s{counted} WHERE id = %s",
        [nano, *([requests] if requests else []), account.id],
    )


def why_unusable(cursor: Cursor, account: Account, at: datetime) -> str:
    """Return why the account accepts no hold at all, or an empty string."""
    cursor.execute(
        f"SELECT {account.of.unusable} FROM {account.of.table} WHERE id = %s",
        [instant(at), account.id],
    )
    row = cursor.fetchone()
    return "disabled" if row is None else row[0]


def remember_refusal(
    cursor: Cursor, account: Account, window: str, day: date, *, need_nano: int, room_nano: int
) -> bool:
    """Record that a request found no room, which the status depends on; return False if it was recorded before."""
    cursor.execute(
        f"""UPDATE {account.of.table} SET refused_window = %s, refused_day = %s, refused_need_nano = %s,
              refused_room_nano = %s WHERE id = %s AND (refused_window <> %s OR refused_day <> %s)""",
        [window, str(day), need_nano, room_nano, account.id, window, str(day)],
    )
    return cursor.rowcount == 1


def standing(cursor: Cursor, account: Account) -> Standing | None:
    cursor.execute(f"SELECT {_STANDING} FROM {account.of.table} WHERE id = %s", [account.id])
    row = cursor.fetchone()
    return None if row is None else _standing(row)


def lock(cursor: Cursor, account: Account) -> Standing | None:
    """Read an account and keep it from being changed by others until this transaction ends.

    It is an UPDATE that changes nothing, because SQLite has no SELECT … FOR UPDATE.
    """
    cursor.execute(
        f"UPDATE {account.of.table} SET held_nano = held_nano WHERE id = %s RETURNING {_STANDING}",
        [account.id],
    )
    row = cursor.fetchone()
    return None if row is None else _standing(row)


# --- windows ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _recorded(of: AccountTable, window: str) -> str:
    """Return SQL for what a window has cost so far: its daily totals, and what other adjustments added to the budget.

    Nearly always 0 for a new window, but not if a clock ran far ahead and was set back.
    """
    return f"""(SELECT COALESCE(SUM(d.cost_nano), 0) FROM llmkeys_dailyusage d
        WHERE d.{of.column} = {of.table}.id AND d.day >= %s AND d.day < %s)
      + (SELECT COALESCE(SUM(a.{window}_nano - a.cost_nano), 0) FROM llmkeys_adjustment a
        WHERE a.{of.column} = {of.table}.id AND a.{window} = %s)"""


def roll(cursor: Cursor, account: Account, windows: Windows, *, back: bool = False) -> None:
    """Open `windows` if the stored ones have ended, with the costs recorded for them.

    With `back`, stored windows that are later than `windows` are replaced too.
    """
    next_month = (windows.month + timedelta(days=32)).replace(day=1)
    ends = {"day": windows.day + timedelta(days=1), "month": next_month}
    for window in ENDING:
        first: date = getattr(windows, window.name)
        cursor.execute(
            f"""UPDATE {account.of.table} SET {window.name} = %s, {window.spent} = {_recorded(account.of, window.name)}
                 WHERE id = %s AND {window.name} {"<>" if back else "<"} %s""",
            [str(first), str(first), str(ends[window.name]), str(first), account.id, str(first)],
        )


def open_windows(cursor: Cursor, account_list: Sequence[Account], windows: Windows) -> Windows | None:
    """Open the same windows on all these accounts and return them; None if nothing had to be changed.

    A stored window that is at most a day ahead of our clock is charged. One that is further ahead was opened by a wrong
    clock; it is replaced, or else the account would be stuck in the future.
    """
    found = [standing(cursor, account) for account in account_list]
    stored = {account: one.windows for account, one in zip(account_list, found, strict=True) if one is not None}
    chosen = windows
    for theirs in stored.values():
        if _is_later(theirs, chosen) and theirs.day - windows.day <= timedelta(days=1):
            chosen = theirs
    for account, theirs in stored.items():
        if theirs != chosen:
            roll(cursor, account, chosen, back=_is_later(theirs, chosen))
    return None if set(stored.values()) <= {windows} else chosen


def _is_later(one: Windows, other: Windows) -> bool:
    return one.day > other.day or one.month > other.month


# --- requests per minute ----------------------------------------------------------------------------------------------


def minute_of(at: datetime) -> int:
    """Return the calendar minute of a time, in minutes since 1970."""
    return int(at.timestamp() // 60)


def open_minute(cursor: Cursor, account: Account, at: datetime) -> bool:
    """Start counting the current minute if the account counts another one; return False if nothing had to be done.

    The count starts from the usage rows, so that a minute that was already counted is not granted a second time.
    """
    minute = minute_of(at)
    begins = datetime.fromtimestamp(minute * 60, UTC)
    cursor.execute(
        f"""UPDATE {account.of.table} SET minute = %s, minute_requests = (
              SELECT COUNT(*) FROM llmkeys_usagerecord u WHERE u.{account.of.column} = {account.of.table}.id
                 AND u.attempt = 1 AND u.created_at >= %s AND u.created_at < %s)
             WHERE id = %s AND requests_per_minute > 0 AND NOT ({_THIS_MINUTE})""",
        [minute, instant(begins), instant(begins + timedelta(minutes=1)), account.id, minute, minute],
    )
    return cursor.rowcount == 1


@dataclass(frozen=True, slots=True)
class Pace:
    """How many requests an account may send per minute, and when the minute that is used up ends."""

    requests_per_minute: int
    ends_at: datetime


def used_up_pace(cursor: Cursor, account: Account) -> Pace | None:
    """Return the pace of an account that has no request left in its minute; None if it has some left."""
    cursor.execute(
        f"""SELECT requests_per_minute, minute FROM {account.of.table}
             WHERE id = %s AND requests_per_minute > 0 AND minute_requests >= requests_per_minute""",
        [account.id],
    )
    row = cursor.fetchone()
    return None if row is None else Pace(row[0], datetime.fromtimestamp((row[1] + 1) * 60, UTC))


# --- charging ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Charge:
    """The sum of what the finished attempts of an account and a day release, cost and count."""

    hold: int = 0
    cost: int = 0
    sent: int = 0
    good: int = 0
    bad: int = 0


@lru_cache(maxsize=256)
def _charge(of: AccountTable, count: int) -> str:
    cost, after_it = "v.column3", 7  # id, hold, cost, sent, good, bad, then the first day of each window that ends
    spent = [
        f"{w.spent} = {w.spent} + CASE WHEN {w.name} = {cast(f'v.column{n}', 'date')} THEN {cost} ELSE 0 END"
        for n, w in enumerate(ENDING, after_it)
    ]
    spent += [f"{w.spent} = {w.spent} + {cost}" for w in WINDOWS if not w.ends]
    return f"""UPDATE {of.table} SET held_nano = held_nano - v.column2, {", ".join(spent)},
           total_requests = total_requests + v.column4, successful_requests = successful_requests + v.column5,
           failed_requests = failed_requests + v.column6
      FROM {values(count, after_it - 1 + len(ENDING))} WHERE {of.table}.id = v.column1 RETURNING {_STANDING}"""


def charge(
    cursor: Cursor, of: AccountTable, charges: Mapping[tuple[Any, Windows], Charge]
) -> dict[tuple[Any, Windows], Standing]:
    """Give back what was held and charge what it cost; return each account's standing afterwards.

    A cost counts in a window only if that window is still the stored one.
    """
    require_declared((of.table, account_id) for account_id, _ in charges)
    after: dict[tuple[Any, Windows], Standing] = {}
    left = sorted(charges.items(), key=lambda item: (item[0][0], item[0][1].day))
    while left:  # an UPDATE matches each account once, so a second day of the same one needs another round
        now: dict[Any, tuple[Windows, Charge]] = {}
        later = []
        for (account_id, windows), one in left:
            if account_id in now:
                later.append(((account_id, windows), one))
            else:
                now[account_id] = windows, one
        parameters: list[Any] = []
        for account_id, (windows, one) in now.items():
            parameters += (account_id, one.hold, one.cost, one.sent, one.good, one.bad)
            parameters += (str(getattr(windows, window.name)) for window in ENDING)
        cursor.execute(_charge(of, len(now)), parameters)
        for row in cursor.fetchall():
            after[row[0], now[row[0]][0]] = _standing(row)
        left = later
    return after


@lru_cache(maxsize=16)
def _move(of: AccountTable) -> str:
    spent = ", ".join(
        f"{w.spent} = {w.spent} + CASE WHEN {w.name} = %s THEN %s ELSE 0 END"
        if w.ends
        else f"{w.spent} = {w.spent} + %s"
        for w in WINDOWS
    )
    return f"UPDATE {of.table} SET {spent}, refused_window = '' WHERE id = %s RETURNING {_STANDING}"


def move(cursor: Cursor, account: Account, windows: Windows, amounts: Mapping[str, int]) -> Standing | None:
    """Add an amount to what is spent in each window that is still the stored one."""
    parameters: list[Any] = []
    for window in WINDOWS:
        parameters += [str(getattr(windows, window.name))] if window.ends else []
        parameters.append(amounts[window.name])
    require_declared([account.lock])
    cursor.execute(_move(account.of), [*parameters, account.id])
    row = cursor.fetchone()
    return None if row is None else _standing(row)
