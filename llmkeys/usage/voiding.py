"""Voiding: the charge of a lost row is taken back by an adjustment that says who did it and why."""

from __future__ import annotations

from datetime import datetime

from django.db.backends.utils import CursorWrapper

from llmkeys import ledger
from llmkeys.database import writer
from llmkeys.exceptions import KeyConflict
from llmkeys.lib.money import format_usd


def void_usage(usage_id: int, *, at: datetime, actor: str, reason: str = "") -> int:
    """Take back the charge of a lost row, once; return the amount in nano-dollars.

    Raises KeyConflict if the row is not lost, or was voided before.
    """
    reason = reason or "The charge of a lost request was taken back."
    payers = ledger.payers_of(usage_id)
    key_id = next((account.key_id for account in payers if account.key_id), None)

    def work(cursor: CursorWrapper) -> tuple[int | None, str]:
        amount = ledger.void_lost(cursor, usage_id, at, by=actor, reason=reason)
        if amount:
            words = f"The charge of the lost usage row {usage_id} was taken back by {actor}: {format_usd(amount)}."
            ledger.add_event(cursor, "voided", key_id, words, at, actor=actor)
        return amount, "" if amount is not None else _state(cursor, usage_id)

    amount, state = writer.run_now(work, accounts=[account.lock for account in payers])
    if amount is not None:
        return amount
    if state == "LOST":
        raise KeyConflict("The charge of this usage row has already been taken back.")
    raise KeyConflict(f"Only the charge of a LOST usage row can be taken back; this one is {state or 'missing'}.")


def _state(cursor: CursorWrapper, usage_id: int) -> str:
    cursor.execute("SELECT state FROM llmkeys_usagerecord WHERE id = %s", [usage_id])
    row = cursor.fetchone()
    return row[0] if row else ""
