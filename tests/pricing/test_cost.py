"""`charge`: each amount is worked out by hand beside it, in USD per million tokens of the provider's price list."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from llmkeys.dialects.base import Usage
from llmkeys.dialects.usage import read_openai_usage
from llmkeys.prices.cost import Charge, charge, estimate
from llmkeys.prices.tariffs import OperatorPrice, Price
from tests.pricing.helpers import LONG_AGO, NOW, charged, held, operators, price_list
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
        assert charged("openrouter", "openai/gpt-4o-mini", usage) == Charge(3_600, "provider")

    def test_it_computes_the_same_as_openrouter_charged(self):
        # 20 × 0.15 + 1 × 0.6 = 3.6
        usage = Usage(input_tokens=20, output_tokens=1)
        assert charged("openrouter", "openai/gpt-4o-mini", usage) == Charge(3_600, "computed")

    def test_it_takes_and_computes_a_cache_write_at_openrouter(self):
        # 3 × 3 + 3211 × 3.75 + 100 × 15 = 9 + 12,041.25 + 1,500 = 13,550.25
        usage = read_openai_usage(recorded("openrouter-chat-nonstream-anthropic-cache-write.json"))
        model = "anthropic/claude-4.6-sonnet-20260217"
        assert charged("openrouter", model, usage) == Charge(13_550_250, "provider")
        counts = Usage(input_tokens=3214, cache_write_tokens=3211, output_tokens=100)
        assert charged("openrouter", model, counts) == Charge(13_550_250, "computed")

    def test_it_prices_cached_tokens_at_openai(self):
        # 120 × 2 + 1024 × 0.5 + 2 × 8 = 240 + 512 + 16 = 768
        usage = read_openai_usage(recorded("openai-chat-nonstream-cached.json"))
        assert charged("openai", "gpt-4.1", usage) == Charge(768_000, "computed")

    @pytest.mark.parametrize(
        ("at", "nano"),
        [
            (datetime(2026, 7, 15, tzinfo=UTC), 25_235_000),  # 8 × 5 + 4012 × 6.25 + 4 × 30 = 40 + 25,075 + 120
            (datetime(2026, 11, 23, tzinfo=UTC), 20_172_000),  # 8 × 4 + 4012 × 5 + 4 × 20 = 32 + 20,060 + 80
        ],
    )
    def test_it_prices_a_cache_write_at_openai_as_of_its_day(self, at, nano):
        usage = read_openai_usage(recorded("openai-chat-nonstream-cache-write.json"))
        assert charged("openai", "gpt-5.6-sol", usage, at=at) == Charge(nano, "computed")

    def test_it_prices_cached_and_thinking_tokens_at_google(self):
        # 3520 prompt, 3512 of them cached, 2 + 42 thinking: 8 × 0.3 + 3512 × 0.03 + 44 × 2.5 = 217.76
        usage = Usage(input_tokens=3520, cached_input_tokens=3512, output_tokens=44, reasoning_tokens=42)
        for name in ("gemini-2.5-flash", "models/gemini-2.5-flash"):
            assert charged("google", name, usage) == Charge(217_760, "computed")


class TestSoundAndPictures:
    """B1. platform.openai.com/docs/pricing: gpt-audio 2.5 and 32 (sound) in, 10 and 64 (sound) out."""

    SPOKEN = Usage(input_tokens=2360, audio_input_tokens=2340, output_tokens=50, audio_output_tokens=40)

    @pytest.mark.parametrize(("provider", "model"), [("openai", "gpt-audio"), ("openrouter", "openai/gpt-audio")])
    def test_it_prices_sound_in_and_out(self, provider, model):
        # 20 × 2.5 + 2340 × 32 + 10 × 10 + 40 × 64 = 50 + 74,880 + 100 + 2,560 = 77,590
        assert charged(provider, model, self.SPOKEN) == Charge(77_590_000, "computed")

    @pytest.mark.parametrize(
        ("provider", "model"),
        [("google", "gemini-2.5-flash-image"), ("openrouter", "google/gemini-2.5-flash-image")],
    )
    def test_it_prices_the_pictures_that_a_model_makes(self, provider, model):
        # ai.google.dev/pricing: 0.3 in, 2.5 out, 30 for pictures: 10 × 0.3 + 340 × 2.5 + 2000 × 30 = 60,853
        usage = Usage(input_tokens=10, output_tokens=2340, image_output_tokens=2000)
        assert charged(provider, model, usage) == Charge(60_853_000, "computed")

    def test_it_prices_sound_at_google_and_the_cached_part_of_it(self):
        # gemini-2.5-flash: text 0.3, cached 0.03, sound 1, cached 0.1; 100 text, 40 of it cached, 50 sound, 20 cached
        # 60 × 0.3 + 40 × 0.03 + 30 × 1 + 20 × 0.1 + 10 × 2.5 = 18 + 1.2 + 30 + 2 + 25 = 76.2
        usage = Usage(
            input_tokens=150,
            cached_input_tokens=60,
            audio_input_tokens=50,
            cached_audio_tokens=20,
            output_tokens=10,
        )
        assert charged("google", "gemini-2.5-flash", usage) == Charge(76_200, "computed")

    def test_it_flags_sound_of_a_model_whose_rate_the_data_lacks(self):
        # The data has 2.5 and 10 for text only; the price page has 40 and 80 for sound:
        # 20 × 2.5 + 2340 × 40 + 10 × 10 + 40 × 80 = 50 + 93,600 + 100 + 3,200 = 96,950
        assert charged("openai", "gpt-4o-audio-preview", self.SPOKEN) == Charge(96_950_000, "estimated")

    def test_it_flags_and_prices_at_the_dearest_known_kind_what_no_page_lists(self):
        # Opus 5.5 makes no sound. 20 × 4, 2340 at an hour's cache write (8), 50 × 20: 80 + 18,720 + 1,000 = 19,800
        assert charged("anthropic", "claude-opus-5-5", self.SPOKEN) == Charge(19_800_000, "estimated")

    def test_it_takes_a_picture_that_has_no_rate_of_its_own_for_text(self):
        # GPT-5.6 Sol: 10 × 4 + 900 × 0.4 (cached pictures are cached text) + 10 × 20 = 40 + 360 + 200
        usage = Usage(input_tokens=910, cached_input_tokens=900, image_input_tokens=905, output_tokens=10)
        assert charged("openai", "gpt-5.6-sol", usage) == Charge(600_000, "computed")

    def test_it_prices_each_kind_that_an_embedding_is_made_of(self):
        # gemini-embedding-2: text 0.2, sound 6.5, pictures 0.45, video 12; 10 of each: 2 + 65 + 4.5 + 120 = 191.5
        usage = Usage(40, audio_input_tokens=10, image_input_tokens=10, video_input_tokens=10, output_tokens=0)
        assert charged("google", "gemini-embedding-2", usage, output_tokens=0) == Charge(191_500, "computed")

    def test_it_takes_a_video_that_has_no_rate_of_its_own_for_text(self):
        # gemini-2.5-flash, as the price page has it: 900 × 0.3 + 10 × 2.5 = 295
        usage = Usage(input_tokens=900, video_input_tokens=800, output_tokens=10)
        assert charged("google", "gemini-2.5-flash", usage) == Charge(295_000, "computed")

    def test_the_data_prices_video_beside_the_operators_text(self):
        # 10 × 1 + 90 × 12 = 1,090
        usage = Usage(input_tokens=100, video_input_tokens=90, output_tokens=0)
        prices = operators("google", "gemini-embedding-2", Price(input=Decimal(1), output=Decimal(0)))
        found = charged("google", "gemini-embedding-2", usage, prices=prices, output_tokens=0)
        assert found == Charge(1_090_000, "computed")

    def test_it_cuts_kinds_that_are_more_than_the_whole(self):
        # 100 tokens, all sound, however many pictures: 100 × 32 + 10 × 64 = 3,840
        usage = Usage(
            input_tokens=100,
            audio_input_tokens=500,
            image_input_tokens=500,
            cached_input_tokens=900,
            cached_audio_tokens=0,
            output_tokens=10,
            audio_output_tokens=20,
            reasoning_tokens=30,
        )
        assert charged("openai", "gpt-audio", usage) == Charge(3_840_000, "computed")

    def test_it_flags_a_model_of_video(self):
        # No usage names video: 10 × 1.5 + 100 × 17.5 = 1,765
        usage = Usage(input_tokens=10, output_tokens=100)
        assert charged("google", "gemini-omni-1.1-flash", usage) == Charge(1_765_000, "estimated")


class TestSearches:
    def test_it_adds_the_fee_of_a_search_model_to_each_answer(self):
        # B6. 20 × 2.5 + 30 × 10 = 350, and 0.025 for the search
        usage = Usage(input_tokens=20, output_tokens=30)
        for provider, model in (("openai", "gpt-4o-search-preview"), ("openrouter", "openai/gpt-4o-search-preview")):
            assert charged(provider, model, usage) == Charge(25_350_000, "computed")
        assert charged("openai", "gpt-5-search-api", usage).nano == 10_325_000  # 20 × 1.25 + 30 × 10, and 0.01

    def test_it_adds_nothing_where_no_search_ran(self):
        # 20 × 2 + 30 × 10 = 340
        usage = Usage(input_tokens=20, output_tokens=30)
        assert charged("openai", "gpt-6.1-sol", usage, searches=5) == Charge(340_000, "computed")
        assert charged("openai", "gpt-6.1-sol", Usage(20, output_tokens=30, searches=0)) == Charge(340_000, "computed")

    def test_it_adds_the_fee_of_each_search_that_ran(self):
        # Opus 5.5, 10 USD for 1,000 searches: 20 × 4 + 30 × 20 = 680, and 3 × 0.01
        usage = Usage(input_tokens=20, output_tokens=30, searches=3)
        assert charged("anthropic", "claude-opus-5-5", usage) == Charge(30_680_000, "computed")

    def test_searching_in_stored_files_has_a_fee_of_its_own(self):
        # GPT-4.1: 20 × 2 + 30 × 8 = 280, and 3 × 0.0025; a local server asks nothing
        usage = Usage(20, output_tokens=30, file_searches=3)
        assert charged("openai", "gpt-4.1", usage) == Charge(7_780_000, "computed")
        assert charged("openai", "llama3", usage, prices=price_list(local=["openai"])) == Charge(0, "fallback")

    @pytest.mark.parametrize(
        ("model", "preview", "nano", "source"),
        [
            ("gpt-4o", False, 20_000_000, "computed"),
            ("gpt-4o", True, 50_000_000, "computed"),
            ("gpt-4o", None, 50_000_000, "estimated"),  # the dearer of two that were declared
            ("gpt-5", True, 20_000_000, "computed"),
            ("gpt-5", None, 20_000_000, "computed"),
        ],
    )
    def test_openais_older_tool_costs_more_with_models_that_do_not_reason(self, model, preview, nano, source):
        # platform.openai.com/docs/pricing, "Web search": 25 USD for 1,000, and 10 with reasoning models
        fee = charged("openai", model, Usage(20, output_tokens=30, searches=2), preview_search=preview)
        without = charged("openai", model, Usage(20, output_tokens=30))
        assert (fee.nano - without.nano, fee.source) == (nano, source)

    def test_it_charges_gemini_2_by_the_grounded_prompt_and_gemini_3_by_the_query(self):
        usage = Usage(input_tokens=100, output_tokens=10, searches=4)
        # 100 × 0.3 + 10 × 2.5 = 55, and 0.035 once
        assert charged("google", "gemini-2.5-flash", usage) == Charge(35_055_000, "computed")
        # 100 × 0.75 + 10 × 3.75 = 112.5, and 4 × 0.014
        assert charged("google", "gemini-3.8-flash", usage) == Charge(56_112_500, "computed")

    def test_it_flags_a_search_whose_fee_nobody_knows(self):
        usage = Usage(input_tokens=20, output_tokens=30, searches=1)
        # GPT-4 Turbo: 20 × 10 + 30 × 30 = 1,100, and the dearest fee of OpenAI's page, 0.025
        assert charged("openai", "gpt-4-turbo", usage) == Charge(26_100_000, "estimated")

    def test_it_adds_a_fee_for_each_request_where_the_vendor_asks_one(self):
        # Sonar at OpenRouter without a cost: 20 × 1 + 30 × 1 = 50, and 12 USD for 1,000 requests
        assert charged("openrouter", "perplexity/sonar", Usage(20, output_tokens=30)) == Charge(12_050_000, "computed")


class TestTiers:
    @pytest.mark.parametrize(
        ("tier", "nano", "source"),
        [
            ("", 24_000_000, "computed"),  # 1000 × 4 + 1000 × 20
            ("default", 24_000_000, "computed"),
            ("scale", 24_000_000, "computed"),
            ("a tier of tomorrow", 24_000_000, "estimated"),
            ("flex", 12_000_000, "computed"),  # 1000 × 2 + 1000 × 10
            ("priority", 48_000_000, "computed"),  # 1000 × 8 + 1000 × 40
            ("fast", 48_000_000, "computed"),
        ],
    )
    def test_it_prices_the_tier_that_served(self, tier, nano, source):
        usage = Usage(input_tokens=1000, output_tokens=1000, service_tier=tier)
        assert charged("openai", "gpt-5.6-sol", usage) == Charge(nano, source)

    def test_it_prices_the_vendors_tier_at_openrouter(self):
        # gpt-4o-mini, priority: 1000 × 0.25 + 1000 × 1 = 1,250
        usage = Usage(input_tokens=1000, output_tokens=1000, service_tier="priority")
        assert charged("openrouter", "openai/gpt-4o-mini", usage) == Charge(1_250_000, "computed")

    def test_it_prices_googles_tier(self):
        # B7. gemini-3.8-flash-tts: flex 0.25 and 4.5, standard 0.5 and 9, priority 0.9 and 16.2
        def nano(tier, **bounds):
            usage = Usage(input_tokens=1000, output_tokens=1000, service_tier=tier)
            return charged("google", "gemini-3.8-flash-tts", usage, **bounds)

        assert nano("flex") == Charge(4_750_000, "computed")
        assert nano("STANDARD") == Charge(9_500_000, "computed")
        assert nano("priority") == Charge(17_100_000, "computed")

    def test_it_flags_a_tier_for_which_the_data_has_no_rate(self):
        # gemini-2.5-flash has none for flex: 1000 × 0.3 + 1000 × 2.5 = 2,800
        usage = Usage(input_tokens=1000, output_tokens=1000, service_tier="flex")
        assert charged("google", "gemini-2.5-flash", usage, service_tier="flex") == Charge(2_800_000, "estimated")

    def test_it_charges_a_dearer_tier_without_a_rate_as_it_was_held(self):
        usage = Usage(input_tokens=1000, output_tokens=100, service_tier="priority")
        # Sonnet 4.5: 2 × (1000 × 3 + 100 × 15) = 9,000
        assert charged("anthropic", "claude-sonnet-4-5", usage, service_tier="auto") == Charge(9_000_000, "estimated")
        own = operators("openai", "mine", Price(Decimal(1), Decimal(1)))
        assert charged("openai", "mine", usage, prices=own, service_tier="priority") == Charge(2_200_000, "estimated")
        # Not asked for, so paid for in advance: 1000 × 3 + 100 × 15
        assert charged("anthropic", "claude-sonnet-4-5", usage) == Charge(4_500_000, "estimated")

    def test_it_takes_the_tier_asked_for_where_none_was_told_and_it_is_dearer(self):
        usage = Usage(input_tokens=1000, output_tokens=1000)
        for asked, nano in (("priority", 48_000_000), ("auto", 24_000_000), ("flex", 24_000_000)):
            assert charged("openai", "gpt-5.6-sol", usage, service_tier=asked) == Charge(nano, "computed")

    def test_it_prices_anthropics_fast_speed(self):
        # Opus 5.5, fast: 1000 × 8 + 1000 × 40
        usage = Usage(input_tokens=1000, output_tokens=1000, service_tier="standard", speed="fast")
        assert charged("anthropic", "claude-opus-5-5", usage, service_tier="fast") == Charge(48_000_000, "computed")

    def test_it_adds_a_tenth_for_anthropics_own_country(self):
        # (1000 × 4 + 1000 × 20) × 1.1 = 26,400; the fee of a search stays: 0.01
        usage = Usage(input_tokens=1000, output_tokens=1000, searches=1, region="us")
        assert charged("anthropic", "claude-opus-5-5", usage) == Charge(36_400_000, "computed")
        elsewhere = Usage(input_tokens=1000, output_tokens=1000, region="not_available")
        assert charged("anthropic", "claude-opus-5-5", elsewhere) == Charge(24_000_000, "computed")

    @pytest.mark.parametrize(
        ("address", "model", "nano"),
        [
            ("https://eu.api.openai.com/v1", "gpt-6.1-sol", 13_200_000),  # (1000 × 2 + 1000 × 10) × 1.1
            ("https://us.api.openai.com/v1", "gpt-6.1-sol", 13_200_000),
            ("https://api.openai.com/v1", "gpt-6.1-sol", 12_000_000),
            ("https://eu.api.openai.com/v1", "gpt-4o-mini", 750_000),  # 1000 × 0.15 + 1000 × 0.6
        ],
    )
    def test_it_adds_a_tenth_for_openais_regions(self, settings, address, model, nano):
        settings.PROVIDER_BASE_URLS = {**settings.PROVIDER_BASE_URLS, "openai": address}
        usage = Usage(input_tokens=1000, output_tokens=1000)
        assert charged("openai", model, usage) == Charge(nano, "computed")
        assert held("openai", model, output_tokens=1000).nano >= nano


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
        assert charged("openai", "gpt-6.1-terra", usage) == Charge(nano, "computed")

    @pytest.mark.parametrize(
        ("at", "nano"),
        [
            (datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), 12_000_000),  # 1000 × 2 + 1000 × 10 = 12,000
            (datetime(2026, 12, 1, tzinfo=UTC), 24_000_000),  # 1000 × 4 + 1000 × 20 = 24,000
            (datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=2))), 12_000_000),
        ],
    )
    def test_it_takes_the_price_of_the_instant_of_admission(self, at, nano):
        """The instant is the worst case's; when the answer came plays no part."""
        usage = Usage(input_tokens=1000, output_tokens=1000)
        assert charged("google", "gemini-4-argon", usage, at=at) == Charge(nano, "computed")

    def test_it_prices_cache_writes_for_an_hour(self):
        # 1000 × 3 + 1000 × 0.3 + 5000 × 3.75 + 3000 × 6 + 100 × 15 = 3,000 + 300 + 18,750 + 18,000 + 1,500
        usage = Usage(
            input_tokens=10_000,
            cached_input_tokens=1_000,
            cache_write_tokens=8_000,
            cache_write_1h_tokens=3_000,
            output_tokens=100,
        )
        assert charged("anthropic", "claude-sonnet-4-5", usage) == Charge(41_550_000, "computed")
        own = operators("openai", "y", OPERATOR)
        assert charged("openai", "y", usage, prices=own) == Charge(41_550_000, "computed")

    def test_it_doubles_the_input_for_an_hour_where_only_the_rule_is_known(self):
        # Sonnet 4.6 at OpenRouter: 100 × 2 × 3 + 1 × 15 = 615
        usage = Usage(input_tokens=100, cache_write_tokens=100, cache_write_1h_tokens=100, output_tokens=1)
        assert charged("openrouter", "anthropic/claude-4.6-sonnet-20260217", usage) == Charge(615_000, "computed")

    def test_it_prices_reasoning_apart_where_it_has_a_price(self):
        # 10 × 2 + 40 × 8 + 60 × 3 = 20 + 320 + 180 = 520
        usage = Usage(input_tokens=10, output_tokens=100, reasoning_tokens=60)
        assert charged("openrouter", "perplexity/sonar-deep-research", usage) == Charge(520_000, "computed")

    def test_it_rounds_up_once(self):
        # 1 × 0.0333 + 1 × 0.0333 = 0.0666 per million = 66.6 nano, not 34 + 34
        usage = Usage(input_tokens=1, output_tokens=1)
        own = operators("openai", "m", Price(Decimal("0.0333"), Decimal("0.0333")))
        assert charged("openai", "m", usage, prices=own) == Charge(67, "computed")


class TestTheOperatorsPrices:
    TEN = Usage(input_tokens=10, output_tokens=10)

    def test_they_go_before_the_price_data(self):
        # 10 × 3 + 10 × 15 = 180
        assert charged("openai", "gpt-4.1", self.TEN, prices=operators("openai", "gpt-4.1", OPERATOR)) == Charge(
            180_000, "computed"
        )

    def test_cached_and_written_tokens_cost_what_input_costs_where_nothing_else_is_given(self):
        # 100 × 2 + 1 × 8
        usage = Usage(
            input_tokens=100, cached_input_tokens=40, cache_write_tokens=50, cache_write_1h_tokens=10, output_tokens=1
        )
        own = operators("anthropic", "claude-mine", Price(Decimal(2), Decimal(8)))
        assert charged("anthropic", "claude-mine", usage, prices=own) == Charge(208_000, "computed")

    def test_a_price_of_zero_is_a_price_of_all(self):
        own = operators("openai", "gpt-audio", Price(Decimal(0), Decimal(0)))
        usage = Usage(input_tokens=10, audio_input_tokens=5, output_tokens=10, searches=2)
        assert charged("openai", "gpt-audio", usage, prices=own) == Charge(0, "computed")

    def test_sound_that_is_not_given_costs_what_the_price_data_says(self):
        # 5 × 1 + 5 × 32 + 10 × 2 = 185
        own = operators("openai", "gpt-audio", Price(Decimal(1), Decimal(2)))
        usage = Usage(input_tokens=10, audio_input_tokens=5, output_tokens=10)
        assert charged("openai", "gpt-audio", usage, prices=own) == Charge(185_000, "computed")

    def test_every_kind_and_fee_can_be_given(self):
        price = Price(
            *map(Decimal, (1, 2)),
            **{name: Decimal(rate) for name, rate in {
                "cached_input": 3, "cache_write": 4, "cache_write_1h": 5, "audio_input": 6, "cached_audio_input": 7,
                "image_input": 8, "reasoning_output": 9, "audio_output": 10, "image_output": 11,
            }.items()},
            search=Decimal("0.02"),
            request=Decimal("0.3"),
        )  # fmt: skip
        usage = Usage(
            input_tokens=160,
            cached_input_tokens=35,  # 15 of them sound
            cache_write_tokens=30,  # 10 of them for an hour
            cache_write_1h_tokens=10,
            audio_input_tokens=45,
            cached_audio_tokens=15,
            image_input_tokens=25,
            output_tokens=100,
            reasoning_tokens=20,
            audio_output_tokens=30,
            image_output_tokens=10,
            searches=2,
        )
        # in: 160 - 45 - 25 = 90 text, 20 of it cached, 30 written: 40 × 1 + 20 × 3 + 20 × 4 + 10 × 5 = 230
        #     30 × 6 + 15 × 7 + 25 × 8 = 485
        # out: 40 × 2 + 20 × 9 + 30 × 10 + 10 × 11 = 670; fees: 2 × 0.02 + 0.3
        expected = Charge((230 + 485 + 670) * 1_000 + 340_000_000, "computed")
        assert charged("openai", "x", usage, prices=operators("openai", "x", price)) == expected

    def test_a_row_of_a_tier_prices_that_tier(self):
        rows = [
            ("openai", "m", OperatorPrice(Price(Decimal(1), Decimal(1)), LONG_AGO)),
            ("openai", "m", OperatorPrice(Price(Decimal(5), Decimal(5)), LONG_AGO, service_tier="priority")),
        ]
        for tier in ("priority", "fast"):  # OpenAI's two names of one tier
            usage = Usage(input_tokens=10, output_tokens=10, service_tier=tier)
            assert charged("openai", "m", usage, prices=price_list(rows)) == Charge(100_000, "computed")
        assert charged("openai", "m", self.TEN, prices=price_list(rows)) == Charge(20_000, "computed")

    def test_a_row_of_long_prompts_prices_those(self):
        rows = [
            ("openai", "m", OperatorPrice(Price(Decimal(1), Decimal(1)), LONG_AGO)),
            ("openai", "m", OperatorPrice(Price(Decimal(2), Decimal(3)), LONG_AGO, above_input_tokens=100)),
        ]
        for tokens, nano in ((100, 110_000), (101, 232_000)):  # 100 + 10; 101 × 2 + 10 × 3
            usage = Usage(input_tokens=tokens, output_tokens=10)
            assert charged("openai", "m", usage, prices=price_list(rows)) == Charge(nano, "computed")

    def test_the_newest_row_that_is_in_force_counts(self):
        def row(rate, **ago):
            return ("openai", "m", OperatorPrice(Price(Decimal(rate), Decimal(rate)), NOW - timedelta(**ago)))

        rows = [row(1, days=2), row(2, days=1), row(3, days=-1)]
        for order in (rows, rows[::-1]):
            assert charged("openai", "m", self.TEN, prices=price_list(order)) == Charge(40_000, "computed")


class TestTheModelThatAnswered:
    """B4."""

    def usage(self, model):
        return Usage(input_tokens=1000, output_tokens=1000, model=model)

    def test_a_model_of_a_list_is_charged_at_its_own_price(self):
        others = ("openai/gpt-6.1-sol",)
        # Luna: 1000 × 0.1 + 1000 × 0.5; Sol: 1000 × 2 + 1000 × 10
        for answered, nano in (("openai/gpt-6-luna", 600_000), ("openai/gpt-6.1-sol", 12_000_000), ("", 600_000)):
            found = charged("openrouter", "openai/gpt-6-luna", self.usage(answered), others=others)
            assert found == Charge(nano, "computed")

    def test_a_dated_name_is_found_in_the_list(self):
        own = operators("openrouter", "anthropic/claude-haiku-5.5", Price(Decimal(7), Decimal(7)))
        usage, others = self.usage("anthropic/claude-haiku-5.5-20261007"), ("anthropic/claude-haiku-5.5",)
        found = charged("openrouter", "openai/gpt-6-luna", usage, others=others, prices=own)
        assert found == Charge(14_000_000, "computed")

    @pytest.mark.parametrize("router", ["openrouter/auto", "~openai/gpt-latest", "@preset/mine"])
    def test_a_router_is_charged_at_the_price_of_what_it_chose(self, router):
        assert charged("openrouter", router, self.usage("openai/gpt-6-luna")) == Charge(600_000, "computed")

    def test_what_nobody_knows_is_charged_at_the_price_of_what_was_asked_then_at_the_fallback(self):
        others = ("openai/gpt-6-luna",)
        found = charged("openrouter", "openai/gpt-6.1-sol", self.usage("a/b"), others=others)
        assert found == Charge(12_000_000, "computed")
        assert charged("openrouter", "openrouter/auto", self.usage("a/b")) == Charge(200_000_000, "fallback")

    def test_a_model_that_was_named_keeps_its_price_whatever_the_answer_calls_it(self):
        own = operators("openai", "gpt-4o", Price(Decimal(1), Decimal(1)))
        found = charged("openai", "gpt-4o", self.usage("gpt-4o-2024-08-06"), prices=own)
        assert found == Charge(2_000_000, "computed")


class TestNames:
    @pytest.mark.parametrize("variant", ["", ":nitro", ":floor", ":exacto"])
    def test_it_strips_openrouters_routing_variants(self, variant):
        # 20 × 0.15 + 1 × 0.6 = 3.6
        usage = Usage(input_tokens=20, output_tokens=1)
        assert charged("openrouter", f"openai/gpt-4o-mini{variant}", usage) == Charge(3_600, "computed")

    def test_it_adds_a_search_for_the_variant_that_searches(self):
        # 3.6, and the plugin's dearest common fee, ten results for 0.04
        usage = Usage(input_tokens=20, output_tokens=1)
        assert charged("openrouter", "openai/gpt-4o-mini:online", usage) == Charge(40_003_600, "estimated")

    def test_it_charges_nothing_for_a_free_variant(self):
        usage = Usage(input_tokens=20, output_tokens=1)
        assert charged("openrouter", "minimax/minimax-m2:free", usage) == Charge(0, "computed")

    def test_it_asks_the_vendors_list_where_openrouters_has_no_entry(self):
        # 10 × 3 + 10 × 15 = 180
        usage = Usage(input_tokens=10, output_tokens=10)
        assert charged("openrouter", "x-ai/grok-4", usage) == Charge(180_000, "computed")

    @pytest.mark.parametrize(
        ("provider", "model"),
        [("openrouter", "openrouter/auto"), ("openai", "llama3.2:latest"), ("openai", ""), ("openai", "whisper-1"),
         ("openrouter", "a" * 100_000)],
    )  # fmt: skip
    def test_it_charges_the_fallback_price_for_a_model_that_nobody_knows(self, provider, model):
        # 24 tokens × 0.0001 = 0.0024
        usage = Usage(input_tokens=20, output_tokens=4)
        assert charged(provider, model, usage) == Charge(2_400_000, "fallback")
        assert charged(provider, model, usage, prices=price_list(local=[provider])) == Charge(0, "fallback")


class TestWhatIsNotBelieved:
    """The caller then estimates, and the estimate is flagged."""

    @pytest.mark.parametrize("usage", [Usage(), Usage(input_tokens=5), Usage(output_tokens=5)])
    def test_a_usage_that_does_not_tell(self, usage):
        assert charged("openai", "gpt-4.1", usage) is None

    @pytest.mark.parametrize(("tokens", "output"), [(0, 0), (0, 5), (5, 0)])
    def test_zeros_beside_content(self, tokens, output):
        assert charged("openai", "gpt-4.1", Usage(tokens, output_tokens=output), saw_content=True) is None

    def test_output_without_any_input(self):
        assert charged("openai", "gpt-4.1", Usage(0, output_tokens=5), saw_content=False) is None

    def test_an_empty_answer_is_believed(self):
        # 5 × 2
        assert charged("openai", "gpt-4.1", Usage(5, output_tokens=0), saw_content=False) == Charge(10_000, "computed")
        assert charged("openai", "gpt-4.1", Usage(0, output_tokens=0), saw_content=False) == Charge(0, "computed")

    def test_embeddings_have_no_output(self):
        # 1000 × 0.02
        for usage in (Usage(1000, output_tokens=0), Usage(1000)):
            found = charged("openai", "text-embedding-3-small", usage, output_tokens=0)
            assert found == Charge(20_000, "computed")
        assert charged("openai", "text-embedding-3-small", Usage(0), output_tokens=0) is None

    @pytest.mark.parametrize("told", ["NaN", "sNaN", "Infinity", "-1", "1E+999999", "1000000.01"])
    def test_an_absurd_cost(self, told):
        # 120 × 2 + 2 × 8 = 256
        usage = Usage(input_tokens=120, output_tokens=2, cost_usd=Decimal(told))
        assert charged("openrouter", "openai/gpt-4.1", usage) == Charge(256_000, "computed")
        assert charged("openrouter", "openai/gpt-4.1", Usage(cost_usd=Decimal(told))) is None

    def test_a_cost_that_only_openrouter_may_tell(self):
        usage = Usage(input_tokens=120, output_tokens=2, cost_usd=Decimal(0))
        assert charged("openai", "gpt-4.1", usage) == Charge(256_000, "computed")

    def test_a_reported_cost_of_zero_and_of_many_digits_is_believed(self):
        zero, long = Decimal(0), Decimal("0.000003600000000000000000000001")
        assert charged("openrouter", "a/b", Usage(9, output_tokens=9, cost_usd=zero)) == Charge(0, "provider")
        assert charged("openrouter", "a/b", Usage(cost_usd=long)) == Charge(3_601, "provider")
        assert charged("openrouter", "a/b", Usage(cost_usd=zero), saw_content=False) == Charge(0, "provider")

    def test_a_cost_of_zero_beside_content_and_no_tokens(self):
        assert charged("openrouter", "openai/gpt-4.1", Usage(0, output_tokens=0, cost_usd=Decimal(0))) is None

    def test_counts_that_contradict_each_other_are_cut(self):
        # 2168 in, all 2161 written, so 7 may have been cached: 7 × 0.3 + 2161 × 3.75 + 10 × 15 = 8,255.85
        usage = Usage(
            input_tokens=2168,
            cached_input_tokens=2161,
            cache_write_tokens=2161,
            output_tokens=10,
            reasoning_tokens=11,
        )
        own = operators("openrouter", "google/gemini", OPERATOR)
        assert charged("openrouter", "google/gemini", usage, prices=own) == Charge(8_255_850, "computed")
        assert charged("openrouter", "google/gemini-2.5-flash", usage).source == "computed"

    def test_an_hours_write_that_is_missing_in_the_sum_is_counted(self):
        # 100 × 6 + 1 × 15
        usage = Usage(input_tokens=100, cache_write_1h_tokens=100, output_tokens=1)
        own = operators("openai", "y", OPERATOR)
        assert charged("openai", "y", usage, prices=own) == Charge(615_000, "computed")

    def test_negative_counts_are_zero(self):
        usage = Usage(5, cached_input_tokens=-1, audio_input_tokens=-3, output_tokens=1, reasoning_tokens=-1)
        assert charged("openai", "gpt-4.1", usage) == Charge(18_000, "computed")  # 5 × 2 + 1 × 8


class TestEstimates:
    def test_it_estimates_a_token_for_three_bytes_and_flags_it(self):
        # 300 bytes are 100 tokens: 100 × 2 + 7 × 8 = 256
        worst = held("openai", "gpt-4.1")
        found = estimate(worst, input_bytes=300, output_tokens=7, hold_nano=worst.nano)
        assert found == Charge(256_000, "estimated")

    def test_it_takes_from_the_usage_what_that_tells(self):
        # 40 × 2 + 9 × 8 = 152; the zero beside content is not told
        worst = held("openai", "gpt-4.1")
        known = Usage(input_tokens=40, output_tokens=9)
        assert estimate(worst, input_bytes=300, output_tokens=7, hold_nano=worst.nano, usage=known).nano == 152_000
        zeros = Usage(input_tokens=0, output_tokens=0)
        assert estimate(worst, input_bytes=300, output_tokens=7, hold_nano=worst.nano, usage=zeros).nano == 256_000

    def test_it_is_never_above_the_hold_and_never_zero_where_it_costs(self):
        worst = held("openai", "gpt-4.1")
        assert estimate(worst, input_bytes=10**9, output_tokens=10**9, hold_nano=77).nano == 77
        assert estimate(worst, input_bytes=0, output_tokens=0, hold_nano=worst.nano).nano == 10_000  # 1 × 2 + 1 × 8
        assert estimate(worst, input_bytes=300, output_tokens=7, hold_nano=0) == Charge(0, "estimated")

    def test_it_supposes_that_sound_was_heard(self):
        # 200 kB of sound were held as 1,000 tokens: 1000 × 32 + 1 × 10
        worst = held("openai", "gpt-audio", audio_input_tokens=1_000)
        assert estimate(worst, input_bytes=200_000, output_tokens=1, hold_nano=worst.nano).nano == 32_010_000

    def test_it_supposes_that_pictures_were_looked_at(self):
        # 10 kB of text and pictures were held as 1,000 tokens, 900 of them pictures: 100 × 0.2 + 900 × 0.45 = 425
        worst = held("google", "gemini-embedding-2", image_input_tokens=900, output_tokens=0)
        assert estimate(worst, input_bytes=10_000, output_tokens=0, hold_nano=worst.nano).nano == 425_000


def test_counting_tokens_costs_nothing():
    worst = held("anthropic", "claude-opus-5-5", is_free=True)
    assert (worst.nano, worst.output_limit) == (0, None)
    assert charge(Usage(input_tokens=500), worst, saw_content=True) == Charge(0, "computed")
