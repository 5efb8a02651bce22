"""What a provider is: where it serves each dialect, its hosts, model names, failures and free calls.

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
from llmkeys.providers.checks import TESTED, in_words
from llmkeys.providers.failures import (
    ErrorView,
    Failure,
    FailureKind,
    Scope,
    by_status,
    is_foreign,
    plain_words,
    view_in_body,
    view_of_answer,
)
from llmkeys.providers.names import at_vendor, is_valid
from llmkeys.providers.scrub import scrub

__all__ = ["Call", "Endpoint", "Failure", "FailureKind", "KeyCheck", "ListedModel", "Provider", "Scope"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider serves one dialect, and how it wants the secret there.

    In `path`, which follows the base URL, `{model}` is the provider's own name of the model and `{action}` what the
    dialect does there (`/count_tokens`, `:generateContent`).
    """

    path: str
    auth_header: str = "Authorization"
    auth_prefix: str = "Bearer "  # before the secret
    headers: Mapping[str, str] = field(default_factory=dict)  # sent too, where the client sends none of that name
    without: frozenset[str] = frozenset()  # actions of the dialect that are not served


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
    """One entry of a provider's own model list; numbers are None if it does not tell."""

    id: str
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    input_usd_per_token: Decimal | None = None
    output_usd_per_token: Decimal | None = None


class Provider:
    """One provider; subclasses fill in the attributes and the hooks, and nothing else knows a provider's name."""

    name: str
    label: str
    badge: str  # two letters on a coloured disc
    vendor: str = ""  # the prefix of this provider's models in `vendor/model`; empty for one that serves all vendors'
    environment_variables: tuple[str, ...]
    base_url_variable: str
    default_base_url: str
    domains: tuple[str, ...]  # whatever is below them is the provider too
    endpoints: Mapping[str, Endpoint]  # by dialect; a dialect that is not here is not served
    own: Endpoint  # for the free calls; its path is not used
    check_path = "/models"
    models_path = "/models"
    models_field = "data"
    secret_prefixes: tuple[str, ...] = ()  # longest first; kept readable in a masked key
    admin_prefixes: tuple[str, ...] = ()  # keys that manage the account and cannot serve requests
    secret_hint: str = ""  # what a key looks like
    keys_page: str = ""  # where a person gets one
    example_model: str = ""  # a model of the vendor's, by its own name, for lines that a person copies
    model_prefix: str = ""  # what its own lists put before each name
    has_workspaces = False
    tier_header: str = ""  # where it names the service tier that served, in addition to the body
    reports_costs = False  # each answer tells what it cost, and `generation_call` tells it afterwards
    picks_models = False  # a request may name several models, and this provider picks the one that answers
    tells_usage_unasked = False  # at the end of a stream too
    tells_input_first = False  # a stream's first event says how much input is billed, and all of it
    rate_limit_is_per_model = True
    search_usd: Decimal  # a search, where the price data says nothing: the dearest on its price page
    has_own_search = False  # a plugin of its own may search in place of the vendor's tool
    search_usd_per_answer: Decimal | None = None  # at this price an answer is one search, however many queries it took

    # --- addresses and headers ---------------------------------------------------------------------------------------

    def serves(self, dialect: str, action: str = "") -> bool:
        """True if this provider takes requests of the dialect, and the action within it."""
        endpoint = self.endpoints.get(dialect)
        return endpoint is not None and action not in endpoint.without

    def url(self, dialect: str, *, base_url: str, model: str = "", action: str = "") -> str:
        """Return where a request of the dialect goes. `base_url` has no slash at its end; raises KeyError."""
        path = self.endpoints[dialect].path
        return base_url + path.format(model=quote(model, safe="-._~"), action=action)

    def headers(
        self, dialect: str, *, secret: str, workspace_id: str = "", given: Collection[str] = ()
    ) -> dict[str, str]:
        """Return the headers that authenticate, and those the dialect needs that are not `given` (in lower case)."""
        return self._headers(self.endpoints[dialect], secret, workspace_id, given)

    def _headers(
        self, endpoint: Endpoint, secret: str, workspace_id: str, given: Collection[str] = ()
    ) -> dict[str, str]:
        needed = {name: value for name, value in endpoint.headers.items() if name.lower() not in given}
        return needed | {endpoint.auth_header: f"{endpoint.auth_prefix}{secret}"} | self._extra(workspace_id)

    def _extra(self, workspace_id: str) -> dict[str, str]:
        return {}

    def is_own(self, base_url: str) -> bool:
        """True if the address is this provider's own, in whatever region; else a local server or a proxy answers."""
        try:
            host = (urlsplit(base_url).hostname or "").rstrip(".")
        except ValueError:
            return False
        return any(host == domain or host.endswith(f".{domain}") for domain in self.domains)

    # --- what goes into a request ------------------------------------------------------------------------------------

    def model_name(self, model: str) -> str | None:
        """Return this provider's own name of the model a client asked for, or None if it cannot serve it by name."""
        return at_vendor(model, self.vendor)

    def output_limit_field(self, model: str, *, own_base_url: bool) -> str:
        """Return the field of a chat body that limits the output, where the client sets none."""
        return "max_tokens"

    def blames(self, body: bytes, names: Collection[str]) -> dict[str, Blame]:
        """Return which of our own fields `names` an answer with status 400 or 422 objects to, and what it asks for."""
        return blame.blamed(body, names)

    # --- what it charges ---------------------------------------------------------------------------------------------

    def is_free(self, model: str) -> bool:
        """True for a model whose name says that it costs nothing."""
        return False

    def most_search_usd(self, name: str) -> Decimal:
        """Return what a search of the model may cost where no usage tells which tool ran; 0: what the data says."""
        return Decimal(0)

    def is_dearer_in_region(self, model: str, *, region: str, base_url: str) -> bool:
        """True if tokens cost more where they were served: in `region`, or behind an address of one region."""
        return False

    def drawing_model_name(self, model: str) -> str:
        """Return the name under which a model that draws as a tool is billed."""
        return model.rpartition("/")[2]

    # --- answers -----------------------------------------------------------------------------------------------------

    def failure_in_body(self, body: Mapping[str, Any], *, at: datetime) -> Failure | None:
        """Return the failure inside an answer with status 200 or an event of a stream, in any dialect. Never raises."""
        view = view_in_body(body, label=self.label, at=at)
        return self._failure(view) if view is not None else None

    def classify(self, *, status: int, headers: Mapping[str, str], body: bytes, at: datetime) -> Failure:
        """Classify an answer that is not a success: an error status, or no answer at all. Never raises.

        Names of `headers` may have any case. The caller has taken the secret out of headers and body.
        """
        view = view_of_answer(label=self.label, status=status, headers=headers, body=body, at=at)
        return self._wrong_address(view, body) if is_foreign(view, body) else self._failure(view)

    def _failure(self, view: ErrorView) -> Failure:
        return self._known(view) or by_status(view, rate_limit_is_per_model=self.rate_limit_is_per_model)

    def _known(self, view: ErrorView) -> Failure | None:
        """Return what this provider's own codes and words mean, None if only the status tells."""
        return None

    def _wrong_address(self, view: ErrorView, body: bytes) -> Failure:
        said = f": {said}" if (said := scrub(plain_words(body), limit=200).rstrip(".")) else ""
        words = (
            f"{self.label}'s address answered with status {view.status}, but not as {self.label} does{said}. "
            f"Check {self.base_url_variable}."
        )
        return Failure(FailureKind.WRONG_ADDRESS, words, status=view.status, scope=Scope.PROVIDER)

    # --- free calls --------------------------------------------------------------------------------------------------

    def check_call(self, *, base_url: str, secret: str, workspace_id: str = "") -> Call:
        """Return the call that tests a key and costs nothing."""
        return self._get(f"{base_url}{self.check_path}", secret=secret, workspace_id=workspace_id)

    def check_answer(self, *, status: int, headers: Mapping[str, str], body: bytes, at: datetime) -> KeyCheck:
        """Read the answer to `check_call`. Never raises."""
        checked = self._checked(load_json(body)) if status == 200 else None
        if checked is not None:
            return checked
        failure = self._check_failure(self.classify(status=status, headers=headers, body=body, at=at))
        if any(prefix.encode() in body for prefix in self.admin_prefixes):  # the answer repeats the key's beginning
            return self.admin_key(status)
        words = failure.message if failure.kind is FailureKind.WRONG_ADDRESS else in_words(self, failure)
        return KeyCheck(ok=False, message=words, failure=failure)

    def models_call(self, *, base_url: str, secret: str, workspace_id: str = "") -> Call:
        """Return the free call that lists the models."""
        return self._get(f"{base_url}{self.models_path}", secret=secret, workspace_id=workspace_id)

    def models_answer(self, body: bytes) -> list[ListedModel]:
        """Read the answer to `models_call`; an unreadable one is an empty list."""
        entries = items(mapping(load_json(body)).get(self.models_field))
        models = (self._listed(entry) for entry in entries)
        return [model for model in models if is_valid(model.id)]

    def secret_problem(self, secret: str) -> str:
        """Return in words why a secret of this look cannot serve requests, an empty string where nothing is wrong."""
        return self._admin_words() if secret.startswith(self.admin_prefixes) else ""

    def admin_key(self, status: int) -> KeyCheck:
        """Say that a key manages the account and cannot serve requests."""
        failure = Failure(kind=FailureKind.REJECTED, message=self._admin_words(), status=status)
        return KeyCheck(ok=False, message=failure.message, failure=failure)

    def _admin_words(self) -> str:
        return (
            f"This is a management key of {self.label}: it cannot serve requests. "
            f"Create an ordinary API key at {self.keys_page} instead."
        )

    def _check_failure(self, failure: Failure) -> Failure:
        """Adapt a failure to the free test, which names no model."""
        if failure.kind is FailureKind.MODEL_UNAVAILABLE:
            return replace(failure, kind=FailureKind.CLIENT_ERROR, model_only=False)
        return failure

    def _checked(self, document: Any) -> KeyCheck | None:
        """Read a successful free test; None if it does not look like this provider's answer."""
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
