"""Admin forms that are validated and stored by a service, so that no rule is repeated in the admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.contrib.admin.widgets import AdminSplitDateTime
from django.db.models import Model

from llmkeys.account_fields import show_refusal, shown_limits
from llmkeys.exceptions import LLMKeysError
from llmkeys.lib.windows import local_time
from llmkeys.models import AccessToken, ApiKey, Budgeted


class StoringForm(forms.ModelForm):
    """Stores through a service at the end of validation, so that the service's errors are shown next to the fields.

    This is safe: validation runs once, inside the admin's transaction, after the permission check, and no other form of
    the page can fail afterwards.
    """

    user: Any = None
    error_fields: ClassVar[dict[str, str]] = {}  # the service's field name → the form's
    other_errors_field: ClassVar[str | None] = None

    def store(self) -> Model:
        """Call the service with `cleaned_data` and return the stored object."""
        raise NotImplementedError

    def _post_clean(self) -> None:
        if self.errors:
            return
        try:
            self.instance = self.store()
        except LLMKeysError as error:
            show_refusal(self, error, names=self.error_fields, otherwise=self.other_errors_field)

    def save(self, commit: bool = True) -> Model:
        """Return the object, which is already stored."""
        self.save_m2m: Callable[[], None] = lambda: None
        return self.instance


LIMIT_HELP = "0 means no limit."
ACCOUNT_FIELDS = {
    "name": "name",
    "dailyLimit": "daily_limit",
    "monthlyLimit": "monthly_limit",
    "totalLimit": "total_limit",
    "budgetMode": "budget_mode",
    "expiresAt": "expires_at",
}


class AccountForm(StoringForm):
    """The fields that keys and access tokens share, in the operator's units."""

    name = forms.CharField(max_length=100)
    daily_limit = forms.DecimalField(label="Daily limit, USD", required=False, help_text=LIMIT_HELP)
    monthly_limit = forms.DecimalField(label="Monthly limit, USD", required=False, help_text=LIMIT_HELP)
    total_limit = forms.DecimalField(label="Total limit, USD", required=False, help_text=LIMIT_HELP)
    budget_mode = forms.ChoiceField(required=False, choices=[("", "default"), *Budgeted.BudgetMode.choices])
    expires_at = forms.SplitDateTimeField(
        label="Expires", required=False, widget=AdminSplitDateTime, help_text="Empty: never."
    )
    error_fields = ACCOUNT_FIELDS

    def values(self) -> dict[str, Any]:
        """Return the given values by the API's names; empty limits are left out."""
        given = {
            name: self.cleaned_data.get(field) for name, field in self.error_fields.items() if field in self.fields
        }
        given = {name: value for name, value in given.items() if value is not None or name == "expiresAt"}
        return given | {"budgetMode": given["budgetMode"] or None}

    def edited(self) -> dict[str, Any]:
        """Return only edited values, because the form drops the fractional seconds of a stored expiry."""
        return {name: value for name, value in self.values().items() if self.error_fields[name] in self.changed_data}

    @property
    def actor(self) -> str:
        return self.user.get_username()

    def explain_defaults(self) -> None:
        """Add to the help texts that an empty limit takes the default from the settings."""
        for name in ("daily_limit", "monthly_limit", "total_limit"):
            self.fields[name].help_text = f"{LIMIT_HELP} Empty: the limit from the settings."


def shown(account: ApiKey | AccessToken) -> dict[str, Any]:
    """Return the limits, the budget mode and the expiry as shown in the form, by its field names."""
    limits = {ACCOUNT_FIELDS[name]: amount for name, amount in shown_limits(account).items()}
    expires = account.expires_at
    # Without a time zone, because Django would convert it, which fails for what has no local time.
    local = expires and local_time(expires, settings.TIME_ZONE).replace(tzinfo=None)
    return {**limits, "budget_mode": account.budget_mode or "", "expires_at": local}
