"""An admin form whose service both checks and stores, so that no rule stands a second time in the admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django import forms
from django.db.models import Model
from django.utils.text import capfirst

from llmkeys.exceptions import InvalidInput, LLMKeysError


class StoringForm(forms.ModelForm):
    """Stores through a service at the end of its validation; the service's sentences then stand beside the fields.

    It is safe there: validation runs once, inside the admin's transaction, after the rights were checked, and no other
    form of the page can fail afterwards.
    """

    user: Any = None
    error_fields: ClassVar[dict[str, str]] = {}  # the service's field name → the form's
    other_errors_field: ClassVar[str | None] = None

    def store(self) -> Model:
        """Call the service with `cleaned_data` and return the row."""
        raise NotImplementedError

    def _post_clean(self) -> None:
        if self.errors:
            return
        try:
            self.instance = self.store()
        except InvalidInput as error:
            self._take_errors(error.errors)
        except LLMKeysError as error:
            self.add_error(self.other_errors_field, str(error))

    def _take_errors(self, errors: dict[str, list[str]]) -> None:
        for name, sentences in errors.items():
            name = self.error_fields.get(name, name)
            for sentence in sentences:
                if name in self.fields:
                    self.add_error(name, capfirst(sentence))
                else:
                    self.add_error(None, f"{name}: {sentence}")

    def save(self, commit: bool = True) -> Model:
        """Return what is stored already."""
        self.save_m2m: Callable[[], None] = lambda: None
        return self.instance
