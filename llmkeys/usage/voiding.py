"""Voiding: the charge of a lost row is taken back by an adjustment that says who did it and why."""

from __future__ import annotations

from datetime import datetime

from django.db.backends.utils import CursorWrapper

from llmkeys import ledger
from llmkeys.database import writer
from llmkeys.exceptions import KeyConflict


def void_usage(usage_id: int, *, at: datetime, actor: str, reason: str = "") -> int:
    """Take back the charge of a lost row, once; return the amount in nano-dollars.

    Raises KeyConflict if the row is not lost, or was voided before.
    """
    reason = reason or "The charge of a lost request was taken back."

    def work(cursor: CursorWrapper) -> tuple[int | None, str]:
        amount = ledger.void_lost(cursor, usage_id, at, by=actor, reason=reason)
        return amount, "" if amount is not None else _state(cursor, usage_id)

    locks = [account.lock for account in ledger.payers_of(usage_id)]
    amount, state = writer.run_now(work, accounts=locks)
    if amount is not None:
        return amount
    if state == "LOST":
        raise KeyConflict("The charge of this usage row has already been taken back.")
    raise KeyConflict(f"Only the charge of a LOST usage row can be taken back; this one is {state or 'missing'}.")


def _state(cursor: CursorWrapper, usage_id: int) -> str:
    cursor.execute("SELECT state FROM llmkeys_usagerecord WHERE id = %s", [usage_id])
    row = cursor.fetchone()
    return row[0] if row else ""
