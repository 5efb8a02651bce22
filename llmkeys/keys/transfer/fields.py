"""Converts one entry of the file to a key, or lists all that is wrong with it.

Which budgets the costs count in: the older product resets the daily cost at midnight and the monthly one on the 1st,
and records the time of the last change (`updatedAt`, and `lastUsed`). A key that was last changed before today has
spent nothing today, so its daily cost is not imported; the same goes for the month. If neither time is given, or it is
in the future, the costs count, because a budget that is too small is better than one that is too large. The total cost
always counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import partial
from typing import Any

from llmkeys.account_fields import LIMITS, Checker, in_known_years, parse_instant, read_boolean, read_whole
from llmkeys.exceptions import InvalidInput
from llmkeys.key_state import current_windows
from llmkeys.keys import fields
from llmkeys.keys.transfer.reading import Entry
from llmkeys.lib.money import MAX_LIMIT_USD, nano_to_usd, usd_to_nano

_BOTH_SPELLINGS = (("isActive", "active"), ("isDefault", "default"))
_COSTS = ("currentDailyCost", "currentMonthlyCost", "totalCost")
_COUNTERS = ("totalRequests", "successfulRequests", "failedRequests")
_INSTANTS = ("createdAt", "updatedAt", "lastUsed", "expiresAt", "rejectedAt")
_TEXTS = ("id", "status", "lastError", "createdBy", "source")
_CHECKED_AS_ANYWHERE = (
    "provider",
    "name",
    "description",
    "apiKey",
    "priority",
    "billingGroup",
    "workspaceId",
    "budgetMode",
)
_KNOWN = {
    *_COSTS, *LIMITS, *_COUNTERS, *_INSTANTS, *_TEXTS, *_CHECKED_AS_ANYWHERE, "enabled",
    *(name for names in _BOTH_SPELLINGS for name in names),
}  # fmt: skip
# Derived or momentary values: written to the file, but never read from it.
_DERIVED = {
    "maskedApiKey", "successRate", "remainingDailyBudget", "remainingMonthlyBudget", "remainingTotalBudget",
    "reservedCost", "coolingUntil", "projectedMonthlyCost",
}  # fmt: skip
_STATUSES = ("ACTIVE", "LIMIT_REACHED", "EXPIRED", "DISABLED")
_MOST_COST_USD = 10**9
_MOST_REQUESTS = 2**62
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(slots=True)
class FileKey:
    """A checked key of the file; money is in nano-dollars."""

    entry: Entry
    columns: dict[str, Any] = field(default_factory=dict)
    secret: str = field(default="", repr=False)
    id: str = ""
    is_default: bool = False
    from_environment: bool = False
    costs: tuple[int, int, int] = (0, 0, 0)  # those that count today, this month and in total
    created_by: str = ""


class _Reader(Checker):
    """Reads one entry; its faults and warnings name their lines, and a field that is not known is only warned of."""

    def __init__(self, entry: Entry, at: datetime):
        # A null field counts as missing, because the older product writes all fields.
        values = {name: value for name, value in entry.values.items() if value is not None}
        super().__init__(values, allowed=values)
        self.entry, self.at = entry, at
        self.warnings: list[str] = []
        for name in values:
            if name not in _KNOWN and name not in _DERIVED:
                self.warn(name, "this field is unknown and was ignored.")

    @property
    def faults(self) -> list[str]:
        return [f"{self._where(name)}: {words}" for name, texts in self.errors.items() for words in texts]

    def warn(self, name: str, words: str) -> None:
        self.warnings.append(f"{self._where(name)}: {words}")

    def _where(self, name: str) -> str:
        return f"Line {self.entry.line_of(name)}, {self.entry.title}, {name}"


def read_key(entry: Entry, *, at: datetime) -> tuple[FileKey, list[str], list[str]]:
    """Return the key with its errors and warnings; if there are errors it must not be used."""
    reader, key = _Reader(entry, at), FileKey(entry)
    key.id = reader.take("id", _identity, "")
    key.created_by = reader.take("createdBy", _text, "")
    key.from_environment = reader.take("source", _text, "") == "environment"
    if not key.from_environment:
        _read_as_anywhere(reader, key)
        _read_state(reader, key)
        _read_figures(reader, key)
    return key, reader.faults, reader.warnings


def _read_as_anywhere(reader: _Reader, key: FileKey) -> None:
    """Read the fields that are checked as when a person adds a key."""
    values = {name: reader.values[name] for name in _CHECKED_AS_ANYWHERE if name in reader.values}
    if isinstance(values.get("provider"), str):
        values["provider"] = values["provider"].strip().lower()
    limits = {name: reader.take(name, partial(_limit, reader, name), 0) for name in LIMITS if name in reader.values}
    values |= {name: nano_to_usd(nano) for name, nano in limits.items()}
    try:
        cleaned = fields.clean_new(values, at=reader.at)
    except InvalidInput as error:
        for name, texts in error.errors.items():
            for text in texts:
                reader.fault(name, _words_for_a_file(name, text, values))
        return
    key.secret = cleaned.pop("secret")
    cleaned.pop("is_default")
    key.columns.update(cleaned)


def _words_for_a_file(name: str, text: str, values: dict[str, Any]) -> str:
    if name == "apiKey" and name not in values:
        return "the secret is missing. Export again with --include-secrets, or remove this key from the file."
    return text


def _limit(reader: _Reader, name: str, value: Any) -> int:
    usd = _amount(value)
    if usd < 0:
        reader.warn(name, f"{usd:f} was read as 0, which means no limit, as in the older product.")
        return 0
    if usd > MAX_LIMIT_USD:
        raise ValueError(f"must be at most {MAX_LIMIT_USD:,} USD; 0 means no limit.")
    return usd_to_nano(usd, ROUND_HALF_EVEN)


# --- switched on, expired, default ------------------------------------------------------------------------------


def _read_state(reader: _Reader, key: FileKey) -> None:
    active, default = (_either(reader, *names) for names in _BOTH_SPELLINGS)
    status = reader.take("status", _status, "ACTIVE" if active in (True, None) else "DISABLED")
    # The older product disabled spent and expired keys; here that follows from costs and dates.
    on = active in (True, None) or status in ("LIMIT_REACHED", "EXPIRED")
    instants = {name: reader.take(name, _instant) for name in _INSTANTS}
    key.is_default = bool(default)
    key.columns |= {
        "enabled": reader.take("enabled", read_boolean, on),
        "rejected_at": instants["rejectedAt"],
        "expires_at": instants["expiresAt"],
        "last_used_at": instants["lastUsed"],
        "created_at": instants["createdAt"] or reader.at,
        "updated_at": instants["updatedAt"] or reader.at,
        "last_error": _last_error(reader, key),
    }


def _last_error(reader: _Reader, key: FileKey) -> str:
    words = reader.take("lastError", _text, "")
    return (words.replace(key.secret, "***") if key.secret else words)[:1000]


def _either(reader: _Reader, *names: str) -> bool | None:
    """Return the value under either spelling; a contradiction is an error."""
    found = {name: reader.take(name, read_boolean) for name in names if name in reader.values}
    if len(set(found.values())) > 1:
        reader.fault(names[0], f"it contradicts “{names[1]}”.")
    return next(iter(found.values()), None)


# --- costs and counters -------------------------------------------------------------------------------------------


def _read_figures(reader: _Reader, key: FileKey) -> None:
    day, month, total = (reader.take(name, _cost, 0) for name in _COSTS)
    changed = _last_change(reader)
    now = current_windows(reader.at)
    of = current_windows(changed) if changed else now
    key.costs = (day if of.day >= now.day else 0, month if of.month >= now.month else 0, total)
    counters = [reader.take(name, _count, 0) for name in _COUNTERS]
    key.columns |= dict(zip(("total_requests", "successful_requests", "failed_requests"), counters, strict=True))


def _last_change(reader: _Reader) -> datetime | None:
    """Return the latest time at which the costs may have changed; None if the file does not say."""
    known = []
    for name in ("updatedAt", "lastUsed"):
        try:
            known.append(_instant(reader.values.get(name)))
        except ValueError:
            continue  # reported already
    return max((instant for instant in known if instant), default=None)


def _amount(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number in USD, such as 10 or 2.50.")
    amount = Decimal(value)
    if not amount.is_finite() or amount.adjusted() > 30:
        raise ValueError("is not an amount of money.")
    return amount


def _cost(value: Any) -> int:
    usd = _amount(value)
    if not 0 <= usd <= _MOST_COST_USD:
        raise ValueError(f"must be between 0 and {_MOST_COST_USD:,} USD.")
    return usd_to_nano(usd, ROUND_HALF_EVEN)


def _count(value: Any) -> int:
    return read_whole(value, least=0, most=_MOST_REQUESTS, words="must be a whole number that is not negative.")


# --- small things ---------------------------------------------------------------------------------------------------


def _instant(value: Any) -> datetime | None:
    """Read a time: a string, or numbers from the year to the nanosecond, of which the last ones may be missing."""
    if value in (None, "", []):
        return None
    if isinstance(value, list):
        value = _from_numbers(value)
    return in_known_years(parse_instant(value))


def _from_numbers(numbers: list[Any]) -> str:
    if not 3 <= len(numbers) <= 7 or not all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        raise ValueError("must be a date and time: a string, or [year, month, day, hour, minute, second, nanosecond].")
    parts = [*numbers, 0, 0, 0, 0][:7]
    try:
        year, month, day, hour, minute, second, nanosecond = parts
        return datetime(year, month, day, hour, minute, second, nanosecond // 1000).isoformat()
    except (ValueError, OverflowError):
        raise ValueError(f"{numbers} is not a valid date and time.") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string.")
    return "".join(character if character.isprintable() else " " for character in value).strip()


def _status(value: Any) -> str:
    status = _text(value).upper()
    if status not in _STATUSES:
        raise ValueError(f"must be one of {', '.join(_STATUSES)}.")
    return status


def _identity(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError("must be a string of at most 40 letters, digits, - and _.")
    return value
