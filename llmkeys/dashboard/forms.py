"""The forms of the dashboard. They collect and show; what is right is decided by the services alone."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.contrib.auth.forms import AuthenticationForm
from django.utils.text import capfirst

from llmkeys.models import ProviderName
from llmkeys.services.models import provider_choices


def _input(css: str = "", **more: Any) -> dict[str, Any]:
    return {"class": f"input {css}".strip(), "autocomplete": "off", **more}


class LoginForm(AuthenticationForm):
    error_messages = {
        "invalid_login": "User name and password do not match. After five failures this name has to wait a quarter of an hour.",
        "inactive": "This user is disabled.",
    }

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            field.widget.attrs["class"] = "input"
            field.widget.attrs["aria-describedby"] = "login-error"
            if name == "password":
                field.strip = False


class AddKeyForm(forms.Form):
    """A new key; the fields have the contract's names, so that a service's errors find their place."""

    use_required_attribute = False

    provider = forms.ChoiceField(choices=ProviderName, widget=forms.RadioSelect, required=False)
    name = forms.CharField(required=False, widget=forms.TextInput(_input(maxlength=100)))
    apiKey = forms.CharField(  # noqa: N815  (the contract's name)
        label="API key", required=False, widget=forms.PasswordInput(_input("mono", spellcheck="false"), render_value=False)
    )
    dailyLimit = forms.CharField(label="Per day", required=False, widget=forms.TextInput(_input(inputmode="decimal")))  # noqa: N815
    monthlyLimit = forms.CharField(label="Per month", required=False, widget=forms.TextInput(_input(inputmode="decimal")))  # noqa: N815
    totalLimit = forms.CharField(label="In total", required=False, widget=forms.TextInput(_input(inputmode="decimal")))  # noqa: N815
    expiresAt = forms.CharField(  # noqa: N815
        label="Expires", required=False, widget=forms.TextInput(_input(type="datetime-local"))
    )
    priority = forms.IntegerField(required=False, widget=forms.TextInput(_input(inputmode="numeric")))
    billingGroup = forms.CharField(label="Billing group", required=False, widget=forms.TextInput(_input()))  # noqa: N815
    workspaceId = forms.CharField(label="Workspace id", required=False, widget=forms.TextInput(_input()))  # noqa: N815
    description = forms.CharField(required=False, widget=forms.TextInput(_input(maxlength=500)))
    isDefault = forms.BooleanField(label="Make it the default key", required=False)  # noqa: N815

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["expiresAt"].help_text = f"Empty: never. In the zone {settings.TIME_ZONE}."
        self.fields["priority"].help_text = "Lower serves earlier, after the default key."
        self.fields["billingGroup"].help_text = "Keys of one provider account share its limits and rest together."
        self.fields["workspaceId"].help_text = "Only for Anthropic keys that need one."
        self.initial = {
            "provider": "openrouter",
            "dailyLimit": f"{settings.DAILY_LIMIT_USD:f}",
            "monthlyLimit": f"{settings.MONTHLY_LIMIT_USD:f}",
            "totalLimit": f"{settings.TOTAL_LIMIT_USD:f}",
            "priority": 100,
            **(self.initial or {}),
        }

    @property
    def providers(self) -> list[dict[str, Any]]:
        """What a person needs to know of each provider, with the one that is chosen."""
        chosen = self["provider"].value()
        return [{**choice, "chosen": choice["name"] == chosen} for choice in provider_choices()]

    @property
    def more_is_open(self) -> bool:
        """The rarely used fields are unfolded where one of them is wrong."""
        return any(name in self.errors for name in ("priority", "billingGroup", "workspaceId", "description"))

    def values(self) -> dict[str, Any]:
        """Return what was given, named as in the contract; an empty limit or priority is left to its default."""
        given = dict(self.cleaned_data)
        for name in ("dailyLimit", "monthlyLimit", "totalLimit", "priority"):
            if given[name] in ("", None):
                del given[name]
        return given

    def take_errors(self, errors: dict[str, list[str]]) -> None:
        """Put a service's sentences beside their fields; those without a field stand on top."""
        for name, sentences in errors.items():
            for sentence in sentences:
                if name in self.fields:
                    self.add_error(name, capfirst(sentence))
                else:
                    self.add_error(None, f"{name}: {sentence}")
