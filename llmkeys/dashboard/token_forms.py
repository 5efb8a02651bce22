"""The form of a new access token. It collects; what is right is decided by the service."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any, cast

from django import forms
from django.conf import settings
from django.utils.text import capfirst

from llmkeys.lib.windows import day_end
from llmkeys.models import ApiKey
from llmkeys.tokens.making import SCOPES

SCOPE_WORDS = {
    "gateway": ("Send requests", "Spends money: requests to the models at /v1."),
    "read": ("Read", "Looks at keys, usage and statistics by the REST API; sees no secret."),
    "manage": ("Manage", "All of it: sends, reads, and adds, changes and deletes keys and tokens."),
}
_TOO_FAR = 2200  # beyond it a zone's midnight cannot be told
EXPIRIES = {"7": "7 days", "30": "30 days", "90": "90 days", "365": "1 year", "never": "Never", "date": "Until a day"}


class TokenForm(forms.Form):
    """A new token; fields have the contract's names, so that a service's errors find their place."""

    use_required_attribute = False

    name = forms.CharField(
        required=False,
        max_length=100,
        widget=forms.TextInput({"class": "input", "autocomplete": "off", "maxlength": 100}),
        help_text="Which program, machine or person holds it. Usage is told by this name.",
    )
    scopes = forms.MultipleChoiceField(choices=[(scope, scope) for scope in SCOPES], required=False)
    expiry = forms.ChoiceField(choices=list(EXPIRIES.items()), required=False)
    expiresAt = forms.DateField(
        label="Last day",
        required=False,
        widget=forms.DateInput({"class": "input", "type": "date"}, format="%Y-%m-%d"),
        error_messages={"invalid": "Must be a day such as 2026-12-31."},
    )
    keyIds = forms.MultipleChoiceField(required=False)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.initial = {"scopes": ["gateway"], "expiry": "90", **(self.initial or {})}
        self.stored = list(ApiKey.objects.stored().in_serving_order().only("id", "name", "provider"))
        cast(forms.MultipleChoiceField, self.fields["keyIds"]).choices = [(key.id, key.name) for key in self.stored]
        self.fields["expiresAt"].help_text = f"Ends with this day, in the zone {settings.TIME_ZONE}."

    @property
    def scope_choices(self) -> list[dict[str, Any]]:
        chosen = self["scopes"].value() or []
        return [
            {"name": name, "word": word, "hint": hint, "chosen": name in chosen}
            for name, (word, hint) in SCOPE_WORDS.items()
        ]

    @property
    def expiry_choices(self) -> list[dict[str, Any]]:
        chosen = self["expiry"].value()
        return [{"name": name, "word": word, "chosen": name == chosen} for name, word in EXPIRIES.items()]

    @property
    def key_choices(self) -> list[dict[str, Any]]:
        chosen = self["keyIds"].value() or []
        return [{"key": key, "chosen": key.id in chosen} for key in self.stored]

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("expiry") == "date" and "expiresAt" not in self.errors:
            self._check_last_day(given.get("expiresAt"))
        return given

    def _check_last_day(self, day: date | None) -> None:
        if day is None:
            self.add_error("expiresAt", "Give the last day, or choose another expiry.")
        elif day.year >= _TOO_FAR:
            self.add_error("expiresAt", f"The last day must lie before the year {_TOO_FAR}.")

    def values(self, at: datetime) -> dict[str, Any]:
        """Return what the service takes; a number of days counts from `at`, a day ends with itself."""
        given = self.cleaned_data
        return {
            "name": given["name"],
            "scopes": given["scopes"],
            "expires_at": _expiry(given, at),
            "key_ids": given["keyIds"] or None,
        }

    def take_errors(self, errors: dict[str, list[str]]) -> None:
        """Put a service's sentences beside their fields."""
        for name, sentences in errors.items():
            for sentence in sentences:
                self.add_error(name if name in self.fields else None, capfirst(sentence))


def _expiry(given: dict[str, Any], at: datetime) -> datetime | None:
    """Return when the token ends; where nothing was chosen it does not."""
    if given["expiry"] == "date":
        return day_end(given["expiresAt"], settings.TIME_ZONE)
    return at + timedelta(days=int(given["expiry"])) if given["expiry"].isdigit() else None
