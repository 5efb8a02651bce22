"""The fields of accounts (keys, access tokens) as people and programs send them: read, or refused with a message.

The readers raise ValueError with a sentence for that person; `Checker` collects the sentences of all fields, and a form
shows them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode

from django import forms
from django.utils.dateparse import parse_datetime
from django.utils.functional import cached_property
from django.utils.text import capfirst
from django.utils.timezone import get_default_timezone, is_naive, make_aware

from llmkeys.exceptions import InvalidInput, LLMKeysError
from llmkeys.lib.money import nano_to_usd, parse_limit_usd
from llmkeys.lib.reading import whole_number
from llmkeys.lib.texts import name_problem
from llmkeys.models import Budgeted

# fields that may be written → columns
LIMITS = {
    "dailyLimit": "daily_limit_nano",
    "monthlyLimit": "monthly_limit_nano",
    "totalLimit": "total_limit_nano",
}
BUDGETS = LIMITS | {"budgetMode": "budget_mode"}
FIRST_YEAR, END_YEAR = 1970, 2200  # of times that are accepted; the end is exclusive
# fields that a GET shows of every account and a change ignores
READ_ONLY = frozenset(
    [
        "id",
        "status",
        "currentDailyCost",
        "currentMonthlyCost",
        "totalCost",
        "reservedCost",
        "remainingDailyBudget",
        "remainingMonthlyBudget",
        "remainingTotalBudget",
        "totalRequests",
        "successfulRequests",
        "failedRequests",
        "successRate",
        "createdAt",
        "lastUsed",
        "projectedMonthlyCost",
    ]
)


class Checker:
    """Collects the errors of all fields, so that a person sees all of them."""

    def __init__(self, values: Mapping[str, Any], *, allowed: Collection[str]):
        self.values = values
        self.columns: dict[str, Any] = {}
        self.errors: dict[str, list[str]] = {}
        for name in values:
            if name not in allowed:
                self.fault(name, "There is no such field.")

    def fault(self, name: str, text: str) -> None:
        self.errors.setdefault(name, []).append(text)

    def required(self, *names: str) -> None:
        for name in names:
            if name not in self.values:
                self.fault(name, "This field is required.")

    def take(self, name: str, read: Callable[[Any], Any], default: Any = None) -> Any:
        if name not in self.values:
            return default
        try:
            return read(self.values[name])
        except ValueError as error:
            self.fault(name, str(error))
            return default

    def take_columns(self, columns: Mapping[str, str], readers: Mapping[str, Callable[[Any], Any]]) -> None:
        """Read the given fields of `columns` (field → column)."""
        for name, column in columns.items():
            if name in self.values:
                self.columns[column] = self.take(name, readers[name])

    def finish(self) -> None:
        """Raise InvalidInput if there were errors."""
        if self.errors:
            raise InvalidInput(self.errors)


def read_name(value: Any) -> str:
    text = read_text(value, most=100)
    if problem := name_problem(text):
        raise ValueError(problem)
    return text


def read_text(value: Any, *, most: int) -> str:
    if not isinstance(value, str):
        raise ValueError("Must be a string.")
    value = value.strip()
    if len(value) > most:
        raise ValueError(f"May have at most {most} characters; it has {len(value)}.")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError("May not contain control characters.")
    return value


def read_boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("Must be true or false.")
    return value


def read_whole(value: Any, *, least: int, most: int, words: str) -> int:
    """Return a whole number, which in JSON may be written with a point: 256.0. Raises ValueError with `words`."""
    number = whole_number(value)
    if number is None or not least <= number <= most:
        raise ValueError(words)
    return number


def read_budget_mode(value: Any) -> str | None:
    """Return the budget mode of an account; None means the one of REFACTAI_BUDGET_MODE."""
    if value is not None and (not isinstance(value, str) or value not in Budgeted.BudgetMode.values):
        raise ValueError(f"Must be {' or '.join(Budgeted.BudgetMode.values)}, or null for the setting.")
    return value


BUDGET_READERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(LIMITS, parse_limit_usd),
    "budgetMode": read_budget_mode,
}


def expiry_reader(at: datetime, current: datetime | None, *, instead: str) -> Callable[[Any], datetime | None]:
    """Return the reader of an expiry date: in the future, or the stored one. `instead` says what else to do.

    A GET shows milliseconds at most, so a time it returned can be sent back unchanged.
    """

    def read(value: Any) -> datetime | None:
        if value in (None, ""):
            return None
        when = _in_milliseconds(value if isinstance(value, datetime) else parse_instant(value))
        if current is not None and when == _in_milliseconds(current):
            return current
        if when <= at:
            raise ValueError(f"The expiry is in the past. {instead}")
        return in_known_years(when)

    return read


def _in_milliseconds(when: datetime) -> datetime:
    return when.replace(microsecond=when.microsecond // 1000 * 1000)


def parse_instant(value: Any) -> datetime:
    """Read a date, or a date and time; by default midnight, in the operator's time zone."""
    try:
        when = parse_datetime(value) if isinstance(value, str) else None
    except ValueError:
        when = None
    if when is None:
        raise ValueError("Must be a date and time, such as 2027-01-31T00:00:00Z.")
    try:
        # Converted to UTC here, because in the year 9999 some times of other zones do not exist in UTC.
        return (make_aware(when, get_default_timezone()) if is_naive(when) else when).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("This date and time does not exist.") from None


def in_known_years(when: datetime) -> datetime:
    """Return the time, or raise ValueError if it is so far away that it can only be a mistake or mean "never".

    At the ends of the calendar a time does not exist in every zone. The end of the last day of 2199 is accepted.
    """
    first, end = (make_aware(datetime(year, 1, 1), get_default_timezone()) for year in (FIRST_YEAR, END_YEAR))
    if not first <= when <= end:
        raise ValueError(f"Must be in the years {FIRST_YEAR} to {END_YEAR - 1}; it is in the year {when.year}.")
    return when


# --- in forms --------------------------------------------------------------------------------------------------------


def shown_limits(account: Budgeted) -> dict[str, str]:
    """Return the limits as forms show them: USD without an exponent and without needless zeros."""
    return {name: f"{nano_to_usd(getattr(account, column)).normalize():f}" for name, column in LIMITS.items()}


class EditForm(forms.Form):
    """The form of a stored object. It sends back the values it showed, and only fields that differ count as edited.

    So a form that was left open does not undo other people's changes.
    """

    shown = forms.CharField(required=False, widget=forms.HiddenInput)

    def get_initial_for_field(self, field: forms.Field, field_name: str) -> Any:
        return self._untouched() if field_name == "shown" else super().get_initial_for_field(field, field_name)

    @cached_property
    def changed_data(self) -> list[str]:
        """The names of the edited fields; without the shown values, the form is compared with what is stored."""
        if not self.data.get("shown"):
            return [name for name in super().changed_data if name != "shown"]
        shown = parse_qs(self.data["shown"])
        return [name for name in self.fields if name != "shown" and _texts(self[name].data) != shown.get(name, [])]

    def _untouched(self) -> str:
        """Return the values that a browser sends if nothing is edited, as a query string."""
        values = {
            name: field.prepare_value(self.get_initial_for_field(field, name))
            for name, field in self.fields.items()
            if name != "shown"
        }
        return urlencode({name: _rendered(self.fields[name].widget, values[name]) for name in values}, doseq=True)


def _rendered(widget: forms.Widget, value: Any) -> list[str]:
    if isinstance(widget, forms.MultiWidget):
        parts = zip(widget.widgets, widget.decompress(value) or (), strict=False)
        return sorted(text for part, piece in parts for text in _rendered(part, piece))
    return _texts(value if isinstance(value, bool) else widget.format_value(value))


def _texts(value: Any) -> list[str]:
    """Return what a field holds as texts to compare; browsers send back different line breaks from those they got."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = (str(one).replace("\r\n", "\n").strip() for one in values if one not in (None, False))
    return sorted(filter(None, texts))


def show_refusal(
    form: forms.BaseForm, error: LLMKeysError, *, names: Mapping[str, str] | None = None, otherwise: str | None = None
) -> None:
    """Show a service's errors next to the form's fields, or at the top if they have none there.

    `names` maps the service's names to the form's where they differ; `otherwise` is the field for errors that concern
    no field.
    """
    if not isinstance(error, InvalidInput):
        form.add_error(otherwise, str(error))
        return
    for given, sentences in error.errors.items():
        name = (names or {}).get(given, given)
        for sentence in sentences:
            if name in form.fields:
                form.add_error(name, capfirst(sentence))
            else:
                form.add_error(None, f"{name}: {sentence}")
