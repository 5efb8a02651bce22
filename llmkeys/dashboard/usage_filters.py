"""What a person asked the usage page for: a stretch of days and filters, with the links that change one of them.

Names and meaning are those of `GET /api/llm/usage`; a day given as `until` counts as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings

from llmkeys.key_state import current_windows
from llmkeys.lib.windows import day_end, day_start
from llmkeys.models import ProviderName, UsageRecord
from llmkeys.usage.sums import Wanted

RANGES = {"today": "Today", "7": "7 days", "30": "30 days", "90": "90 days", "month": "This month"}
DEFAULT_RANGE = "30"
STATES = {state: state.capitalize() for state in UsageRecord.State.values}
RESULTS = {"true": "Succeeded", "false": "Failed"}
STACKS = {"model": "Model", "key": "Key", "provider": "Provider", "token": "Token"}

_YEARS = range(2000, 2200)  # beyond them a zone's midnight cannot be told
_LONGEST = 200
_CHOICES = {"provider": ProviderName.values, "state": STATES, "success": RESULTS, "by": STACKS, "range": RANGES}


@dataclass(frozen=True, slots=True)
class UsageFilters:
    """The filters that were understood; `errors` says in words which were not, and are left out.

    `since` and `until` are whole days in the operator's zone, both included; None: no bound on this side.
    """

    given: Mapping[str, str]
    since: date | None
    until: date | None
    today: date
    errors: list[str] = field(default_factory=list)

    def get(self, name: str) -> str:
        """Return what was given for a name; empty where it was not. No `[…]`: a template would try it first."""
        return self.given.get(name, "")

    @property
    def range(self) -> str:
        """Return the name of the quick range, an empty text where the days were given singly."""
        return "" if self.get("since") or self.get("until") else self.get("range") or DEFAULT_RANGE

    @property
    def stack(self) -> str:
        return self.get("by") or next(iter(STACKS))

    def query(self, **changes: str) -> str:
        """Return these filters as a query, with changes; an empty value takes a filter out."""
        wanted = {**self.given, **changes}
        return f"?{urlencode({name: value for name, value in wanted.items() if value})}"

    def row_values(self) -> dict[str, Any]:
        """Return the filters of usage rows by the API's names, read; None where one is not on."""
        zone = settings.TIME_ZONE
        return {
            **{name: self.get(name) or None for name in ("key", "provider", "model", "token", "state")},
            "success": {"true": True, "false": False}.get(self.get("success")),
            "since": day_start(self.since, zone) if self.since else None,
            "until": day_end(self.until, zone) if self.until else None,
        }

    def wanted(self, since: date, until: date) -> Wanted:
        """Return the daily totals of these days that fit; they know nothing of state and success."""
        of_what = {name: self.get(name) for name in ("key", "provider", "model", "token")}
        return Wanted(**of_what, since=since, until=until)

    @property
    def narrows_rows_only(self) -> bool:
        return bool(self.get("state") or self.get("success"))


def read_filters(query: Mapping[str, str], *, at: datetime) -> UsageFilters:
    """Read the query of the page as of the instant `at`; what is not understood is left out and named."""
    today = current_windows(at).day
    given, errors = _texts(query)
    days = {name: _day(given, name, errors) for name in ("since", "until")}
    if days["since"] and days["until"] and days["since"] > days["until"]:
        errors.append(f"The first day, {days['since']}, lies after the last, {days['until']}: the days are left out.")
        days = {"since": None, "until": None}
    if not any(days.values()):
        given = {name: value for name, value in given.items() if name not in days}
        since = _range_start(given.get("range", DEFAULT_RANGE), today)
        return UsageFilters(given, since, None, today, errors)
    given.pop("range", None)
    return UsageFilters(given, days["since"], days["until"], today, errors)


def _texts(query: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    given: dict[str, str] = {}
    errors: list[str] = []
    for name in ("range", "since", "until", "key", "provider", "model", "token", "state", "success", "by"):
        value = query.get(name, "").strip()
        choices = _CHOICES.get(name)
        if not value:
            continue
        if choices is not None and value not in choices:
            errors.append(f"“{name}” knows {', '.join(choices)}: it was left out.")
        elif len(value) > _LONGEST or not value.isprintable():
            errors.append(f"“{name}” may have at most {_LONGEST} printable characters: it was left out.")
        else:
            given[name] = value
    return given, errors


def _day(given: dict[str, str], name: str, errors: list[str]) -> date | None:
    text = given.get(name)
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.year not in _YEARS or day.isoformat() != text:
        errors.append(f"“{name}” must be a day such as 2026-11-22: it was left out.")
        del given[name]
        return None
    return day


def _range_start(name: str, today: date) -> date:
    if name == "month":
        return today.replace(day=1)
    return today - timedelta(days=(1 if name == "today" else int(name)) - 1)
