"""API keys in the admin: all changes go through the services, and no page shows a secret or a fingerprint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminTextInputWidget
from django.db.models import Exists, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Concat
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html

from llmkeys.account_fields import EditForm
from llmkeys.admin.accounts import AccountMixin, time_column
from llmkeys.admin.lists import CsvMixin
from llmkeys.admin.storing import ACCOUNT_FIELDS, AccountForm, shown
from llmkeys.exceptions import LLMKeysError
from llmkeys.key_state import ACTIVE, EXPIRED, LIMIT_REACHED, ApiKeyQuerySet
from llmkeys.keys import adding, checking, testing
from llmkeys.models import ApiKey, Cooling, ProviderName
from llmkeys.presentation import error_words, keys_json

EXPIRING = timedelta(days=7)
_FIELDS = ACCOUNT_FIELDS | {
    "description": "description",
    "priority": "priority_",
    "billingGroup": "billing_group",
    "workspaceId": "workspace_id",
    "apiKey": "api_key",
    "provider": "provider_",
}


class KeyForm(AccountForm):
    """The fields of a key in the operator's units; `api_key` is write-only."""

    api_key = forms.CharField(
        label="API key",
        required=False,
        strip=True,
        widget=forms.PasswordInput(attrs={"class": "vTextField", "autocomplete": "off"}, render_value=False),
        help_text="Stored encrypted; never shown again.",
    )
    description = forms.CharField(max_length=500, required=False, widget=AdminTextInputWidget)
    priority_ = forms.IntegerField(label="Priority", initial=100, help_text="Keys with lower numbers are used first.")
    billing_group = forms.CharField(
        max_length=100,
        required=False,
        help_text="Keys of the same provider account share its limits and cool down together.",
    )
    workspace_id = forms.CharField(max_length=100, required=False, help_text="Only for Anthropic keys that need one.")
    error_fields = _FIELDS

    class Meta:
        model = ApiKey
        fields = ()


class AddKeyForm(KeyForm):
    provider_ = forms.ChoiceField(label="Provider", choices=ProviderName)
    other_errors_field = "api_key"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["api_key"].required = True
        self.explain_defaults()

    def store(self) -> ApiKey:
        return adding.add_key(values=self.values(), at=timezone.now(), actor=self.actor)


class ChangeKeyForm(EditForm, KeyForm):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["api_key"].label = "Replace the secret"
        self.fields["api_key"].help_text = "Leave it empty to keep the stored secret."
        key = self.instance
        self.initial = {
            "name": key.name,
            "description": key.description,
            **shown(key),
            "priority_": key.priority,
            "billing_group": key.billing_group,
            "workspace_id": key.workspace_id,
        }

    def store(self) -> ApiKey:
        return adding.update_key(self.instance, values=self.edited(), at=timezone.now(), actor=self.actor)


def _cooling(at: datetime, **cooling: Any) -> Exists:
    """Return an SQL expression: whether a key or its billing group is cooling; `model=""`: for all models."""
    own = Q(scope=Concat(Value("key:"), OuterRef("pk")))
    group = Q(scope=Concat(Value("group:"), OuterRef("provider"), Value(":"), OuterRef("billing_group")))
    in_a_group = ~Q(scope__endswith=":")  # keys without a billing group have an empty name
    return Exists(Cooling.objects.filter(own | group & in_a_group, until__gt=at, **cooling))


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> Iterable[tuple[str, str]]:
        return (
            ("available", "Available now"),
            ("cooling", "Cooling"),
            ("over", "Over budget"),
            ("expiring", "Expiring within 7 days"),
            ("expired", "Expired"),
            ("rejected", "Rejected by its provider"),
            ("off", "Disabled"),
        )

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        at, value = timezone.now(), self.value()
        if value == "available":
            return cast(ApiKeyQuerySet, queryset).with_status(at).filter(~_cooling(at, model=""), status=ACTIVE)
        if value == "cooling":
            return queryset.filter(_cooling(at))
        if value in ("over", "expired"):
            return (
                cast(ApiKeyQuerySet, queryset)
                .with_status(at)
                .filter(status=LIMIT_REACHED if value == "over" else EXPIRED)
            )
        if value == "expiring":
            return queryset.filter(expires_at__gt=at, expires_at__lte=at + EXPIRING)
        if value == "rejected":
            return queryset.filter(rejected_at__isnull=False)
        return queryset.filter(enabled=False) if value == "off" else queryset


@admin.register(ApiKey)
class ApiKeyAdmin(AccountMixin, CsvMixin, admin.ModelAdmin):
    list_display = (
        "name", "status_", "default_", "provider", "today", "this_month", "in_total", "requests", "last_used",
        "masked_secret",
    )  # fmt: skip
    list_filter = (StateFilter, "provider", "source")
    search_fields = ("name", "description", "billing_group")
    actions = ("enable", "disable", "test", "make_default", "reset_costs", "as_csv")
    facts = (
        "provider", "source", "masked_secret", "status_", "last_error_", "default_", "today", "this_month", "in_total",
        "held", "total_requests", "successful_requests", "failed_requests",
        *map(time_column, ("last_used_at", "created_at", "updated_at")),
    )  # fmt: skip
    settings_ = (
        "name",
        "description",
        "daily_limit",
        "monthly_limit",
        "total_limit",
        "budget_mode",
        "expires_at",
        "priority_",
        "billing_group",
        "workspace_id",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return cast(ApiKeyQuerySet, super().get_queryset(request)).stored().defer("secret", "fingerprint")

    def csv_rows(self, rows: QuerySet) -> list[dict[str, Any]]:
        return keys_json(rows, at=timezone.now())

    def get_form(self, request: HttpRequest, obj: ApiKey | None = None, change: bool = False, **kwargs: Any) -> type:
        form = (
            KeyForm
            if obj is not None and not self.has_change_permission(request, obj)
            else ChangeKeyForm
            if obj
            else AddKeyForm
        )
        return type(form.__name__, (form,), {"user": request.user})

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        if obj is None:
            return ((None, {"fields": ("provider_", "api_key", *self.settings_)}),)
        if not self.has_change_permission(request, obj):
            return (("Details", {"fields": (*self.facts, "budget_mode_")}),)
        secret = () if obj.environment_variable else ("api_key",)
        return ((None, {"fields": (*self.settings_, *secret, "shown")}), ("Details", {"fields": self.facts}))

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        return (*self.facts, "budget_mode_") if obj is not None else ()

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        """Do nothing, because the form has already stored the key through the service."""

    # --- columns -------------------------------------------------------------------------------------------------

    @admin.display(description="status")
    def status_(self, key: ApiKey) -> str:
        status = key.status_at(timezone.now())
        word = "REJECTED" if key.rejected_at else status
        return format_html('<span class="key-status {}" title="{}">{}</span>', word.lower(), error_words(key), status)

    @admin.display(description="last error", empty_value="")
    def last_error_(self, key: ApiKey) -> str:
        return error_words(key)

    @admin.display(description="default", ordering="is_default", empty_value="")
    def default_(self, key: ApiKey) -> str:
        return "Default" if key.is_default else ""

    # --- deleting: wipes the secret, keeps the history ------------------------------------------------------------

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not (obj and obj.environment_variable)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """List the secrets, which are lost. Usage, totals and events stay, so no related rows are collected."""
        protected = [
            f"“{key.name}” comes from the environment: unset {key.environment_variable}"
            for key in objs
            if key.environment_variable
        ]
        lost = [f"{key.name}: its secret. Its usage stays in the history and in all totals." for key in objs]
        missing = set() if self.has_delete_permission(request) else {"API key"}
        return lost, {"API keys": len(lost)}, missing, protected

    def delete_model(self, request: HttpRequest, obj: ApiKey) -> None:
        adding.delete_key(obj, at=timezone.now(), actor=request.user.get_username())

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        for key in queryset:
            self.delete_model(request, key)

    # --- actions ---------------------------------------------------------------------------------------------------

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._each(request, queryset, "Enabled", lambda key: self._toggle(request, key, True))

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._each(request, queryset, "Disabled", lambda key: self._toggle(request, key, False))

    @staticmethod
    def _toggle(request: HttpRequest, key: ApiKey, active: bool) -> None:
        adding.toggle(key, active=active, at=timezone.now(), actor=request.user.get_username())

    @admin.action(description="Make default", permissions=["change"])
    def make_default(self, request: HttpRequest, queryset: QuerySet) -> None:
        if queryset.count() != 1:
            messages.error(request, "Only one key can be the default: select exactly one.")
            return
        actor = request.user.get_username()
        self._each(
            request, queryset, "Made default:", lambda key: adding.set_default(key, at=timezone.now(), actor=actor)
        )

    def _each(self, request: HttpRequest, queryset: QuerySet, done: str, verb: Callable[[ApiKey], Any]) -> None:
        """Apply an action to each key, log it, and report the number of keys; refusals are reported separately."""
        count = 0
        for key in queryset:
            try:
                verb(key)
            except LLMKeysError as error:
                messages.error(request, str(error))
            else:
                self.log_change(request, key, f"{done.rstrip(':')}.")
                count += 1
        if count:
            messages.success(request, f"{done} {count} key{'s' if count > 1 else ''}.")

    @admin.action(description="Test with the provider (free)", permissions=["change"])
    def test(self, request: HttpRequest, queryset: QuerySet) -> None:
        keys, deadline = list(queryset), time.monotonic() + checking.AT_MOST_SECONDS
        for number, key in enumerate(keys):
            if time.monotonic() > deadline:
                words = f"{len(keys) - number} of {len(keys)} keys were not tested, from “{key.name}” on"
                messages.warning(
                    request, f"{words}: the time of {checking.AT_MOST_SECONDS} s was over. Test them on their own."
                )
                return
            try:
                result = testing.test_key(key, at=timezone.now(), actor=request.user.get_username())
            except LLMKeysError as error:  # the secret does not decrypt, but others may
                messages.error(request, f"“{key.name}” could not be tested: {error}")
                continue
            level = messages.SUCCESS if result.ok else messages.ERROR
            messages.add_message(request, level, f"“{key.name}”: {result.message} ({result.latency_ms} ms)")
