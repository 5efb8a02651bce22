"""`worst_case`: each amount is worked out by hand beside it, in USD per million tokens."""

from __future__ import annotations

from decimal import Decimal

import pytest

from llmkeys.prices.pricing import Price, worst_case
from tests.pricing.helpers import context


def most(provider, model, *, tokens=1000, output=100, writes=False, tier=None, **changes):
    return worst_case(
        input_tokens=tokens,
        output_tokens=output,
        can_write_cache=writes,
        service_tier=tier,
        **context(provider, model, **changes),
    )


class TestStandard:
    def test_it_multiplies_both_sides_with_the_highest_rate(self):
        # GPT-4.1 has no cache-write price: 1000 × 2 + 100 × 8 = 2,800
        assert most("openai", "gpt-4.1") == 2_800_000

    def test_it_holds_the_write_price_for_a_model_that_writes_unasked(self):
        # 1000 × 1.25 + 100 × 5 = 1,750
        assert most("openai", "gpt-6.1-terra") == 1_750_000

    @pytest.mark.parametrize(
        ("provider", "model"),
        [("anthropic", "claude-sonnet-4-6"), ("openrouter", "anthropic/claude-sonnet-4.6")],
    )
    def test_it_holds_claudes_write_price_only_where_the_request_can_write(self, provider, model):
        assert most(provider, model) == 4_500_000  # 1000 × 3 + 100 × 15
        assert most(provider, model, writes=True) == 7_500_000  # for an hour: 1000 × 6 + 100 × 15

    def test_it_reaches_a_long_price_only_above_its_threshold(self):
        # up to 272,000: 272,000 × 1.25 + 100 × 5 = 340,500; above: 272,001 × 2.5 + 100 × 7.5 = 680,752.5
        assert most("openai", "gpt-6.1-terra", tokens=272_000) == 340_500_000
        assert most("openai", "gpt-6.1-terra", tokens=272_001) == 680_752_500

    def test_it_charges_nothing_for_a_free_variant(self):
        assert most("openrouter", "openai/gpt-oss-20b:free") == 0

    def test_it_holds_the_fallback_price_for_a_model_that_nobody_knows(self):
        assert most("openai", "nobody-knows") == 110_000_000  # 1100 × 100
        assert most("openai", "nobody-knows", local=True) == 0

    def test_it_prefers_the_operators_price(self):
        price = Price(Decimal(2), Decimal(8), cached_input=Decimal(3), cache_write=Decimal(4))
        # A cached token dearer than a plain one is strange, and still the most that a token can cost.
        assert most("anthropic", "claude-x", operator_price=price) == 3_800_000  # 1000 × 3 + 100 × 8
        assert most("anthropic", "claude-x", operator_price=price, writes=True) == 4_800_000  # 1000 × 4
        assert most("openai", "x", operator_price=price) == 4_800_000


class TestTiers:
    @pytest.mark.parametrize("tier", [None, "", "default", "flex", "standard_only", "FLEX "])
    def test_it_holds_the_standard_price_for_an_ordinary_tier(self, tier):
        assert most("openai", "gpt-4.1", tier=tier) == 2_800_000

    @pytest.mark.parametrize("tier", ["auto", "priority", "fast", "Priority", "a tier of tomorrow"])
    def test_it_holds_the_dearest_tier_that_the_data_knows(self, tier):
        # GPT-5.6 Sol, priority: writes at 10, output at 40: 1000 × 10 + 100 × 40 = 14,000
        assert most("openai", "gpt-5.6-sol", tier=tier) == 14_000_000

    def test_it_doubles_where_the_data_knows_no_tier(self):
        # Sonnet 4.6: 2 × (1000 × 3 + 100 × 15) = 9,000
        assert most("anthropic", "claude-sonnet-4-5", tier="auto") == 9_000_000
        price = Price(Decimal(1), Decimal(1))
        assert most("openai", "x", tier="priority", operator_price=price) == 2_200_000
