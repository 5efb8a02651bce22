"""The models that the playground offers, with what a million of their tokens cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings

from llmkeys import providers
from llmkeys.exceptions import NoKey
from llmkeys.prices import catalogue, limits
from llmkeys.relay import candidates
from llmkeys.relay.candidates import Candidate
from llmkeys.relay.models import models_to_choose
from llmkeys.tokens.rights import Caller

AUTO = "auto"
_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Choice:
    """A model by the name that a request gives it; prices in USD per million tokens, None where nobody knows them."""

    id: str
    provider: str
    input: Decimal | None
    output: Decimal | None
    context_tokens: int | None = None

    @property
    def is_priced(self) -> bool:
        return self.input is not None and self.output is not None

    @property
    def input_words(self) -> str:
        return _usd(self.input)

    @property
    def output_words(self) -> str:
        return _usd(self.output)

    @property
    def prices(self) -> str:
        if not self.is_priced:
            per_token = f"{settings.FALLBACK_USD_PER_TOKEN.normalize():f}"
            return f"no price known: ${per_token} per token is charged, unless the provider tells its cost"
        if not self.input and not self.output:
            return "free"
        return f"{_usd(self.input)} in, {_usd(self.output)} out per million tokens"

    @property
    def words(self) -> str:
        """The line beneath the field: who serves it, and at what price."""
        window = f" · {self.context_tokens:,} tokens of context" if self.context_tokens else ""
        return f"{self.provider} · {self.prices}{window}"


def _usd(amount: Decimal | None) -> str:
    """Return a price with at least two decimals and as many as it has."""
    amount = amount or Decimal(0)
    return f"${max(amount.normalize(), amount.quantize(Decimal('0.01')), key=_decimals):,f}"


def _decimals(amount: Decimal) -> int:
    return -int(amount.as_tuple().exponent)


def choices(*, at: datetime, ask: bool) -> list[Choice]:
    """Return the primary model and the fallbacks that a key can serve, then what the providers list."""
    configured = [_configured(name, at) for name in dict.fromkeys((settings.PRIMARY_MODEL, *settings.FALLBACK_MODELS))]
    listed = [_listed(entry) for entry in models_to_choose(at=at, ask=ask)]
    found = {choice.id: choice for choice in listed}
    first = [found.get(choice.id, choice) for choice in configured if choice is not None]
    return list(dict.fromkeys([*first, *listed]))


def find(name: str, known: list[Choice], *, at: datetime) -> Choice | None:
    """Return a model of the list, or any other that a stored key can serve by its name."""
    return next((choice for choice in known if choice.id == name), None) or _configured(name, at)


def _configured(name: str, at: datetime) -> Choice | None:
    candidate = first_candidate(name, at)
    if candidate is None:
        return None
    price = catalogue.price_list().shown(candidate.provider, candidate.model, at)
    return Choice(
        id=name,
        provider=_label(candidate.provider),
        input=price.input if price else None,
        output=price.output if price else None,
        context_tokens=limits.shown_window(candidate.provider, candidate.model),
    )


def first_candidate(name: str, at: datetime) -> Candidate | None:
    """Return the key that would be tried first for a model; no provider is asked."""
    try:
        pool = candidates.find_now(name, caller=Caller(), at=at)
    except NoKey:
        return None
    return next((candidate for candidate in pool if not candidate.obstacle), None)


def _listed(entry: dict[str, Any]) -> Choice:
    told = entry["pricing"] or {}
    return Choice(
        id=entry["id"],
        provider=_label(entry["providers"][0]),
        input=_per_million(told.get("prompt")),
        output=_per_million(told.get("completion")),
        context_tokens=entry["context_length"],
    )


def _per_million(per_token: str | None) -> Decimal | None:
    return None if per_token is None else Decimal(per_token) * _MILLION


def _label(provider: str) -> str:
    return providers.get(provider).label


def auto_words(at: datetime) -> str:
    """Return which models are tried where none is named."""
    names = [name for name in (settings.PRIMARY_MODEL, *settings.FALLBACK_MODELS) if first_candidate(name, at)]
    if not names:
        return "no stored key can serve the primary model or a fallback now"
    return ", then ".join(names)
