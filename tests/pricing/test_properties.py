"""What holds for every model in the price data: the hold covers the cost, and the cost is the data's own."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage as DataUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkeys.prices.pricing import Price, context_window, cost_of, known_price, price_per_million, worst_case
from llmkeys.providers.base import Usage
from tests.pricing.helpers import context, listed_models

MODELS = listed_models()
TIMES = st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))
# Tokens near the thresholds of the data, and anywhere.
TOKENS = st.one_of(
    st.integers(0, 3_000),
    st.integers(0, 1_100_000),
    st.builds(
        lambda start, near: start + near,
        st.sampled_from([32_000, 100_000, 128_000, 200_000, 256_000, 272_000]),
        st.integers(-2, 2),
    ),
)
MAYBE = st.none() | TOKENS | st.integers(-10, -1)
RATES = st.decimals(0, 1000, places=8)
OPERATOR = st.builds(Price, RATES, RATES, st.none() | RATES, st.none() | RATES, st.none() | RATES)
OTHER_MODELS = [
    ("openrouter", "openai/gpt-4o:nitro"),
    ("openrouter", "x-ai/grok-4"),
    ("openrouter", "deepseek/deepseek-reasoner"),
    ("openrouter", "openrouter/auto"),
    ("google", "models/gemini-4-argon"),
    ("google", "claude-opus-4-5"),
    ("openai", "nobody-knows"),
]


@st.composite
def requests(draw):
    """Draw a price context, bounds, and a usage within them that the request can have caused."""
    provider, model = draw(st.sampled_from(MODELS + OTHER_MODELS))
    asked = draw(st.sampled_from([None, "", "default", "flex", "auto", "priority", "fast", "tomorrow"]))
    dear = asked in ("auto", "priority", "fast", "tomorrow")
    served = draw(st.sampled_from(["", "default", "flex", "standard", *(["priority", "fast"] if dear else [])]))
    writes = draw(st.booleans())
    written = MAYBE if writes or "claude" not in model else st.none() | st.just(0)
    usage = Usage(
        input_tokens=draw(TOKENS),
        cached_input_tokens=draw(MAYBE),
        cache_write_tokens=draw(written),
        cache_write_1h_tokens=draw(written),
        output_tokens=draw(TOKENS),
        reasoning_tokens=draw(MAYBE),
        service_tier=served,
    )
    place = context(
        provider,
        model,
        at=draw(TIMES),
        operator_price=draw(st.none() | OPERATOR),
        local=draw(st.booleans()),
    )
    bounds = {
        "input_tokens": usage.input_tokens + draw(st.integers(0, 300_000)),
        "output_tokens": usage.output_tokens + draw(st.integers(0, 10_000)),
        "can_write_cache": writes,
        "service_tier": asked,
    }
    return place, bounds, usage


@settings(max_examples=800, deadline=None)
@given(requests())
def test_it_never_costs_more_than_the_worst_case(request_):
    place, bounds, usage = request_
    assert 0 <= cost_of(usage, **place).nano <= worst_case(**bounds, **place)


@settings(max_examples=800, deadline=None)
@given(st.sampled_from(MODELS), TIMES, TOKENS, TOKENS, st.floats(0, 1), st.floats(0, 1))
def test_it_computes_what_the_price_data_computes(listed, at, tokens, output, cached_share, write_share):
    provider, model = listed
    cached = int(tokens * cached_share)
    written = int((tokens - cached) * write_share)
    usage = Usage(tokens, cached, written, None, output, min(3, output))
    cost = cost_of(usage, **context(provider, model, at=at))
    counts = {"input_tokens": tokens, "cache_read_tokens": cached, "cache_write_tokens": written}
    reasoning = {"output_reasoning_tokens": min(3, output)} if "deep-research" in model else {}
    theirs = calc_price(
        DataUsage(**counts, output_tokens=output, **reasoning), model, provider_id=provider, genai_request_timestamp=at
    )
    if cost.source == "computed" and not _makes_media(theirs.model_price):
        assert cost.nano == math.ceil(theirs.total_price * 10**9)


def _makes_media(prices) -> bool:
    return any(getattr(prices, f"output_{kind}_mtok") is not None for kind in ("image", "audio", "video"))


@pytest.mark.parametrize("tier", ["default", "flex", "standard", "scale"])
def test_it_knows_no_ordinary_tier_above_the_standard_price(tier):
    usage = Usage(300_000, 1_000, 2_000, None, 1_000)
    for provider, model in MODELS:
        standard = cost_of(usage, **context(provider, model))
        served = cost_of(Usage(300_000, 1_000, 2_000, None, 1_000, service_tier=tier), **context(provider, model))
        assert served.nano <= standard.nano, (provider, model)


def test_it_keeps_every_digit_of_the_price_data():
    for listed in get_snapshot().providers:
        for model in listed.models:
            prices = [model.prices] if not isinstance(model.prices, list) else [each.prices for each in model.prices]
            for value in (value for price in prices for value in vars(price).values() if value is not None):
                for rate in (value,) if isinstance(value, Decimal) else (value.base, *(t.price for t in value.tiers)):
                    assert -rate.normalize().as_tuple().exponent <= 18, (listed.id, model.id)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["openrouter", "openai", "anthropic", "google", ""]), st.text(max_size=300))
def test_it_takes_any_name_of_a_model(provider, model):
    place = context(provider, model)
    assert cost_of(Usage(input_tokens=1, output_tokens=1), **place).nano >= 0
    assert known_price(**place) == (price_per_million(**place) is not None)
    assert context_window(provider, model) is None or context_window(provider, model) > 0
