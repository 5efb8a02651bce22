"""Imports the keys of a file: all of them or none, in one transaction, each with one opening adjustment."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from django.db import connection, transaction
from django.db.models import Q

from llmkeys import ledger, providers
from llmkeys.database.sql import Cursor
from llmkeys.key_state import current_windows
from llmkeys.keys.default import ensure_default, give_default, lock_keys, standing_default
from llmkeys.keys.fields import default_limits
from llmkeys.keys.transfer.fields import FileKey, read_key
from llmkeys.keys.transfer.reading import BrokenFile, read_entries
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import DAY, MONTH, TOTAL, Windows
from llmkeys.models import ApiKey, new_key_id
from llmkeys.vault import keyring
from llmkeys.vault.crypto import mask

_MOST_FAULTS = 20
_COUNTERS = ("total_requests", "successful_requests", "failed_requests")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A key of the file that was not stored, and why."""

    number: int
    name: str
    reason: str


@dataclass(slots=True)
class Report:
    """What an import did, or would do."""

    imported: list[ApiKey] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def import_file(path: Path, *, at: datetime, actor: str = "", dry_run: bool = False) -> Report:
    """Import the keys of the file that are not stored yet, with their costs and counters; return what was done.

    One transaction, which a `dry_run` rolls back. Raises BrokenFile naming every error with its line, or
    WrongEncryptionKey if stored secrets cannot be decrypted; then nothing was changed.
    """
    keys, warnings = _read(path, at)
    report = Report(warnings=warnings)
    keyring.verify()
    with transaction.atomic():
        with connection.cursor() as cursor:
            new = [key for key in keys if _is_new(key, keys, report)]
            stored = [_store(cursor, key, at, actor, path.name, report) for key in new]
            _hand_default(cursor, list(zip(new, stored, strict=True)), at, actor, report)
        report.imported = list(
            ApiKey.objects.defer("secret").filter(pk__in=[key.pk for key in stored]).in_serving_order()
        )
        transaction.set_rollback(dry_run)
    return report


def _read(path: Path, at: datetime) -> tuple[list[FileKey], list[str]]:
    keys, faults, warnings = [], [], []
    for entry in read_entries(path):
        key, wrong, doubtful = read_key(entry, at=at)
        keys.append(key)
        faults += wrong
        warnings += doubtful
    if faults:
        more = [f"… and {len(faults) - _MOST_FAULTS} more."] if len(faults) > _MOST_FAULTS else []
        raise BrokenFile("\n".join(["Nothing was imported.", *faults[:_MOST_FAULTS], *more]))
    return keys, warnings


def _is_new(key: FileKey, all_keys: list[FileKey], report: Report) -> bool:
    """Return whether the key is to be stored; if not, add the reason to the report."""
    reason = _why_not(key, all_keys)
    if reason:
        report.skipped.append(Skipped(key.entry.number, str(key.entry.values.get("name") or ""), reason))
    return not reason


def _why_not(key: FileKey, all_keys: list[FileKey]) -> str:
    if key.from_environment:
        return "it is an environment key: set its variable, and it will be found at the next start"
    earlier = all_keys[: key.entry.number - 1]
    same = (key.columns["provider"], key.secret)
    twin = next((one for one in earlier if one.secret and (one.columns["provider"], one.secret) == same), None)
    if twin:
        return f"it has the same secret as {twin.entry.title} of the file"
    stored = keyring.twin_of(key.secret, provider=key.columns["provider"])
    return f"it is already stored as “{stored.name}”" if stored else ""


def _store(cursor: Cursor, key: FileKey, at: datetime, actor: str, file: str, report: Report) -> ApiKey:
    windows = current_windows(at)
    row = ApiKey(**default_limits() | key.columns, id=_free_id(key, report), day=windows.day, month=windows.month)
    row.secret = keyring.seal_one_of_many(key.secret, row_id=row.id)
    row.fingerprint = keyring.fingerprint(key.secret, provider=row.provider)
    row.masked_secret = mask(key.secret, providers.get(row.provider).secret_prefixes)
    _leave_out_what_is_counted(key, row, at, report)
    row.save(force_insert=True)
    _open_account(cursor, row, key.costs, windows, at, actor, file)
    by = f", where {key.created_by} had added it" if key.created_by else ""
    ledger.add_event(cursor, "added", row.id, f"“{row.name}” was imported from {file}{by}.", at, actor=actor)
    return row


def _leave_out_what_is_counted(key: FileKey, row: ApiKey, at: datetime, report: Report) -> None:
    """Subtract from the costs and counters what a deleted key with this secret already contributes to the sums."""
    same = Q(pk=key.id)
    if len(row.masked_secret) > len("***"):  # a mask that hides everything matches every short secret
        same |= Q(masked_secret=row.masked_secret)
    deleted = list(ApiKey.objects.defer("secret").filter(same, provider=row.provider, deleted_at__isnull=False))
    if not deleted:
        return
    windows = zip(*(one.budgets(at) for one in deleted), strict=True)
    counted = [sum(budget.spent for budget in budgets) for budgets in windows]
    key.costs = tuple(max(0, cost - already) for cost, already in zip(key.costs, counted, strict=True))
    for name in _COUNTERS:
        setattr(row, name, max(0, getattr(row, name) - sum(getattr(one, name) for one in deleted)))
    report.warnings.append(
        f"{key.entry.title}: it was stored here before and deleted. What it cost until then is in the sums already "
        "and is not counted again."
    )


def _free_id(key: FileKey, report: Report) -> str:
    """Return the id in the file if it is free, because programs may know it; otherwise a new one."""
    if key.id and not ApiKey.objects.filter(pk=key.id).exists():
        return key.id
    new = new_key_id()
    if key.id:
        report.warnings.append(f"{key.entry.title}: its id {key.id} is taken by another key; it was stored as {new}.")
    return new


def _open_account(
    cursor: Cursor, row: ApiKey, costs: tuple[int, int, int], windows: Windows, at: datetime, by: str, file: str
) -> None:
    """Write the opening adjustment for costs without usage rows; also if they are 0, because it marks an import."""
    day, month, total = (format_usd(cost) for cost in costs)
    reason = f"Costs imported from {file}: {day} today, {month} this month, {total} in total."
    amounts = dict(zip((DAY, MONTH, TOTAL), costs, strict=True))
    ledger.adjust(cursor, "opening", ledger.Account(ledger.KEYS, row.id), windows, amounts, at, by=by, reason=reason)


def _hand_default(
    cursor: Cursor, stored: list[tuple[FileKey, ApiKey]], at: datetime, actor: str, report: Report
) -> None:
    """Adopt the file's default key if it can serve and no stored key is the default yet."""
    lock_keys(cursor)
    marked = [row for key, row in stored if key.is_default]
    fit = [row for row in marked if not row.is_off and not row.is_expired(at)]
    present = standing_default(cursor)
    if present and marked:
        report.warnings.append(f"“{present}” remains the default key; in the file it was “{marked[0].name}”.")
    elif fit:
        give_default(cursor, fit[0].id, at, actor=actor)
        if len(marked) > 1:
            report.warnings.append(f"The file has {len(marked)} default keys; “{fit[0].name}” became the default.")
    elif marked:
        report.warnings.append(f"“{marked[0].name}” was the default key, but it is disabled or expired.")
    if stored and not fit:
        ensure_default(cursor, at)
    for _, row in stored:  # becoming the default is not a change of the key: `updated_at` from the file stays
        ApiKey.objects.filter(pk=row.pk).exclude(updated_at=row.updated_at).update(updated_at=row.updated_at)
