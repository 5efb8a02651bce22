"""The forms of the dashboard. They collect and show; what is right is decided by the services alone."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django import forms
from django.conf import settings
from django.contrib.auth.forms import AuthenticationForm
from django.utils.text import capfirst

from llmkeys.services.models import provider_choices


def _input(css: str = "", **more: Any) -> dict[str, Any]:
    return {"class": f"input {css}".strip(), "autocomplete": "off", **more}


def _text(label: str | None = None, **attributes: Any) -> forms.CharField:
    return forms.CharField(label=label, required=False, widget=forms.TextInput(_input(**attributes)))


class LoginForm(AuthenticationForm):
    error_messages = {
        "invalid_login": "User name and password do not match. After five failures this name waits 15 minutes.",
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

    provider = _text()
    name = _text(maxlength=100)
    apiKey = forms.CharField(
        label="API key",
        required=False,
        widget=forms.PasswordInput(_input("mono", spellcheck="false"), render_value=False),
    )
    dailyLimit = _text("Per day", inputmode="decimal")
    monthlyLimit = _text("Per month", inputmode="decimal")
    totalLimit = _text("In total", inputmode="decimal")
    expiresAt = _text("Expires", type="datetime-local")
    priority = _text(inputmode="numeric")
    billingGroup = _text("Billing group")
    workspaceId = _text("Workspace id")
    description = _text(maxlength=500)
    isDefault = forms.BooleanField(required=False)

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
            if given[name] == "":
                del given[name]
        with suppress(KeyError, ValueError):  # what is no whole number goes on as it is, for the service to refuse
            given["priority"] = int(given["priority"])
        return given

    def take_errors(self, errors: dict[str, list[str]]) -> None:
        """Put a service's sentences beside their fields; those without a field stand on top."""
        for name, sentences in errors.items():
            for sentence in sentences:
                if name in self.fields:
                    self.add_error(name, capfirst(sentence))
                else:
                    self.add_error(None, f"{name}: {sentence}")
