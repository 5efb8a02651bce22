"""Access tokens in the admin: made for the one who is logged in, shown once, revoked; never edited."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminSplitDateTime
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from llmkeys.admin.storing import StoringForm
from llmkeys.models import AccessToken, ApiKey
from llmkeys.tokens import making


class AddTokenForm(StoringForm):
    """A new token; its text is kept only until the answer is written."""

    name = forms.CharField(max_length=100, help_text="Which program, machine or person holds it.")
    scopes = forms.MultipleChoiceField(
        choices=[
            ("gateway", "gateway: send requests"),
            ("read", "read: look at keys and usage"),
            ("manage", "manage: both, and change keys"),
        ],
        widget=forms.CheckboxSelectMultiple, initial=["gateway"],
    )  # fmt: skip
    expires_at = forms.SplitDateTimeField(
        label="Expires", required=False, widget=AdminSplitDateTime, help_text="Empty: never."
    )
    keys = forms.ModelMultipleChoiceField(
        queryset=ApiKey.objects.none(), required=False, help_text="Only these keys serve it; if none is chosen, all do."
    )
    error_fields = {"expiresAt": "expires_at", "keyIds": "keys"}
    text = ""

    class Meta:
        model = AccessToken
        fields = ()

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        cast(forms.ModelMultipleChoiceField, self.fields["keys"]).queryset = ApiKey.objects.stored().defer("secret")

    def store(self) -> AccessToken:
        given = self.cleaned_data
        values = {
            "name": given["name"],
            "scopes": given["scopes"],
            "expiresAt": given["expires_at"],
            "keyIds": [key.pk for key in given["keys"]] or None,
        }
        actor = self.user.get_username()
        token, self.text = making.create_token(user=self.user, values=values, at=timezone.now(), actor=actor)
        return token


@admin.register(AccessToken)
class AccessTokenAdmin(admin.ModelAdmin):
    list_display = ("name", "user", "scopes_", "serving_keys", "created_at", "expires_at", "last_used_at", "state")
    list_select_related = ("user",)
    search_fields = ("name", "user__username")
    actions = ("revoke",)
    fields = (
        "name",
        "user",
        "scopes_",
        "serving_keys",
        "created_at",
        "expires_at",
        "revoked_at",
        "last_used_at",
        "state",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).prefetch_related("keys")

    def get_form(
        self, request: HttpRequest, obj: AccessToken | None = None, change: bool = False, **kwargs: Any
    ) -> type:
        if obj is not None:
            return super().get_form(request, obj, change, **kwargs)
        return type("AddTokenForm", (AddTokenForm,), {"user": request.user})

    def get_fields(self, request: HttpRequest, obj: AccessToken | None = None) -> tuple[str, ...]:
        return self.fields if obj is not None else ("name", "scopes", "expires_at", "keys")

    def get_readonly_fields(self, request: HttpRequest, obj: AccessToken | None = None) -> tuple[str, ...]:
        return self.fields if obj is not None else ()

    def has_change_permission(self, request: HttpRequest, obj: AccessToken | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: AccessToken | None = None) -> bool:
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("llmkeys.delete_accesstoken")

    def save_model(self, request: HttpRequest, obj: AccessToken, form: AddTokenForm, change: bool) -> None:
        """Nothing more to store: the form has stored the token. Its text goes to `response_add` by the form alone."""
        obj.text = form.text  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: AccessToken, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Show the text once, in this answer: a message would carry it through a cookie or the session."""
        text = getattr(obj, "text", "")
        context = {**self.admin_site.each_context(request), "title": "The new token", "token": obj, "text": text}
        answer = TemplateResponse(request, "admin/llmkeys/accesstoken/created.html", context)
        answer["Cache-Control"] = "no-store"
        return answer

    @admin.display(description="scopes")
    def scopes_(self, token: AccessToken) -> str:
        return ", ".join(token.scopes)

    @admin.display(description="keys")
    def serving_keys(self, token: AccessToken) -> str:
        return ", ".join(key.name for key in token.keys.all()) or ("none" if token.limited_to_keys else "all")

    @admin.display(description="state")
    def state(self, token: AccessToken) -> str:
        if token.revoked_at:
            return "Revoked"
        if not token.user.is_active:
            return "Ended with its user"
        return "Expired" if token.expires_at and token.expires_at <= timezone.now() else "Valid"

    @admin.action(description="Revoke the selected tokens, for good", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet) -> None:
        open_tokens = list(queryset.filter(revoked_at__isnull=True))
        for token in open_tokens:
            making.revoke_token(token, at=timezone.now(), actor=request.user.get_username())
            self.log_change(request, token, "Revoked.")
        messages.success(request, f"Revoked {len(open_tokens)} token(s).")
