"""What was spent, summed by day, month, model, key, provider or token, from the daily totals; no usage row is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet, Sum

from llmkeys.models import ApiKey, DailyUsage
from llmkeys.money import usd_json
from llmkeys.presentation import success_rate

# The column that the database groups by. Months and providers are folded here from their days and keys, which are
# few: so no date function and no join has to touch every daily total.
_COLUMNS = {
    "day": "day",
    "month": "day",
    "model": "model",
    "key": "key_id",
    "provider": "key_id",
    "token": "token_name",
}
GROUPS = tuple(_COLUMNS)
_IN_TIME_ORDER = ("day", "month")


@dataclass(slots=True)
class Sums:
    """The sums of one group; cost in nano-dollars."""

    requests: int = 0
    successful: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + int(row[f"sum_{name}"]))

    def to_json(self) -> dict[str, Any]:
        return {
            "cost": usd_json(self.cost_nano),
            "requests": self.requests,
            "successful": self.successful,
            "failed": self.failed,
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "successRate": success_rate(self.successful, self.failed),
        }


_SUMS = {f"sum_{name}": Sum(name) for name in Sums.__slots__}


def summary(rows: QuerySet[DailyUsage], *, group_by: str) -> dict[str, Any]:
    """Return the sums of the daily totals per group and over all: days and months in order, else the dearest first."""
    column = _COLUMNS[group_by]
    keys = {key["id"]: key for key in ApiKey.objects.values("id", "name", "provider")} if column == "key_id" else {}
    group_of = _reader(group_by, keys)
    groups: dict[str, Sums] = {}
    total = Sums()
    for row in rows.order_by().values(column).annotate(**_SUMS):
        groups.setdefault(group_of(row[column]), Sums()).add(row)
        total.add(row)
    results = [
        {"group": name, **_key_words(group_by, name, keys), **groups[name].to_json()}
        for name in _in_order(groups, group_by)
    ]
    return {"groupBy": group_by, "results": results, "total": total.to_json()}


def _reader(group_by: str, keys: Mapping[str, Mapping[str, str]]) -> Callable[[Any], str]:
    match group_by:
        case "month":
            return lambda day: day.isoformat()[:7]
        case "provider":
            return lambda key_id: keys[key_id]["provider"]
    return str


def _in_order(groups: Mapping[str, Sums], group_by: str) -> list[str]:
    if group_by in _IN_TIME_ORDER:
        return sorted(groups)
    return sorted(groups, key=lambda name: (-groups[name].cost_nano, name))


def _key_words(group_by: str, name: str, keys: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {"keyId": name, "keyName": keys[name]["name"]} if group_by == "key" else {}
