"""What keys and access tokens share in the admin: budget columns and the reset of costs.

A reset is confirmed on a page that explains it and names the user it is recorded for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import formats, timezone

from llmkeys.key_state import Budget
from llmkeys.keys import resets
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import local_time
from llmkeys.models import AccessToken, ApiKey
from llmkeys.templatetags.llmkeys_format import relative, usd, usd_short

WINDOWS = ("daily", "monthly", "total")
Account = ApiKey | AccessToken


@dataclass(frozen=True, slots=True)
class Line:
    account: Account
    budgets: tuple[Budget, ...]


def time_column(attribute: str) -> Any:
    """Return a column that shows a time as Django does, but does not fail for one that has no local time."""

    @admin.display(description=attribute.replace("_", " "), ordering=attribute)
    def column(account: Account) -> str:
        at = getattr(account, attribute)
        return formats.localize(local_time(at, settings.TIME_ZONE)) if at else "-"

    column.__name__ = attribute  # the cell's class in the list
    return column


class AccountMixin(admin.ModelAdmin):
    @admin.display(description="requests", ordering="total_requests")
    def requests(self, account: Account) -> str:
        return f"{account.total_requests:,}"

    @admin.display(description="last used", ordering="last_used_at")
    def last_used(self, account: Account) -> str:
        return relative(account.last_used_at)

    @admin.display(description="today", ordering="spent_day_nano")
    def today(self, account: Account) -> str:
        return self._budget(account, 0)

    @admin.display(description="this month", ordering="spent_month_nano")
    def this_month(self, account: Account) -> str:
        return self._budget(account, 1)

    @admin.display(description="in total", ordering="spent_total_nano")
    def in_total(self, account: Account) -> str:
        return self._budget(account, 2)

    @staticmethod
    def _budget(account: Account, index: int) -> str:
        budget = account.budgets(timezone.now())[index]
        limit = f" of\N{NO-BREAK SPACE}{usd_short(budget.limit)}" if budget.limit else ", no\N{NO-BREAK SPACE}limit"
        return f"{usd(budget.spent)}{limit}"

    @admin.display(description="held", ordering="held_nano")
    def held(self, account: Account) -> str:
        return usd(account.held_nano)

    @admin.display(description="budget mode")
    def budget_mode_(self, account: Account) -> str:
        return account.budget_mode or "default"

    @admin.action(description="Reset costs …", permissions=["change"])
    def reset_costs(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        accounts, confirmed = list(queryset), request.POST.get("post") == "yes"
        chosen = {window: window in request.POST for window in WINDOWS}
        if confirmed and any(chosen.values()):
            self._reset(request, accounts, chosen)
            return None
        at = timezone.now()
        context = {
            **self.admin_site.each_context(request),
            "title": "Reset costs",
            "opts": self.opts,
            "lines": [Line(account, account.budgets(at)) for account in accounts],
            "fault": "Choose at least one: daily, monthly or total." if confirmed else "",
        }
        return render(request, "admin/reset_costs.html", context)

    def _reset(self, request: HttpRequest, accounts: list[Account], chosen: dict[str, bool]) -> None:
        done = resets.reset_costs(accounts, **chosen, at=timezone.now(), actor=request.user.get_username())
        words = ", ".join(window for window, wanted in chosen.items() if wanted)
        by_id = {account.pk: account for account in accounts}
        for reset in done:
            self.log_change(request, by_id[reset.account.id], f"Reset costs: {words}.")
        if not done:
            messages.info(request, "There was nothing to reset: these costs are already 0.")
            return
        taken = sum(max(reset.day_nano, reset.month_nano, reset.total_nano) for reset in done)
        name = self.opts.verbose_name if len(done) == 1 else self.opts.verbose_name_plural
        messages.success(request, f"Reset the {words} costs of {len(done)} {name}: up to {format_usd(taken)}.")
