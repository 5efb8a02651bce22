"""Event streams are cut into whole events, whatever pieces they come in, and no byte is changed."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkeys.lib import sse
from llmkeys.lib.sse import EventSplitter, data_lines, load_json

_EVENTS = st.lists(
    st.sampled_from([b"data: {}", b": comment", b"event: a\ndata: 1\ndata: 2", "data: grün 😀".encode(), b""])
)


def split(pieces: list[bytes]) -> list[bytes]:
    splitter = EventSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    rest = splitter.rest()
    return [*events, rest] if rest else events


def said(events: list[bytes]) -> list[bytes]:
    """Return the events without their ends: the LF of a CRLF that is cut in two begins the next one."""
    return [stripped for event in events if (stripped := event.strip(b"\r\n"))]


@given(
    events=_EVENTS,
    ends=st.sampled_from([b"\n\n", b"\r\r", b"\r\n\r\n"]),
    cuts=st.lists(st.integers(0, 200)),
    rest=st.binary(max_size=5),
)
def test_it_gives_the_same_events_however_they_are_cut(events, ends, cuts, rest):
    whole = b"".join(event + ends for event in events) + rest
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    pieces = [whole[a:b] for a, b in pairwise(places)]
    assert said(split(pieces)) == said(split([whole]))
    assert b"".join(split(pieces)) == whole


def test_it_waits_for_the_end_of_an_event():
    splitter = EventSplitter()
    assert list(splitter.feed(b"data: 1\n")) == []
    assert list(splitter.feed(b"\ndata: 2")) == [b"data: 1\n\n"]
    assert splitter.rest() == b"data: 2"
    assert splitter.rest() == b""


def test_it_passes_on_what_is_too_long_to_be_an_event(monkeypatch):
    monkeypatch.setattr(sse, "LONGEST_EVENT", 10)
    assert split([b"data: 12345678", b"9\n\ndata: 1\n\n"]) == [b"data: 12345678", b"9\n\n", b"data: 1\n\n"]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: {}\n\n", [b"{}"]),
        (b"data:{}\r\n\r\n", [b"{}"]),
        (b"event: message\ndata: 1\ndata: 2\n\n", [b"1", b"2"]),
        (b"id: 1\ndata: {}\n\n", [b"{}"]),
        (b"data: [DONE]", [sse.DONE]),
        (b": comment\n\n", []),
        (b"event: ping\n\n", []),
    ],
)
def test_it_finds_the_data(event, data):
    assert data_lines(event) == data


def test_it_reads_amounts_exactly():
    assert load_json(b'{"cost": 0.1}') == {"cost": Decimal("0.1")}


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b"1e99999999999999999999", b"9" * 5000])
def test_what_is_no_json_is_nothing(raw):
    assert load_json(raw) is None
