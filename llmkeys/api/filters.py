"""Filters of the lists: a query parameter, how it is read, and which rows it leaves. An empty one does not filter.

Values are compared whole, so `%` and `_` are characters like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from llmkeys.api import reading
from llmkeys.exceptions import InvalidInput
from llmkeys.key_state import STATUSES
from llmkeys.models import KeyEvent, ProviderName, UsageRecord


@dataclass(frozen=True, slots=True)
class Filter:
    lookup: str
    read: Callable[[str], Any] = str


_PROVIDER = Filter("provider", lambda text: reading.one_of(text, ProviderName.values))
_TIMES = {"since": Filter("created_at__gte", reading.instant), "until": Filter("created_at__lt", reading.end)}

KEYS = {"provider": _PROVIDER, "status": Filter("status", lambda text: reading.one_of(text, STATUSES))}
USAGE = {
    "key": Filter("key_id"),
    "provider": _PROVIDER,
    "model": Filter("model"),
    "success": Filter("success", reading.truth),
    "state": Filter("state", lambda text: reading.one_of(text, UsageRecord.State.values)),
    "token": Filter("token_name"),
    **_TIMES,
}
SUMMARY = {
    "key": Filter("key"),
    "provider": _PROVIDER,
    "model": Filter("model"),
    "token": Filter("token"),
    "since": Filter("since", reading.day),
    "until": Filter("until", reading.day),
}
EVENTS = {
    "key": Filter("key_id"),
    "kind": Filter("kind", lambda text: reading.one_of(text, KeyEvent.Kind.values)),
    **_TIMES,
}


def apply(rows: QuerySet, filters: Mapping[str, Filter], query: Mapping[str, str]) -> QuerySet:
    """Return the rows that all given filters leave. Raises InvalidInput naming every bad one."""
    return rows.filter(**read(filters, query))


def read(filters: Mapping[str, Filter], query: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the given filters by lookup. Raises InvalidInput naming every bad one."""
    lookups: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for name, wanted in filters.items():
        if not query.get(name):
            continue
        try:
            lookups[wanted.lookup] = wanted.read(query[name])
        except ValueError as error:
            errors[name] = [str(error)]
    if errors:
        raise InvalidInput(errors)
    return lookups
