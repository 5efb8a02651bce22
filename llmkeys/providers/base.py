"""What a provider is: its paths, headers, usage fields, model names and failures. Plain data, no Django, no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmkeys.dialects.base import Request


class FailureKind(StrEnum):
    """What a provider's failure means for the key, the model and the request."""

    RETRY = "retry"  # the provider is busy or broken: the same key may work in a moment
    RATE_LIMITED = "rate_limited"  # the key rests, the next one serves
    EXHAUSTED = "exhausted"  # no money or quota left until a time
    TOO_EXPENSIVE = "too_expensive"  # the provider's own balance does not cover this request's worst case
    REJECTED = "rejected"  # the provider does not accept the key
    FORBIDDEN_HERE = "forbidden_here"  # location, IP list, missing scope: tell the operator, keep the key
    MODEL_UNAVAILABLE = "model_unavailable"
    CLIENT_ERROR = "client_error"  # the client's own mistake: handed back unchanged, never rotated


@dataclass(frozen=True, slots=True)
class Failure:
    """A classified failure; `message` is the provider's own words, scrubbed of key material, at most 500 characters."""

    kind: FailureKind
    message: str
    status: int | None = None
    retry_after_seconds: float | None = None  # what the provider asked for, never negative
    until: datetime | None = None  # aware; the instant the provider named for an exhausted key
    whole_group: bool = False  # the limit belongs to the account: every key of the billing group rests
    model_only: bool = False  # the limit belongs to this model: the key may serve others


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to a provider; the secret is in `headers` only, never in `url` or in the repr."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """The outcome of the free key test, in words for a person."""

    ok: bool
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None  # set where `ok` is false


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One entry of a provider's own model list; numbers are None where it does not tell."""

    id: str
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    input_usd_per_token: Decimal | None = None
    output_usd_per_token: Decimal | None = None


class Provider:
    """One provider; subclasses fill in the attributes and the hooks, and nothing else knows a provider's name."""

    name: str
    label: str
    vendor: str = ""  # the prefix of this provider's models in `vendor/model`; empty for OpenRouter, which serves all
    environment_variables: tuple[str, ...]
    base_url_variable: str
    default_base_url: str
    secret_prefixes: tuple[str, ...] = ()  # longest first; kept readable in a masked key
    secret_hint: str = ""  # what a key looks like
    keys_page: str = ""  # where a person gets one
    tier_header: str = ""  # where it tells the service tier that served, beside the body
    reports_costs = False  # an answer says what it cost

    def secret_problem(self, secret: str) -> str:
        """Return in words why a secret of this look cannot serve requests, an empty string where nothing is wrong."""
        return ""

    def auth_headers(self, *, secret: str, workspace_id: str = "") -> dict[str, str]:
        """Return the headers that authenticate on the OpenAI chat path."""
        return {"Authorization": f"Bearer {secret}"}

    def relayed_call(
        self, request: Request, *, base_url: str, model: str, secret: str, workspace_id: str = ""
    ) -> tuple[str, dict[str, str]]:
        """Return the address of a relayed request and the headers that authenticate it."""
        headers = {"Content-Type": "application/json", **self.auth_headers(secret=secret, workspace_id=workspace_id)}
        return self.chat_url(base_url), headers

    def chat_url(self, base_url: str) -> str:
        """Return the URL of the OpenAI chat dialect below `base_url` (no trailing slash)."""
        return f"{base_url}/chat/completions"

    def model_name(self, model: str) -> str | None:
        """Return this provider's own name of the model a client asked for, or None where it cannot serve it by name."""
        raise NotImplementedError

    def output_limit_field(self, model: str, *, own_base_url: bool) -> str:
        """Return the body field that limits the output where the client sets none."""
        return "max_tokens"

    def failure_in_body(self, body: Mapping[str, Any], *, at: datetime) -> Failure | None:
        """Return the failure that an answer with status 200 carries in its body, if any."""
        raise NotImplementedError

    def classify(self, *, status: int, headers: Mapping[str, str], body: bytes, at: datetime) -> Failure:
        """Tell what a status of 400 or above means; `headers` has case-insensitive names. Never raises."""
        raise NotImplementedError

    def check_call(self, *, base_url: str, secret: str, workspace_id: str = "") -> Call:
        """Return the call that tests a key and costs nothing."""
        raise NotImplementedError

    def check_answer(self, *, status: int, headers: Mapping[str, str], body: bytes, at: datetime) -> KeyCheck:
        """Read the answer to `check_call`. Never raises."""
        raise NotImplementedError

    def models_call(self, *, base_url: str, secret: str, workspace_id: str = "") -> Call:
        """Return the free call that lists the models."""
        raise NotImplementedError

    def models_answer(self, body: bytes) -> list[ListedModel]:
        """Read the answer to `models_call`; an unreadable one is an empty list."""
        raise NotImplementedError
