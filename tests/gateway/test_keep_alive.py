"""Signs of life in a stream that is silent, clients that leave meanwhile, and clients that take nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import threading
import weakref

import pytest

from llmkeys.gateway.program import Program
from tests.gateway.door import (
    DONE,
    PATH,
    SILENCE,
    Gate,
    Pieces,
    ask,
    begin,
    chat,
    chunk,
    completion,
    event,
    eventually,
    is_refused,
    only_row,
    rows,
    settled,
    usage_chunk,
)
from tests.helpers import make_key

PLAIN = "openai/gpt-4o-mini"
GOOGLES = "https://generativelanguage.googleapis.com"
ANTHROPICS_PING = rb'event: ping\ndata: \{"type": ?"ping"\}\n\n'
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
LIMITED = {"error": {"code": 429, "message": "Rate limit exceeded"}}
REST = (chunk("a"), usage_chunk(cost=0.01), DONE)


@pytest.fixture
def often(settings):
    settings.KEEPALIVE_SECONDS = 0.5  # the first request of a process takes a while


@pytest.fixture
def after_the_first_attempt(settings, often):
    settings.KEEPALIVE_SECONDS = 3.0  # by then a busy machine has chosen the key that the head names


def is_sign(piece: bytes) -> bool:
    return piece.startswith(b":") and piece.endswith(b"\n\n") and piece.count(b"\n") == 2


def first_content(answer) -> bytes:
    """Return the first piece that is no keep-alive: on a busy machine some come before it."""
    while is_sign(piece := next(answer.pieces)):
        pass
    return piece


def waited_for(wire):
    """Return the answer once its head, and two keep-alives, have come."""
    answer = wire.answer()
    assert is_sign(next(answer.pieces)) and is_sign(next(answer.pieces))
    return answer


@pytest.mark.usefixtures("often")
class TestBeforeContent:
    @pytest.mark.parametrize("before", [[], [b": PROCESSING\n\n"], [event(ROLE)]], ids=["head", "comment", "role"])
    def test_a_silence_gets_keep_alives_under_status_200(self, client, sends, after_the_first_attempt, before):
        key = make_key()
        gate = Gate()
        sends(Pieces(*before, gate, *REST))
        wire = begin(client, model=PLAIN, stream=True)
        gate.wait_until_reached()
        answer = waited_for(wire) if not before else wire.answer()
        assert (answer.status_code, answer["Content-Type"]) == (200, "text/event-stream")
        assert (answer["X-LLM-Key-Id"], answer["X-LLM-Attempts"]) == (key.id, "1")
        gate.open()
        body = answer.content
        assert body.endswith(b"".join(REST)) and all(piece in body for piece in before)
        assert (only_row().state, only_row().cost_nano) == ("SETTLED", 10_000_000)

    def test_a_silent_connection_gets_them_too(self, client, sends):
        """The provider has taken the request, and not even its head has come."""
        make_key()
        gate = Gate()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        sends(Pieces(gate, head, *REST, framing="raw"))
        wire = begin(client, model=PLAIN, stream=True)
        answer = waited_for(wire)
        gate.open()
        assert answer.content.endswith(b"".join(REST))

    @pytest.mark.parametrize(
        "failure",
        [
            Pieces.whole(json=LIMITED, status=429),
            Pieces(event(LIMITED), framing="close"),
            Pieces(event(ROLE), event(LIMITED), framing="close"),
        ],
        ids=["status", "event", "after the role"],
    )
    def test_the_next_key_may_still_serve(self, client, sends, after_the_first_attempt, failure):
        first, second = make_key(), make_key()
        gate = Gate()
        sends(Pieces(gate, failure.head(), *failure.pieces, framing="raw"), Pieces(*REST))
        answer = waited_for(begin(client, model=PLAIN, stream=True))
        assert answer["X-LLM-Key-Id"] == first.id, "the one being tried"
        gate.open()
        body = answer.content
        assert body.endswith(b"".join(REST)) and b"Rate limit" not in body
        assert [(row.key_id, row.state) for row in rows()] == [(first.id, "RELEASED"), (second.id, "SETTLED")]

    def test_an_error_comes_inside_the_stream(self, client, sends):
        make_key()
        gate = Gate()
        sends(Pieces(gate, event(LIMITED)))
        answer = waited_for(begin(client, model=PLAIN, stream=True))
        gate.open()
        *_, last = answer.content.strip().split(b"\n\n")
        error = json.loads(last.removeprefix(b"data: "))["error"]
        assert (error["code"], sorted(error)) == ("all_keys_cooling", ["code", "message", "param", "type"])
        assert only_row().state == "RELEASED"

    def test_the_clients_own_mistake_comes_inside_the_stream(self, client, sends):
        make_key()
        gate = Gate()
        refusal = json.dumps({"error": {"code": 400, "message": "messages.0.role: not allowed"}}).encode()
        head = b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        sends(Pieces(gate, head, refusal, framing="raw"))
        answer = waited_for(begin(client, model=PLAIN, stream=True))
        gate.open()
        assert answer.content.endswith(b"data: " + refusal + b"\n\n")

    def test_a_providers_own_comments_pass_at_once(self, client, sends):
        make_key()
        first, second = Gate(), Gate()
        sends(Pieces(first, b": PROCESSING\n\n", second, *REST))
        answer = waited_for(begin(client, model=PLAIN, stream=True))
        first.open()
        while (piece := next(answer.pieces)) != b": PROCESSING\n\n":
            assert is_sign(piece), "no content has come yet"
        second.open()
        assert answer.content.endswith(b"".join(REST))

    def test_an_error_behind_a_comment_does_not_pass_with_it(self, client, sends):
        make_key(), make_key()
        gate = Gate()
        sends(Pieces(gate, b": PROCESSING\n" + event(LIMITED)), Pieces(*REST))
        answer = waited_for(begin(client, model=PLAIN, stream=True))
        gate.open()
        body = answer.content
        assert body.endswith(b"".join(REST)) and b"Rate limit" not in body

    def test_a_body_that_came_slowly_is_no_silence(self, client, sends, settings):
        """The status of a refusal is still the provider's or ours, not 200."""
        settings.KEEPALIVE_SECONDS = 5  # in which a busy machine refuses the request
        make_key()
        sends(Pieces.whole(json=LIMITED, status=429))
        raw = json.dumps(chat(model=PLAIN, stream=True)).encode()
        wire = client.open("POST", PATH, {"Content-Length": str(len(raw)), "Content-Type": "application/json"})
        wire.send(raw[:40])
        assert wire.says_nothing_for(5.2)
        assert wire.send(raw[40:]).answer().status_code == 503

    def test_one_that_was_due_as_a_whole_answer_went_out_is_dropped(self, settings):
        """No test at the door can make the two meet."""
        said: list[dict] = []

        async def meet() -> None:
            async def send(message):
                said.append(message)

            program = Program(asyncio.Event().wait, send)
            program.keep_alive(b": x\n\n", lambda: (200, ()))
            sign = asyncio.create_task(program.write(b": x\n\n"))
            await program.answer(503, (), b"no")
            await sign
            program.close()

        asyncio.run(meet())
        assert [message.get("status", message.get("body")) for message in said] == [503, b"no"]


def test_a_large_event_goes_out_in_pieces():
    """A program that reads slowly but steadily must not count as gone while it reads one large picture."""
    said: list[bytes] = []

    async def send(message):
        said.append(message.get("body", b""))

    async def write() -> None:
        program = Program(asyncio.Event().wait, send)
        await program.write(b"x" * 1_000_000)
        program.close()

    asyncio.run(write())
    assert b"".join(said) == b"x" * 1_000_000 and max(map(len, said)) <= 65_536


def test_nothing_keeps_a_program_whose_exchange_is_over():
    """The server ends an answer that was cut when nothing refers to the connection any more."""

    async def serve() -> weakref.ref[Program]:
        program = Program(asyncio.Event().wait, asyncio.Event().wait)
        program.when_gone(lambda: program.close())
        program.answers_with(lambda: (200, [("x", str(program.has_gone))]))
        program.listen_soon()
        program.close()
        return weakref.ref(program)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(serve())() is None
    finally:
        gc.enable()


class TestInTheMiddle:
    def test_a_silence_gets_keep_alives(self, client, sends, often):
        make_key()
        gate = Gate()
        sends(Pieces(chunk("a"), gate, *REST))
        answer = ask(client, model=PLAIN, stream=True)
        assert first_content(answer) == chunk("a")
        assert is_sign(next(answer.pieces)) and is_sign(next(answer.pieces))
        gate.open()
        assert answer.content.endswith(b"".join(REST))

    def test_an_event_is_never_cut_by_one(self, client, sends, often):
        make_key()
        gate = Gate()
        sends(Pieces(chunk("a"), chunk("b")[:20], gate, chunk("b")[20:], *REST))
        answer = ask(client, model=PLAIN, stream=True)
        assert first_content(answer) == chunk("a")
        assert is_sign(next(answer.pieces))
        gate.open()
        assert answer.content.endswith(chunk("b") + b"".join(REST))


class TestEachDialect:
    """Each has a keep-alive of its own that its clients skip."""

    GOOGLE = "/v1beta/models/gemini-3.8-flash:streamGenerateContent"
    CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 50}}
    MESSAGES = {"max_tokens": 50, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    RESPONSES = {"model": "gpt-4o-mini", "input": "hi", "max_output_tokens": 50, "stream": True}

    @pytest.mark.parametrize(
        ("whose", "path", "body", "kind", "sign"),
        [
            ("openai", "/v1/responses", RESPONSES, "text/event-stream", rb":[^\n]*\n\n"),
            (
                "anthropic",
                "/v1/messages",
                MESSAGES | {"model": "claude-sonnet-5-5"},
                "text/event-stream",
                ANTHROPICS_PING,
            ),
            ("google", f"{GOOGLE}?alt=sse", CONTENTS, "text/event-stream", rb"[\r\n]+"),
            ("google", GOOGLE, CONTENTS, "application/json", rb"\s+"),
        ],
        ids=["responses", "messages", "google", "google's array"],
    )
    def test_a_silence_gets_it(self, client, provider, often, fast_drain, whose, path, body, kind, sign):
        make_key(provider=whose)
        base = {"openai": "https://api.openai.com", "anthropic": "https://api.anthropic.com"}.get(whose, GOOGLES)
        provider.post(f"{base}{path}", Pieces(SILENCE))
        answer = client.post(path, json.dumps(body))
        assert (answer.status_code, answer["Content-Type"].split(";")[0]) == (200, kind)
        for _ in range(2):
            assert re.fullmatch(sign, next(answer.pieces))
        answer.close()
        settled()
        assert only_row().state == "LOST"


class TestNone:
    def test_zero_sends_the_status_with_the_content(self, client, sends, settings):
        settings.KEEPALIVE_SECONDS = 0
        make_key()
        gate = Gate()
        sends(Pieces(gate, *REST))
        wire = begin(client, model=PLAIN, stream=True)
        gate.wait_until_reached()
        assert wire.says_nothing_for(0.6)
        gate.open()
        assert wire.answer().content == b"".join(REST)

    def test_a_whole_answer_has_none(self, client, sends, often):
        make_key()
        gate = Gate()
        raw = json.dumps(completion()).encode()
        sends(Pieces(gate, raw, headers={"Content-Type": "application/json"}))
        wire = begin(client, model=PLAIN)
        gate.wait_until_reached()
        assert wire.says_nothing_for(0.6)
        gate.open()
        assert wire.answer().content == raw

    def test_an_error_before_the_first_sign_keeps_its_status(self, client, sends, settings):
        settings.KEEPALIVE_SECONDS = 30
        make_key()
        sends(Pieces.whole(json=LIMITED, status=429))
        is_refused(ask(client, stream=True), 503, "all_keys_cooling", "All keys are cooling down")


class TestClientGone:
    @pytest.mark.parametrize("with_reset", [False, True])
    def test_it_is_noticed_while_the_provider_is_silent(self, client, sends, provider, often, fast_drain, with_reset):
        make_key()
        sends(Pieces(chunk("words " * 40), SILENCE))
        answer = ask(client, model=PLAIN, stream=True)
        assert first_content(answer)
        answer.close(with_reset=with_reset)
        settled()
        row = only_row()
        assert (row.state, row.cost_source) == ("SETTLED", "estimated") and 0 < row.cost_nano <= row.hold_nano
        assert row.error.startswith("The client went away") and "0 s" not in row.error
        assert provider.calls[0].gone.wait(5), "the provider can stop its work"

    @pytest.mark.parametrize("framing", ["chunked", "raw"], ids=["after the head", "before the head"])
    def test_it_is_noticed_before_the_first_content(self, client, sends, provider, often, fast_drain, framing):
        make_key(), make_key()
        sends(Pieces(SILENCE, framing=framing))
        wire = begin(client, model=PLAIN, stream=True)
        assert is_sign(next(wire.answer().pieces))
        wire.close()
        settled()
        assert only_row().error.startswith("The client went away") and only_row().state == "LOST"
        assert len(provider.calls) == 1, "nobody waits for a second attempt"


class TestBackpressure:
    """What the client does not take is not read from the provider, and one that takes nothing has gone."""

    PIECE = chunk("x" * 65_000)
    MOST_PIECES = 1_000  # 65 MB: what the two connections may hold, twice over

    def endless(self, taken: list[int]) -> Pieces:
        answer = Pieces()

        def pieces():
            while True:
                taken[0] += 1
                yield self.PIECE

        answer.pieces = pieces()
        return answer

    def stands_still(self, taken: list[int]) -> bool:
        before, pause = taken[0], threading.Event()
        pause.wait(0.3)
        return taken[0] == before > 0

    def test_the_provider_is_read_no_faster_than_the_client(self, client, sends, fast_drain):
        make_key()
        taken = [0]
        sends(self.endless(taken))
        wire = begin(client, model=PLAIN, stream=True)
        eventually(lambda: self.stands_still(taken), "the provider can go on and on", seconds=20)
        assert taken[0] < self.MOST_PIECES
        before, answer = taken[0], wire.answer()
        for _ in range(300):
            next(answer.pieces)
        eventually(lambda: taken[0] > before, "it goes on when the client takes some")
        answer.close()
        settled()

    def test_a_client_that_takes_nothing_has_gone(self, client, sends, provider, settings, fast_drain):
        settings.STREAM_IDLE_SECONDS = 3  # as long may the provider be silent
        make_key()
        taken = [0]
        sends(self.endless(taken))
        wire = begin(client, model=PLAIN, stream=True)
        settled(seconds=30)
        row = only_row()
        assert row.error.startswith("The client went away") and 0 < row.cost_nano <= row.hold_nano
        assert provider.calls[0].gone.wait(5)
        wire.close()
