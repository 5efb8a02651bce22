"""Read-only rows: history is never changed, and only the ledger writes counters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from llmkeys.admin.lists import BoundedPaginator, CsvMixin
from llmkeys.alerts import outbox
from llmkeys.lib.money import format_usd, usd_json
from llmkeys.models import (
    Adjustment,
    Alert,
    Cooling,
    DailyUsage,
    FailedAuthentication,
    KeyEvent,
    SealedDay,
    ServingKey,
)
from llmkeys.presentation import instant_json


def usd_column(attribute: str, title: str) -> Any:
    """Return a column that shows an amount of nano-dollars as USD."""

    @admin.display(description=title, ordering=attribute)
    def column(row: Any) -> str:
        return format_usd(getattr(row, attribute))

    column.__name__ = attribute  # the cell's class in the list, which aligns amounts to the right
    return column


class FactAdmin(admin.ModelAdmin):
    """Read-only rows. Large tables are never counted in full."""

    show_full_result_count = False
    paginator = BoundedPaginator
    list_per_page = 50
    list_max_show_all = 0
    show_facets = admin.ShowFacets.NEVER  # each would count the whole table
    change_list_template = "admin/fact_list.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


class KeyFactAdmin(FactAdmin):
    """Rows of a key, whose secret is not loaded."""

    list_select_related = ("key",)

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).select_related("key").defer("key__secret")


class AccountFactAdmin(KeyFactAdmin):
    """Rows of a key or an access token."""

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).select_related("token")


@admin.register(Adjustment)
class AdjustmentAdmin(CsvMixin, AccountFactAdmin):
    in_day, in_month = usd_column("day_nano", "in the day"), usd_column("month_nano", "in the month")
    in_total = usd_column("total_nano", "in total")
    list_display = ("created_at", "kind", "key", "token", in_day, in_month, in_total, "created_by", "reason")
    list_filter = ("kind",)
    search_fields = ("key__name", "token__name", "created_by", "reason")
    fields = (
        "kind", "key", "token", "usage", in_day, in_month, in_total, "day", "month", "created_at", "created_by",
        "reason",
    )  # fmt: skip
    actions = ("as_csv",)

    def csv_rows(self, rows: QuerySet) -> Iterator[Mapping[str, Any]]:
        for row in rows:
            yield {
                "createdAt": instant_json(row.created_at),
                "kind": row.kind,
                "keyId": row.key_id,
                "keyName": row.key.name if row.key else "",
                "tokenId": row.token_id,
                "tokenName": row.token.name if row.token else "",
                "dayUsd": usd_json(row.day_nano),
                "monthUsd": usd_json(row.month_nano),
                "totalUsd": usd_json(row.total_nano),
                "by": row.created_by,
                "reason": row.reason,
            }


@admin.register(DailyUsage)
class DailyUsageAdmin(CsvMixin, KeyFactAdmin):
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
    list_filter = ("day",)
    sortable_by = ("day",)
    search_fields = ("key__name", "model", "token_name")
    fields = list_display
    actions = ("as_csv",)

    def csv_rows(self, rows: QuerySet) -> Iterator[Mapping[str, Any]]:
        plain = ("day", "model", "token_name", "requests", "successful", "failed", "input_tokens", "output_tokens")
        for row in rows:
            of_key = {"keyId": row.key_id, "keyName": row.key.name}
            yield {**of_key, **{name: getattr(row, name) for name in plain}, "costUsd": usd_json(row.cost_nano)}


@admin.register(KeyEvent)
class KeyEventAdmin(CsvMixin, AccountFactAdmin):
    list_display = ("created_at", "kind", "message", "key", "token", "actor")
    list_filter = ("kind",)
    search_fields = ("message", "actor")
    fields = ("created_at", "kind", "key", "token", "message", "actor")
    actions = ("as_csv",)

    def csv_rows(self, rows: QuerySet) -> Iterator[Mapping[str, Any]]:
        for row in rows:
            at = instant_json(row.created_at)
            whose = {"keyId": row.key_id, "tokenId": row.token_id}
            yield {"createdAt": at, "kind": row.kind, **whose, "message": row.message, "actor": row.actor}


class SeenFilter(admin.SimpleListFilter):
    title = "dismissed"
    parameter_name = "seen"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> Iterable[tuple[str, str]]:
        return (("no", "Shown on the dashboard"), ("yes", "Dismissed"))

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        wanted = {"no": True, "yes": False}.get(self.value() or "")
        return queryset if wanted is None else queryset.filter(seen_at__isnull=wanted)


@admin.register(Alert)
class AlertAdmin(AccountFactAdmin):
    """Alerts cannot be edited, only dismissed, as on the dashboard."""

    list_display = ("created_at", "kind", "message", "key", "token", "delivery", "seen_at")
    list_filter = (SeenFilter, "kind")
    search_fields = ("message",)
    fields = ("created_at", "kind", "key", "token", "message", "delivery", "sent_at", "tries", "seen_at")
    actions = ("dismiss",)

    @admin.display(description="delivery")
    def delivery(self, alert: Alert) -> str:
        return outbox.delivery_words(alert)

    def has_dismiss_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("llmkeys.change_alert") or request.user.has_perm("llmkeys.change_apikey")

    @admin.action(description="Dismiss", permissions=["dismiss"])
    def dismiss(self, request: HttpRequest, queryset: QuerySet) -> None:
        at = timezone.now()
        done = sum(outbox.dismiss(pk, at) for pk in queryset.values_list("pk", flat=True))
        self.message_user(request, f"{done} alert{'' if done == 1 else 's'} dismissed.")


@admin.register(SealedDay)
class SealedDayAdmin(FactAdmin):
    cost = usd_column("cost_nano", "cost")
    list_display = ("day", "rows", cost, "sealed_at")
    fields = list_display


@admin.register(Cooling)
class CoolingAdmin(FactAdmin):
    list_display = ("scope", "model", "kind", "until", "strikes", "reason")
    list_filter = ("kind",)
    search_fields = ("scope", "model")
    ordering = ("-until",)


@admin.register(ServingKey)
class ServingKeyAdmin(KeyFactAdmin):
    list_display = ("model", "key")
    search_fields = ("model",)


@admin.register(FailedAuthentication)
class FailedAuthenticationAdmin(FactAdmin):
    list_display = ("at", "address")
    search_fields = ("address",)
    ordering = ("-at",)
