"""The cost of a request and its source: `provider`, `computed`, `fallback` or `estimated`.

`estimated` means that the usage is missing or implausible, or that part of the price is based on a rate that neither
the operator nor the price data has. Such rows are marked everywhere, and OpenRouter's are reconciled later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from llmkeys import providers
from llmkeys.dialects import bounds
from llmkeys.dialects.base import FILE_SEARCH_FEE, PROMPT_CONTAINER_FEE, Usage, container_fee, is_container_fee
from llmkeys.lib.money import usd_to_nano
from llmkeys.prices.data import same_model
from llmkeys.prices.tariffs import PriceList, in_region, other_fee, to_nano
from llmkeys.prices.worst_case import WorstCase, drawing_tariffs

PROVIDER, COMPUTED, FALLBACK, ESTIMATED = "provider", "computed", "fallback", "estimated"
MOST_USD = 1_000_000  # a provider's cost above this is a mistake, not a bill


@dataclass(frozen=True, slots=True)
class Charge:
    """The cost of an attempt in nano-dollars, and its source."""

    nano: int
    source: str


def charge(usage: Usage, worst: WorstCase, *, saw_content: bool = False) -> Charge | None:
    """Return the cost of a usage at the prices of admission, or None if the usage is incomplete or implausible.

    Zeros with content are implausible, and so is output without any input.
    """
    if worst.prices is None:
        return Charge(0, "")
    if worst.bound.is_free:
        return Charge(0, COMPUTED)
    may_be_silent = worst.bound.output_tokens == 0  # embeddings have no output
    if usage.output_tokens is None and may_be_silent:
        usage = replace(usage, output_tokens=0)
    reported = _reported(usage, worst.provider)
    if reported is not None and (reported or not saw_content or usage.input_tokens or usage.output_tokens):
        return Charge(usd_to_nano(reported), PROVIDER)
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    if usage.input_tokens <= 0 and (usage.output_tokens > 0 or saw_content):
        return None
    if usage.output_tokens <= 0 and saw_content and not may_be_silent:
        return None
    return _computed(usage, worst, worst.prices)


def estimate(
    worst: WorstCase, *, input_bytes: int, output_tokens: int, hold_nano: int, usage: Usage | None = None
) -> Charge:
    """Return a flagged estimate for an answer without a usable usage: at most the hold, and zero only if the hold is.

    Counts that the usage does have, such as the input at the start of a stream, are used. What cannot be counted, such
    as a video, is estimated by its bytes in the body, at the price of video.
    """
    if worst.prices is None:
        return Charge(0, "")
    if worst.bound.is_free or hold_nano == 0:
        return Charge(0, ESTIMATED)
    known, bound = usage or Usage(), worst.bound
    guess = min(bounds.estimate_tokens(max(0, input_bytes - bound.unseen_bytes)), bound.input_tokens)
    video = bounds.estimate_tokens(bound.unseen_bytes)
    supposed = replace(
        known,
        input_tokens=max(1, known.input_tokens or guess + video),
        audio_input_tokens=known.audio_input_tokens or min(guess, bound.audio_input_tokens),
        image_input_tokens=known.image_input_tokens or min(guess, bound.image_input_tokens),
        video_input_tokens=known.video_input_tokens or video,
        output_tokens=max(known.output_tokens or 0, output_tokens, 0 if bound.output_tokens == 0 else 1),
    )
    return Charge(min(hold_nano, max(1, _computed(supposed, worst, worst.prices).nano)), ESTIMATED)


def _reported(usage: Usage, provider: str) -> Decimal | None:
    """Return the cost in the answer, if the provider reports costs and the value is plausible."""
    cost = usage.cost_usd
    if cost is None or not providers.get(provider).reports_costs or not cost.is_finite():
        return None
    return cost if 0 <= cost <= MOST_USD else None


def _computed(usage: Usage, worst: WorstCase, prices: PriceList) -> Charge:
    assert worst.at is not None
    model = _billed_model(usage, worst, prices)
    served = "fast" if usage.speed.lower() == "fast" else usage.service_tier
    asked = worst.bound.service_tier
    tariff, is_guessed = prices.served(worst.provider, model, worst.at, served=served, asked=asked)
    own = usage.of_the_model()
    # Each prompt has the rates of its own length.
    parts = (own, *usage.summaries)
    amount = sum(tariff.step(part).cost(part) for part in parts)
    tokens = in_region(amount, worst.provider, model, usage.region)
    is_fallback, is_estimate = tariff.is_fallback, is_guessed or any(map(tariff.is_guessed, parts))
    for part in usage.advice:
        names = _advisors(part.model, worst, prices)
        found = [prices.served(worst.provider, name, worst.at, served=served, asked=asked) for name in names]
        tokens += max(
            in_region(each.step(part).cost(part), worst.provider, name, usage.region)
            for name, (each, _) in zip(names, found, strict=True)
        )
        is_fallback = is_fallback or any(each.is_fallback for each, _ in found)
        is_estimate = is_estimate or len(names) > 1 or any(lacks or each.is_guessed(part) for each, lacks in found)
    tools, is_tool_guessed = _tool_costs(usage, worst, prices, worst.at)
    fees, preview = tariff.fees(usage), worst.bound.preview_search
    dearer = tariff.fees(usage, dearer_tool=True) if preview is not False else fees
    is_either = preview is None and dearer > fees  # the usage does not say which of two tools searched
    nano = to_nano(tokens + dearer + tools)
    if is_fallback:
        return Charge(nano, FALLBACK)
    return Charge(nano, ESTIMATED if is_estimate or is_tool_guessed or is_either else COMPUTED)


def _advisors(named: str, worst: WorstCase, prices: PriceList) -> tuple[str, ...]:
    """Return the model that advised; those that the request lets answer or advise if the name is not known."""
    assert worst.at is not None
    if named and prices.knows(worst.provider, named, worst.at):
        return (named,)
    listed = next((name for name in worst.other_models if same_model(worst.provider, name, named)), "")
    return (listed,) if listed else worst.other_models or (named or worst.model,)


def _tool_costs(usage: Usage, worst: WorstCase, prices: PriceList, at: datetime) -> tuple[int, bool]:
    """Return what tools cost in addition to the model, and whether part of it is an estimate.

    The usage does not say which model drew if the request named none, nor whether a container had already been paid.
    """
    amount, is_estimate = 0, False
    if usage.drawn_input_tokens or usage.drawn_output_tokens:
        drawn = Usage(
            usage.drawn_input_tokens,
            image_input_tokens=usage.drawn_image_input_tokens,
            output_tokens=usage.drawn_output_tokens,
            image_output_tokens=usage.drawn_output_tokens,
        )
        tariffs = drawing_tariffs(prices, worst.provider, worst.bound, at)
        costs = [tariff.step(drawn).cost(drawn) for tariff in tariffs]
        amount += max(costs)
        is_estimate = len(worst.bound.drawing_models) != 1 or any(tariff.is_fallback for tariff in tariffs)
    if prices.is_free(worst.provider, worst.model, at):
        return amount, is_estimate
    amount += (usage.file_searches or 0) * other_fee(FILE_SEARCH_FEE)
    if usage.containers:
        sizes = [what for what, _ in worst.bound.fees if is_container_fee(what)]
        # What a stored prompt declares is not known: OpenAI's own choice is the smallest.
        prices_of = (other_fee(container_fee("1g") if what == PROMPT_CONTAINER_FEE else what) for what in sizes)
        amount += usage.containers * max(prices_of, default=0)
        is_estimate = True
    return amount, is_estimate


def _billed_model(usage: Usage, worst: WorstCase, prices: PriceList) -> str:
    """Return the model whose price applies.

    This is the requested model, even if the answer has a dated name of it; if the provider chose (from a list, a
    router, an alias), it is the model that answered, if its price is known.
    """
    asked, answered = worst.model, usage.model
    if not answered or answered == asked or worst.at is None:
        return asked
    listed = (asked, *worst.other_models)
    if len(listed) == 1 and not asked.startswith("~") and prices.knows(worst.provider, asked, worst.at):
        return asked
    for name in listed:
        if same_model(worst.provider, name, answered):
            return name
    return answered if prices.knows(worst.provider, answered, worst.at) else asked
