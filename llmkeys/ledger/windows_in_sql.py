"""Day and month windows of a key: opened with the costs recorded for them, never by a job."""

from __future__ import annotations

from datetime import timedelta

from django.db.backends.utils import CursorWrapper

from llmkeys.lib.windows import DAY, MONTH, Windows

# What is recorded for a window already: daily totals, which hold the rows and their corrections, and the adjustments
# that belong to no row. Nearly always 0 for a window that begins; not where a clock ran far ahead and came back.
_RECORDED = """(SELECT COALESCE(SUM(d.cost_nano), 0) FROM llmkeys_dailyusage d
                 WHERE d.key_id = llmkeys_apikey.id AND d.day >= %s AND d.day < %s)
             + (SELECT COALESCE(SUM(a.{window}_nano), 0) FROM llmkeys_adjustment a
                 WHERE a.key_id = llmkeys_apikey.id AND a.{window} = %s AND a.usage_id IS NULL)"""

RECORDED_DAY, RECORDED_MONTH = _RECORDED.format(window=DAY), _RECORDED.format(window=MONTH)


def recorded_params(windows: Windows) -> tuple[list[str], list[str]]:
    """Return the parameters of `RECORDED_DAY` and `RECORDED_MONTH`: first day, end, window."""
    day, month = str(windows.day), str(windows.month)
    next_month = (windows.month + timedelta(days=32)).replace(day=1)
    return [day, str(windows.day + timedelta(days=1)), day], [month, str(next_month), month]


def rebase(cursor: CursorWrapper, key_id: str, windows: Windows) -> None:
    """Put a key whose stored windows lie in the future back to `windows`, with the costs recorded for those."""
    in_day, in_month = recorded_params(windows)
    cursor.execute(
        f"""UPDATE llmkeys_apikey SET day = %s, month = %s, spent_day_nano = {RECORDED_DAY},
              spent_month_nano = {RECORDED_MONTH} WHERE id = %s""",  # noqa: S608
        [str(windows.day), str(windows.month), *in_day, *in_month, key_id],
    )


def roll(cursor: CursorWrapper, key_id: str, windows: Windows) -> None:
    """Open `windows` where the stored ones have ended, as a hold does; nothing where a request was faster."""
    day, month = str(windows.day), str(windows.month)
    in_day, in_month = recorded_params(windows)
    cursor.execute(
        f"UPDATE llmkeys_apikey SET day = %s, spent_day_nano = {RECORDED_DAY} WHERE id = %s AND day < %s",  # noqa: S608
        [day, *in_day, key_id, day],
    )
    cursor.execute(
        f"UPDATE llmkeys_apikey SET month = %s, spent_month_nano = {RECORDED_MONTH} WHERE id = %s AND month < %s",  # noqa: S608
        [month, *in_month, key_id, month],
    )
