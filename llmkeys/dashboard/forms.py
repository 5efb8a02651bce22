"""The forms of keys and access tokens. They only collect and show values; the services validate them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, cast

from django import forms
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from llmkeys import providers
from llmkeys.account_fields import END_YEAR, LIMITS, EditForm, shown_limits
from llmkeys.lib.windows import day_end, local_time
from llmkeys.models import AccessToken, ApiKey, Budgeted, ProviderName
from llmkeys.relay.models import provider_choices
from llmkeys.tokens.fields import SCOPES, models_in
from llmkeys.tokens.sent_forms import CreatingForm

_EXPIRES = (("never", "Never"), ("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("date", "On a date"))


def _input(css: str = "", **more: Any) -> dict[str, Any]:
    return {"class": f"input {css}".strip(), "autocomplete": "off", **more}


def _text(label: str | None = None, **attributes: Any) -> forms.CharField:
    return forms.CharField(label=label, required=False, widget=forms.TextInput(_input(**attributes)))


def _budget_mode() -> forms.ChoiceField:
    return forms.ChoiceField(label="Budget mode", required=False, widget=forms.Select({"class": "input"}))


def _offer_budget_modes(form: forms.Form) -> None:
    choices = [("", f"default: {settings.BUDGET_MODE}"), *Budgeted.BudgetMode.choices]
    cast(forms.ChoiceField, form.fields["budgetMode"]).choices = choices


@dataclass(frozen=True, slots=True)
class Choice:
    value: str
    label: str
    chosen: bool


def _edited(form: EditForm, values: dict[str, Any], parts: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Return the values whose fields were edited; `parts` names the fields of those that have several."""
    changed = set(form.changed_data)
    return {name: value for name, value in values.items() if changed.intersection(parts.get(name, (name,)))}


class KeyForm(forms.Form):
    """The fields that a new key and a stored one share."""

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
    budgetMode = _budget_mode()
    priority = _text(inputmode="numeric")
    billingGroup = _text("Billing group")
    workspaceId = _text("Workspace id")
    description = _text(maxlength=500)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        _offer_budget_modes(self)
        self.fields["expiresAt"].help_text = f"In the time zone {settings.TIME_ZONE}."
        self.fields["priority"].help_text = (
            "Keys with a lower number serve earlier; the default key serves before all others."
            if settings.KEY_ORDER == "fill"
            else "Keys with a lower number serve earlier; keys with the same number share the load."
        )
        self.fields["billingGroup"].help_text = "Keys of one provider account share its limits and cool down together."
        self.fields["workspaceId"].help_text = "Only for Anthropic keys that need one."

    @property
    def expiry_choices(self) -> list[Choice]:
        chosen = self["expires"].value() or "never"
        return [Choice(value, label, value == chosen) for value, label in _EXPIRES]

    @property
    def more_is_open(self) -> bool:
        """True if the rarely used fields are to be expanded: one of them has an error, or the key a budget mode."""
        rare = ("priority", "billingGroup", "workspaceId", "description", "budgetMode")
        return any(name in self.errors for name in rare) or bool(self["budgetMode"].value())

    @property
    def needs_secret_again(self) -> bool:
        """True if the form comes back: a secret that was typed is never sent back with it."""
        return self.is_bound

    def focus_on(self, name: str) -> None:
        """Give the focus to the first field with an error, or else to the field `name`, or else to the key's name."""
        wrong = (field for field in self.fields if field in self.errors)
        first = next(wrong, "expiresAt" if name == "expires" else name)
        self.fields[first if first in self.fields else "name"].widget.attrs["autofocus"] = True

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        if given.get("expires") == "date" and not given.get("expiresAt"):
            self.add_error("expiresAt", "Give a date and time, or choose another expiry.")
        return given

    def values(self, *, at: datetime) -> dict[str, Any]:
        """Return the given values by the API's names; empty limits and priorities are left out."""
        given = dict(self.cleaned_data)
        for name in (*LIMITS, "priority"):
            if given[name] == "":
                del given[name]
        with suppress(KeyError, ValueError):  # the service refuses what is not a whole number
            given["priority"] = int(given["priority"])
        given["budgetMode"] = given["budgetMode"] or None
        choice = given.pop("expires")
        if choice == "never":
            given["expiresAt"] = ""
        elif choice.isdecimal() and (choice, f"{choice} days") in _EXPIRES:
            given["expiresAt"] = (at + timedelta(days=int(choice))).replace(microsecond=0).isoformat()
        return given


class AddKeyForm(KeyForm):
    """A new key, with the limits in the settings."""

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
    def default_words(self) -> str:
        return "it serves before all others" if settings.KEY_ORDER == "fill" else "among equal keys it serves first"

    @property
    def providers(self) -> list[dict[str, Any]]:
        """What a person needs to know about each provider, and which one is chosen."""
        chosen = self["provider"].value()
        return [
            {
                **choice,
                "chosen": choice["name"] == chosen,
                "prefixes": " ".join(providers.get(choice["name"]).secret_prefixes),
            }
            for choice in provider_choices()
        ]


class EditKeyForm(EditForm, KeyForm):
    """A stored key. Unchanged values are not passed on, so that nothing is rounded by being shown."""

    def __init__(self, key: ApiKey, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.initial = _shown(key)
        if key.environment_variable:
            del self.fields["apiKey"]
        else:
            self.fields["apiKey"].help_text = f"Leave it empty to keep the stored one: {key.masked_secret}"
        if not providers.get(key.provider).has_workspaces and not key.workspace_id:
            del self.fields["workspaceId"]

    @property
    def needs_secret_again(self) -> bool:
        """True if a new secret was typed: without the hint, the stored one would stay and nobody would notice."""
        return bool(self.data.get("apiKey", "").strip())

    def values(self, *, at: datetime) -> dict[str, Any]:
        return _edited(self, super().values(at=at), {"expiresAt": ("expires", "expiresAt")})


def _shown(key: ApiKey) -> dict[str, Any]:
    expires = f"{local_time(key.expires_at, settings.TIME_ZONE):%Y-%m-%dT%H:%M}" if key.expires_at else ""
    return {
        "name": key.name,
        "description": key.description,
        **shown_limits(key),
        "expires": "date" if key.expires_at else "never",
        "expiresAt": expires,
        "budgetMode": key.budget_mode or "",
        "priority": str(key.priority),
        "billingGroup": key.billing_group,
        "workspaceId": key.workspace_id,
    }


# --- access tokens ----------------------------------------------------------------------------------------------------


SCOPE_WORDS = {
    "gateway": ("Send requests", "Spends money: sends requests to models at /v1."),
    "read": ("Read", "Reads keys, usage and statistics through the REST API, but no secrets."),
    "manage": ("Manage", "Everything: sends requests, reads, and adds, changes and deletes keys and tokens."),
}
EXPIRIES = {"7": "7 days", "30": "30 days", "90": "90 days", "365": "1 year", "never": "Never", "date": "On a date"}
OVERLAPS = {"0": "At once", "3600": "After an hour", "86400": "After a day", "604800": "After a week"}


class TokenForm(forms.Form):
    """What a new token and a stored one have in common; names are the API's, so that errors find their place."""

    use_required_attribute = False

    name = forms.CharField(
        required=False,
        max_length=100,
        widget=forms.TextInput(_input(maxlength=100)),
        help_text="Which program, machine or person uses it. Usage is shown under this name.",
    )
    dailyLimit = _text("Per day", inputmode="decimal")
    monthlyLimit = _text("Per month", inputmode="decimal")
    totalLimit = _text("In total", inputmode="decimal")
    requestsPerMinute = _text("Requests per minute", inputmode="numeric")
    budgetMode = _budget_mode()
    scopes = forms.MultipleChoiceField(choices=[(scope, scope) for scope in SCOPES], required=False)
    models = forms.CharField(
        required=False,
        widget=forms.Textarea(_input("mono", rows=3, spellcheck="false")),
        help_text="Names or patterns such as openai/* or gpt-6*, one per line. Empty: every model.",
    )
    keyIds = forms.MultipleChoiceField(required=False)
    everyKey = forms.BooleanField(required=False)
    expiry = forms.ChoiceField(choices=list(EXPIRIES.items()), required=False)
    expiresAt = forms.DateField(
        label="Last day",
        required=False,
        widget=forms.DateInput({"class": "input", "type": "date"}, format="%Y-%m-%d"),
        error_messages={"invalid": "Must be a day such as 2026-12-31."},
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stored = list(ApiKey.objects.stored().in_serving_order().values_list("id", "name", "provider"))
        cast(forms.ChoiceField, self.fields["keyIds"]).choices = [(key_id, name) for key_id, name, _ in self.stored]
        _offer_budget_modes(self)
        self.fields["requestsPerMinute"].help_text = "0 means no limit."
        self.fields["expiresAt"].help_text = f"Expires at the end of this day, in the time zone {settings.TIME_ZONE}."

    @property
    def scope_choices(self) -> list[dict[str, Any]]:
        chosen = self["scopes"].value() or []
        return [
            {"name": name, "word": word, "hint": hint, "chosen": name in chosen}
            for name, (word, hint) in SCOPE_WORDS.items()
        ]

    @property
    def expiry_choices(self) -> list[Choice]:
        chosen = self["expiry"].value()
        return [Choice(name, word, name == chosen) for name, word in EXPIRIES.items()]

    @property
    def key_choices(self) -> SafeString:
        """A checkbox for each key, not from a template: for a thousand keys that would double the page's time."""
        chosen, labels = set(self["keyIds"].value() or ()), dict(ProviderName.choices)
        boxes = (
            f'<div class="check"><input type="checkbox" name="keyIds" id="serve-{shown}" value="{shown}"'
            f'{" checked" if key_id in chosen else ""}><label for="serve-{shown}">{escape(name)} '
            f'<span class="faint">{labels[provider]}</span></label></div>'
            for key_id, name, provider in self.stored
            for shown in [escape(key_id)]
        )
        return mark_safe("".join(boxes))  # noqa: S308  (escaped above)

    @property
    def more_is_open(self) -> bool:
        """True if the rarely used fields are to be expanded, because one of them is in use or has an error."""
        names = ("models", "keyIds", "requestsPerMinute", "budgetMode")
        return any(name in self.errors or self[name].value() not in (None, "", "0", []) for name in names)

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        if given.get("expiry") == "date" and "expiresAt" not in self.errors:
            self._check_last_day(given.get("expiresAt"))
        return given

    def _check_last_day(self, day: date | None) -> None:
        if day is None:
            self.add_error("expiresAt", "Give the last day, or choose another expiry.")
        elif day.year >= END_YEAR:
            self.add_error("expiresAt", f"The last day must be before the year {END_YEAR}.")

    def values(self, at: datetime) -> dict[str, Any]:
        """Return the given values by the API's names; days are counted from `at`, a date means the end of the day.

        Empty limits and paces are left out; what is not a number is passed on for the service to refuse.
        """
        given = self.cleaned_data
        pace = given["requestsPerMinute"]
        values = {
            "name": given["name"],
            "scopes": given["scopes"],
            **{name: given[name] for name in (*LIMITS, "requestsPerMinute") if given[name] != ""},
            "budgetMode": given["budgetMode"] or None,
            "models": models_in(given["models"]),
            "keyIds": given["keyIds"] or None,
            "expiresAt": _expiry(given, at),
        }
        if pace.isascii() and pace.isdecimal() and len(pace) < 10:
            values["requestsPerMinute"] = int(pace)
        return values


def _expiry(given: dict[str, Any], at: datetime) -> datetime | None:
    """Return when the token expires, or None if nothing was chosen."""
    if given["expiry"] == "date":
        return day_end(given["expiresAt"], settings.TIME_ZONE)
    return at + timedelta(days=int(given["expiry"])) if given["expiry"].isdigit() else None


class AddTokenForm(CreatingForm, TokenForm):
    """A new token, with the limits in the settings. An administrator may create it for another user."""

    user = _text("Belongs to", maxlength=150, list="users")

    def __init__(self, maker: User, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.initial = {
            "scopes": ["gateway"],
            "dailyLimit": f"{settings.TOKEN_DAILY_LIMIT_USD:f}",
            "monthlyLimit": f"{settings.TOKEN_MONTHLY_LIMIT_USD:f}",
            "totalLimit": f"{settings.TOKEN_TOTAL_LIMIT_USD:f}",
            "requestsPerMinute": "0",
            "budgetMode": "",
            "expiry": "90",
            "user": maker.get_username(),
        }
        if maker.is_superuser:
            words = "It stops working when this user is disabled, and can do nothing that this user may not."
            self.fields["user"].help_text = words
        else:
            del self.fields["user"]

    @property
    def user_names(self) -> list[str]:
        """Names to choose from; others can be typed."""
        users = get_user_model().objects.filter(is_active=True).order_by("username")
        return list(users.values_list("username", flat=True)[:_MOST_NAMES])

    def values(self, at: datetime) -> dict[str, Any]:
        user = self.cleaned_data.get("user")
        return super().values(at) | ({"user": user} if user else {})


_MOST_NAMES = 200


class EditTokenForm(EditForm, TokenForm):
    """A stored token. Unchanged values are not passed on, so that nothing is rounded by being shown."""

    def __init__(self, token: AccessToken, keys: Iterable[ApiKey], *args: Any, **kwargs: Any):
        """`keys` are the stored keys that may serve the token."""
        super().__init__(*args, **kwargs)
        self.token = token
        self.initial = {
            "name": token.name,
            "scopes": ["manage"] if token.scope_manage else token.scopes,
            **shown_limits(token),
            "requestsPerMinute": str(token.requests_per_minute),
            "budgetMode": token.budget_mode or "",
            "models": "\n".join(token.allowed_models or ()),
            "keyIds": [key.id for key in keys],
            "expiry": "date" if token.expires_at else "never",
            "expiresAt": _last_day(token.expires_at),
        }
        self.has_lost_its_keys = token.limited_to_keys and not self.initial["keyIds"]

    def values(self, at: datetime) -> dict[str, Any]:
        return _edited(
            self, super().values(at), {"expiresAt": ("expiry", "expiresAt"), "keyIds": ("keyIds", "everyKey")}
        )


def _last_day(expires_at: datetime | None) -> date | None:
    return local_time(expires_at - timedelta(microseconds=1), settings.TIME_ZONE).date() if expires_at else None
