"""What the four providers have in common in the dialect *OpenAI chat*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from llmkeys.lib.reading import items, load_json, mapping, text
from llmkeys.providers.base import Call, Failure, FailureKind, KeyCheck, ListedModel, Provider
from llmkeys.providers.checks import TESTED, in_words
from llmkeys.providers.failures import ErrorView, by_status, view_in_body, view_of_answer
from llmkeys.providers.names import at_vendor, is_valid


class OpenAIChatProvider(Provider):
    """A provider whose subclasses add their own addresses, error codes and model list."""

    check_path = "/models"
    models_path = "/models"
    models_field = "data"
    admin_prefixes: tuple[str, ...] = ()  # keys that manage the account and cannot chat
    rate_limit_is_per_model = True

    def model_name(self, model: str) -> str | None:
        return at_vendor(model, self.vendor)

    def failure_in_body(self, body: Mapping[str, Any], *, at: datetime) -> Failure | None:
        view = view_in_body(body, label=self.label, at=at)
        return self._failure(view) if view is not None else None

    def classify(self, *, status: int, headers: Mapping[str, str], body: bytes, at: datetime) -> Failure:
        return self._failure(view_of_answer(label=self.label, status=status, headers=headers, body=body, at=at))

    def native_headers(self, *, secret: str, workspace_id: str = "") -> dict[str, str]:
        """Return the headers that authenticate outside the OpenAI chat path."""
        return self.auth_headers(secret=secret, workspace_id=workspace_id)

    def check_call(self, *, base_url: str, secret: str, workspace_id: str = "") -> Call:
        return self._get(f"{base_url}{self.check_path}", secret=secret, workspace_id=workspace_id)

    def check_answer(self, *, status: int, headers: Mapping[str, str], body: bytes, at: datetime) -> KeyCheck:
        if status < 400:
            checked = self._checked(load_json(body)) if status == 200 else None
            return checked or self._not_this_provider(status)
        failure = self._check_failure(self.classify(status=status, headers=headers, body=body, at=at))
        if any(prefix.encode() in body for prefix in self.admin_prefixes):  # the answer repeats the key's beginning
            return self.admin_key(status)
        return KeyCheck(ok=False, message=in_words(self, failure), failure=failure)

    def models_call(self, *, base_url: str, secret: str, workspace_id: str = "") -> Call:
        return self._get(f"{base_url}{self.models_path}", secret=secret, workspace_id=workspace_id)

    def models_answer(self, body: bytes) -> list[ListedModel]:
        entries = items(mapping(load_json(body)).get(self.models_field))
        models = (self._listed(entry) for entry in entries)
        return [model for model in models if is_valid(model.id)]

    def admin_key(self, status: int) -> KeyCheck:
        """Say that a key manages the account and cannot serve requests."""
        failure = Failure(kind=FailureKind.REJECTED, message=self._admin_words(), status=status)
        return KeyCheck(ok=False, message=failure.message, failure=failure)

    def secret_problem(self, secret: str) -> str:
        return self._admin_words() if secret.startswith(self.admin_prefixes) else ""

    def _admin_words(self) -> str:
        return (
            f"This is a management key of {self.label}: it cannot serve requests. "
            f"Create an ordinary API key at {self.keys_page} instead."
        )

    def _known(self, view: ErrorView) -> Failure | None:
        """Return what this provider's own codes and words mean, None where only the status tells."""
        return None

    def _failure(self, view: ErrorView) -> Failure:
        known = self._known(view)
        return known or by_status(view, whole_group=True, model_only=self.rate_limit_is_per_model)

    def _check_failure(self, failure: Failure) -> Failure:
        """Adapt a failure to the free test, which names no model."""
        if failure.kind is FailureKind.MODEL_UNAVAILABLE:
            return replace(failure, kind=FailureKind.CLIENT_ERROR, model_only=False)
        return failure

    def _checked(self, document: Any) -> KeyCheck | None:
        """Read a successful free test; None where it does not look like this provider's answer."""
        answer = mapping(document)
        listed = answer.get(self.models_field)
        if not isinstance(listed, list) and not (listed is None and answer.get("object") == "list"):
            return None
        more = answer.get("has_more") is True or bool(text(answer.get("nextPageToken")))
        details = {"modelsListed": len(listed or ())} | ({"moreModels": True} if more else {})
        return KeyCheck(ok=True, message=TESTED, details=details)

    def _not_this_provider(self, status: int) -> KeyCheck:
        message = f"The address answered, but not as {self.label} does. Check {self.base_url_variable}."
        failure = Failure(kind=FailureKind.CLIENT_ERROR, message=message, status=status)
        return KeyCheck(ok=False, message=message, failure=failure)

    def _listed(self, entry: Mapping[str, Any]) -> ListedModel:
        return ListedModel(id=text(entry.get("id")))

    def _get(self, url: str, *, secret: str, workspace_id: str) -> Call:
        headers = self.native_headers(secret=secret, workspace_id=workspace_id)
        return Call(method="GET", url=url, headers={"Accept": "application/json"} | headers)
