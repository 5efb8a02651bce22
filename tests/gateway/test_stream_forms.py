"""The forms in which hosts send a stream: ends of lines, comments, types, where usage stands, and what commits."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from llmkeys.models import Cooling
from tests.gateway.door import (
    CLOSE,
    DONE,
    OPENROUTER,
    Gate,
    Pieces,
    ask,
    chunk,
    completion,
    event,
    fresh,
    is_refused,
    only_row,
    rows,
    usage,
)
from tests.helpers import make_key

PLAIN = "openai/gpt-4o-mini"  # 0.15 USD per million tokens in, 0.075 cached, 0.6 out
U9 = usage(9000, 20, prompt_tokens_details={"cached_tokens": 8000})
U9_COST = 762_000  # 1000 × 0.15 + 8000 × 0.075 + 20 × 0.6, in nano-dollars
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
LIMITED = {"error": {"code": 429, "message": "Rate limit exceeded"}}


def with_usage(told) -> bytes:
    return event({"id": "gen-1", "choices": [], "usage": told})


def streamed(client, **changes):
    """Ask for a stream and take it to its end."""
    answer = ask(client, model=PLAIN, stream=True, **changes)
    _ = answer.content
    return answer


def costs() -> tuple[int, str]:
    row = only_row()
    assert (row.state, row.success) == ("SETTLED", True)
    return row.cost_nano, row.cost_source


def cut(raw: bytes, size: int) -> list[bytes]:
    return [raw[at : at + size] for at in range(0, len(raw), size)]


class TestEndsOfLines:
    """LF, CR and CRLF each end a line, an empty line ends an event, and the client gets the bytes unchanged."""

    @pytest.mark.parametrize("ends", [b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r\n", b"\r\n\n"], ids=repr)
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
    def test_each_is_one(self, client, sends, ends, size):
        make_key()
        said = [chunk(word) for word in ("one", "two", "three")]
        raw = b"".join([b": hello\n\n", *said, with_usage(U9), DONE]).replace(b"\n\n", ends)
        sends(Pieces(*cut(raw, size)))
        answer = streamed(client, stream_options={"include_usage": True})
        assert (answer.status_code, answer.content) == (200, raw)
        assert costs() == (U9_COST, "computed")

    @pytest.mark.parametrize("ends", [b"\n\n", b"\r\r", b"\r\n\r\n"], ids=repr)
    def test_an_event_is_not_kept_back_for_what_follows(self, client, sends, ends):
        make_key()
        gate = Gate()
        first = chunk("one").replace(b"\n\n", ends)
        sends(Pieces(first, gate, with_usage(U9), DONE))
        answer = ask(client, model=PLAIN, stream=True)
        assert next(answer.pieces) == first
        gate.open()
        assert answer.content.endswith(DONE)


class TestEncodings:
    """We ask for none; some hosts compress all the same, and some begin with a byte order mark."""

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    def test_a_compressed_answer_is_read_and_passed_on_plain(self, client, sends, stream, encoding):
        make_key()
        raw = chunk("a") + with_usage(U9) + DONE if stream else json.dumps(completion(usage=U9)).encode()
        packed = gzip.compress(raw) if encoding == "gzip" else zlib.compress(raw)
        kind = "text/event-stream" if stream else "application/json"
        sends(Pieces(*cut(packed, 10), headers={"Content-Type": kind, "Content-Encoding": encoding}))
        answer = ask(client, model=PLAIN, stream=stream)
        assert (answer.status_code, answer.content) == (200, raw)
        assert "Content-Encoding" not in answer.headers
        assert costs() == (U9_COST, "computed")

    def test_a_compressed_refusal_is_understood(self, client, sends):
        make_key()
        packed = gzip.compress(json.dumps(LIMITED).encode())
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        sends(Pieces(packed, status=429, headers=headers))
        is_refused(ask(client), 503, "all_keys_cooling", "All keys are cooling down")

    def test_a_byte_order_mark_hides_nothing(self, client, sends):
        first, second = make_key(), make_key()
        mark = b"\xef\xbb\xbf"
        sends(Pieces(mark + event(LIMITED)), Pieces(mark + chunk("a"), with_usage(U9), DONE))
        answer = streamed(client)
        assert answer["X-LLM-Key-Id"] == second.id
        assert answer.content == mark + chunk("a") + with_usage(U9) + DONE
        assert Cooling.objects.get().scope.endswith(first.id)


class TestUsage:
    """What is known beats what is missing, the larger count wins, a told cost stays: wherever it stands."""

    @pytest.mark.parametrize(
        "told",
        [
            [U9, ZEROS],
            [ZEROS, U9],
            [U9, usage(9000, 20)],
            [U9, {"prompt_tokens": None, "completion_tokens": None}],
            [usage(9000, 1, prompt_tokens_details={"cached_tokens": 8000}), usage(9000, 20)],
            [U9, {**U9, "prompt_tokens_details": {"cached_tokens": 0}}],
        ],
    )
    def test_a_poorer_one_takes_nothing_away(self, client, sends, told):
        make_key()
        sends(Pieces(chunk("a"), *map(with_usage, told), DONE))
        streamed(client)
        assert costs() == (U9_COST, "computed")

    @pytest.mark.parametrize("later", [usage(9, 9), ZEROS, {**ZEROS, "cost": 0}])
    def test_a_told_cost_stays(self, client, sends, later):
        make_key()
        sends(Pieces(chunk("a"), with_usage(usage(5, 7, cost=0.003)), with_usage(later), DONE))
        streamed(client)
        assert costs() == (3_000_000, "provider")

    @pytest.mark.parametrize("told", [ZEROS, usage(0, 12), usage(10, 0)])
    @pytest.mark.parametrize("stream", [False, True])
    def test_counts_that_cannot_be_are_estimated(self, client, sends, told, stream):
        make_key()
        words = "word " * 500
        if stream:
            sends(Pieces(chunk(words), with_usage(told), DONE))
        else:
            message = {"role": "assistant", "content": words}
            answer = completion(choices=[{"index": 0, "message": message, "finish_reason": "stop"}], usage=told)
            sends(Pieces.whole(json=answer))
        assert ask(client, model=PLAIN, stream=stream).content
        row = only_row()
        assert (row.state, row.cost_source) == ("SETTLED", "estimated")
        assert 0 < row.cost_nano <= row.hold_nano

    @pytest.mark.parametrize(
        "last",
        [
            {"choices": [{"index": 0, "delta": {}, "usage": None}], "usage": usage(5, 7, cost=0.003)},
            {"choices": [{"index": 0, "delta": {}, "usage": usage(5, 7, cost=0.003)}]},
            {"choices": [], "x_groq": {"usage": usage(5, 7, cost=0.003)}},
            {"usage": usage(5, 7, cost=0.003), "choices": None},
        ],
    )  # fmt: skip
    def test_it_is_read_wherever_it_stands(self, client, sends, last):
        make_key()
        sends(Pieces(chunk("a"), event(last), DONE))
        streamed(client)
        assert costs() == (3_000_000, "provider")

    def test_the_tokens_of_the_cache_may_stand_beside_the_others(self, client, sends):
        make_key()
        sends(Pieces(chunk("a"), with_usage(usage(9000, 20, cached_tokens=8000)), DONE))
        streamed(client)
        assert costs() == (U9_COST, "computed")

    @pytest.mark.parametrize("spelt", [b'"\\u0075sage"', b'"usage" ', b'"usage"\t'])
    def test_it_may_be_spelt_as_json_allows(self, client, sends, spelt):
        make_key()
        sends(Pieces(chunk("a"), with_usage(U9).replace(b'"usage"', spelt), DONE))
        streamed(client)
        assert costs() == (U9_COST, "computed")

    def test_it_is_found_at_the_end_of_a_large_event(self, client, sends):
        make_key()
        picture = event({"choices": [{"index": 0, "delta": {"content": "x" * 5_000_000}}], "usage": U9})
        sends(Pieces(*cut(picture, 300_000), DONE))
        answer = streamed(client)
        assert answer.content == picture + DONE
        assert costs() == (U9_COST, "computed")

    def test_the_tier_counts_that_one_chunk_alone_tells(self, client, sends):
        make_key(provider="openai")
        first = event({"choices": [{"index": 0, "delta": {"content": "a"}}], "service_tier": "priority"})
        told = with_usage(usage(1000, 100))
        sends(Pieces(first, chunk("b"), told, DONE), Pieces(chunk("a"), chunk("b"), told, DONE))
        for tier in ("priority", ...):
            _ = ask(client, model="gpt-4o-mini", stream=True, service_tier=tier).content
        served, standard = rows()
        assert standard.cost_nano == 1000 * 150 + 100 * 600
        assert served.cost_nano > standard.cost_nano and served.cost_source == "computed"


class TestGluedLines:
    """An event may begin with a comment, and lines that make no JSON together are read one by one."""

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    @pytest.mark.parametrize("whose", ["openrouter", "openai"])
    def test_usage_behind_a_comment_is_read(self, client, sends, end, whose):
        make_key(provider=whose)
        glued = (b": PROCESSING\n" + with_usage(U9)).replace(b"\n", end)
        sends(Pieces(chunk("a"), glued, DONE))
        answer = ask(client, model="gpt-4o-mini" if whose == "openai" else PLAIN, stream=True)
        assert (b"prompt_tokens" in answer.content) is (whose == "openrouter"), "OpenRouter sends it to everybody"
        assert costs() == (U9_COST, "computed")

    def test_two_documents_in_one_event_are_both_read(self, client, sends):
        make_key()
        glued = chunk("a")[:-1] + with_usage(U9)
        sends(Pieces(glued, DONE))
        assert streamed(client).content == glued + DONE
        assert costs() == (U9_COST, "computed")

    def test_an_error_behind_a_comment_is_one(self, client, sends):
        first, second = make_key(), make_key()
        sends(Pieces(b": PROCESSING\n" + event(LIMITED)), Pieces(chunk("a"), with_usage(U9), DONE))
        assert streamed(client)["X-LLM-Key-Id"] == second.id
        assert Cooling.objects.get().scope.endswith(first.id)

    def test_the_end_behind_a_comment_is_one(self, client, sends):
        make_key()
        sends(Pieces(chunk("a"), with_usage(U9), b": PROCESSING\n" + DONE))
        streamed(client)
        assert costs() == (U9_COST, "computed")


class TestTheRestAtTheEnd:
    """What is left when the stream ends counts, whatever its form."""

    @pytest.mark.parametrize("rest", [b"data: %b\n", b"data: %b", b"data: %b\r", b": x\ndata: %b", b"data:%b"])
    @pytest.mark.parametrize("framing", ["chunked", "close"])
    def test_an_error_lets_the_next_key_serve(self, client, sends, rest, framing):
        first, second = make_key(), make_key()
        raw = rest % json.dumps(LIMITED).encode()
        sends(Pieces(raw, framing=framing), Pieces(chunk("a"), with_usage(U9), DONE))
        assert streamed(client)["X-LLM-Key-Id"] == second.id
        assert Cooling.objects.get().scope.endswith(first.id)
        assert [row.state for row in rows()] == ["RELEASED", "SETTLED"]
        assert fresh(first).spent_total_nano == 0

    @pytest.mark.parametrize("ending", [b"\n\n", b"\n", b""])
    def test_an_answer_is_served(self, client, sends, ending):
        make_key()
        only = event(
            {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}], "usage": U9}, ending
        )
        sends(Pieces(only))
        answer = streamed(client)
        assert (answer.status_code, answer.content) == (200, only)
        assert costs() == (U9_COST, "computed")

    @pytest.mark.parametrize("end", [DONE, b"data: [DONE]", b"data: [DONE]\n"])
    def test_the_end_alone_is_an_empty_success(self, client, sends, end):
        make_key()
        sends(Pieces(end))
        answer = streamed(client)
        assert (answer.status_code, answer.content) == (200, end)
        assert only_row().state == "SETTLED"


class TestTheAnnouncedType:
    """The first bytes decide how an answer is read, and not the type that its head announces."""

    @pytest.mark.parametrize("announced", ["application/json", "text/plain", "application/octet-stream"])
    def test_events_are_events(self, client, sends, announced):
        make_key()
        sends(Pieces(chunk("a"), with_usage(U9), DONE, headers={"Content-Type": announced}))
        answer = streamed(client)
        assert (answer.status_code, answer.content) == (200, chunk("a") + with_usage(U9) + DONE)
        assert answer["Content-Type"].startswith("text/event-stream")
        assert costs() == (U9_COST, "computed")

    def test_lines_of_json_are_passed_on(self, client, sends):
        make_key()
        lines = [
            json.dumps({"choices": [{"index": 0, "delta": {"content": "a"}}]}),
            json.dumps({"choices": [], "usage": U9}),
        ]
        raw = "\n".join([*lines, ""]).encode()
        sends(Pieces(*cut(raw, 20), headers={"Content-Type": "application/x-ndjson"}))
        answer = streamed(client)
        assert (answer.status_code, answer.content) == (200, raw)
        assert costs() == (U9_COST, "computed")

    @pytest.mark.parametrize("announced", ["application/json", "text/event-stream"])
    def test_a_server_that_knows_no_streams_is_understood(self, client, sends, announced):
        make_key()
        sends(Pieces.whole(body=json.dumps(completion(usage=U9)), content_type=announced))
        answer = streamed(client)
        assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")
        assert json.loads(answer.content)["usage"] == U9
        assert costs() == (U9_COST, "computed")

    @pytest.mark.parametrize("announced", ["text/plain", "text/event-stream"])
    def test_a_document_is_passed_on_as_what_it_is(self, client, provider, announced):
        make_key()
        provider.post(OPENROUTER, Pieces.whole(body=json.dumps(completion(usage=U9)), content_type=announced))
        answer = ask(client, model=PLAIN)
        assert (answer.status_code, answer["Content-Type"], answer.json()["usage"]) == (200, "application/json", U9)

    @pytest.mark.parametrize("announced", ["application/json", "text/event-stream"])
    @pytest.mark.parametrize(
        ("begin", "end"),
        [(b"", DONE), (b": PROCESSING\n\n", DONE), (b"\xef\xbb\xbf", DONE), (b"\r\n", b"data: [DONE]"), (b"", b"")],
    )
    def test_a_stream_that_nobody_asked_for_is_passed_on(self, client, provider, announced, begin, end):
        make_key()
        finished = chunk("", finish_reason="stop")
        raw = b"".join([begin, chunk("a"), finished, with_usage(U9), end])
        provider.post(OPENROUTER, Pieces(raw, headers={"Content-Type": announced}))
        answer = ask(client, model=PLAIN)
        assert (answer.status_code, answer["Content-Type"], answer.content) == (200, "text/event-stream", raw)
        assert answer["X-LLM-Cost-USD"] == "0.000762000"
        assert costs() == (U9_COST, "computed") and only_row().upstream_id == "gen-1"
        assert len(provider.calls) == 1

    @pytest.mark.parametrize("ending", [b"\n\n", b"\n", b""])
    def test_an_error_in_one_lets_the_next_key_serve(self, client, sends, ending):
        first, second = make_key(), make_key()
        sends(Pieces(event(ROLE) + event(LIMITED, ending)), Pieces.whole(json=completion(usage=U9)))
        assert ask(client, model=PLAIN)["X-LLM-Key-Id"] == second.id
        assert Cooling.objects.get().scope.endswith(first.id)
        assert [row.state for row in rows()] == ["RELEASED", "SETTLED"]

    def test_the_clients_own_mistake_in_one_goes_back_as_a_document(self, client, sends):
        make_key(), make_key()
        refusal = {"error": {"code": 400, "message": "temperature is too high"}}
        left = sends(Pieces(event(ROLE) + event(refusal) + DONE), Pieces.whole(json=completion()))
        answer = ask(client)
        assert (answer.status_code, answer["Content-Type"], answer.json()) == (400, "application/json", refusal)
        assert len(left) == 1 and only_row().state == "RELEASED"

    def test_one_without_an_end_is_lost(self, client, sends, pauses):
        make_key()
        sends(Pieces(chunk("a")), Pieces(chunk("a", usage=U9)))
        is_refused(ask(client, model=PLAIN), 502, "upstream_error", "OpenRouter sent an event stream without an end.")
        assert [row.state for row in rows()] == ["LOST", "LOST"]

    def test_one_without_a_usage_is_estimated(self, client, sends):
        make_key()
        sends(Pieces(chunk("word " * 60), chunk("", finish_reason="stop"), DONE))
        assert ask(client, model=PLAIN).status_code == 200
        nano, source = costs()
        assert source == "estimated" and nano >= 100 * 600  # 300 bytes at three a token


class TestWhatCommits:
    """Events without content are held back: until content has gone out, the next key may serve."""

    @pytest.mark.parametrize(
        "before",
        [
            [event(ROLE)],
            [b": PROCESSING\n\n"],
            [b": PROCESSING\n\n", event(ROLE), event(ROLE)],
            [event({"choices": [{"index": 0, "delta": {}}]})],
            [event({"choices": []})],
            [b"\n\n"],
        ],
    )
    @pytest.mark.parametrize("glued", [False, True])
    def test_an_error_before_content_lets_the_next_key_serve(self, client, sends, before, glued):
        first, second = make_key(), make_key()
        pieces = [*before, event(LIMITED)]
        sends(Pieces(*([b"".join(pieces)] if glued else pieces)), Pieces(chunk("a"), with_usage(U9), DONE))
        answer = streamed(client)
        assert (answer["X-LLM-Key-Id"], answer["X-LLM-Attempts"]) == (second.id, "2")
        assert answer.content == chunk("a") + with_usage(U9) + DONE
        assert Cooling.objects.get().scope.endswith(first.id)
        assert [row.state for row in rows()] == ["RELEASED", "SETTLED"]

    def test_the_only_keys_error_is_told_as_ours(self, client, sends):
        make_key()
        sends(Pieces(event(ROLE), event(LIMITED)))
        is_refused(ask(client, stream=True), 503, "all_keys_cooling", "All keys are cooling down")

    @pytest.mark.parametrize("together", [False, True])
    def test_output_that_was_made_is_not_free(self, client, sends, together):
        make_key(), make_key()
        pieces = [chunk("half an answer"), event(LIMITED)]
        sends(Pieces(*([b"".join(pieces)] if together else pieces)))
        answer = streamed(client)
        assert answer.status_code == 200 and b"Rate limit exceeded" in answer.content
        row = only_row()
        assert row.state in ("LOST", "SETTLED") and row.cost_nano > 0 and not row.success

    def test_its_usage_is_its_charge(self, client, sends):
        make_key()
        sends(Pieces(chunk("half an answer") + event({**LIMITED, "usage": U9})))
        streamed(client)
        row = only_row()
        assert (row.state, row.success, row.cost_nano, row.cost_source) == ("SETTLED", False, U9_COST, "computed")

    @pytest.mark.parametrize("within", ["the answer", "its choice"])
    def test_a_whole_answer_with_an_error_beside_its_output_is_charged(self, client, sends, within):
        first, second = make_key(), make_key()
        half = {"index": 0, "message": {"role": "assistant", "content": "half"}, "finish_reason": "error", **LIMITED}
        failing = LIMITED if within == "the answer" else {"choices": [half]}
        sends(Pieces.whole(json=completion(usage=U9) | failing), Pieces.whole(json=completion(usage=U9)))
        answer = ask(client, model=PLAIN)
        assert answer["X-LLM-Key-Id"] == second.id
        failed, served = rows()
        assert (failed.key_id, failed.state, failed.success, failed.cost_nano) == (first.id, "SETTLED", False, U9_COST)
        assert served.cost_nano == U9_COST

    @pytest.mark.parametrize("told", [{}, {"prompt_tokens": 100}])
    def test_its_charge_is_estimated_where_the_usage_is_not_whole(self, client, sends, pauses, told):
        make_key()
        half = {"index": 0, "message": {"role": "assistant", "content": "word " * 800}, "finish_reason": "error"}
        failing = {"error": {"code": 502, "message": "Provider returned error"}}
        sends(*[Pieces.whole(json=completion(usage=told, choices=[half]) | failing)] * 2)
        ask(client, model=PLAIN, max_tokens=2_000)
        row = rows()[0]
        assert (row.state, row.success, row.cost_source) == ("SETTLED", False, "estimated")
        # gpt-4o-mini: 4,000 bytes at three a token and 0.6 per million, what was told of the input at 0.15
        assert row.cost_nano >= 1_334 * 600 + told.get("prompt_tokens", 0) * 150

    def test_its_charge_is_the_hold_where_the_model_may_have_reasoned(self, client, sends, pauses):
        make_key()
        failing = {"error": {"code": 502, "message": "Provider returned error"}}
        sends(*[Pieces.whole(json=completion(usage=...) | failing)] * 2)
        answer = ask(client)
        assert (answer.status_code, answer["x-should-retry"]) == (502, "false")
        assert {(row.state, row.cost_nano == row.hold_nano > 0) for row in rows()} == {("LOST", True)}

    def test_reasoning_is_content(self, client, sends):
        make_key(), make_key()
        thought = event({"choices": [{"index": 0, "delta": {"reasoning": "Let me see", "content": ""}}]})
        sends(Pieces(thought, event(LIMITED)))
        assert thought in streamed(client).content
        assert only_row().cost_nano > 0

    def test_a_call_of_a_tool_is_content(self, client, sends):
        make_key(), make_key()
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
        called = event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})
        sends(Pieces(called, CLOSE))
        assert called in streamed(client).content
        assert only_row().cost_nano > 0
