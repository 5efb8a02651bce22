"""The most that a request can cost: its hold, the output limit that fits the room, and the hold once input is known.

A worst case is computed when a request is admitted and stays with its attempt. It keeps the prices of that moment, so
that settling does not read any table again (`cost.charge`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from django.conf import settings

from llmkeys import providers
from llmkeys.dialects.base import Bound, Usage
from llmkeys.dialects.bounds import estimate_tokens
from llmkeys.lib.money import MAX_LIMIT_USD, NANO
from llmkeys.prices import catalogue, limits
from llmkeys.prices.tariffs import (
    CHEAP_TIERS,
    DRAWING_MODELS,
    PER_NANO,
    PriceList,
    Step,
    Tariff,
    in_region,
    other_fee,
    tier_name,
    to_nano,
)

LEAST_FITTED_TOKENS = 4_096
# No budget has room for more, and thousands of such holds at once fit the database's integers.
MOST_HOLD_NANO = (MAX_LIMIT_USD + 1) * NANO
DRAWING_TOKENS = 16_000  # the most that an image of a tool reads and produces


@dataclass(frozen=True, slots=True)
class Line:
    """The cost of a model for one prompt length as a linear function of the output limit, in 10⁻²⁴ USD."""

    base: int
    per_output_token: int
    most_output_tokens: int | None  # the model's own limit

    def at(self, output_limit: int) -> int:
        tokens = output_limit if self.most_output_tokens is None else min(output_limit, self.most_output_tokens)
        return self.base + self.per_output_token * tokens


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The hold of a request on a key, and what settling needs to know about prices."""

    nano: int
    output_limit: int | None  # to be added to the request; None: leave it as it is
    provider: str = ""
    model: str = ""
    other_models: tuple[str, ...] = ()
    at: datetime | None = None  # when the request was admitted; prices are as of then
    bound: Bound = field(default_factory=lambda: Bound(0, 0))
    prices: PriceList | None = field(default=None, repr=False)  # None: costs are not counted
    lines: tuple[Line, ...] = field(default=(), repr=False)
    is_strict: bool = True  # the hold must cover any possible cost
    asked_output: int = 0  # the output limit that the hold covers, per choice
    wanted_output: int = 0  # the output limit before fitting lowered it


def worst_case(
    provider: str,
    model: str,
    bound: Bound,
    *,
    at: datetime,
    other_models: tuple[str, ...] = (),
    strict: bool | None = None,
    prices: PriceList | None = None,
) -> WorstCase:
    """Return the most that a request within `bound` can cost; `other_models` may answer instead of `model`.

    Each model is bounded separately, and the most expensive counts. In strict mode (None: as in the settings), a
    request without an output limit gets one, above its thinking budget. `prices` defaults to the current ones.
    """
    models, limit = (model, *other_models), bound.output_tokens
    asked = (
        _default_output_limit(provider, models, bound)
        if limit is None
        else limit - bound.prediction_tokens  # the prediction is added only once, not per choice
    )
    if not settings.COST_TRACKING:
        return WorstCase(0, None, bound=bound, asked_output=asked)  # some dialects need a limit all the same
    prices = prices or catalogue.price_list()
    if bound.is_free:
        return WorstCase(0, None, provider, model, other_models, at, bound, prices)
    lines = tuple(
        replace(line, base=line.base + _tool_costs(prices, provider, name, bound, at))
        for name in models
        for line in _lines(prices, provider, name, bound, at)
    )
    nano = min(MOST_HOLD_NANO, to_nano(max(line.at(asked) for line in lines)))
    is_strict = settings.BUDGET_MODE == "strict" if strict is None else strict
    puts_limit = limit is None and is_strict and nano > 0
    return WorstCase(
        nano,
        asked if puts_limit else None,
        provider,
        model,
        other_models,
        at,
        bound,
        prices,
        lines,
        is_strict=is_strict,
        asked_output=asked,
        wanted_output=asked,
    )


def _default_output_limit(provider: str, models: tuple[str, ...], bound: Bound) -> int:
    """Return the output limit of a request that sets none: what each model can give beside the prompt.

    A prompt has far fewer tokens than bytes, so it is estimated here, without its images and audio: a limit that is
    still too high is refused with the exact figures, and then lowered, but one that is too low would cut answers off.
    It is also that of fallbacks, none of which is lowered by it.
    """
    thinking = bound.thinking_tokens and bound.thinking_tokens + LEAST_FITTED_TOKENS
    counted = bound.text_tokens + bound.file_tokens + bound.image_input_tokens + bound.audio_input_tokens
    file_bytes = bound.file_tokens * 2 // 3
    prompt = bound.input_tokens - counted + estimate_tokens(bound.text_tokens + file_bytes)
    limit = max(settings.DEFAULT_MAX_TOKENS, thinking)
    for model in models:
        window, own = limits.largest_window(provider, model), limits.max_output_tokens(model)
        limit = min(limit, max(window - prompt, min(LEAST_FITTED_TOKENS, window // 4), thinking))
        limit = limit if own is None else min(limit, own)
    return max(limit, bound.fallback_output_tokens)  # or it would lower what a fallback may give


def fitted(worst: WorstCase, room_nano: int) -> WorstCase | None:
    """Return the same request with the highest output limit that fits the room, or None if that is too low.

    The limit is at least 4,096 tokens and a quarter of the requested limit, and always above the thinking budget.
    """
    limit = fitted_output_limit(worst, room_nano)
    if limit is None:
        return None
    nano = to_nano(max(line.at(limit) for line in worst.lines))
    return replace(worst, nano=nano, output_limit=limit, asked_output=limit)


def fitted_output_limit(worst: WorstCase, room_nano: int) -> int | None:
    """Return the highest output limit, up to the requested one, at which the request costs at most `room_nano`."""
    limit, room = worst.asked_output, room_nano * PER_NANO
    if worst.nano <= room_nano:
        return limit
    least = max(LEAST_FITTED_TOKENS, math.ceil(worst.wanted_output / 4), worst.bound.thinking_tokens + 1)
    for line in worst.lines:
        if line.at(limit) <= room:
            continue
        if line.base > room or line.per_output_token == 0:
            return None
        limit = (room - line.base) // line.per_output_token
    return limit if limit >= least else None


def shrunk_hold(worst: WorstCase, usage: Usage, hold_nano: int) -> int:
    """Return what a hold can be reduced to once a stream has reported its input; never more than before.

    Input that server tools may still add stays held, and so do their fees and all output. A kind of input that was not
    reported yet may be as large as the request allows.
    """
    if worst.prices is None or worst.at is None or usage.input_tokens is None or worst.bound.is_free:
        return hold_nano
    known = replace(usage, output_tokens=0, reasoning_tokens=None, audio_output_tokens=None, image_output_tokens=None)
    # What is still to come: other prompts too, which repeat what could not be counted and is counted now.
    rest = replace(
        worst.bound,
        input_tokens=0,
        audio_input_tokens=0,
        image_input_tokens=0,
        whole_window=False,
        region=usage.region or worst.bound.region,  # where it runs, also if the account chose that
        tool_input_tokens=worst.bound.tool_input_tokens + (worst.bound.inputs - 1) * usage.input_tokens,
    )
    most = 0
    for model in (worst.model, *worst.other_models):
        tools = _tool_costs(worst.prices, worst.provider, model, worst.bound, worst.at)
        for tariff in _possible_tariffs(worst.prices, worst.provider, model, rest, worst.at):
            for step, _ in _reached(tariff, usage.input_tokens + rest.tool_input_tokens, least=usage.input_tokens):
                line = _line(tariff, step, rest, rest.tool_input_tokens, worst.provider, model)
                tokens = step.cost(known) + _unreported(tariff, step, known, worst.bound)
                input_cost = _in_dearest_region(tokens, worst.provider, model, rest)
                most = max(most, input_cost + line.at(worst.asked_output) + tools)
    return min(hold_nano, to_nano(most))


def _unreported(tariff: Tariff, step: Step, usage: Usage, bound: Bound) -> int:
    """Return what an input may cost beyond plain text, if the usage does not report its kinds yet."""
    kinds = (
        usage.cached_input_tokens, usage.cache_write_tokens, usage.audio_input_tokens, usage.image_input_tokens,
        usage.video_input_tokens,
    )  # fmt: skip
    if any(count is not None for count in kinds):
        return 0
    tokens = usage.input_tokens or 0
    known = replace(bound, input_tokens=tokens, tool_input_tokens=0)
    return max(0, _most_input_cost(tariff, step, known, tokens) - tokens * step.text)


def max_price(worst: WorstCase) -> dict[str, Decimal] | None:
    """Return the `provider.max_price` for OpenRouter that keeps every host within the hold, or None without a hold.

    In USD per million tokens of prompt and completion, per request, and for each image if there are any.
    """
    if worst.prices is None or worst.at is None or worst.nano == 0:
        return None
    steps, request = [], 0
    for model in (worst.model, *worst.other_models):
        tariff = worst.prices.tariff(worst.provider, model, worst.at)
        request = max(request, tariff.request)
        steps += [step for step, _ in _reached(tariff, _most_input_tokens(worst.bound, worst.provider, model))]
    found = {
        "prompt": _usd(max(step.text for step in steps), 18),
        "completion": _usd(max(step.text_out for step in steps), 18),
        "request": _usd(request, 24),
    }
    if worst.bound.image_input_tokens:
        tokens = worst.bound.image_input_tokens // max(1, worst.bound.images)
        found["image"] = _usd(max(step.image_in for step in steps) * tokens, 24)
    return found


def _usd(amount: int, digits: int) -> Decimal:
    return Decimal(f"{Decimal(amount).scaleb(-digits).normalize():f}")


def drawing_tariffs(prices: PriceList, provider: str, bound: Bound, at: datetime) -> list[Tariff]:
    """Return the tariffs of the models that may generate images as a tool."""
    seller, names = providers.get(provider), bound.drawing_models or DRAWING_MODELS
    return [prices.tariff(provider, seller.drawing_model_name(name), at) for name in names]


def _tool_costs(prices: PriceList, provider: str, model: str, bound: Bound, at: datetime) -> int:
    """Return the most that fees and generated images can cost if this model answers; in 10⁻²⁴ USD."""
    fees = 0 if prices.is_free(provider, model, at) else sum(other_fee(what) * times for what, times in bound.fees)
    if not bound.drawings:
        return fees
    steps = [tariff.steps[-1] for tariff in drawing_tariffs(prices, provider, bound, at)]
    each = max(max(step.text, step.image_in, step.text_out, step.image_out) for step in steps)
    return fees + bound.drawings * DRAWING_TOKENS * each


# --- the lines -------------------------------------------------------------------------------------------------------


def _lines(prices: PriceList, provider: str, model: str, bound: Bound, at: datetime) -> Iterator[Line]:
    total = _most_input_tokens(bound, provider, model)
    for tariff in _possible_tariffs(prices, provider, model, bound, at):
        for step, longest in _reached(tariff, total):
            yield _line(tariff, step, bound, longest, provider, model)


def _possible_tariffs(prices: PriceList, provider: str, model: str, bound: Bound, at: datetime) -> tuple[Tariff, ...]:
    """Return the tariffs of the tiers that may serve: the requested one, a more expensive one, or the standard."""
    standard = prices.tariff(provider, model, at)
    tier = tier_name(bound.service_tier)
    if not tier or standard.is_fallback:
        return (standard,)
    if tier in CHEAP_TIERS:
        return standard, prices.tariff(provider, model, at, tier)
    return standard, *prices.dear_tariffs(provider, model, at)


def _most_input_tokens(bound: Bound, provider: str, model: str) -> int:
    known = limits.known_window(model)
    tokens = bound.input_tokens if known is None else min(bound.input_tokens, known * bound.inputs)
    if bound.whole_window:
        tokens = max(tokens, limits.largest_window(provider, model) * bound.inputs)
    return tokens + bound.tool_input_tokens  # may take several rounds, each with its own context window


def _reached(tariff: Tariff, total: int, *, least: int = 0) -> Iterator[tuple[Step, int]]:
    """Yield the steps that may apply to a prompt of `least` to `total` tokens, with the longest prompt of each.

    A shorter prompt can be more expensive, because a later step may have lower rates.
    """
    for number, step in enumerate(tariff.steps):
        begins = tariff.starts[number - 1] if number else -1
        ends = tariff.starts[number] if number < len(tariff.starts) else total
        if (begins < total and least <= ends) or number == 0 == total:
            yield step, min(total, ends)


def _line(tariff: Tariff, step: Step, bound: Bound, input_tokens: int, provider: str, model: str) -> Line:
    output = max(step.text_out, step.reasoning)
    # Models with a rate for audio or images may produce them unasked.
    if "audio" in bound.output_kinds or "audio_out" not in tariff.guessed:
        output = max(output, step.audio_out)
    if "image" in bound.output_kinds or "image_out" not in tariff.guessed:
        output = max(output, step.image_out)
    searches = max(bound.searches, bound.choices if tariff.searches_always else 0)
    if tariff.search_per_answer:
        searches = min(searches, bound.choices)
    tokens = _most_input_cost(tariff, step, bound, input_tokens) + bound.prediction_tokens * output
    return Line(
        base=_in_dearest_region(tokens, provider, model, bound) + searches * tariff.search_most + tariff.request,
        per_output_token=_in_dearest_region(bound.choices * output, provider, model, bound),
        most_output_tokens=limits.max_output_tokens(model),
    )


def _in_dearest_region(amount: int, provider: str, model: str, bound: Bound) -> int:
    """Return the cost of tokens in the region that was requested, or in the dearest one that the account may set."""
    region = bound.region or providers.get(provider).dearest_region(model)
    return in_region(amount, provider, model, region)


def _most_input_cost(tariff: Tariff, step: Step, bound: Bound, tokens: int) -> int:
    plain = max(step.text, step.cached)
    if bound.can_write_cache or tariff.writes_unasked:
        plain = max(plain, step.write)
    if bound.can_write_cache_1h:
        plain = max(plain, step.write_1h)
    if bound.whole_window:
        return tokens * max(plain, step.dearest_in)
    audio = max(plain, step.audio_in, step.cached_audio) - plain
    image = max(plain, step.image_in) - plain
    return (
        tokens * plain + min(tokens, bound.audio_input_tokens) * audio + min(tokens, bound.image_input_tokens) * image
    )
