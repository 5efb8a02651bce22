"""What is shown to people: prices, windows and output limits."""

from __future__ import annotations

from decimal import Decimal

import pytest

from llmkeys.prices.limits import max_output_tokens, shown_window
from llmkeys.prices.tariffs import Price
from tests.pricing.helpers import NOBODYS, NOW, operators, price_list


def shown(provider, model, prices=NOBODYS):
    return prices.shown(provider, model, NOW)


def test_it_shows_the_standard_price_of_a_short_prompt():
    assert shown("openai", "gpt-6.1-terra") == Price(Decimal(1), Decimal(5), Decimal("0.05"), Decimal("1.25"))


def test_it_shows_every_kind_that_has_a_price():
    assert shown("anthropic", "claude-sonnet-4-5").cache_write_1h == Decimal(6)
    spoken = shown("openrouter", "openai/gpt-audio")
    assert (spoken.audio_input, spoken.audio_output) == (32, 64)


def test_it_writes_plain_digits():
    assert str(shown("anthropic", "claude-opus-5-5").output) == "20"


def test_it_shows_the_operators_price_first():
    price = Price(Decimal(7), Decimal(9))
    assert shown("openai", "gpt-6.1-terra", operators("openai", "gpt-6.1-terra", price)) is price


def test_it_shows_zero_for_free_and_nothing_for_unknown():
    assert shown("openrouter", "a/b:free") == Price(Decimal(0), Decimal(0))
    assert shown("openrouter", "openrouter/auto") is None
    assert shown("openai", "whisper-1") is None


def test_it_tells_known_from_unknown():
    free = operators("openai", "x", Price(Decimal(0), Decimal(0)))
    assert NOBODYS.knows("openai", "gpt-6.1-terra", NOW)
    assert free.knows("openai", "x", NOW)
    assert not price_list(local=["openai"]).knows("openai", "x", NOW)


def test_it_tells_the_context_window():
    assert shown_window("openai", "gpt-5.6-sol") == 1_050_000
    assert shown_window("openrouter", "openai/gpt-4o:nitro") == 128_000
    assert shown_window("openai", "llama3.2:latest") is None


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        ("gpt-4", 8_192),
        ("openai/gpt-4-turbo", 4_096),
        ("gpt-4o-2024-05-13", 4_096),
        ("gpt-4o-mini", 16_384),
        ("gpt-4.1", 32_768),
        ("openai/gpt-5-pro", 272_000),
        ("gpt-5.2-pro", 128_000),
        ("openai/gpt-6.1-terra", 128_000),
        ("o3-mini", 100_000),
        ("claude-3-5-haiku-20241022", 8_192),
        ("anthropic/claude-3.5-sonnet", 8_192),
        ("claude-3-haiku-20240307", 4_096),
        ("claude-opus-4-1-20250805", 32_000),
        ("claude-sonnet-4-5", 64_000),
        ("claude-opus-4-6", 128_000),
        ("anthropic/claude-opus-5.5", 128_000),
        ("gemini-2.0-flash", 8_192),
        ("gemini-2.5-pro", 65_536),
        ("llama3.2:latest", None),
        ("deepseek/deepseek-r1", None),
    ],
)
def test_it_tells_the_most_that_a_model_gives(model, limit):
    assert max_output_tokens(model) == limit
