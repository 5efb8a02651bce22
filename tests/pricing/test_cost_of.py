"""`cost_of`: each amount is worked out by hand beside it, in USD per million tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from llmkeys.dialects.base import Usage
from llmkeys.dialects.usage import read_openai_usage
from llmkeys.prices.pricing import Cost, Price, cost_of
from tests.pricing.helpers import context
from tests.providers.helpers import recorded

OPERATOR = Price(
    input=Decimal(3),
    output=Decimal(15),
    cached_input=Decimal("0.3"),
    cache_write=Decimal("3.75"),
    cache_write_1h=Decimal(6),
)


class TestRecordings:
    def test_it_takes_what_openrouter_charged(self):
        usage = read_openai_usage(recorded("openrouter-chat-nonstream.json"))
        assert cost_of(usage, **context("openrouter", "openai/gpt-4o-mini")) == Cost(3_600, "provider")

    def test_it_computes_the_same_as_openrouter_charged(self):
        # 20 × 0.15 + 1 × 0.6 = 3.6
        usage = Usage(input_tokens=20, output_tokens=1)
        assert cost_of(usage, **context("openrouter", "openai/gpt-4o-mini")) == Cost(3_600, "computed")

    def test_it_takes_and_computes_a_cache_write_at_openrouter(self):
        # 3 × 3 + 3211 × 3.75 + 100 × 15 = 9 + 12,041.25 + 1,500 = 13,550.25
        usage = read_openai_usage(recorded("openrouter-chat-nonstream-anthropic-cache-write.json"))
        place = context("openrouter", "anthropic/claude-4.6-sonnet-20260217")
        assert cost_of(usage, **place) == Cost(13_550_250, "provider")
        counts = Usage(input_tokens=3214, cache_write_tokens=3211, output_tokens=100)
        assert cost_of(counts, **place) == Cost(13_550_250, "computed")

    def test_it_prices_cached_tokens_at_openai(self):
        # 120 × 2 + 1024 × 0.5 + 2 × 8 = 240 + 512 + 16 = 768
        usage = read_openai_usage(recorded("openai-chat-nonstream-cached.json"))
        assert cost_of(usage, **context("openai", "gpt-4.1")) == Cost(768_000, "computed")

    @pytest.mark.parametrize(
        ("at", "nano"),
        [
            (datetime(2026, 7, 15, tzinfo=UTC), 25_235_000),  # 8 × 5 + 4012 × 6.25 + 4 × 30 = 40 + 25,075 + 120
            (datetime(2026, 11, 23, tzinfo=UTC), 20_172_000),  # 8 × 4 + 4012 × 5 + 4 × 20 = 32 + 20,060 + 80
        ],
    )
    def test_it_prices_a_cache_write_at_openai_as_of_its_day(self, at, nano):
        usage = read_openai_usage(recorded("openai-chat-nonstream-cache-write.json"))
        assert cost_of(usage, **context("openai", "gpt-5.6-sol", at=at)) == Cost(nano, "computed")

    def test_it_prices_cached_and_thinking_tokens_at_google(self):
        # 3520 prompt, 3512 of them cached, 2 + 42 thinking: 8 × 0.3 + 3512 × 0.03 + 44 × 2.5 = 217.76
        usage = Usage(input_tokens=3520, cached_input_tokens=3512, output_tokens=44, reasoning_tokens=42)
        for name in ("gemini-2.5-flash", "models/gemini-2.5-flash"):
            assert cost_of(usage, **context("google", name)) == Cost(217_760, "computed")


class TestPrices:
    @pytest.mark.parametrize(
        ("tokens", "nano"),
        [
            (272_000, 272_050_000),  # 272,000 × 1 + 10 × 5 = 272,050
            (272_001, 544_077_000),  # 272,001 × 2 + 10 × 7.5 = 544,077
        ],
    )
    def test_it_charges_the_whole_of_a_long_prompt_at_the_long_price(self, tokens, nano):
        usage = Usage(input_tokens=tokens, output_tokens=10)
        assert cost_of(usage, **context("openai", "gpt-6.1-terra")) == Cost(nano, "computed")

    @pytest.mark.parametrize(
        ("at", "nano"),
        [
            (datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), 12_000_000),  # 1000 × 2 + 1000 × 10 = 12,000
            (datetime(2026, 12, 1, tzinfo=UTC), 24_000_000),  # 1000 × 4 + 1000 × 20 = 24,000
            (datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=2))), 12_000_000),
        ],
    )
    def test_it_follows_a_price_that_changes_at_an_instant(self, at, nano):
        usage = Usage(input_tokens=1000, output_tokens=1000)
        assert cost_of(usage, **context("google", "gemini-4-argon", at=at)) == Cost(nano, "computed")

    def test_it_prices_cache_writes_for_an_hour(self):
        # 1000 × 3 + 1000 × 0.3 + 5000 × 3.75 + 3000 × 6 + 100 × 15 = 3,000 + 300 + 18,750 + 18,000 + 1,500
        usage = Usage(
            input_tokens=10_000,
            cached_input_tokens=1_000,
            cache_write_tokens=8_000,
            cache_write_1h_tokens=3_000,
            output_tokens=100,
        )
        assert cost_of(usage, **context("anthropic", "claude-sonnet-4-5")) == Cost(41_550_000, "computed")
        assert cost_of(usage, **context("x", "y", operator_price=OPERATOR)) == Cost(41_550_000, "computed")

    def test_it_doubles_the_input_for_an_hour_where_only_the_rule_is_known(self):
        # Sonnet 4.6 at OpenRouter: 100 × 2 × 3 = 600
        usage = Usage(input_tokens=100, cache_write_tokens=100, cache_write_1h_tokens=100, output_tokens=0)
        assert cost_of(usage, **context("openrouter", "anthropic/claude-sonnet-4.6")) == Cost(600_000, "computed")

    @pytest.mark.parametrize(
        ("tier", "nano"),
        [
            ("", 24_000_000),  # 1000 × 4 + 1000 × 20
            ("default", 24_000_000),
            ("a tier of tomorrow", 24_000_000),
            ("flex", 12_000_000),  # 1000 × 2 + 1000 × 10
            ("priority", 48_000_000),  # 1000 × 8 + 1000 × 40
            ("fast", 48_000_000),
        ],
    )
    def test_it_prices_the_tier_that_served(self, tier, nano):
        usage = Usage(input_tokens=1000, output_tokens=1000, service_tier=tier)
        assert cost_of(usage, **context("openai", "gpt-5.6-sol")) == Cost(nano, "computed")

    def test_it_prices_anthropics_fast_speed(self):
        usage = Usage(input_tokens=1000, output_tokens=1000, service_tier="fast")  # 1000 × 8 + 1000 × 40
        assert cost_of(usage, **context("anthropic", "claude-opus-5-5")) == Cost(48_000_000, "computed")

    def test_it_prices_reasoning_apart_where_it_has_a_price(self):
        # 10 × 2 + 40 × 8 + 60 × 3 = 20 + 320 + 180 = 520
        usage = Usage(input_tokens=10, output_tokens=100, reasoning_tokens=60)
        assert cost_of(usage, **context("openrouter", "perplexity/sonar-deep-research")) == Cost(520_000, "computed")

    def test_it_prefers_the_operators_price(self):
        # 10 × 3 + 10 × 15 = 180
        usage = Usage(input_tokens=10, output_tokens=10)
        place = context("openai", "gpt-4.1", operator_price=OPERATOR)
        assert cost_of(usage, **place) == Cost(180_000, "computed")

    def test_it_charges_plain_input_where_the_operator_gives_no_other_price(self):
        # 100 × 2 + 0: cached and written tokens cost what input costs
        usage = Usage(input_tokens=100, cached_input_tokens=40, cache_write_tokens=50, output_tokens=0)
        place = context("openai", "mine", operator_price=Price(Decimal(2), Decimal(8)))
        assert cost_of(usage, **place) == Cost(200_000, "computed")

    def test_it_takes_a_price_of_zero_for_a_price(self):
        usage = Usage(input_tokens=10, output_tokens=10)
        place = context("openai", "gpt-4.1", operator_price=Price(Decimal(0), Decimal(0)))
        assert cost_of(usage, **place) == Cost(0, "computed")

    def test_it_rounds_up_once(self):
        # 1 × 0.0333 + 1 × 0.0333 = 0.0666 per million = 66.6 nano, not 34 + 34
        usage = Usage(input_tokens=1, output_tokens=1)
        tiny = Price(Decimal("0.0333"), Decimal("0.0333"))
        assert cost_of(usage, **context("openai", "m", operator_price=tiny)) == Cost(67, "computed")


class TestNames:
    @pytest.mark.parametrize("variant", ["", ":nitro", ":floor", ":online", ":exacto"])
    def test_it_strips_openrouters_routing_variants(self, variant):
        # 20 × 0.15 + 1 × 0.6 = 3.6
        usage = Usage(input_tokens=20, output_tokens=1)
        assert cost_of(usage, **context("openrouter", f"openai/gpt-4o-mini{variant}")) == Cost(3_600, "computed")

    def test_it_charges_nothing_for_a_free_variant(self):
        usage = Usage(input_tokens=20, output_tokens=1)
        assert cost_of(usage, **context("openrouter", "minimax/minimax-m2:free")) == Cost(0, "computed")

    def test_it_asks_the_vendors_list_where_openrouters_has_no_entry(self):
        # 10 × 3 + 10 × 15 = 180
        usage = Usage(input_tokens=10, output_tokens=10)
        assert cost_of(usage, **context("openrouter", "x-ai/grok-4")) == Cost(180_000, "computed")

    @pytest.mark.parametrize(
        ("provider", "model"),
        [("openrouter", "openrouter/auto"), ("openai", "llama3.2:latest"), ("nobody", "m"), ("openai", ""),
         ("openai", "whisper-1"), ("openrouter", "a" * 100_000)],
    )  # fmt: skip
    def test_it_charges_the_fallback_price_for_a_model_that_nobody_knows(self, provider, model):
        # 24 tokens × 0.0001 = 0.0024
        usage = Usage(input_tokens=20, output_tokens=4)
        assert cost_of(usage, **context(provider, model)) == Cost(2_400_000, "fallback")
        assert cost_of(usage, **context(provider, model, local=True)) == Cost(0, "fallback")


class TestUsages:
    def test_it_knows_no_cost_where_the_usage_does_not_tell(self):
        for usage in (Usage(), Usage(input_tokens=5), Usage(output_tokens=5)):
            assert cost_of(usage, **context("openai", "gpt-4.1")) is None

    @pytest.mark.parametrize("told", ["NaN", "sNaN", "Infinity", "-1", "1E+999999", "1000000.01"])
    def test_it_does_not_believe_an_absurd_cost(self, told):
        # 120 × 2 + 2 × 8 = 256
        usage = Usage(input_tokens=120, output_tokens=2, cost_usd=Decimal(told))
        assert cost_of(usage, **context("openai", "gpt-4.1")) == Cost(256_000, "computed")
        assert cost_of(Usage(cost_usd=Decimal(told)), **context("openai", "gpt-4.1")) is None

    def test_it_takes_a_reported_cost_of_zero_and_of_many_digits(self):
        zero, long = Decimal(0), Decimal("0.000003600000000000000000000001")
        assert cost_of(Usage(cost_usd=zero), **context("openrouter", "a/b")) == Cost(0, "provider")
        assert cost_of(Usage(cost_usd=long), **context("openrouter", "a/b")) == Cost(3_601, "provider")

    def test_it_cuts_counts_that_contradict_each_other(self):
        # 2168 in, all 2161 written, so 7 may have been cached: 7 × 0.3 + 2161 × 3.75 + 10 × 15 = 8,255.85
        usage = Usage(
            input_tokens=2168,
            cached_input_tokens=2161,
            cache_write_tokens=2161,
            output_tokens=10,
            reasoning_tokens=11,
        )
        place = context("openrouter", "google/gemini", operator_price=OPERATOR)
        assert cost_of(usage, **place) == Cost(8_255_850, "computed")
        assert cost_of(usage, **context("openrouter", "google/gemini-2.5-flash")).source == "computed"

    def test_it_counts_an_hours_write_that_is_missing_in_the_sum(self):
        # 100 × 6
        usage = Usage(input_tokens=100, cache_write_1h_tokens=100, output_tokens=0)
        assert cost_of(usage, **context("x", "y", operator_price=OPERATOR)) == Cost(600_000, "computed")

    def test_it_takes_negative_counts_for_zero(self):
        usage = Usage(input_tokens=-5, cached_input_tokens=-1, output_tokens=-5, reasoning_tokens=-1)
        assert cost_of(usage, **context("openai", "gpt-4.1")) == Cost(0, "computed")
        assert cost_of(usage, **context("openai", "nobody-knows")) == Cost(0, "fallback")
