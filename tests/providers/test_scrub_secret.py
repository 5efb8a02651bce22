"""`without_secret` and `StreamScrubber`: the secret that was sent, in every form in which an answer may repeat it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmkeys.providers.scrub import StreamScrubber, without_secret

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~+/=:-"
SECRETS = ["mykey-0123456789abcdefghij", "a/b+c=d:e~f/0123456789+/==", "sk-proj-Ab3dEf9hIj2kLm5nOp8qRs1tUv4wXy7z"]


def with_signs(secret: str, form: str) -> str:
    """Return the secret with each sign written as `form`, which takes its code."""
    return "".join(form.format(code=ord(sign)) if sign in "+/=:~" else sign for sign in secret)


FORMS: dict[str, Callable[[str], str]] = {
    "raw": lambda secret: secret,
    "in JSON": lambda secret: json.dumps({"message": f"Bad key: {secret}."}),
    "in JSON, slashes escaped": lambda secret: json.dumps(secret).replace("/", "\\/"),
    "in JSON, signs as codes": lambda secret: with_signs(secret, "\\u{code:04X}"),
    "in JSON, some signs as codes": lambda secret: secret.replace("+", "\\u002b").replace("/", "\\/"),
    "JSON inside JSON": lambda secret: json.dumps(json.dumps(secret).replace("/", "\\/")),
    "in a URL": lambda secret: f"/v1?key={quote(secret, safe='')}&x=1",
    "in a URL, lower case": lambda secret: with_signs(secret, "%{code:02x}"),
    "in a path": lambda secret: quote(secret, safe="/:~"),
    "in HTML": lambda secret: with_signs(secret, "&#x{code:X};"),
    "in base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "in base64 of a header": lambda secret: base64.b64encode(f"Bearer {secret}".encode()).decode(),
    "in base64 of a login": lambda secret: base64.urlsafe_b64encode(f"user:{secret}\n".encode()).decode(),
    "as hex digits": lambda secret: secret.encode().hex(),
}


_TURN = str.maketrans("abcdefghijklmnopqrstuvwxyz01234", "nopqrstuvwxyzabcdefghijklm56789", "")


def another(secret: str) -> str:
    """Return another secret with the same ends and signs: what is left of both must be the same."""
    return secret[:2] + secret[2:-2].translate(_TURN) + secret[-2:]


def body_with(form: str, secret: str) -> bytes:
    return f"data: before {FORMS[form](secret)} after\n\ndata: [DONE]\n\n".encode()


def streamed(stream: bytes, secret: str, size: int) -> bytes:
    scrubber = StreamScrubber(secret)
    pieces = [scrubber.feed(stream[at : at + size]) for at in range(0, len(stream), size)]
    return b"".join(pieces) + scrubber.rest()


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", FORMS)
def test_it_takes_the_secret_out_of_a_body(form: str, secret: str) -> None:
    clean = without_secret(body_with(form, secret), secret)
    assert clean == without_secret(body_with(form, another(secret)), another(secret))
    assert clean.count(b"***") == 1
    assert clean.startswith(b"data: before ") and clean.endswith(b" after\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 2, 7, 16, 1000])
def test_it_takes_the_secret_out_of_a_stream_in_pieces(form: str, secret: str, size: int) -> None:
    clean = streamed(body_with(form, secret), secret, size)
    assert clean == streamed(body_with(form, another(secret)), another(secret), size)
    assert clean == without_secret(body_with(form, secret), secret)


@given(
    secret=st.text(ALPHABET, min_size=16, max_size=60),
    before=st.binary(max_size=30),
    after=st.binary(max_size=30),
    cuts=st.lists(st.integers(0, 120), max_size=5),
)
def test_no_cut_lets_a_secret_through(secret: str, before: bytes, after: bytes, cuts: list[int]) -> None:
    stream = before + secret.encode() + after
    scrubber, clean, start = StreamScrubber(secret), b"", 0
    for cut in [*sorted(cuts), len(stream)]:
        clean += scrubber.feed(stream[start:cut])
        start = max(start, cut)
    clean += scrubber.rest()
    assert secret.encode() not in clean


@given(stream=st.binary(max_size=200), size=st.integers(1, 20))
def test_it_changes_nothing_else(stream: bytes, size: int) -> None:
    secret = SECRETS[0].encode()
    assume(not any(secret[at : at + 12] in stream for at in range(len(secret) - 11)))  # no part of it that is taken out
    assert streamed(stream, SECRETS[0], size) == stream
    assert without_secret(stream, SECRETS[0]) == stream


def test_it_holds_no_whole_event_back() -> None:
    scrubber = StreamScrubber(SECRETS[0])
    event = b'data: {"content":"my"}\n\n'
    assert scrubber.feed(event) == event
    assert scrubber.feed(b"data: my") == b"data: "  # this may be the beginning of it
    assert scrubber.feed(b"stery\n") == b"mystery\n"


def test_it_takes_parts_of_the_secret_out_of_errors() -> None:
    secret = SECRETS[2]
    body = f"Incorrect API key: {secret[:20]}, ends in {secret[-14:]}, not {secret[:6]}".encode()
    assert without_secret(body, secret) == f"Incorrect API key: ***, ends in ***, not {secret[:6]}".encode()


@pytest.mark.parametrize("word", ["x", "none", "ollama", "error"])
def test_a_word_that_local_servers_ask_for_is_no_secret(word: str) -> None:
    body = b'{"error":{"message":"ollama: none of x"}}'
    assert without_secret(body, word) == body
    assert StreamScrubber(word).feed(body) == body


def test_a_short_secret_is_taken_out_of_errors_and_left_in_answers() -> None:
    assert without_secret(b"Bad key lm-studio!", "lm-studio") == b"Bad key ***!"
    assert StreamScrubber("lm-studio").feed(b"Use lm-studio.") == b"Use lm-studio."
