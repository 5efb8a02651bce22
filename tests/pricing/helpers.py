"""What the tests of prices share: a fixed present, the prices of it, and the models of the price data."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from genai_prices.data_snapshot import get_snapshot

from llmkeys.dialects.base import Bound, Usage
from llmkeys.prices.cost import Charge, charge
from llmkeys.prices.tariffs import OperatorPrice, Price, PriceList
from llmkeys.prices.worst_case import WorstCase, worst_case

NOW = datetime(2026, 11, 23, 20, 30, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
OF_FREE_ANSWERS = 1_000_000  # more than any model gives: what costs nothing gets no limit
PROVIDERS = ("openrouter", "openai", "anthropic", "google")


def price_list(
    rows: Iterable[tuple[str, str, OperatorPrice]] = (), *, local: Iterable[str] = (), fallback: str = "0.0001"
) -> PriceList:
    """Return a list of prices with an operator's (provider, model, row)s."""
    table: dict[tuple[str, str], list[OperatorPrice]] = {}
    for provider, model, row in rows:
        table.setdefault((provider, model), []).append(row)
    return PriceList(table, Decimal(fallback), frozenset(local))


def operators(provider: str, model: str, price: Price, **columns: Any) -> PriceList:
    """Return a list of prices with one row of the operator's."""
    return price_list([(provider, model, OperatorPrice(price, LONG_AGO, **columns))])


NOBODYS = price_list()


def held(
    provider: str,
    model: str,
    bound: Bound | None = None,
    *,
    prices: PriceList = NOBODYS,
    at: datetime = NOW,
    others: tuple[str, ...] = (),
    strict: bool = True,
    **bounds: Any,
) -> WorstCase:
    """Return the worst case of a request: 1,000 tokens in and 100 out unless `bounds` say otherwise."""
    bound = bound or Bound(**{"input_tokens": 1_000, "output_tokens": 100, **bounds})
    return worst_case(provider, model, bound, at=at, other_models=others, strict=strict, prices=prices)


def sent_limit(worst: WorstCase) -> int:
    """Return the output limit that the provider gets: the one that we put on the request, else the client's own."""
    if worst.output_limit is not None:
        return worst.output_limit
    own = worst.bound.output_tokens
    return OF_FREE_ANSWERS if own is None else own - worst.bound.prediction_tokens


def charged(
    provider: str,
    model: str,
    usage: Usage,
    bound: Bound | None = None,
    *,
    prices: PriceList = NOBODYS,
    at: datetime = NOW,
    others: tuple[str, ...] = (),
    saw_content: bool = True,
    **bounds: Any,
) -> Charge | None:
    """Return what a usage costs after a request like that of `held`."""
    worst = held(provider, model, bound, prices=prices, at=at, others=others, **bounds)
    return charge(usage, worst, saw_content=saw_content)


def listed_models() -> list[tuple[str, str]]:
    """Return (provider, model) of everything in the price data that is one of ours and answers to its own name."""
    ours = [(listed, model) for listed in get_snapshot().providers if listed.id in PROVIDERS for model in listed.models]
    return [(listed.id, model.id) for listed, model in ours if listed.find_model(model.id) is not None]
