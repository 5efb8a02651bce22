"""What is sent to one key: address, headers and body, changed once if the server refuses what was added to them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from django.conf import settings

from llmkeys import providers
from llmkeys.dialects import Request, Rewrite
from llmkeys.prices import catalogue
from llmkeys.prices.worst_case import WorstCase, max_price
from llmkeys.providers.base import Provider
from llmkeys.relay import background
from llmkeys.relay.candidates import Candidate
from llmkeys.relay.requests import RelayRequest


@dataclass
class Outgoing:
    """A request as one key's provider gets it."""

    request: RelayRequest
    candidate: Candidate
    worst: WorstCase
    asked_for_usage: bool = False
    _refused_fields: set[str] = field(default_factory=set)  # fields added by us that the server does not accept
    _renamed_fields: dict[str, str] = field(default_factory=dict)
    _has_learned: bool = False  # once is enough

    @property
    def provider(self) -> Provider:
        return providers.get(self.candidate.provider)

    def call(self, secret: str) -> tuple[str, dict[str, str]]:
        """Return the address and the headers of the request."""
        provider, request = self.provider, self.request.request
        dialect, base_url = request.dialect.name, settings.PROVIDER_BASE_URLS[provider.name]
        url = provider.url(dialect, base_url=base_url, model=self.candidate.model, action=request.door.action)
        headers = provider.headers(
            dialect, secret=secret, workspace_id=self.candidate.workspace_id, given=request.headers.keys()
        )
        if request.query:
            url = f"{url}?{request.query}"
        return url, {
            "Content-Type": "application/json",
            **request.headers,
            **headers,
            "X-Client-Request-Id": self.request.id,
        }

    async def body(self) -> bytes:
        request, change = self.request.request, self._change()
        self.asked_for_usage = change.asks_usage
        if request.size > background.LARGE_BYTES:
            return await background.in_parser(request.dialect.rewritten, request, change)
        return request.dialect.rewritten(request, change)

    def _change(self) -> Rewrite:
        request, provider, model = self.request.request, self.provider, self.candidate.model
        return Rewrite(
            model=model,
            output_limit=self._limit_to_put(request),
            asks_usage=request.streamed and not provider.reports_usage_unasked,
            max_price=max_price(self.worst) if self._must_bound_prices else None,
            without=frozenset(self._refused_fields),
            renamed=self._renamed_fields,
            limit_field=provider.output_limit_field(model, own_base_url=not catalogue.is_local(provider)),
        )

    def _limit_to_put(self, request: Request) -> int | None:
        """Return the output limit to put into the request, if any; some dialects require one."""
        if (
            self.worst.output_limit is None
            and request.dialect.needs_output_limit
            and request.bound.output_tokens is None
        ):
            return self.worst.asked_output or None
        return self.worst.output_limit

    @property
    def _must_bound_prices(self) -> bool:
        """True if the provider chooses among hosts with different prices and the hold must cover all of them."""
        return self.provider.picks_models and self.worst.is_strict

    def learns_from(self, body: bytes) -> bool:
        """Remember what a server objects to in the fields that we added; return True if another try is worthwhile.

        The output limit is lowered or renamed, and never dropped, because the hold depends on it; and it stays above
        the thinking budget, because the provider would refuse it again, for a reason that the client cannot see.
        """
        if self._has_learned:
            return False
        dialect, change = self.request.dialect, self._change()
        ours = dialect.added_fields(self.request.request, change)
        if not catalogue.is_local(self.provider):
            ours.discard("provider")  # OpenRouter itself knows it, and the hold depends on its highest prices
        for name, blame in self.provider.blames(body, ours).items():
            others = [other for other in dialect.limit_names if other != name]
            if name not in dialect.limit_names:
                self._refused_fields.add(name)
            elif blame.at_most is None and others:
                self._renamed_fields[name] = blame.name if blame.name in others else others[0]
            elif self.worst.bound.thinking_tokens < (blame.at_most or 0) < (change.output_limit or 0):
                self.worst = replace(self.worst, output_limit=blame.at_most)
            else:
                continue
            self._has_learned = True
        return self._has_learned
