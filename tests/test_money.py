"""Money: exact integers inside, words and numbers that give them back outside."""

from __future__ import annotations

import json
from decimal import ROUND_FLOOR, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkeys.lib.money import NANO, format_usd, nano_to_usd, parse_limit_usd, usd_json, usd_to_nano


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        (Decimal("0.0000036"), 3_600),
        (Decimal("0.01355025"), 13_550_250),
        (1, NANO),
        ("0.5", 500_000_000),
        (Decimal("0"), 0),
        (Decimal("0.0000000001"), 1),
        (Decimal("1.0000000001"), 1_000_000_001),
        (Decimal("1E-999999"), 1),
        (Decimal("-0.5"), -500_000_000),
        (Decimal("0.100000000000000000000000000001"), 100_000_001),  # 30 digits
        (Decimal("123456789012345678901.0000000000000000001"), 123456789012345678901 * NANO + 1),
    ],
)
def test_it_turns_usd_into_nano_and_rounds_up(usd, nano):
    assert usd_to_nano(usd) == nano


def test_it_rounds_down_where_asked():
    assert usd_to_nano(Decimal("0.0000000019"), ROUND_FLOOR) == 1


@pytest.mark.parametrize(
    "usd", [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("1E+999999"), "ten", "", 0.1, True]
)
def test_it_refuses_what_is_no_amount(usd):
    with pytest.raises(ValueError, match="amount of money"):
        usd_to_nano(usd)


@given(st.integers(-(10**15), 10**15))
def test_it_gives_every_amount_back(nano):
    assert usd_to_nano(nano_to_usd(nano)) == nano


@given(st.integers(-(10**15) + 1, 10**15 - 1))
def test_it_writes_json_numbers_that_read_back_exactly(nano):
    written = json.dumps(usd_json(nano))
    assert Decimal(written) * NANO == nano
    assert isinstance(usd_json(nano), float)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (1_250_000_000, "$1.25"),
        (37_000, "$0.000037"),
        (-500_000_000, "-$0.50"),
        (0, "$0.00"),
        (NANO, "$1.00"),
        (1, "$0.000000001"),
        (1_234_567_500_000_000, "$1,234,567.50"),
        (-1_000 * NANO, "-$1,000.00"),
        (1_100_000_000, "$1.10"),
        (1_123_000_000, "$1.123"),
    ],
)
def test_it_formats_for_people(nano, text):
    assert format_usd(nano) == text


@given(st.integers(-(10**18), 10**18))
def test_it_formats_without_loss_or_noise(nano):
    text = format_usd(nano)
    decimals = text.rpartition(".")[2]
    assert usd_to_nano(text.replace("$", "").replace(",", "")) == nano
    assert 2 <= len(decimals) <= 9
    assert len(decimals) == 2 or not decimals.endswith("0")


@pytest.mark.parametrize(
    ("given_by_person", "nano"),
    [
        (10, 10 * NANO),
        (0, 0),
        ("0", 0),
        (" 2.50 ", 2_500_000_000),
        (".5", 500_000_000),
        ("5.", 5 * NANO),
        ("1e3", 1_000 * NANO),
        (0.1, 100_000_000),
        (-0.0, 0),
        (1e-9, 1),
        (Decimal("0.000000001"), 1),
        (Decimal("1.00000000000000000000"), NANO),
        (1_000_000, 10**15),
        ("1000000.000000000000", 10**15),
    ],
)
def test_it_reads_a_limit(given_by_person, nano):
    assert parse_limit_usd(given_by_person) == nano


@pytest.mark.parametrize(
    ("given_by_person", "words"),
    [
        ("NaN", "NaN or Infinity"),
        (float("nan"), "NaN or Infinity"),
        (float("-inf"), "NaN or Infinity"),
        ("-Infinity", "NaN or Infinity"),
        (Decimal("sNaN"), "NaN or Infinity"),
        (-1, "negative"),
        ("-0.000000001", "negative"),
        (1_000_001, "at most 1,000,000"),
        ("1000000.000000001", "at most 1,000,000"),
        (10**4000, "at most 1,000,000"),
        ("1e9999", "at most 1,000,000"),
        ("0.0000000001", "9 decimals"),
        (0.1 + 0.2, "9 decimals"),
        ("1e-9999", "9 decimals"),
        (Decimal("1E-999999"), "9 decimals"),
        (True, "must be a number"),
        (None, "must be a number"),
        ("", "must be a number"),
        ("ten", "must be a number"),
        ("$5", "must be a number"),
        ("1,000", "must be a number"),
        ("1_000", "must be a number"),
        ("١٠", "must be a number"),
        ([10], "must be a number"),
        ("1" * 101, "must be a number"),
    ],
)
def test_it_refuses_a_limit_in_words(given_by_person, words):
    with pytest.raises(ValueError, match=words):
        parse_limit_usd(given_by_person)


@given(st.none() | st.booleans() | st.floats() | st.text() | st.decimals() | st.integers() | st.lists(st.integers()))
def test_it_raises_nothing_but_value_errors(value):
    try:
        nano = parse_limit_usd(value)
    except ValueError as error:
        assert str(error).endswith(".")
    else:
        assert 0 <= nano <= 10**15
