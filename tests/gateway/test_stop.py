"""A worker that stops while streams are open: they end within its grace, or are charged as lost; none is forgotten."""

from __future__ import annotations

import threading

import pytest

from tests import web
from tests.gateway.door import DONE, Gate, Pieces, begin, chunk, rows, usage_chunk
from tests.helpers import make_key

PLAIN = "openai/gpt-4o-mini"
STREAMS = 50


@pytest.fixture
def streams(client, provider):
    """Open streams of which the beginning has come."""
    make_key()
    gates = [Gate() for _ in range(STREAMS)]
    provider.sends(*(Pieces(chunk("a"), gate, usage_chunk(cost=0.01), DONE) for gate in gates))
    answers = [begin(client, model=PLAIN, stream=True).answer() for _ in gates]
    for answer in answers:
        assert next(answer.pieces)
    yield gates, answers


def stopping() -> threading.Thread:
    """Begin to stop the server; the next test has another one."""
    stop = threading.Thread(target=web.stop)
    stop.start()
    return stop


def test_they_end_within_its_grace(streams, settings):
    settings.STOP_SECONDS = 20
    gates, answers = streams
    stop = stopping()
    for gate in gates:
        gate.open()
    for answer in answers:
        assert answer.content.endswith(DONE)
    stop.join(20)
    assert not stop.is_alive()
    assert {(row.state, row.cost_nano) for row in rows()} == {("SETTLED", 10_000_000)}


def test_what_is_cut_is_lost_and_says_so(streams, settings):
    settings.STOP_SECONDS = 1
    _, answers = streams
    stop = stopping()
    for answer in answers:
        assert b"The stream was cut; the provider may have billed it." in answer.content, "said, and the answer ended"
    stop.join(20)
    assert not stop.is_alive()
    found = rows()
    assert len(found) == STREAMS and {row.state for row in found} == {"LOST"}
    assert all(row.cost_nano == row.hold_nano > 0 for row in found)
