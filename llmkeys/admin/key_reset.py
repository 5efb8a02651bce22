"""Setting a budget's cost back, with a page in between that says what it means and in whose name it is done."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from llmkeys.key_state import Budget
from llmkeys.keys import resets
from llmkeys.lib.money import format_usd
from llmkeys.models import ApiKey

WINDOWS = ("daily", "monthly", "total")


@dataclass(frozen=True, slots=True)
class Line:
    key: ApiKey
    budgets: tuple[Budget, Budget, Budget]


class ResetMixin(admin.ModelAdmin):
    @admin.action(description="Reset costs …", permissions=["change"])
    def reset_costs(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        keys, confirmed = list(queryset), request.POST.get("post") == "yes"
        chosen = {window: window in request.POST for window in WINDOWS}
        if confirmed and any(chosen.values()):
            self._reset(request, keys, chosen)
            return None
        at = timezone.now()
        context = {
            **self.admin_site.each_context(request),
            "title": "Reset costs",
            "opts": self.opts,
            "keys": [Line(key, key.budgets(at)) for key in keys],
            "fault": "Choose at least one: daily, monthly or total." if confirmed else "",
        }
        return render(request, "admin/reset_costs.html", context)

    def _reset(self, request: HttpRequest, keys: list[ApiKey], chosen: dict[str, bool]) -> None:
        done = resets.reset_costs(keys, **chosen, at=timezone.now(), actor=request.user.get_username())
        words = ", ".join(window for window, wanted in chosen.items() if wanted)
        by_id = {key.pk: key for key in keys}
        for reset in done:
            self.log_change(request, by_id[reset.account.id], f"Reset costs: {words}.")
        if not done:
            messages.info(request, "There was nothing to reset: these costs are 0 already.")
            return
        taken = sum(max(reset.day_nano, reset.month_nano, reset.total_nano) for reset in done)
        keys_word = "key" if len(done) == 1 else "keys"
        messages.success(request, f"Reset the {words} costs of {len(done)} {keys_word}: up to {format_usd(taken)}.")
