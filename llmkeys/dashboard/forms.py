"""The forms of a key. They collect and show; what is right is decided by the services alone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.utils import timezone
from django.utils.text import capfirst

from llmkeys import providers
from llmkeys.lib.money import nano_to_usd
from llmkeys.models import ApiKey
from llmkeys.relay.models import provider_choices

_LIMITS = ("dailyLimit", "monthlyLimit", "totalLimit")
_EXPIRES = (("never", "Never"), ("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("date", "On a date"))


def _input(css: str = "", **more: Any) -> dict[str, Any]:
    return {"class": f"input {css}".strip(), "autocomplete": "off", **more}


def _text(label: str | None = None, **attributes: Any) -> forms.CharField:
    return forms.CharField(label=label, required=False, widget=forms.TextInput(_input(**attributes)))


@dataclass(frozen=True, slots=True)
class Choice:
    value: str
    label: str
    chosen: bool


class KeyForm(forms.Form):
    """What a new key and a stored one have in common; names are the contract's, so that errors find their place."""

    use_required_attribute = False

    name = _text(maxlength=100)
    apiKey = forms.CharField(
        label="API key",
        required=False,
        widget=forms.PasswordInput(_input("mono", spellcheck="false"), render_value=False),
    )
    dailyLimit = _text("Per day", inputmode="decimal")
    monthlyLimit = _text("Per month", inputmode="decimal")
    totalLimit = _text("In total", inputmode="decimal")
    expires = forms.CharField(required=False)
    expiresAt = _text("Date and time", type="datetime-local")
    priority = _text(inputmode="numeric")
    billingGroup = _text("Billing group")
    workspaceId = _text("Workspace id")
    description = _text(maxlength=500)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["expiresAt"].help_text = f"In the zone {settings.TIME_ZONE}."
        self.fields["priority"].help_text = "Lower serves earlier, after the default key."
        self.fields["billingGroup"].help_text = "Keys of one provider account share its limits and rest together."
        self.fields["workspaceId"].help_text = "Only for Anthropic keys that need one."

    @property
    def expiry_choices(self) -> list[Choice]:
        chosen = self["expires"].value() or "never"
        return [Choice(value, label, value == chosen) for value, label in _EXPIRES]

    @property
    def more_is_open(self) -> bool:
        """The rarely used fields are unfolded where one of them is wrong."""
        return any(name in self.errors for name in ("priority", "billingGroup", "workspaceId", "description"))

    def focus_on(self, name: str) -> None:
        """Let the field that a remedy is about be the first to be typed into."""
        name = "expiresAt" if name == "expires" else name
        if name in self.fields:
            self.fields[name].widget.attrs["autofocus"] = True

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        if given.get("expires") == "date" and not given.get("expiresAt"):
            self.add_error("expiresAt", "Give a date and time, or choose another expiry.")
        return given

    def values(self, *, at: datetime) -> dict[str, Any]:
        """Return what was given, named as in the contract; an empty limit or priority is left as it is."""
        given = dict(self.cleaned_data)
        for name in (*_LIMITS, "priority"):
            if given[name] == "":
                del given[name]
        with suppress(KeyError, ValueError):  # what is not a whole number goes on as it is, for the service to refuse
            given["priority"] = int(given["priority"])
        choice = given.pop("expires")
        if choice == "never":
            given["expiresAt"] = ""
        elif choice.isdecimal() and (choice, f"{choice} days") in _EXPIRES:
            given["expiresAt"] = (at + timedelta(days=int(choice))).replace(microsecond=0).isoformat()
        return given

    def take_errors(self, errors: dict[str, list[str]]) -> None:
        """Put a service's sentences beside their fields; those without a field stand on top."""
        for name, sentences in errors.items():
            for sentence in sentences:
                if name in self.fields:
                    self.add_error(name, capfirst(sentence))
                else:
                    self.add_error(None, f"{name}: {sentence}")


class AddKeyForm(KeyForm):
    """A new key, with the limits that the settings give it."""

    provider = _text()
    isDefault = forms.BooleanField(required=False)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.initial = {
            "provider": next(iter(providers.PROVIDERS)),
            "dailyLimit": f"{settings.DAILY_LIMIT_USD:f}",
            "monthlyLimit": f"{settings.MONTHLY_LIMIT_USD:f}",
            "totalLimit": f"{settings.TOTAL_LIMIT_USD:f}",
            "expires": "never",
            "priority": 100,
            **(self.initial or {}),
        }

    @property
    def providers(self) -> list[dict[str, Any]]:
        """What a person needs to know of each provider, with the one that is chosen."""
        chosen = self["provider"].value()
        return [
            {
                **choice,
                "chosen": choice["name"] == chosen,
                "prefixes": " ".join(providers.get(choice["name"]).secret_prefixes),
            }
            for choice in provider_choices()
        ]


class EditKeyForm(KeyForm):
    """A stored key. What is left as it was shown is not sent on, so that nothing is rounded by being shown."""

    def __init__(self, key: ApiKey, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.key = key
        self.initial = _shown(key)
        if key.environment_variable:
            del self.fields["apiKey"]
        else:
            self.fields["apiKey"].help_text = f"Left empty, the stored one stays: {key.masked_secret}"
        if not providers.get(key.provider).has_workspaces and not key.workspace_id:
            del self.fields["workspaceId"]

    def values(self, *, at: datetime) -> dict[str, Any]:
        given = super().values(at=at)
        same = [name for name, value in given.items() if name in self.initial and value == self.initial[name]]
        if given.get("expiresAt") == "" and self.key.expires_at is None:
            same.append("expiresAt")
        return {name: value for name, value in given.items() if name not in same}


def _shown(key: ApiKey) -> dict[str, Any]:
    expires = f"{timezone.localtime(key.expires_at):%Y-%m-%dT%H:%M}" if key.expires_at else ""
    return {
        "name": key.name,
        "description": key.description,
        "dailyLimit": f"{nano_to_usd(key.daily_limit_nano).normalize():f}",
        "monthlyLimit": f"{nano_to_usd(key.monthly_limit_nano).normalize():f}",
        "totalLimit": f"{nano_to_usd(key.total_limit_nano).normalize():f}",
        "expires": "date" if key.expires_at else "never",
        "expiresAt": expires,
        "priority": key.priority,
        "billingGroup": key.billing_group,
        "workspaceId": key.workspace_id,
    }
