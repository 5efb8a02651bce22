"""What an access token cost in a month, by day and model, for the person who has to pay for it.

It is made from the daily totals, so it stays when the rows of a month are pruned. Voided and corrected charges are
taken into account, but not resets, which change the budget and not what was spent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.db.models import Max, Min

from llmkeys.key_state import current_windows
from llmkeys.lib import spreadsheet
from llmkeys.lib.money import usd_json
from llmkeys.models import AccessToken, DailyUsage
from llmkeys.usage.sums import Sums, Wanted, daily_sums

COLUMNS = (
    "month", "tokenId", "token", "user", "day", "model", "requests", "successful", "failed", "inputTokens",
    "outputTokens", "cost",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """What one model cost on one day."""

    day: date
    model: str
    sums: Sums


@dataclass(frozen=True, slots=True)
class Statement:
    """A token's month: lines ordered by day and model, and the sums per model, the most expensive first."""

    token: AccessToken
    month: date
    lines: list[Line]
    models: list[tuple[str, Sums]]
    total: Sums

    def csv_lines(self) -> Iterator[str]:
        """Yield the lines of a CSV file, without a line of totals, so that files of several tokens can be joined."""
        owner = {
            "month": f"{self.month:%Y-%m}",
            "tokenId": self.token.pk,
            "token": self.token.name,
            "user": self.token.user.get_username(),
        }
        rows = (
            {
                **owner,
                "day": line.day.isoformat(),
                "model": line.model,
                "requests": line.sums.requests,
                "successful": line.sums.successful,
                "failed": line.sums.failed,
                "inputTokens": line.sums.input_tokens,
                "outputTokens": line.sums.output_tokens,
                "cost": usd_json(line.sums.cost_nano),
            }
            for line in self.lines
        )
        return spreadsheet.csv_lines(rows, columns=COLUMNS)


def statement_of(token: AccessToken, month: date, *, at: datetime) -> Statement:
    """Return the statement of the month that begins with `month`."""
    last = (month + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    found = daily_sums(Wanted(token_id=token.pk, since=month, until=last), "day", "model", at=at)
    lines = [Line(day, model, sums) for (day, model), sums in sorted(found.items(), key=lambda item: item[0])]
    by_model: dict[str, list[Sums]] = {}
    for line in lines:
        by_model.setdefault(line.model, []).append(line.sums)
    models = [(model, Sums.over(sums)) for model, sums in by_model.items()]
    models.sort(key=lambda one: (-one[1].cost_nano, one[0]))
    return Statement(token, month, lines, models, Sums.over(line.sums for line in lines))


def months_of(token: AccessToken, *, at: datetime) -> list[date]:
    """Return the first days of the months from the token's first usage until now, newest first, at least this month."""
    days = DailyUsage.objects.filter(token=token)
    # Two queries are one step each in the index; a single one would read all of it.
    first = days.aggregate(first=Min("day"))["first"]
    last = days.aggregate(last=Max("day"))["last"]
    this = current_windows(at).month
    month = max(this, last.replace(day=1)) if last else this
    found = [month]
    while first and month > first:
        month = (month - timedelta(days=1)).replace(day=1)
        found.append(month)
    return found
