"""What is shown to people: prices, windows and output limits."""

from __future__ import annotations

from decimal import Decimal

import pytest

from llmkeys.prices.pricing import Price, context_window, known_price, max_output_tokens, price_per_million
from tests.pricing.helpers import context


def test_it_shows_the_standard_price_of_a_short_prompt():
    shown = price_per_million(**context("openai", "gpt-6.1-terra"))
    assert shown == Price(Decimal(1), Decimal(5), Decimal("0.05"), Decimal("1.25"), None)


def test_it_shows_an_hours_write_where_there_is_one():
    assert price_per_million(**context("anthropic", "claude-sonnet-4-5")).cache_write_1h == Decimal(6)


def test_it_writes_plain_digits():
    assert str(price_per_million(**context("anthropic", "claude-opus-5-5")).output) == "20"


def test_it_shows_the_operators_price_first():
    price = Price(Decimal(7), Decimal(9))
    assert price_per_million(**context("openai", "gpt-6.1-terra", operator_price=price)) is price


def test_it_shows_zero_for_free_and_nothing_for_unknown():
    assert price_per_million(**context("openrouter", "a/b:free")) == Price(Decimal(0), Decimal(0))
    assert price_per_million(**context("openrouter", "openrouter/auto")) is None
    assert price_per_million(**context("openai", "whisper-1")) is None


def test_it_tells_known_from_unknown():
    assert known_price(**context("openai", "gpt-6.1-terra"))
    assert known_price(**context("openai", "x", operator_price=Price(Decimal(0), Decimal(0))))
    assert not known_price(**context("openai", "x", local=True))


def test_it_tells_the_context_window():
    assert context_window("openai", "gpt-5.6-sol") == 1_050_000
    assert context_window("openrouter", "openai/gpt-4o:nitro") == 128_000
    assert context_window("openai", "llama3.2:latest") is None


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        ("gpt-4", 8_192),
        ("openai/gpt-4-turbo", 4_096),
        ("gpt-4o-2024-05-13", 4_096),
        ("gpt-4o-mini", 16_384),
        ("claude-3-5-haiku-20241022", 8_192),
        ("anthropic/claude-3.5-sonnet", 8_192),
        ("claude-3-haiku-20240307", 4_096),
        ("gemini-2.0-flash", 8_192),
        ("gpt-4.1", None),
        ("openai/gpt-6.1-terra", None),
        ("claude-sonnet-4-5", None),
        ("gemini-2.5-pro", None),
    ],
)
def test_it_tells_an_output_limit_that_a_default_may_exceed(model, limit):
    assert max_output_tokens("openrouter", model) == limit
