"""A worker that stops while streams are open: they end within its grace, or are charged as lost; none is forgotten."""

from __future__ import annotations

import threading

import pytest

from llmkeys.models import ApiKey
from tests import web
from tests.gateway.door import (
    DONE,
    OPENROUTER,
    SILENCE,
    Gate,
    Pieces,
    begin,
    chunk,
    eventually,
    is_refused,
    only_row,
    rows,
    usage_chunk,
)
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


CUT_OFF = "The server was stopped before the answer came; the provider may have billed it."


def is_lost_by_the_stop() -> None:
    row = only_row()
    assert (row.state, row.error, row.cost_nano) == ("LOST", CUT_OFF, row.hold_nano)


def test_a_whole_answer_that_is_cut_is_lost_and_its_client_is_told(client, provider, settings):
    settings.STOP_SECONDS = 1
    make_key()
    provider.sends(Pieces(SILENCE, framing="raw"))
    asked = begin(client, model=PLAIN)
    eventually(lambda: provider.calls, "nothing is sent")
    stop = stopping()
    answer = asked.answer()
    is_refused(answer, 503, "overloaded", CUT_OFF)
    assert answer["x-should-retry"] == "false"
    stop.join(20)
    is_lost_by_the_stop()


def test_a_stream_of_which_only_keep_alives_have_come_is_told_in_it(client, provider, settings):
    settings.STOP_SECONDS, settings.KEEPALIVE_SECONDS = 1, 0.1
    make_key()
    provider.sends(Pieces(SILENCE, framing="raw"))
    answer = begin(client, model=PLAIN, stream=True).answer()
    assert next(answer.pieces).startswith(b":")
    stop = stopping()
    assert CUT_OFF.encode() in answer.content
    stop.join(20)
    is_lost_by_the_stop()


def test_what_was_still_connecting_is_released(client, provider, provider_server, settings):
    settings.STOP_SECONDS = 1
    make_key()
    provider_server.hang_up()
    provider.handshake = "stall"
    asked = begin(client, model=PLAIN)
    eventually(lambda: provider_server._stalled, "it does not connect")
    stop = stopping()
    answer = asked.answer()
    is_refused(answer, 503, "overloaded", "The server is stopping. Try again in a second.")
    assert "x-should-retry" not in answer.headers
    stop.join(20)
    assert (only_row().state, only_row().http_status) == ("RELEASED", None)


def test_what_only_an_earlier_key_got_and_refused_may_be_sent_again(client, provider, settings, impatient, statements):
    settings.STOP_SECONDS = 1
    impatient(30)
    make_key(is_default=True)
    full = make_key(daily_limit_nano=10**9, held_nano=10**9)
    provider.post(OPENROUTER, json={"error": {"code": 429, "message": "Slow down"}}, status=429)
    statements.clear()
    asked = begin(client, model=PLAIN)
    eventually(lambda: rows(), "the first key is not tried")
    eventually(lambda: len([sql for sql in statements if "held_nano = held_nano +" in sql]) > 1, "it does not wait")
    stop = stopping()
    answer = asked.answer()
    ApiKey.objects.filter(pk=full.pk).update(held_nano=0)
    is_refused(answer, 503, "overloaded", "The server is stopping. Try again in a second.")
    assert "x-should-retry" not in answer.headers
    stop.join(20)
    assert only_row().state == "RELEASED"


def test_what_waits_for_room_was_not_sent_and_may_be_sent_again(client, provider, settings, impatient, statements):
    settings.STOP_SECONDS = 1
    impatient(30)
    make_key(daily_limit_nano=10**9)
    ApiKey.objects.update(held_nano=10**9)
    statements.clear()
    asked = begin(client, model=PLAIN)
    eventually(lambda: any("held_nano = held_nano +" in sql for sql in statements), "it looks for no room")
    stop = stopping()
    answer = asked.answer()
    ApiKey.objects.update(held_nano=0)
    is_refused(answer, 503, "overloaded", "The server is stopping. Try again in a second.")
    assert "x-should-retry" not in answer.headers
    stop.join(20)
    assert rows() == []
