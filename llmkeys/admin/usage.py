"""Usage rows: there may be ten million, so lists, filters and searches are bounded. Lost charges can be taken back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from llmkeys.admin.facts import KeyFactAdmin, usd_column
from llmkeys.admin.lists import LISTED, CsvMixin
from llmkeys.exceptions import LLMKeysError
from llmkeys.lib.money import format_usd
from llmkeys.models import ApiKey, ProviderName, UsageRecord
from llmkeys.presentation import usage_json
from llmkeys.usage import voiding
from llmkeys.usage.rows import in_state, lost_rows

SEARCHED = 100_000  # filters and searches look only at this many of the newest rows
_KEYS_SEARCHED = 200


class WhatFilter(admin.SimpleListFilter):
    title = "what happened"
    parameter_name = "what"
    _chosen: dict[str, dict[str, Any]] = {
        "lost": {"state": in_state("LOST")},
        "held": {},
        "failed": {"success": False},
        "fallback": {"cost_source": "fallback"},
        "estimated": {"cost_source": "estimated"},
        "overrun": {"overrun": True},
    }

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> Iterable[tuple[str, str]]:
        return (
            ("failed", "Failed"),
            ("lost", "Lost: charged at the hold"),
            ("held", "Still open"),
            ("fallback", "No price known"),
            ("estimated", "Cost estimated"),
            ("overrun", "Cost above the hold"),
        )

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        chosen = self._chosen.get(self.value() or "")
        if chosen is None:
            return queryset
        if self.value() == "held":
            return queryset.filter(pk__in=_open_ids())
        return queryset.filter(**chosen) if self.value() == "lost" else newest(queryset).filter(**chosen)


def _open_ids() -> list[int]:
    """Return the ids of open holds in the order of their index; sorting by id would read the whole table."""
    held = UsageRecord.objects.filter(state=in_state("HELD"))
    return list(held.order_by("lease_until").values_list("pk", flat=True)[:LISTED])


class ProviderFilter(admin.SimpleListFilter):
    """Filters by the known providers; the built-in filter would search the whole table for them."""

    title = "provider"
    parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> Iterable[tuple[str, str]]:
        return ProviderName.choices

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return newest(queryset).filter(provider=self.value()) if self.value() else queryset


def newest(rows: QuerySet) -> QuerySet:
    """Return only the newest rows; ids grow with time, so that no scan is needed."""
    last = UsageRecord.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    return rows.filter(pk__gt=last - SEARCHED)


@admin.register(UsageRecord)
class UsageRecordAdmin(CsvMixin, KeyFactAdmin):
    cost, held = usd_column("cost_nano", "cost"), usd_column("hold_nano", "held")
    list_display = (
        "created_at", "state", "key", "model", "token_name", cost, "cost_source", "input_tokens", "output_tokens"
    )  # fmt: skip
    list_filter = (WhatFilter, ProviderFilter)
    search_fields = ("request_id",)  # see get_search_results
    search_help_text = f"A request id or part of a key’s name. Filters look only at the newest {SEARCHED:,} rows."
    sortable_by = ()
    actions = ("void", "as_csv")
    fieldsets = (
        (None, {"fields": ("request_id", "attempt", "key", "state", "success", "http_status", "error")}),
        (
            "Request",
            {"fields": ("dialect", "requested_model", "model", "token_name", "max_tokens", "streamed", "skipped")},
        ),
        ("Cost", {"fields": (cost, "cost_source", held, "overrun", "day", "month")}),
        (
            "Tokens",
            {
                "fields": (
                    "input_tokens",
                    "cached_input_tokens",
                    "cache_write_tokens",
                    "output_tokens",
                    "reasoning_tokens",
                )
            },
        ),
        (
            "Time",
            {"fields": ("created_at", "finished_at", "latency_ms", "first_byte_ms", "lease_until", "upstream_id")},
        ),
    )

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """Find a request by its full id, which is indexed, or the rows of keys with a matching name."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = queryset.filter(request_id=term)
        if found.exists():
            return found, False
        keys = ApiKey.objects.filter(name__icontains=term).values_list("pk", flat=True)[:_KEYS_SEARCHED]
        return newest(queryset).filter(key_id__in=list(keys)), False

    def csv_rows(self, rows: QuerySet) -> Iterator[Mapping[str, Any]]:
        return map(usage_json, rows.select_related("key", "token__user"))

    # --- voiding lost charges ----------------------------------------------------------------------------------------

    def has_void_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("llmkeys.change_usagerecord")

    @admin.action(description="Take back the charges of lost rows …", permissions=["void"])
    def void(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        """Ask for confirmation and a reason, then void the charge of each lost row."""
        rows = list(queryset[:LISTED])
        still_charged = set(lost_rows().filter(pk__in=[row.pk for row in rows]).values_list("pk", flat=True))
        lost = [row for row in rows if row.pk in still_charged]
        if not lost:
            messages.error(
                request,
                "None of the selected rows is LOST with its charge still in place: it was not lost, or its charge has "
                "already been taken back or corrected.",
            )
            return None
        if request.POST.get("post") != "yes":
            context = {
                **self.admin_site.each_context(request),
                "title": "Take back the charges of lost rows",
                "opts": self.opts,
                "rows": lost,
                "others": len(rows) - len(lost),
                "sum": format_usd(sum(row.cost_nano for row in lost)),
            }
            return render(request, "admin/void_rows.html", context)
        self._void(request, lost, request.POST.get("reason", "").strip()[:500])
        return None

    def _void(self, request: HttpRequest, lost: list[UsageRecord], reason: str) -> None:
        at, actor, count, taken = timezone.now(), request.user.get_username(), 0, 0
        for row in lost:
            try:
                taken += voiding.void_usage(row.pk, at=at, actor=actor, reason=reason)
            except LLMKeysError as error:
                messages.error(request, f"{row.request_id}: {error}")
            else:
                self.log_change(request, row, "Its charge was taken back.")
                count += 1
        if count:
            words = f"{count} charge{'s' if count > 1 else ''} taken back, {format_usd(taken)} in total."
            messages.success(request, words)
