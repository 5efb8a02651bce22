"""The base class of providers: the endpoint of each dialect, hosts, model names, failures and free calls.

Plain data and pure functions, no Django, no network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlsplit

from llmkeys.lib.reading import items, load_json, mapping, text
from llmkeys.providers import blame
from llmkeys.providers.blame import Blame
from llmkeys.providers.checks import TESTED, explain
from llmkeys.providers.failures import (
    ErrorView,
    Failure,
    FailureKind,
    Scope,
    by_status,
    is_foreign,
    plain_message,
    view_in_body,
    view_of_answer,
)
from llmkeys.providers.names import at_vendor, is_valid
from llmkeys.providers.scrub import scrub

__all__ = ["Call", "Endpoint", "Failure", "FailureKind", "KeyCheck", "ListedModel", "Provider", "Scope"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider serves a dialect, and how the secret is sent.

    In `path`, which is appended to the base URL, `{model}` is the provider's own name of the model and `{action}` the
    operation of the dialect (`/count_tokens`, `:generateContent`).
    """

    path: str
    auth_header: str = "Authorization"
    auth_prefix: str = "Bearer "  # before the secret
    headers: Mapping[str, str] = field(default_factory=dict)  # also sent, unless the client sends a header of that name
    without: frozenset[str] = frozenset()  # actions of the dialect that are not served


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to a provider; the secret is in `headers` only, never in `url` or in the repr."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """The result of the free key test, with a message for people."""

    ok: bool
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None  # set if `ok` is false


@dataclass(frozen=True, slots=True)
class ListedModel:
    """An entry of a provider's model list; numbers are None if it does not report them."""

    id: str
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    input_usd_per_token: Decimal | None = None
    output_usd_per_token: Decimal | None = None


class Provider:
    """A provider; subclasses set the attributes and override the hooks, and no other code knows a provider's name."""

    name: str
    label: str
    badge: str  # two letters, shown on a coloured disc
    vendor: str = ""  # the prefix of its models in `vendor/model`; empty for a provider that serves all vendors
    environment_variables: tuple[str, ...]
    base_url_variable: str
    default_base_url: str
    domains: tuple[str, ...]  # including their subdomains
    endpoints: Mapping[str, Endpoint]  # by dialect; other dialects are not served
    own: Endpoint  # for the free calls; its path is not used
    check_path = "/models"
    models_path = "/models"
    models_field = "data"
    secret_prefixes: tuple[str, ...] = ()  # longest first; they stay readable in a masked key
    admin_prefixes: tuple[str, ...] = ()  # keys that manage the account and cannot serve requests
    secret_hint: str = ""  # an example of a key
    keys_page: str = ""  # where keys are created
    example_model: str = ""  # a model of the vendor, by its own name, for snippets to copy
    model_prefix: str = ""  # the prefix of each name in its own lists
    has_workspaces = False
    tier_header: str = ""  # the response header with the service tier that served, in addition to the body
    reports_costs = False  # each answer reports its cost, and `generation_call` fetches it afterwards
    picks_models = False  # a request may list several models, from which the provider picks the one that answers
    reports_usage_unasked = False  # even at the end of a stream
    reports_input_first = False  # the first event of a stream reports all input that is billed
    rate_limit_is_per_model = True
    search_usd: Decimal  # per search, if the price data has no price: the highest on its price page
    has_own_search = False  # a plugin of its own may search instead of the vendor's tool
    search_usd_per_answer: Decimal | None = None  # at this price, billed once per answer, however many queries

    # --- addresses and headers ---------------------------------------------------------------------------------------

    def serves(self, dialect: str, action: str = "") -> bool:
        """Return whether this provider serves the dialect, and the action within it."""
        endpoint = self.endpoints.get(dialect)
        return endpoint is not None and action not in endpoint.without

    def url(self, dialect: str, *, base_url: str, model: str = "", action: str = "") -> str:
        """Return the URL for requests of the dialect. `base_url` has no trailing slash. Raises KeyError."""
        path = self.endpoints[dialect].path
        return base_url + path.format(model=quote(model, safe="-._~"), action=action)

    def headers(
        self, dialect: str, *, secret: str, workspace_id: str = "", given: Collection[str] = ()
    ) -> dict[str, str]:
        """Return the authentication headers, and those the dialect needs that are not `given` (in lower case)."""
        return self._headers(self.endpoints[dialect], secret, workspace_id, given)

    def _headers(
        self, endpoint: Endpoint, secret: str, workspace_id: str, given: Collection[str] = ()
    ) -> dict[str, str]:
        needed = {name: value for name, value in endpoint.headers.items() if name.lower() not in given}
        return needed | {endpoint.auth_header: f"{endpoint.auth_prefix}{secret}"} | self._extra(workspace_id)

    def _extra(self, workspace_id: str) -> dict[str, str]:
        return {}

    def is_own(self, base_url: str) -> bool:
        """Return whether the URL is the provider's own, in any region, and not that of a local server or a proxy."""
        try:
            host = (urlsplit(base_url).hostname or "").rstrip(".")
        except ValueError:
            return False
        return any(host == domain or host.endswith(f".{domain}") for domain in self.domains)

    # --- what goes into a request ------------------------------------------------------------------------------------

    def model_name(self, model: str) -> str | None:
        """Return the provider's own name of a model that a client requested, or None if it does not serve it."""
        return at_vendor(model, self.vendor)

    def output_limit_field(self, model: str, *, own_base_url: bool) -> str:
        """Return the name of the chat field that limits the output, for requests that set none."""
        return "max_tokens"

    def blames(self, body: bytes, names: Collection[str]) -> dict[str, Blame]:
        """Return which of the fields that we added (`names`) a 400 or 422 objects to, and what it asks for instead."""
        return blame.blamed(body, names)

    # --- what it charges ---------------------------------------------------------------------------------------------

    def is_free(self, model: str) -> bool:
        """Return whether the model's name says that it is free."""
        return False

    def most_search_usd(self, name: str) -> Decimal:
        """Return the highest price of a search if the usage does not say which tool ran; 0: as in the price data."""
        return Decimal(0)

    def costs_more_in_region(self, model: str, *, region: str, base_url: str) -> bool:
        """Return whether tokens cost more because of regional processing, given by `region` or the base URL."""
        return False

    def dearest_region(self, model: str) -> str:
        """Return the most expensive region that may serve a request which names none, if the account may set one."""
        return ""

    def drawing_model_name(self, model: str) -> str:
        """Return the name under which an image model that is used as a tool is billed."""
        return model.rpartition("/")[2]

    # --- answers -----------------------------------------------------------------------------------------------------

    def failure_in_body(self, body: Mapping[str, Any], *, at: datetime) -> Failure | None:
        """Return the failure in a 200 response or a stream event of any dialect, or None. Never raises."""
        view = view_in_body(body, label=self.label, at=at)
        return self._failure(view) if view is not None else None

    def classify(self, *, status: int, headers: Mapping[str, str], body: bytes, at: datetime) -> Failure:
        """Classify a response with an error status. Never raises.

        Names of `headers` may have any case. The caller has already removed the secret from headers and body.
        """
        view = view_of_answer(label=self.label, status=status, headers=headers, body=body, at=at)
        return self._wrong_address(view, body) if is_foreign(view, body) else self._failure(view)

    def _failure(self, view: ErrorView) -> Failure:
        return self._known(view) or by_status(view, rate_limit_is_per_model=self.rate_limit_is_per_model)

    def _known(self, view: ErrorView) -> Failure | None:
        """Classify by the provider's own codes and messages; None if only the status can be used."""
        return None

    def _wrong_address(self, view: ErrorView, body: bytes) -> Failure:
        message = f": {message}" if (message := scrub(plain_message(body), limit=200).rstrip(".")) else ""
        words = (
            f"{self.label}'s base URL answered with status {view.status}, but not as {self.label} does{message}. "
            f"Check {self.base_url_variable}."
        )
        return Failure(FailureKind.WRONG_ADDRESS, words, status=view.status, scope=Scope.PROVIDER)

    # --- free calls --------------------------------------------------------------------------------------------------

    def check_call(self, *, base_url: str, secret: str, workspace_id: str = "") -> Call:
        """Return the free call that tests a key."""
        return self._get(f"{base_url}{self.check_path}", secret=secret, workspace_id=workspace_id)

    def check_answer(self, *, status: int, headers: Mapping[str, str], body: bytes, at: datetime) -> KeyCheck:
        """Return the result of `check_call` from its response. Never raises."""
        checked = self._checked(load_json(body)) if status == 200 else None
        if checked is not None:
            return checked
        failure = self._check_failure(self.classify(status=status, headers=headers, body=body, at=at))
        if any(prefix.encode() in body for prefix in self.admin_prefixes):  # the response repeats the start of the key
            return self.admin_key(status)
        words = failure.message if failure.kind is FailureKind.WRONG_ADDRESS else explain(self, failure)
        return KeyCheck(ok=False, message=words, failure=failure)

    def models_call(self, *, base_url: str, secret: str, workspace_id: str = "") -> Call:
        """Return the free call that lists the models."""
        return self._get(f"{base_url}{self.models_path}", secret=secret, workspace_id=workspace_id)

    def models_answer(self, body: bytes) -> list[ListedModel]:
        """Return the models in the response to `models_call`, or an empty list if it cannot be read."""
        entries = items(mapping(load_json(body)).get(self.models_field))
        models = (self._listed(entry) for entry in entries)
        return [model for model in models if is_valid(model.id)]

    def generation_call(self, *, base_url: str, secret: str, generation_id: str) -> Call:
        """Return the free call that fetches the actual cost of a request, if the provider `reports_costs`."""
        raise NotImplementedError

    def generation_cost(self, body: bytes) -> Decimal | None:
        """Return the cost in USD from the response to `generation_call`, or None if it is not (yet) reported."""
        raise NotImplementedError

    def secret_problem(self, secret: str) -> str:
        """Return why a secret of this form cannot serve requests, or an empty string if it may."""
        return self._admin_words() if secret.startswith(self.admin_prefixes) else ""

    def admin_key(self, status: int) -> KeyCheck:
        """Return the result for a key that only manages the account and cannot serve requests."""
        failure = Failure(kind=FailureKind.REJECTED, message=self._admin_words(), status=status)
        return KeyCheck(ok=False, message=failure.message, failure=failure)

    def _admin_words(self) -> str:
        return (
            f"This is a management key of {self.label}, which cannot serve requests. "
            f"Create an ordinary API key at {self.keys_page} instead."
        )

    def _check_failure(self, failure: Failure) -> Failure:
        """Adapt a failure to the free test, which does not name a model."""
        if failure.kind is FailureKind.MODEL_UNAVAILABLE:
            return replace(failure, kind=FailureKind.CLIENT_ERROR, model_only=False)
        return failure

    def _checked(self, document: Any) -> KeyCheck | None:
        """Return the result of a successful free test, or None if the response is not in the provider's format."""
        answer = mapping(document)
        listed = answer.get(self.models_field)
        if not isinstance(listed, list) and not (listed is None and answer.get("object") == "list"):
            return None
        more = answer.get("has_more") is True or bool(text(answer.get("nextPageToken")))
        details = {"modelsListed": len(listed or ())} | ({"moreModels": True} if more else {})
        return KeyCheck(ok=True, message=TESTED, details=details)

    def _listed(self, entry: Mapping[str, Any]) -> ListedModel:
        return ListedModel(id=text(entry.get("id")))

    def _get(self, url: str, *, secret: str, workspace_id: str) -> Call:
        headers = {"Accept": "application/json"} | self._headers(self.own, secret, workspace_id)
        return Call(method="GET", url=url, headers=headers)
