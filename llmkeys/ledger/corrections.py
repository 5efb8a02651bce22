"""What is charged or given back after an attempt has ended: signed adjustments, one per cause."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.backends.utils import CursorWrapper

from llmkeys.database.sql import as_date, instant
from llmkeys.ledger.events import tell_limits
from llmkeys.lib.windows import Windows

_TOLD_LATER = ("late", "reconcile")  # what a provider charges afterwards; it moves all three windows alike


def adjust(
    cursor: CursorWrapper,
    kind: str,
    key_id: str,
    windows: Windows,
    amounts: tuple[int, int, int],
    at: datetime,
    *,
    usage_id: int | None = None,
    by: str = "",
    reason: str = "",
) -> bool:
    """Write a signed adjustment (day, month, total) and move the counters alike; False where it was written before."""
    day, month = str(windows.day), str(windows.month)
    cursor.execute(
        """INSERT INTO llmkeys_adjustment
             (kind, key_id, usage_id, day_nano, month_nano, total_nano, day, month, created_at, created_by, reason)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        [kind, key_id, usage_id, *amounts, day, month, instant(at), by, reason[:500]],
    )
    if cursor.rowcount != 1:
        return False
    cursor.execute(
        """UPDATE llmkeys_apikey
              SET spent_day_nano = CASE WHEN day = %s THEN spent_day_nano + %s ELSE spent_day_nano END,
                  spent_month_nano = CASE WHEN month = %s THEN spent_month_nano + %s ELSE spent_month_nano END,
                  spent_total_nano = spent_total_nano + %s, refused_window = ''
            WHERE id = %s
        RETURNING day, month, spent_day_nano, spent_month_nano, spent_total_nano,
                  daily_limit_nano, monthly_limit_nano, total_limit_nano""",
        [day, amounts[0], month, amounts[1], amounts[2], key_id],
    )
    if kind in _TOLD_LATER and amounts[2] > 0:
        tell_limits(cursor, key_id, cursor.fetchone(), amounts[2], windows, at)
    return True


@dataclass(frozen=True, slots=True)
class _Charged:
    """A finished row and what it costs with all its adjustments."""

    state: str
    key_id: str
    windows: Windows
    nano: int


def correct_cost(
    cursor: CursorWrapper, usage_id: int, true_nano: int, at: datetime, *, reason: str, only_lost: bool = False
) -> int | None:
    """Charge what a row truly cost, whatever was charged so far; return the difference, None where it was done before.

    A lost row gets a `late` adjustment, a settled one `reconcile`; also of 0, so that nobody asks again.
    """
    row = _charged(cursor, usage_id)
    if row is None or (only_lost and row.state != "LOST"):
        return None
    kind, amount = "late" if row.state == "LOST" else "reconcile", true_nano - row.nano
    if not adjust(cursor, kind, row.key_id, row.windows, (amount,) * 3, at, usage_id=usage_id, reason=reason):
        return None
    _correct_daily(cursor, usage_id, amount)
    return amount


def void_lost(cursor: CursorWrapper, usage_id: int, at: datetime, *, by: str, reason: str) -> int | None:
    """Take back the charge of a lost row; return the amount, None where it is no lost row or was voided before."""
    row = _charged(cursor, usage_id)
    if row is None or row.state != "LOST":
        return None
    amount = row.nano
    if not adjust(cursor, "void", row.key_id, row.windows, (-amount,) * 3, at, usage_id=usage_id, by=by, reason=reason):
        return None
    _correct_daily(cursor, usage_id, -amount)
    return amount


def _charged(cursor: CursorWrapper, usage_id: int) -> _Charged | None:
    """Read what a settled or lost row costs by now, and keep others from correcting it until this transaction ends.

    The lock is an UPDATE that changes nothing: two corrections at once must see each other.
    """
    cursor.execute(
        """UPDATE llmkeys_usagerecord SET state = state WHERE id = %s AND state IN ('SETTLED', 'LOST')
           RETURNING state, key_id, day, month, cost_nano""",
        [usage_id],
    )
    row = cursor.fetchone()
    if row is None:
        return None
    cursor.execute("SELECT COALESCE(SUM(total_nano), 0) FROM llmkeys_adjustment WHERE usage_id = %s", [usage_id])
    return _Charged(row[0], row[1], Windows(as_date(row[2]), as_date(row[3])), row[4] + int(cursor.fetchone()[0]))


def _correct_daily(cursor: CursorWrapper, usage_id: int, amount: int) -> None:
    """Move the daily total of a row's group, for charts show the corrected spending."""
    cursor.execute(
        """UPDATE llmkeys_dailyusage SET cost_nano = cost_nano + %s
            WHERE EXISTS (SELECT 1 FROM llmkeys_usagerecord u WHERE u.id = %s AND u.key_id = llmkeys_dailyusage.key_id
              AND u.day = llmkeys_dailyusage.day AND u.model = llmkeys_dailyusage.model
              AND u.token_name = llmkeys_dailyusage.token_name)""",
        [amount, usage_id],
    )
