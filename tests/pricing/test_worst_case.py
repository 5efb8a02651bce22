"""`worst_case`: each amount is worked out by hand beside it, in USD per million tokens of the provider's price list."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from llmkeys.dialects.base import Usage
from llmkeys.prices.cost import charge
from llmkeys.prices.tariffs import OperatorPrice, Price
from llmkeys.prices.worst_case import fitted, fitted_output_limit, max_price, shrunk_hold
from tests.pricing.helpers import LONG_AGO, held, operators, price_list


def most(provider, model, **changes):
    """Return the hold in nano-dollars of 1,000 tokens in and 100 out, unless told otherwise."""
    return held(provider, model, **changes).nano


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
        assert most(provider, model, region="global") == 4_500_000  # 1000 × 3 + 100 × 15
        assert most(provider, model, region="global", can_write_cache=True) == 5_250_000  # 1000 × 3.75 + 100 × 15
        hour = {"region": "global", "can_write_cache": True, "can_write_cache_1h": True}
        assert most(provider, model, **hour) == 7_500_000  # for an hour: 1000 × 6 + 100 × 15

    def test_it_reaches_a_long_price_only_above_its_threshold(self):
        # up to 272,000: 272,000 × 1.25 + 100 × 5 = 340,500; above: 272,001 × 2.5 + 100 × 7.5 = 680,752.5
        assert most("openai", "gpt-6.1-terra", input_tokens=272_000) == 340_500_000
        assert most("openai", "gpt-6.1-terra", input_tokens=272_001) == 680_752_500

    def test_it_holds_every_choice_and_the_prediction_once(self):
        # 1000 × 2 + (3 × 100 + 40) × 8 = 4,720
        assert most("openai", "gpt-4.1", output_tokens=140, prediction_tokens=40, choices=3) == 4_720_000

    def test_it_charges_nothing_for_a_free_variant(self):
        assert most("openrouter", "openai/gpt-oss-20b:free") == 0

    def test_it_holds_the_fallback_price_for_a_model_that_nobody_knows(self):
        assert most("openai", "nobody-knows") == 110_000_000  # 1100 × 100
        assert most("openai", "nobody-knows", prices=price_list(local=["openai"])) == 0

    def test_it_prefers_the_operators_price(self):
        price = Price(Decimal(2), Decimal(8), cached_input=Decimal(3), cache_write=Decimal(4))
        claude, other = operators("anthropic", "claude-x", price), operators("openai", "x", price)
        # A cached token dearer than a plain one is strange, and still the most that a token can cost.
        here = {"prices": claude, "region": "global"}
        assert most("anthropic", "claude-x", **here) == 3_800_000  # 1000 × 3 + 100 × 8
        assert most("anthropic", "claude-x", **here, can_write_cache=True) == 4_800_000  # 1000 × 4
        assert most("openai", "x", prices=other) == 4_800_000

    def test_it_adds_a_tenth_where_anthropics_own_country_was_asked_for(self):
        # (1000 × 4 + 100 × 20) × 1.1 = 6,600
        assert most("anthropic", "claude-opus-5-5", region="us") == 6_600_000

    @pytest.mark.parametrize("model", ["claude-sonnet-4-6", "claude-4.6-sonnet-20260217", "claude-x-latest"])
    def test_it_adds_it_where_the_workspace_may_have_chosen_that_country(self, model):
        assert most("anthropic", model) == most("anthropic", model, region="us")
        assert most("anthropic", model) * 10 == most("anthropic", model, region="global") * 11

    @pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-opus-4-20250514", "claude-3-5-haiku-20241022"])
    def test_it_does_not_where_a_model_runs_anywhere_at_one_price(self, model):
        assert most("anthropic", model) == most("anthropic", model, region="global")


class TestKinds:
    def test_it_holds_the_sound_of_a_request_at_its_own_rate(self):
        # B2. gpt-audio: 900 of 1,000 tokens are sound: 100 × 2.5 + 900 × 32 + 100 × 64 = 250 + 28,800 + 6,400
        for provider, model in (("openai", "gpt-audio"), ("openrouter", "openai/gpt-audio")):
            assert most(provider, model, audio_input_tokens=900) == 35_450_000

    def test_it_holds_the_pictures_that_a_model_makes_unasked(self):
        # B2. 1000 × 0.3 + 100 × 30 = 3,300
        assert most("openrouter", "google/gemini-2.5-flash-image") == 3_300_000

    def test_it_holds_sound_that_was_asked_of_a_model_without_a_rate_for_it(self):
        # The price page's 40 and 80: 1000 × 40 + 100 × 80 = 48,000; text alone: 1000 × 2.5 + 100 × 10 = 3,500
        spoken = {"audio_input_tokens": 1_000, "output_kinds": frozenset({"text", "audio"})}
        assert most("openai", "gpt-4o-audio-preview", **spoken) == 48_000_000
        assert most("openai", "gpt-4o-audio-preview") == 3_500_000

    def test_it_holds_the_whole_window_for_what_cannot_be_counted(self):
        # GPT-4o takes 128,000: 128,000 × 2.5 + 100 × 10 = 321,000
        assert most("openai", "gpt-4o", whole_window=True) == 321_000_000
        # Gemini 2.5 Flash takes 1,048,576, sound is its dearest at 1: 1,048,576 + 100 × 2.5
        assert most("google", "gemini-2.5-flash", whole_window=True) == 1_048_826_000

    def test_it_does_not_believe_a_window_that_the_data_has_too_small(self):
        # The data says 200,000 of Sonnet 4.5 at OpenRouter, who takes a million: × 6 above 200,000, 100 × 22.5
        assert most("openrouter", "anthropic/claude-sonnet-4.5", input_tokens=900_000) == 5_402_250_000
        # and 8,192 of this one, which no table of ours has: 50,000 × 3 + 100 × 12 = 151,200
        assert most("openai", "computer-use", input_tokens=50_000) == 151_200_000

    def test_it_holds_no_more_input_than_the_model_takes(self):
        # A text of 500,000 bytes for GPT-4o is refused or fits its 128,000: 128,000 × 2.5 + 100 × 10
        assert most("openai", "gpt-4o", input_tokens=500_000) == 321_000_000

    @pytest.mark.parametrize(
        ("provider", "model", "nano"),
        [
            ("openai", "gpt-5-pro", 30_015_000_000),  # 1000 × 15 + 250,000 × 120
            ("openai", "gpt-5-pro-2025-10-06", 30_015_000_000),
            ("openai", "gpt-5", 1_281_250_000),  # 1000 × 1.25 + 128,000 × 10
            ("openai", "gpt-5.2-pro", 21_525_000_000),  # 1000 × 21 + 128,000 × 168
            ("openrouter", "openai/gpt-4o:extended", 1_158_000_000),  # 1000 × 6 + 64,000 × 18
        ],
    )
    def test_it_holds_as_much_output_as_the_model_makes(self, provider, model, nano):
        assert most(provider, model, output_tokens=250_000) == nano

    def test_it_holds_a_window_for_each_text_that_is_embedded(self):
        # Three texts of 10,000 bytes: 3 × 8,192 × 0.13 = 3,194.88; one of 2,000 bytes among many: 2,000 × 0.13
        assert most("openai", "text-embedding-3-large", input_tokens=30_000, output_tokens=0, inputs=3) == 3_194_880
        assert most("openai", "text-embedding-3-large", input_tokens=2_000, output_tokens=0, inputs=9) == 260_000

    def test_it_holds_the_fee_of_every_search_and_what_it_adds_to_the_prompt(self):
        # Opus 5.5: (1000 + 80,000) × 4 + 100 × 20 = 326,000, and 5 × 0.01
        bounds = {"searches": 5, "tool_input_tokens": 80_000}
        assert most("anthropic", "claude-opus-5-5", region="global", **bounds) == 326_000_000 + 50_000_000

    def test_it_holds_what_other_tools_ask_but_not_for_a_local_model(self):
        fees = (("file search", 5), ("container 1g", 1))  # 5 × 0.0025 and 0.03
        assert most("openai", "gpt-4.1", fees=fees) == 2_800_000 + 42_500_000
        assert most("openai", "nobody-knows", fees=fees, prices=price_list(local=["openai"])) == 0

    def test_it_holds_the_fee_of_a_search_model_unasked(self):
        # 1000 × 2.5 + 100 × 10 = 3,500, and 0.025
        assert most("openai", "gpt-4o-search-preview") == 28_500_000

    def test_it_holds_the_fee_of_the_dearer_of_two_search_tools(self):
        # GPT-4.1: 1000 × 2 + 100 × 8 = 2,800, and 2 × 0.025 for the older tool; the newer one costs 0.01
        assert most("openai", "gpt-4.1", searches=2) == 2_800_000 + 50_000_000

    def test_openrouters_plugin_may_search_for_gemini_2_more_than_once(self):
        # 1000 × 0.3 + 100 × 2.5 = 550, and 3 × 0.04; at Google one grounded prompt, 0.035
        assert most("openrouter", "google/gemini-2.5-flash", searches=3) == 550_000 + 120_000_000
        assert most("google", "gemini-2.5-flash", searches=3) == 550_000 + 35_000_000

    def test_a_tool_may_take_more_than_one_window(self):
        # GPT-4o: 128,000 once, and 500,000 over its rounds: 628,000 × 2.5 + 100 × 10 = 1,571,000
        assert most("openai", "gpt-4o", input_tokens=128_000, tool_input_tokens=500_000) == 1_571_000_000


class TestListsOfModels:
    def test_each_is_bounded_by_itself_and_the_dearest_counts(self):
        # B3. GPT-4 Turbo gives 4,096: 1000 × 10 + 4,096 × 30 = 132,880
        # Opus 5.5 gives 128,000: 1000 × 4 + 128,000 × 20 = 2,564,000
        bounds = {"output_tokens": 128_000}
        assert most("openrouter", "openai/gpt-4-turbo", **bounds) == 132_880_000
        others = ("anthropic/claude-opus-5.5",)
        assert most("openrouter", "openai/gpt-4-turbo", others=others, **bounds) == 2_564_000_000

    def test_the_order_plays_no_part(self):
        names = ("openai/gpt-6-luna", "openai/gpt-6.1-sol", "a/b", "google/gemini-2.5-flash-image")
        bounds = {"input_tokens": 300_000, "output_tokens": 5_000}
        holds = {most("openrouter", names[at], others=names[:at] + names[at + 1 :], **bounds) for at in range(4)}
        assert len(holds) == 1

    def test_a_limit_that_is_put_on_a_request_suits_every_model(self):
        worst = held("openrouter", "openai/gpt-6-luna", others=("openai/gpt-4-turbo",), output_tokens=None)
        assert worst.output_limit == 4_096


class TestTiers:
    @pytest.mark.parametrize("tier", [None, "", "default", "flex", "standard_only", "FLEX "])
    def test_it_holds_the_standard_price_for_an_ordinary_tier(self, tier):
        assert most("openai", "gpt-4.1", service_tier=tier) == 2_800_000

    @pytest.mark.parametrize("tier", ["auto", "priority", "fast", "Priority", "a tier of tomorrow"])
    def test_it_holds_the_dearest_tier_that_the_data_knows(self, tier):
        # GPT-5.6 Sol, priority: writes at 10, output at 40: 1000 × 10 + 100 × 40 = 14,000
        assert most("openai", "gpt-5.6-sol", service_tier=tier) == 14_000_000

    def test_it_doubles_where_the_data_knows_no_tier(self):
        # Sonnet 4.5: 2 × (1000 × 3 + 100 × 15) = 9,000
        assert most("anthropic", "claude-sonnet-4-5", service_tier="auto") == 9_000_000
        own = operators("openai", "x", Price(Decimal(1), Decimal(1)))
        assert most("openai", "x", service_tier="priority", prices=own) == 2_200_000

    def test_it_holds_the_operators_own_tier(self):
        rows = [
            ("openai", "m", OperatorPrice(Price(Decimal(1), Decimal(1)), LONG_AGO)),
            ("openai", "m", OperatorPrice(Price(Decimal(5), Decimal(5)), LONG_AGO, service_tier="priority")),
            ("openai", "m", OperatorPrice(Price(Decimal(2), Decimal(2)), LONG_AGO, service_tier="flex")),
        ]
        holds = [most("openai", "m", service_tier=tier, prices=price_list(rows)) for tier in (None, "flex", "priority")]
        assert holds == [1_100_000, 2_200_000, 5_500_000]


class TestOutputLimits:
    @pytest.mark.parametrize(
        ("model", "limit"), [("gpt-6.1-terra", 16_384), ("gpt-4-turbo", 4_096), ("gpt-4", 7_192), ("llama", 16_384)]
    )
    def test_a_request_without_a_limit_gets_one_that_the_model_can_give(self, model, limit):
        assert held("openai", model, output_tokens=None).output_limit == limit

    @pytest.mark.parametrize(
        ("provider", "model", "tokens", "limit"),
        [
            ("openrouter", "openai/gpt-4", 300, 7_892), ("openrouter", "mancer/weaver", 300, 7_700),
            ("openai", "gpt-4o", 100_000, 16_384), ("openai", "gpt-4o", 115_000, 13_000),
            ("openai", "gpt-4o", 127_000, 4_096), ("openai", "gpt-4", 8_000, 2_048),
        ],
    )  # fmt: skip
    def test_it_leaves_room_for_the_prompt_in_a_small_window(self, provider, model, tokens, limit):
        # but at least 4,096 tokens or a quarter of the window: the provider says how many there are
        assert held(provider, model, input_tokens=tokens, output_tokens=None).output_limit == limit

    def test_a_prompt_is_estimated_at_three_bytes_for_a_token(self):
        worst = held("openai", "gpt-4", input_tokens=6_256, text_tokens=6_000, output_tokens=None)
        assert worst.output_limit == 8_192 - 2_256

    def test_a_text_file_is_estimated_and_what_is_seen_or_heard_is_left_out(self):
        # 1,000 of words that are not counted by bytes, and 3,000 bytes of text, for which 4,500 are held
        bound = {"file_tokens": 4_500, "image_input_tokens": 6_000, "audio_input_tokens": 500, "input_tokens": 12_000}
        assert held("openai", "gpt-4", **bound, output_tokens=None).output_limit == 8_192 - 1_000 - 1_000

    def test_it_leaves_room_for_an_answer_above_the_thinking_budget(self):
        # 24,576 and 4,096; a model that gives less gives what it can
        assert held("google", "gemini-2.5-flash", output_tokens=None, thinking_tokens=24_576).output_limit == 28_672
        assert held("google", "gemini-2.5-flash", output_tokens=None, thinking_tokens=1_000).output_limit == 16_384
        assert held("google", "gemini-2.0-flash", output_tokens=None, thinking_tokens=24_576).output_limit == 8_192

    def test_a_prediction_does_not_use_up_the_limit(self):
        worst = held("openai", "gpt-4.1", output_tokens=None, prediction_tokens=50)
        assert worst.output_limit == 16_384
        assert worst.nano == 2_000_000 + (16_384 + 50) * 8_000

    def test_the_clients_own_limit_is_left_alone(self):
        assert held("openai", "gpt-6.1-terra", output_tokens=64_000).output_limit is None

    def test_nothing_is_put_on_a_request_that_costs_nothing_or_is_charged_afterwards(self):
        assert held("openai", "gpt-4.1", output_tokens=None, strict=False).output_limit is None
        free = operators("openai", "llama", Price(Decimal(0), Decimal(0)))
        assert held("openai", "llama", output_tokens=None, prices=free).output_limit is None


class TestFitting:
    """Opus 5.5 at 20,000 tokens in and 64,000 out: 20,000 × 4 + 64,000 × 20 = 1,360,000, thus 1.36 USD."""

    OPUS = held("anthropic", "claude-opus-5-5", region="global", input_tokens=20_000, output_tokens=64_000)

    def test_it_buys_what_the_room_buys(self):
        assert self.OPUS.nano == 1_360_000_000
        # 0.50 USD: (500,000 - 80,000) / 20 = 21,000
        found = fitted(self.OPUS, 500_000_000)
        assert (found.output_limit, found.nano) == (21_000, 500_000_000)
        assert fitted_output_limit(self.OPUS, 500_000_000 - 1) == 20_999

    def test_it_does_not_go_below_a_quarter_of_what_was_asked_for(self):
        # 16,000 × 20 + 80,000 = 400,000
        assert fitted_output_limit(self.OPUS, 400_000_000) == 16_000
        assert fitted_output_limit(self.OPUS, 399_999_999) is None

    def test_nor_in_several_steps(self):
        once = fitted(self.OPUS, 500_000_000)
        assert fitted_output_limit(once, 400_000_000) == 16_000
        assert fitted_output_limit(once, 399_999_999) is None

    def test_nor_below_4096_tokens(self):
        worst = held(
            "anthropic", "claude-opus-5-5", region="global", output_tokens=8_000
        )  # 1000 × 4 + 4,096 × 20 = 85,920
        assert fitted_output_limit(worst, 85_920_000) == 4_096
        assert fitted_output_limit(worst, 85_919_999) is None
        short = held("anthropic", "claude-opus-5-5", region="global", output_tokens=1_000)
        assert fitted_output_limit(short, short.nano - 1) is None

    def test_it_stays_above_the_thinking_budget(self):
        worst = held(
            "anthropic",
            "claude-opus-5-5",
            region="global",
            input_tokens=20_000,
            output_tokens=64_000,
            thinking_tokens=30_000,
        )  # 80,000 + 30,001 × 20 = 680,020
        assert fitted_output_limit(worst, 680_020_000) == 30_001
        assert fitted_output_limit(worst, 680_019_999) is None

    def test_it_changes_nothing_where_all_fits(self):
        assert fitted_output_limit(self.OPUS, self.OPUS.nano) == 64_000

    def test_a_request_without_a_limit_is_fitted_below_the_default(self):
        worst = held("anthropic", "claude-opus-5-5", region="global", output_tokens=None)  # 4,000 + 16,384 × 20
        assert fitted_output_limit(worst, 204_000_000) == 10_000

    def test_every_choice_has_the_limit(self):
        # 2 choices: (500,000 - 80,000) / 40 = 10,500, below a quarter
        worst = held("openai", "gpt-6.1-sol", input_tokens=20_000, output_tokens=30_000, choices=2)
        # 20,000 × 2.5 + 2 × L × 10 ≤ 250,000
        assert fitted_output_limit(worst, 250_000_000) == 10_000

    def test_it_suits_every_model_that_may_answer(self):
        worst = held("openrouter", "openai/gpt-4-turbo", others=("anthropic/claude-opus-5.5",), output_tokens=64_000)
        # Turbo's own limit is 4,096 and fits: 132,880; Opus: (504,000 - 4,000) / 20 = 25,000
        assert fitted(worst, 504_000_000).output_limit == 25_000
        assert fitted(worst, 132_000_000) is None

    def test_it_is_worth_nothing_where_the_input_alone_is_too_dear(self):
        assert fitted_output_limit(self.OPUS, 79_999_999) is None


class TestShrinking:
    def test_it_keeps_what_the_input_costs_and_all_output(self):
        # 76,000 bytes were held; the stream tells 20,000, 18,000 of them cached:
        # 2,000 × 4 + 18,000 × 0.2 + 64,000 × 20 = 8,000 + 3,600 + 1,280,000
        worst = held("anthropic", "claude-opus-5-5", region="global", input_tokens=76_000, output_tokens=64_000)
        told = Usage(input_tokens=20_000, cached_input_tokens=18_000, output_tokens=1)
        assert shrunk_hold(worst, told, worst.nano) == 1_291_600_000

    def test_it_gives_back_what_another_region_would_have_cost(self):
        # 1,000 × 4 + 64,000 × 20, and a tenth more if the workspace has it run in one country
        worst = held("anthropic", "claude-opus-5-5", output_tokens=64_000)
        told = Usage(input_tokens=1_000, cached_input_tokens=0, output_tokens=1)
        assert shrunk_hold(worst, replace(told, region="global"), worst.nano) == 1_284_000_000
        for region in ("us", ""):
            assert shrunk_hold(worst, replace(told, region=region), worst.nano) == 1_412_400_000

    def test_it_keeps_what_tools_may_still_take(self):
        # 100 × 4 told; 5 × 0.01 and 80,000 × 4 to come; 100 × 20
        worst = held("anthropic", "claude-opus-5-5", region="global", searches=5, tool_input_tokens=80_000)
        assert shrunk_hold(worst, Usage(input_tokens=100), worst.nano) == 400_000 + 50_000_000 + 320_000_000 + 2_000_000

    def test_it_keeps_what_other_prompts_may_repeat(self):
        # 100,000 × 4 told; 10 × 4 and 2 × 100,000 × 4 to come; 100 × 20
        worst = held("anthropic", "claude-opus-5-5", region="global", whole_window=True, inputs=3, tool_input_tokens=10)
        told = Usage(input_tokens=100_000, cached_input_tokens=0)
        assert shrunk_hold(worst, told, worst.nano) == 400_000_000 + 800_040_000 + 2_000_000

    def test_it_reckons_with_a_long_price_that_tools_may_reach(self):
        # Haiku 5.5 costs five times as much above 100,000: 90,000 × 0.5 + 20,000 × 0.5 + 100 × 2.5
        worst = held("anthropic", "claude-haiku-5-5", region="global", input_tokens=200_000, tool_input_tokens=20_000)
        assert shrunk_hold(worst, Usage(input_tokens=90_000), worst.nano) == 55_250_000

    def test_it_never_grows_and_wants_to_be_told(self):
        worst = held("anthropic", "claude-opus-5-5", region="global")
        assert shrunk_hold(worst, Usage(input_tokens=50_000), worst.nano) == worst.nano
        assert shrunk_hold(worst, Usage(output_tokens=1), worst.nano) == worst.nano

    def test_it_covers_what_is_charged_in_the_end(self):
        worst = held("anthropic", "claude-opus-5-5", output_tokens=500, service_tier="fast", region="us")
        told = Usage(input_tokens=700, cached_input_tokens=100)
        end = Usage(700, cached_input_tokens=100, output_tokens=500, speed="fast", region="us")
        assert charge(end, worst, saw_content=True).nano == shrunk_hold(worst, told, worst.nano)


class TestOpenRoutersMaxPrice:
    def test_it_is_the_price_that_was_held(self):
        found = max_price(held("openrouter", "openai/gpt-4o-mini"))
        assert found == {"prompt": Decimal("0.15"), "completion": Decimal("0.6"), "request": 0}
        assert str(found["prompt"]) == "0.15"

    def test_it_is_the_dearest_of_a_list(self):
        found = max_price(held("openrouter", "openai/gpt-6-luna", others=("openai/gpt-6.1-sol", "perplexity/sonar")))
        assert found == {"prompt": 2, "completion": 10, "request": Decimal("0.012")}

    def test_it_is_the_long_price_where_the_prompt_may_be_long(self):
        found = max_price(held("openrouter", "openai/gpt-6.1-sol", input_tokens=300_000))
        assert (found["prompt"], found["completion"]) == (4, 15)

    def test_it_is_the_fallback_price_for_a_router(self):
        found = max_price(held("openrouter", "openrouter/auto"))
        assert (found["prompt"], found["completion"]) == (100, 100)

    def test_it_names_pictures_only_where_there_are_some(self):
        # 6,000 tokens of pictures at 2.5
        found = max_price(held("openrouter", "openai/gpt-4o", input_tokens=7_000, image_input_tokens=6_000))
        assert found["image"] == Decimal("0.015")

    def test_that_of_pictures_is_for_each(self):
        bounds = {"input_tokens": 60_000, "image_input_tokens": 60_000}
        assert max_price(held("openrouter", "openai/gpt-4o", images=10, **bounds))["image"] == Decimal("0.015")

    def test_there_is_none_where_nothing_is_held(self):
        assert max_price(held("openrouter", "openai/gpt-oss-20b:free")) is None
