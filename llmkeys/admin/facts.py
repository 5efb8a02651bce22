"""What happened: rows that nobody edits by hand, for history is never changed and counters belong to the ledger."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from llmkeys.models import Adjustment, Cooling, DailyUsage, KeyEvent, ServingKey, UsageRecord
from llmkeys.money import format_usd


def usd_column(attribute: str, title: str):
    """Return a column that shows an amount of nano-dollars as USD."""

    @admin.display(description=title, ordering=attribute)
    def column(row) -> str:
        return format_usd(getattr(row, attribute))

    return column


class FactAdmin(admin.ModelAdmin):
    """Rows to look at. Big tables are never counted in full."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


class KeyFactAdmin(FactAdmin):
    """Rows of a key; the key's secret is not even read for its name."""

    list_select_related = ("key",)

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).defer("key__secret")


@admin.register(UsageRecord)
class UsageRecordAdmin(KeyFactAdmin):
    cost, held = usd_column("cost_nano", "cost"), usd_column("hold_nano", "held")
    list_display = (
        "created_at", "key", "model", "token_name", "input_tokens", "output_tokens", cost, "cost_source", "latency_ms",
        "http_status", "state",
    )  # fmt: skip
    list_filter = ("state", "success", "provider", "cost_source", "overrun")
    search_fields = ("=request_id", "model", "token_name", "key__name")
    fieldsets = (
        (None, {"fields": ("request_id", "attempt", "key", "state", "success", "http_status", "error")}),
        ("Asked for", {"fields": ("dialect", "requested_model", "model", "token_name", "streamed", "skipped")}),
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


@admin.register(Adjustment)
class AdjustmentAdmin(KeyFactAdmin):
    in_day, in_month = usd_column("day_nano", "in the day"), usd_column("month_nano", "in the month")
    in_total = usd_column("total_nano", "in total")
    list_display = ("created_at", "kind", "key", in_day, in_month, in_total, "created_by", "reason")
    list_filter = ("kind",)
    search_fields = ("key__name", "created_by", "reason")
    fields = ("kind", "key", "usage", in_day, in_month, in_total, "day", "month", "created_at", "created_by", "reason")


@admin.register(DailyUsage)
class DailyUsageAdmin(KeyFactAdmin):
    cost = usd_column("cost_nano", "cost")
    list_display = (
        "day",
        "key",
        "model",
        "token_name",
        "requests",
        "successful",
        "failed",
        "input_tokens",
        "output_tokens",
        cost,
    )
    search_fields = ("key__name", "model", "token_name")
    fields = list_display
    date_hierarchy = "day"


@admin.register(KeyEvent)
class KeyEventAdmin(KeyFactAdmin):
    list_display = ("created_at", "kind", "message", "key", "actor")
    list_filter = ("kind",)
    search_fields = ("message", "actor")
    fields = ("created_at", "kind", "key", "message", "actor")


@admin.register(Cooling)
class CoolingAdmin(FactAdmin):
    list_display = ("scope", "model", "kind", "until", "strikes", "reason")
    list_filter = ("kind",)
    ordering = ("-until",)


@admin.register(ServingKey)
class ServingKeyAdmin(KeyFactAdmin):
    list_display = ("model", "key")
