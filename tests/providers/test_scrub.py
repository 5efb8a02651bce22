"""`scrub`: no key material and no account ids in words that are stored or shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkeys.providers import scrub

SECRET = "qJ8wZrT5nB2xKd7Lm4Ps9Vc1"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("provided: sk-fake-key. You can", "provided: ***. You can"),
        ("provided: sk-proj-************************abcd.", "provided: ***."),
        ("key sk-or-v1-0123456789abcdef0123456789abcdef", "key ***"),
        ("label sk-or-v1-au7...890 here", "label *** here"),
        ("sk-ant-api03-abc_DEF-123,", "***,"),
        ("'AIzaSyA-0123456789_abcdefghijklmnopqrstu'", "'***'"),
        ("AQ.Ab8RN6Jxyz-_0123456789", "***"),
        ("token rfk_abcdefghijklmnop", "token ***"),
        ("Consumer 'api_key:abcdefgh' has", "Consumer 'api_key:***' has"),
        ("GET /v1beta/models?key=abcdefgh&x=1", "GET /v1beta/models?key=***&x=1"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: ***"),
        ("sent Bearer abcdefghijkl.mnop=", "sent Bearer ***"),
        ("x-api-key: abcdefgh", "x-api-key: ***"),
        ("in organization org-AbC123dEf on", "in organization *** on"),
        ("by user_2wT5ElBE4Es3R4QrNLpZiXICmQP", "by ***"),
    ],
)
def test_it_removes_key_material_and_ids(text: str, clean: str) -> None:
    assert scrub(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "invalid x-api-key",
        "metadata.user_id: too long",
        "an org-wide limit of a task-force, risk-free",
        "see the FAQ. Nothing else",
        "max_tokens: 4096",
        "The model `gpt-4o` does not exist",
    ],
)
def test_it_leaves_ordinary_words(text: str) -> None:
    assert scrub(text) == text


def test_it_removes_a_given_secret_and_its_parts() -> None:
    text = f"whole {SECRET}, head {SECRET[:12]}, tail {SECRET[-13:]}, middle {SECRET[5:18]}, short {SECRET[:6]}"
    assert scrub(text, secrets=[SECRET]) == f"whole ***, head ***, tail ***, middle ***, short {SECRET[:6]}"


def test_it_removes_a_short_secret_whole() -> None:
    assert scrub("password hunter2!", secrets=["hunter2", ""]) == "password ***!"


def test_it_finds_a_secret_that_invisible_characters_split() -> None:
    assert scrub(f"{SECRET[:9]}\u200b{SECRET[9:]}", secrets=[SECRET]) == "***"


def test_it_makes_one_printable_line() -> None:
    assert scrub("a\x00b\r\n\tc \x1b[31md\u202e\ud800") == "ab c [31md"


def test_it_keeps_at_most_500_characters() -> None:
    assert len(scrub("word " * 1000)) == 500
    assert scrub("x" * 500) == "x" * 500
    assert len(scrub("x" * 99, limit=10)) == 10


@given(before=st.text(max_size=40), after=st.text(max_size=40), start=st.integers(0, 12))
def test_it_never_leaves_twelve_characters_of_a_secret(before: str, after: str, start: int) -> None:
    clean = scrub(before + SECRET[start:] + after, secrets=[SECRET])
    assert not any(SECRET[n : n + 12] in clean for n in range(len(SECRET) - 11))
