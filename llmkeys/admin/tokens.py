"""Access tokens in the admin: all of them for administrators, otherwise one's own. Changes go through the services.

The text of a new token is shown once. Other actions, such as rotation and statements, are on the token's page.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from llmkeys.account_fields import EditForm
from llmkeys.admin.accounts import AccountMixin, time_column
from llmkeys.admin.storing import ACCOUNT_FIELDS, AccountForm, shown
from llmkeys.key_state import TOKEN_STATUSES, AccessTokenQuerySet
from llmkeys.models import AccessToken, ApiKey
from llmkeys.tokens import making
from llmkeys.tokens.fields import models_in
from llmkeys.tokens.making import visible_tokens
from llmkeys.tokens.sent_forms import CreatingForm, created_before, remember_created

_EXPIRES = time_column("expires_at")


class TokenForm(AccountForm):
    """The fields of a token in the operator's units."""

    scopes = forms.MultipleChoiceField(
        choices=[
            ("gateway", "gateway: send requests"),
            ("read", "read: look at keys and usage"),
            ("manage", "manage: both, and change keys"),
        ],
        widget=forms.CheckboxSelectMultiple, initial=["gateway"],
    )  # fmt: skip
    models = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"}),
        help_text="Names or patterns such as openai/* or gpt-6*, one per line. Empty: every model.",
    )
    keys = forms.ModelMultipleChoiceField(
        queryset=ApiKey.objects.none(), required=False, help_text="Only these keys serve it; if none is chosen, all do."
    )
    requests_per_minute = forms.IntegerField(label="Requests per minute", required=False, help_text="0 means no limit.")
    error_fields = ACCOUNT_FIELDS | {
        "scopes": "scopes",
        "models": "models",
        "keyIds": "keys",
        "requestsPerMinute": "requests_per_minute",
    }

    class Meta:
        model = AccessToken
        fields = ()

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["name"].help_text = "The program, machine or person that uses it."
        cast(forms.ModelMultipleChoiceField, self.fields["keys"]).queryset = ApiKey.objects.stored().defer("secret")

    def values(self) -> dict[str, Any]:
        """Return the given values by the API's names; no models or keys means all."""
        given = super().values()
        given["keyIds"] = [key.pk for key in self.cleaned_data["keys"]] or None
        given["models"] = models_in(self.cleaned_data["models"])
        return given


class AddTokenForm(CreatingForm, TokenForm):
    """The form of a new token; its text is kept only until the response is written."""

    text = ""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.explain_defaults()

    def store(self) -> AccessToken:
        token, self.text = making.create_token(
            user=self.user, values=self.values(), at=timezone.now(), actor=self.actor
        )
        return token


class ChangeTokenForm(EditForm, TokenForm):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        token = self.instance
        self.initial = {
            "name": token.name,
            **shown(token),
            "scopes": ["manage"] if token.scope_manage else token.scopes,
            "models": "\n".join(token.allowed_models or ()),
            "keys": token.stored_keys,
            "requests_per_minute": token.requests_per_minute,
        }

    def store(self) -> AccessToken:
        return making.change_token(self.instance, values=self.edited(), at=timezone.now(), actor=self.actor)


class StatusFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> Iterable[tuple[str, str]]:
        return [(status, status) for status in TOKEN_STATUSES]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() not in TOKEN_STATUSES:
            return queryset
        return cast(AccessTokenQuerySet, queryset).with_status(timezone.now()).filter(status=self.value())


@admin.register(AccessToken)
class AccessTokenAdmin(AccountMixin, admin.ModelAdmin):
    list_display = (
        "name", "user", "status_", "scopes_", "models_", "serving_keys", "today", "this_month", "in_total", "last_used",
        _EXPIRES,
    )  # fmt: skip
    list_filter = (StatusFilter,)
    list_per_page = 50
    search_fields = ("name", "user__username")
    actions = ("reset_costs", "revoke")
    settings_ = (
        "name", "scopes", "daily_limit", "monthly_limit", "total_limit", "budget_mode", "requests_per_minute", "models",
        "keys", "expires_at",
    )  # fmt: skip
    facts = (
        "page", "user", "status_", "today", "this_month", "in_total", "held", "total_requests", "successful_requests",
        "failed_requests", "last_used_at", "created_at", "revoked_at",
    )  # fmt: skip
    rights = ("name", "scopes_", "models_", "serving_keys", "pace", "budget_mode_", _EXPIRES)

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        """Return the tokens that this user may see, as on the pages and in the API."""
        keys = Prefetch("keys", queryset=ApiKey.objects.stored().defer("secret"))
        return visible_tokens(cast(User, request.user)).prefetch_related(keys)

    def get_form(
        self, request: HttpRequest, obj: AccessToken | None = None, change: bool = False, **kwargs: Any
    ) -> type:
        form: type[TokenForm] = AddTokenForm if obj is None else ChangeTokenForm
        if obj is not None and not self.has_change_permission(request, obj):
            form = TokenForm
        return type(form.__name__, (form,), {"user": request.user})

    def get_fieldsets(self, request: HttpRequest, obj: AccessToken | None = None) -> Any:
        if obj is None:
            return ((None, {"fields": (*self.settings_, "nonce")}),)
        if not self.has_change_permission(request, obj):
            return ((None, {"fields": self.rights}), ("Details", {"fields": self.facts}))
        return ((None, {"fields": (*self.settings_, "shown")}), ("Details", {"fields": self.facts}))

    def get_readonly_fields(self, request: HttpRequest, obj: AccessToken | None = None) -> tuple[str, ...]:
        if obj is None:
            return ()
        return self.facts if self.has_change_permission(request, obj) else (*self.rights, *self.facts)

    def has_change_permission(self, request: HttpRequest, obj: AccessToken | None = None) -> bool:
        """Return False for revoked tokens, which can no longer be changed."""
        return super().has_change_permission(request, obj) and (obj is None or obj.revoked_at is None)

    def has_delete_permission(self, request: HttpRequest, obj: AccessToken | None = None) -> bool:
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("llmkeys.delete_accesstoken")

    def save_model(self, request: HttpRequest, obj: AccessToken, form: Any, change: bool) -> None:
        """Pass a new token's text to `response_add`; the form has already stored the token."""
        if not change:
            obj.text = form.text  # type: ignore[attr-defined]

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the form, or create the token; a form that is submitted again leads to the token that it created."""
        if (token_id := created_before(request)) is not None:
            return redirect("admin:llmkeys_accesstoken_change", token_id)
        return super().add_view(request, form_url, extra_context)

    def response_add(
        self, request: HttpRequest, obj: AccessToken, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Show the text once, in this response; a message would put it into a cookie or the session."""
        remember_created(request, obj)
        text = getattr(obj, "text", "")
        context = {**self.admin_site.each_context(request), "title": "New token", "token": obj, "text": text}
        answer = TemplateResponse(request, "admin/llmkeys/accesstoken/created.html", context)
        answer["Cache-Control"] = "no-store"
        return answer

    # --- columns ------------------------------------------------------------------------------------------------------

    @admin.display(description="status")
    def status_(self, token: AccessToken) -> str:
        status = token.status_at(timezone.now())
        why = "" if token.user.is_active else f"{token.user.get_username()} is disabled"
        return format_html('<span class="key-status {}" title="{}">{}</span>', status.lower(), why, status)

    @admin.display(description="scopes")
    def scopes_(self, token: AccessToken) -> str:
        return ", ".join(token.scopes)

    @admin.display(description="models")
    def models_(self, token: AccessToken) -> str:
        return "all" if token.allowed_models is None else ", ".join(token.allowed_models)

    @admin.display(description="keys")
    def serving_keys(self, token: AccessToken) -> str:
        return ", ".join(key.name for key in token.keys.all()) or ("none" if token.limited_to_keys else "all")

    @admin.display(description="requests per minute")
    def pace(self, token: AccessToken) -> str:
        return f"{token.requests_per_minute:,}" if token.requests_per_minute else "no limit"

    @admin.display(description="page")
    def page(self, token: AccessToken) -> str:
        address = reverse("token", args=[token.pk])
        return format_html('<a href="{}">Spend, requests, rotation and statements of {}</a>', address, token.name)

    # --- actions ------------------------------------------------------------------------------------------------------

    @admin.action(description="Revoke permanently", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet) -> None:
        open_tokens = list(queryset.filter(revoked_at__isnull=True))
        for token in open_tokens:
            making.revoke_token(token, at=timezone.now(), actor=request.user.get_username())
            self.log_change(request, token, "Revoked.")
        number = len(open_tokens)
        messages.success(request, f"Revoked {number} token{'' if number == 1 else 's'}.")
