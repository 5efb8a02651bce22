"""POST /v1/chat/completions with `stream`: what arrives, when, and what is charged however it ends."""

from __future__ import annotations

import gc
import json
import re
import time

import pytest

from llmkeys.relay.candidates import Stored
from tests.gateway.door import (
    CLOSE,
    DONE,
    OPENAI,
    PATH,
    RESET,
    SILENCE,
    Gate,
    Pieces,
    ask,
    begin,
    books_balance,
    chunk,
    error_of,
    event,
    eventually,
    fresh,
    is_refused,
    only_row,
    rows,
    settled,
    usage,
    usage_chunk,
)
from tests.helpers import make_key, new_secret
from tests.providers.helpers import recorded_bytes

OPENAI_MODEL = "gpt-6.1-terra"
PLAIN_MODEL = "openai/gpt-4o-mini"  # it does not reason
PROCESSING = b": OPENROUTER PROCESSING\n\n"


def stream(client, **changes):
    return ask(client, stream=True, **changes)


def whole(*, usage_told: bytes = b"", end: bytes = DONE) -> list[bytes]:
    return [chunk("Hel"), chunk("lo"), chunk("", finish_reason="stop"), usage_told, end]


def openrouter_usage(cost: float = 0.0123) -> bytes:
    return chunk("", usage=usage(cost=cost))


class TestWhatArrives:
    def test_it_works(self, client, sends):
        key = make_key()
        sends(Pieces(PROCESSING, *whole(usage_told=openrouter_usage())))
        answer = stream(client)
        assert answer.streaming
        assert (answer.status_code, answer["Content-Type"]) == (200, "text/event-stream")
        assert (answer["X-LLM-Key-Id"], answer["X-LLM-Attempts"]) == (key.id, "1")
        assert "X-LLM-Cost-USD" not in answer.headers
        assert answer.content == PROCESSING + b"".join(whole(usage_told=openrouter_usage()))
        row = only_row()
        assert (row.state, row.success, row.streamed, row.http_status) == ("SETTLED", True, True, 200)
        assert (row.input_tokens, row.output_tokens, row.cost_nano, row.cost_source) == (10, 5, 12_300_000, "provider")

    def test_pieces_arrive_before_the_end(self, client, sends, provider):
        make_key()
        first, second = Gate(), Gate()
        sends(Pieces(chunk("Hel"), first, chunk("lo"), second, openrouter_usage(), DONE))
        pieces = stream(client).pieces
        assert next(pieces) == chunk("Hel")
        assert only_row().state == "HELD"
        first.open()
        assert next(pieces) == chunk("lo")
        assert not provider.calls[0].answered.is_set()
        assert only_row().state == "HELD"
        second.open()
        assert b"".join(pieces) == openrouter_usage() + DONE
        assert only_row().state == "SETTLED"

    def test_pieces_arrive_as_the_simulator_sends_them(self, client, simulator):
        make_key()
        prompt = "hello [[chunks=3 completion_tokens=6 chunk_delay_ms=150]]"
        pieces = stream(client, messages=[{"role": "user", "content": prompt}]).pieces
        got = next(pieces)
        assert b"[DONE]" not in got
        assert simulator.journal()[0]["completed"] is False
        assert only_row().state == "HELD"
        rest = list(pieces)
        assert len(rest) >= 2 and rest[-1].endswith(DONE)
        assert only_row().state == "SETTLED"

    def test_the_row_is_settled_before_the_client_sees_the_end(self, client, sends):
        make_key()
        gate = Gate()
        sends(Pieces(*whole(usage_told=openrouter_usage()), gate))
        for piece in stream(client).pieces:
            if DONE in piece:
                assert only_row().state == "SETTLED"
                gate.open()
        assert gate.is_open

    def test_it_keeps_openrouters_comments(self, client, simulator):
        make_key()
        assert stream(client).content.startswith(PROCESSING)

    def test_it_takes_out_the_usage_that_the_client_did_not_ask_for(self, client, sends):
        make_key(provider="openai")
        sends(Pieces(*whole(usage_told=usage_chunk())))
        assert stream(client, model=OPENAI_MODEL).content == b"".join(whole())
        assert (only_row().input_tokens, only_row().cost_nano) == (10, 35_000)  # 10 × 1 + 5 × 5

    def test_it_leaves_the_usage_that_the_client_asked_for(self, client, sends):
        make_key(provider="openai")
        sends(Pieces(*whole(usage_told=usage_chunk())))
        answer = stream(client, model=OPENAI_MODEL, stream_options={"include_usage": True})
        assert answer.content == b"".join(whole(usage_told=usage_chunk()))

    def test_it_takes_out_a_usage_that_makes_no_sense_too(self, client, sends):
        make_key(provider="openai")
        nonsense = event({"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": "many"}})
        sends(Pieces(*whole(usage_told=nonsense)))
        assert stream(client, model=OPENAI_MODEL).content == b"".join(whole())
        assert only_row().cost_source == "estimated"

    def test_it_asks_the_provider_for_the_usage(self, client, simulator):
        make_key(provider="openai")
        body = stream(client, model=OPENAI_MODEL, stream_options={"include_obfuscation": False}).content
        assert b'"usage":{' not in body
        row = only_row()
        assert (row.input_tokens, row.output_tokens, row.cost_source) == (1, 20, "computed")

    def test_words_that_look_like_usage_stay(self, client, sends):
        make_key(provider="openai")
        talk = [chunk('"usage" {"usage": 1} "error"'), *whole(usage_told=usage_chunk())]
        sends(Pieces(*talk))
        assert stream(client, model=OPENAI_MODEL).content == talk[0] + b"".join(whole())
        assert only_row().success is True

    @pytest.mark.parametrize(
        ("name", "file", "model", "cost"),
        [
            ("openrouter", "openrouter-chat-stream.sse", "openai/gpt-4o-mini", 3_600),
            ("openai", "openai-chat-stream-include-usage.sse", "gpt-4-0613", 660_000),  # 12 × 30 + 5 × 60
        ],
    )
    def test_it_replays_a_recording(self, client, sends, name, file, model, cost):
        make_key(provider=name)
        sends(Pieces(recorded_bytes(file)))
        answer = stream(client, model=model, stream_options={"include_usage": True})
        assert answer.content == recorded_bytes(file)
        assert only_row().cost_nano == cost


def broken_after(client, sends, *pieces: bytes) -> bytes:
    """Reset the provider's connection once the client has seen the first of these; return all that the client got."""
    gate = Gate()
    sends(Pieces(*pieces, gate, RESET))
    answer = stream(client)
    got = next(answer.pieces)
    gate.open()
    return got + answer.content


class TestItsBody:
    """A stream lasts minutes; what its program sent is in hand until its content begins, and no longer."""

    def large(self, room: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": "a" * (room * 3 // 4)}]

    def test_it_takes_room_until_content_begins(self, client, sends, little_room):
        make_key()
        gate = Gate()
        sends(Pieces(gate, *whole(usage_told=openrouter_usage())), Pieces(*whole(usage_told=openrouter_usage())))
        first = begin(client, stream=True, messages=self.large(little_room))
        gate.wait_until_reached()
        refused = ask(client, messages=self.large(little_room))
        is_refused(refused, 503, "overloaded", "The server is reading as many request bodies as it can")
        assert refused["Retry-After"] == "1"
        gate.open()
        assert first.answer().content.endswith(DONE)
        assert stream(client, messages=self.large(little_room)).content.endswith(DONE)

    def test_it_takes_none_while_its_content_comes(self, client, sends, little_room):
        make_key()
        gate = Gate()
        sends(Pieces(chunk("a"), gate, openrouter_usage(), DONE), Pieces(*whole(usage_told=openrouter_usage())))
        first = begin(client, stream=True, messages=self.large(little_room)).answer()
        next(first.pieces)
        assert stream(client, messages=self.large(little_room)).content.endswith(DONE)
        gate.open()
        assert first.content.endswith(DONE)

    def test_an_estimate_counts_it_all_the_same(self, client, sends, little_room):
        make_key()
        sends(Pieces(chunk("a"), DONE))
        assert stream(client, model=PLAIN_MODEL, messages=self.large(little_room)).content.endswith(DONE)
        row = only_row()
        assert row.cost_source == "estimated"
        assert row.cost_nano >= 150_000 // 5 * 150  # five letters a token at most, $0.15 a million


class TestTheKeys:
    """What is known of every stored key is read with the token, and is not kept for as long as a stream lasts."""

    def test_it_keeps_none_but_its_own(self, client, sends):
        make_key()
        gates = [Gate() for _ in range(5)]
        sends(*(Pieces(chunk("a"), gate, openrouter_usage(), DONE) for gate in gates))
        streams = [begin(client, stream=True).answer() for _ in gates]
        for one in streams:
            next(one.pieces)
        kept = lambda: [found for found in gc.get_objects() if type(found) is Stored]  # noqa: E731
        eventually(lambda: gc.collect() >= 0 and len(kept()) <= 1, "they keep the keys")  # one: the last that was read
        for gate, one in zip(gates, streams, strict=True):
            gate.open()
            assert one.content.endswith(DONE)


class TestItsId:
    """By its own id OpenRouter tells later what an estimated answer cost: header and first event name it."""

    @pytest.mark.parametrize(
        ("header", "told", "kept"),
        [
            ("gen-7", "gen-1", "gen-7"),
            (None, "gen-1", "gen-1"),
            (None, 5, "gen-1"),  # what cannot be one is passed over
            (None, "gen-\0", "gen-1"),
            (None, "gen-\ud800", "gen-1"),
            (None, "gen-" + "1" * 200, "gen-" + "1" * 96),
        ],
    )
    def test_it_is_kept(self, client, sends, header, told, kept):
        make_key()
        headers = {"x-generation-id": header} if header else {}
        first = b"data: " + json.dumps({"id": told, "choices": [{"delta": {"content": "Hel"}}]}).encode() + b"\n\n"
        sends(Pieces(first, chunk("", finish_reason="stop"), DONE, headers=headers))
        _ = stream(client).content
        assert (only_row().upstream_id, only_row().cost_source) == (kept, "estimated")

    def test_the_one_of_a_stream_that_broke_is_kept(self, client, sends):
        make_key()
        broken_after(client, sends, chunk("Hel"))
        assert (only_row().upstream_id, only_row().state) == ("gen-1", "LOST")


class TestHowItIsCut:
    def test_an_event_may_come_in_any_pieces(self, client, sends):
        make_key()
        everything = b"".join([PROCESSING, chunk("grün 😀"), openrouter_usage(), DONE])
        sends(Pieces(*(everything[at : at + 1] for at in range(len(everything)))))
        assert stream(client).content == everything
        assert only_row().cost_nano == 12_300_000

    @pytest.mark.parametrize("where", ["inside a character", "before the last line feed"])
    def test_an_event_cut_in_half_waits_for_its_other_half(self, client, sends, where):
        make_key()
        text, gate = chunk("😀"), Gate()
        middle = text.index("😀".encode()) + 2 if where == "inside a character" else len(text) - 1
        sends(Pieces(chunk("a"), text[:middle], gate, text[middle:], openrouter_usage(), DONE))
        answer = stream(client)
        assert next(answer.pieces) == chunk("a")
        gate.wait_until_reached()
        assert answer.wire.says_nothing_for(0.2)
        gate.open()
        rest = list(answer.pieces)
        assert b"".join(rest) == text + openrouter_usage() + DONE
        assert all(piece.startswith(b"data: ") and piece.endswith(b"\n\n") for piece in rest)

    def test_it_understands_crlf(self, client, sends):
        make_key(provider="openai")
        sent = [piece.replace(b"\n\n", b"\r\n\r\n") for piece in whole(usage_told=usage_chunk())]
        sends(Pieces(*sent))
        assert stream(client, model=OPENAI_MODEL).content == b"".join(piece for piece in sent if b"usage" not in piece)
        assert (only_row().cost_nano, only_row().state) == (35_000, "SETTLED")

    def test_it_passes_on_what_follows_the_last_whole_event(self, client, sends):
        make_key()
        sends(Pieces(*whole(usage_told=openrouter_usage(), end=b"data: [DONE]")))
        assert stream(client).content.endswith(b"data: [DONE]")
        assert only_row().state == "SETTLED"

    @pytest.mark.parametrize("number", ["1e9999999999999999999999", "NaN", "9" * 5000, "-0", "1e400"])
    def test_a_number_that_is_none_does_not_break_it(self, client, sends, number):
        make_key()
        odd = b'data: {"choices":[],"usage":{"prompt_tokens":' + number.encode() + b"}}\n\n"
        sends(Pieces(*whole(usage_told=odd)))
        assert stream(client).content.endswith(DONE)
        assert only_row().state == "SETTLED"


class TestClientGone:
    def test_it_charges_the_usage_that_still_arrives(self, client, sends):
        make_key()
        gate = Gate()
        sends(Pieces(chunk("Hel"), gate, chunk("lo"), openrouter_usage(), DONE))
        answer = stream(client)
        next(answer.pieces)
        answer.close()
        gate.open()
        settled()
        row = only_row()
        assert (row.state, row.cost_nano, row.cost_source) == ("SETTLED", 12_300_000, "provider")
        assert row.error.startswith("The client went away")

    @pytest.mark.parametrize("ending", [RESET, CLOSE, SILENCE])
    def test_it_estimates_where_no_usage_arrives(self, client, sends, fast_drain, ending):
        key = make_key()
        gate = Gate()
        sends(Pieces(chunk("Hel"), gate, chunk("lo"), ending))
        answer = stream(client, model=PLAIN_MODEL)
        next(answer.pieces)
        answer.close()
        gate.open()
        settled()
        row = only_row()
        assert (row.state, row.success, row.cost_source) == ("SETTLED", False, "estimated")
        assert 0 < row.cost_nano <= row.hold_nano
        assert fresh(key).spent_day_nano == row.cost_nano

    @pytest.mark.parametrize("ending", [RESET, CLOSE, SILENCE])
    def test_it_charges_the_hold_of_a_model_that_may_have_reasoned_unseen(self, client, sends, fast_drain, ending):
        key = make_key()
        gate = Gate()
        sends(Pieces(chunk("Hel"), gate, chunk("lo"), ending))
        answer = stream(client)
        next(answer.pieces)
        answer.close()
        gate.open()
        settled()
        row = only_row()
        assert (row.state, row.success, row.cost_source) == ("LOST", False, "estimated")
        assert row.cost_nano == row.hold_nano == fresh(key).spent_day_nano
        assert row.hold_nano >= 250_000  # 50 tokens at 5 USD a million, whatever was seen of them
        assert row.error.startswith("The client went away")

    @pytest.mark.parametrize(
        ("model", "state", "least"),
        [
            ("gemini-2.5-pro", "LOST", 500_000),  # 50 tokens at 10 USD a million; it may have thought on
            ("gemini-2.0-flash", "SETTLED", 10 * 100 + 50 * 400),  # it does not reason: what was counted so far
        ],
    )
    def test_a_running_total_is_not_the_whole_usage(self, client, provider, fast_drain, model, state, least):
        make_key(provider="google")
        method = f"v1beta/models/{model}:streamGenerateContent"
        told = {"promptTokenCount": 10, "thoughtsTokenCount": 50, "totalTokenCount": 60}
        thought = {"candidates": [{"content": {"parts": [{"text": "Hm", "thought": True}]}}], "usageMetadata": told}
        provider.post(f"https://generativelanguage.googleapis.com/{method}", Pieces(event(thought), SILENCE))
        answer = client.post(f"/{method}?alt=sse", json.dumps({"contents": [{"parts": [{"text": "hello"}]}]}))
        next(answer.pieces)
        answer.close()
        settled()
        row = only_row()
        assert (row.state, row.success, row.cost_source) == (state, False, "estimated")
        assert least <= row.cost_nano <= row.hold_nano
        assert (row.cost_nano == row.hold_nano) is (state == "LOST")

    def test_nor_is_that_of_a_host_that_counts_in_every_chunk(self, client, sends, fast_drain):
        make_key(provider="openai")
        sends(Pieces(chunk("Hel", usage=usage(10, 5)), SILENCE))
        answer = stream(client, model="gpt-4o-mini")
        next(answer.pieces)
        answer.close()
        settled()
        row = only_row()
        assert (row.state, row.success, row.cost_source) == ("SETTLED", False, "estimated")
        assert row.cost_nano >= 10 * 150 + 5 * 600

    def test_it_waits_no_longer_than_the_drain(self, client, sends, provider, fast_drain):
        """A provider that goes on and on is hung up on."""
        make_key()
        begun, word = Gate(), chunk("word")
        pause = time.sleep  # before the next word: 200 of them take ten seconds
        sends(Pieces(word, begun, *([word, lambda: pause(0.05)] * 200)))
        answer = stream(client, model=PLAIN_MODEL)
        next(answer.pieces)
        answer.close()
        begun.open()
        settled()
        assert (only_row().state, only_row().cost_source) == ("SETTLED", "estimated")
        assert provider.calls[0].gone.wait(5), "the provider is still at work"

    @pytest.mark.parametrize("with_reset", [False, True])
    def test_it_settles_a_stream_that_was_never_read(self, client, sends, with_reset):
        make_key()
        gate = Gate()
        sends(Pieces(gate, *whole(usage_told=openrouter_usage())))
        wire = begin(client, stream=True)
        gate.wait_until_reached()
        wire.close(with_reset=with_reset)
        gate.open()
        settled()
        assert (only_row().state, only_row().cost_nano) == ("SETTLED", 12_300_000)

    def test_it_settles_a_stream_that_its_client_dropped_with_a_reset(self, client, sends):
        make_key()
        gate = Gate()
        sends(Pieces(chunk("Hel"), gate, *whole(usage_told=openrouter_usage())))
        answer = stream(client)
        next(answer.pieces)
        answer.close(with_reset=True)
        gate.open()
        settled()
        assert (only_row().state, only_row().cost_nano) == ("SETTLED", 12_300_000)
        assert only_row().error.startswith("The client went away")

    def test_it_closes_the_connection_to_a_provider_that_falls_silent(self, client, sends, provider, fast_drain):
        make_key()
        gate = Gate()
        sends(Pieces(chunk("Hel"), gate, chunk("lo"), SILENCE))
        answer = stream(client)
        next(answer.pieces)
        answer.close()
        gate.open()
        settled()
        row = only_row()
        assert row.cost_source == "estimated" and 0 < row.cost_nano <= row.hold_nano
        assert provider.calls[0].gone.wait(5), "the provider is still at work"

    def test_it_does_not_wait_for_the_next_piece_to_see_that_the_client_has_gone(self, client, sends, fast_drain):
        make_key()
        gate = Gate()
        sends(Pieces(chunk("Hel"), gate, chunk("lo"), openrouter_usage(), DONE))
        answer = stream(client, model=PLAIN_MODEL)
        next(answer.pieces)
        answer.close()
        try:
            eventually(lambda: only_row().state == "SETTLED", "the row is open")
        finally:
            gate.open()
            settled()


def said(kind: str, **more) -> bytes:
    return event({"type": kind, **more})


def delta(parts: dict) -> bytes:
    return event({"id": "gen-1", "choices": [{"index": 0, "delta": parts}]})


def written(text: str) -> bytes:
    """A piece of a Responses stream."""
    return said("response.output_text.delta", item_id="msg_1", delta=text)


def block(**delta) -> bytes:
    return said("content_block_delta", index=0, delta=delta)


LARGE = "A" * 90_000
LEFT_OUT = {
    "sound": ("chat", delta({"audio": {"id": "a", "data": LARGE}})),
    "a picture": ("chat", delta({"images": [{"image_url": {"url": f"data:image/png;base64,{LARGE}"}}]})),
    "encrypted reasoning": ("chat", delta({"reasoning_details": [{"data": LARGE}]})),
    "signed reasoning": ("chat", delta({"reasoning_details": [{"signature": LARGE}]})),
    "a text again": ("responses", said("response.output_text.done", item_id="msg_1", text=LARGE)),
    "an item again": ("responses", said("response.output_item.done", item={"type": "message", "text": LARGE})),
    "a source": ("responses", said("response.output_text.annotation.added", annotation={"title": LARGE})),
    "a drawing": ("responses", said("response.image_generation_call.partial_image", partial_image_b64=LARGE)),
    "search results": (
        "messages", said("content_block_start", content_block={"type": "web_search_tool_result", "content": LARGE})
    ),
    "a citation": ("messages", block(type="citations_delta", citation={"cited_text": LARGE})),
    "a signature": ("messages", block(type="signature_delta", signature=LARGE)),
    "an encrypted summary": ("messages", block(type="compaction_delta", content=None, encrypted_content=LARGE)),
}  # fmt: skip
PATHS = {"chat": PATH, "responses": "/v1/responses", "messages": "/v1/messages"}
TALK = {
    "chat": ("openai", OPENAI, chunk, 600, {"model": "gpt-4o-mini", "max_tokens": 16_000}),
    "responses": (
        "openai", "https://api.openai.com/v1/responses", written, 600,
        {"model": "gpt-4o-mini", "input": "hi", "max_output_tokens": 16_000},
    ),
    "messages": (
        "anthropic", "https://api.anthropic.com/v1/messages", lambda text: block(type="text_delta", text=text), 5_000,
        {"model": "claude-haiku-4-5", "max_tokens": 16_000, "thinking": {"type": "disabled"}},
    ),
}  # fmt: skip


class TestWhatIsNoText:
    """What a stream repeats, or carries as base64, is no output to be estimated by its bytes; text after it is."""

    @pytest.mark.parametrize("what", LEFT_OUT)
    def test_an_estimate_leaves_it_out(self, client, provider, fast_drain, what):
        name, large = LEFT_OUT[what]
        provider_name, url, word, nano, body = TALK[name]
        make_key(provider=provider_name)
        gate = Gate()
        text = [word("word " * 12)] * 100  # 6,000 letters, three a token
        provider.post(url, Pieces(word("word "), gate, large, *text, SILENCE))
        messages = {} if name == "responses" else {"messages": [{"role": "user", "content": "hi"}]}
        answer = client.post(PATHS[name], json.dumps({**body, **messages, "stream": True}))
        next(answer.pieces)
        answer.close()
        gate.open()
        settled()
        row = only_row()
        assert (row.state, row.cost_source) == ("SETTLED", "estimated")
        most_of_a_picture = 4_000 // 3
        assert 2_000 * nano <= row.cost_nano <= (2_200 + most_of_a_picture * (what == "a picture")) * nano


class TestKeyDeletedMeanwhile:
    """What is under way on it goes on, and is charged to it."""

    def test_the_stream_goes_on_and_settles(self, client, api, sends):
        key, gate, sent = make_key(), Gate(), whole(usage_told=openrouter_usage())
        sends(Pieces(sent[0], gate, *sent[1:]))
        answer = stream(client)
        received = next(answer.pieces)
        assert api.delete(f"/api/llm/keys/{key.id}").status_code == 200
        assert only_row().state == "HELD"
        gate.open()
        assert received + answer.content == b"".join(sent)
        settled()
        assert (only_row().state, only_row().cost_nano, only_row().cost_source) == ("SETTLED", 12_300_000, "provider")
        assert (fresh(key).spent_total_nano, fresh(key).held_nano) == (12_300_000, 0)

    def test_a_client_that_leaves_is_charged_the_hold(self, client, api, sends, fast_drain):
        key, gate = make_key(), Gate()
        sends(Pieces(chunk("Hel"), gate, chunk("lo"), SILENCE))
        answer = stream(client)
        next(answer.pieces)
        assert api.delete(f"/api/llm/keys/{key.id}").status_code == 200
        answer.close()
        gate.open()
        settled()
        row = only_row()
        assert (row.state, row.cost_nano) == ("LOST", row.hold_nano)
        assert (fresh(key).spent_total_nano, fresh(key).held_nano) == (row.hold_nano, 0)


class TestFirstEvent:
    """Until the first event has gone out, another key may still serve."""

    def test_an_error_lets_the_next_key_serve(self, client, sends):
        first, second = make_key(), make_key()
        refusal = event(
            {"error": {"code": 429, "message": "slow down", "metadata": {"error_type": "rate_limit_exceeded"}}}
        )
        sends(Pieces(PROCESSING, refusal), Pieces(*whole(usage_told=openrouter_usage())))
        answer = stream(client)
        assert (answer["X-LLM-Key-Id"], answer["X-LLM-Attempts"]) == (second.id, "2")
        assert b"error" not in answer.content
        assert [(row.key_id, row.state) for row in rows()] == [(first.id, "RELEASED"), (second.id, "SETTLED")]

    def test_the_clients_own_mistake_goes_back_and_is_not_rotated(self, client, sends):
        make_key(), make_key()
        refusal = {
            "error": {"code": 400, "message": "temperature is too high", "metadata": {"error_type": "invalid_request"}}
        }
        left = sends(Pieces(event(refusal)), Pieces(*whole()))
        answer = stream(client)
        assert (answer.status_code, answer["Content-Type"]) == (400, "application/json")
        assert answer.json() == refusal
        assert len(left) == 1 and only_row().state == "RELEASED"

    def test_it_may_take_longer_than_a_silence_may(self, client, sends, settings):
        settings.STREAM_IDLE_SECONDS, settings.ANSWER_TIMEOUT_SECONDS = 1, 30
        make_key()
        sent, gate = whole(usage_told=openrouter_usage()), Gate()
        sends(Pieces(gate, *sent))
        wire = begin(client, stream=True)
        gate.wait_until_reached()
        assert wire.says_nothing_for(1.5)
        gate.open()
        answer = wire.answer()
        assert (answer.status_code, answer.content) == (200, b"".join(sent))
        assert (only_row().state, only_row().cost_nano) == ("SETTLED", 12_300_000)

    @pytest.mark.parametrize("streamed", [False, True])
    def test_the_wait_for_it_is_one_with_the_wait_for_the_head(self, client, sends, settings, streamed):
        """Four seconds in all: after the head, which takes one, three are left, or fewer on a busy machine."""
        settings.ANSWER_TIMEOUT_SECONDS = 4
        make_key()
        wait, head = time.sleep, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        sends(Pieces(lambda: wait(1), head, SILENCE, framing="raw"))
        answer = ask(client, stream=streamed)
        told = is_refused(answer, 504, "upstream_timeout", "openrouter.ai fell silent for ")
        assert 1 <= int(re.search(r"for (\d+) s", told)[1]) <= 3
        assert only_row().state == "LOST"

    def test_a_stream_without_an_event_is_lost(self, client, sends, pauses):
        key = make_key()
        sends(Pieces(), Pieces())
        is_refused(stream(client), 502, "upstream_error", "OpenRouter ended the stream before its first event")
        assert {row.state for row in rows()} == {"LOST"}
        assert fresh(key).spent_day_nano == sum(row.hold_nano for row in rows())


class TestTroubleInTheMiddle:
    def lost(self, row):
        return (row.state, row.success, row.cost_nano, row.cost_source) == ("LOST", False, row.hold_nano, "estimated")

    def last_event(self, body: bytes) -> dict:
        return json.loads(body.strip().rpartition(b"\n\n")[2].removeprefix(b"data: "))

    def test_a_reset_is_told_in_the_stream(self, client, simulator):
        make_key(secret=new_secret() + "-cut")
        body = stream(client).content
        assert self.last_event(body)["error"]["code"] == "upstream_error"
        assert self.lost(only_row()) and only_row().error.startswith("127.0.0.1 broke off")

    def test_silence_ends_it(self, client, simulator, settings):
        settings.STREAM_IDLE_SECONDS = 1
        make_key(secret=new_secret() + "-stall")
        began = time.monotonic()
        body = stream(client).content
        assert 0.8 < time.monotonic() - began < 10
        assert "fell silent" in self.last_event(body)["error"]["message"]
        assert self.lost(only_row())

    def test_a_missing_end_is_told(self, client, simulator):
        make_key(secret=new_secret() + "-noend")
        body = stream(client).content
        assert "end marker" in self.last_event(body)["error"]["message"]
        assert self.lost(only_row())

    @pytest.mark.parametrize("name", ["openrouter", "openai", "anthropic", "google"])
    def test_the_providers_error_is_passed_on_once(self, client, simulator, name):
        make_key(provider=name, secret=new_secret(name) + "-miderror")
        model = {"anthropic": "claude-sonnet-4-5", "google": "gemini-3.8-flash"}.get(name, "openai/gpt-6.1-terra")
        body = stream(client, model=model).content
        row = only_row()
        assert len(re.findall(rb'"error": ?{', body)) == 1
        assert self.lost(row)
        assert "end marker" not in row.error and row.error.endswith("It may have been billed.")

    def test_what_it_means_for_the_key_is_not_forgotten(self, client, sends):
        key = make_key()
        refusal = {"code": 429, "message": "slow down", "metadata": {"error_type": "rate_limit_exceeded"}}
        sends(Pieces(chunk(), event({"error": refusal})))
        _ = stream(client).content
        assert fresh(key).last_error.startswith("Rate limit for")

    def test_nothing_is_tried_again_once_the_client_has_seen_something(self, client, sends):
        make_key(), make_key()
        broken_after(client, sends, chunk())
        assert len(rows()) == 1

    def test_a_known_usage_is_charged_all_the_same(self, client, sends):
        make_key()
        broken_after(client, sends, chunk(), openrouter_usage())
        assert (only_row().state, only_row().success, only_row().cost_nano) == ("SETTLED", False, 12_300_000)

    def test_a_running_total_is_not(self, client, sends):
        make_key(provider="openai")
        gate = Gate()
        sends(Pieces(chunk("Hel", usage=usage(10, 5)), gate, RESET))
        answer = stream(client, model="gpt-4o-mini")
        next(answer.pieces)
        gate.open()
        assert self.last_event(answer.content)["error"]["code"] == "upstream_error"
        assert self.lost(only_row())

    def test_an_end_without_a_word_makes_no_whole_of_it(self, client, sends):
        make_key(provider="openai")
        said = chunk("Hel", usage=usage(10, 5))
        sends(Pieces(said))
        body = stream(client, model="gpt-4o-mini").content
        assert body.startswith(said) and "end marker" in self.last_event(body)["error"]["message"]
        assert self.lost(only_row())

    @pytest.mark.parametrize("finished", [False, True])
    def test_google_has_no_marker_but_says_that_it_has_finished(self, client, provider, finished):
        make_key(provider="google")
        method = "v1beta/models/gemini-2.5-pro:streamGenerateContent"
        told = {"promptTokenCount": 10, "candidatesTokenCount": 1, "thoughtsTokenCount": 50, "totalTokenCount": 61}
        candidate = {"content": {"parts": [{"text": "Hel"}]}} | ({"finishReason": "STOP"} if finished else {})
        said = event({"candidates": [candidate], "usageMetadata": told})
        provider.post(f"https://generativelanguage.googleapis.com/{method}", Pieces(said))
        body = client.post(f"/{method}?alt=sse", json.dumps({"contents": [{"parts": [{"text": "hello"}]}]})).content
        row = only_row()
        if finished:  # 10 × 1.25 + 51 × 10 = 522.5
            assert (body, row.state, row.success, row.cost_nano) == (said, "SETTLED", True, 522_500)
        else:
            assert body.startswith(said) and "end marker" in self.last_event(body)["error"]["message"]
            assert self.lost(row)

    def test_a_running_total_alone_is_no_answer(self, client, provider, pauses):
        make_key(provider="google")
        method = "v1beta/models/gemini-2.5-pro:streamGenerateContent"
        told = event({"usageMetadata": {"promptTokenCount": 10, "thoughtsTokenCount": 50, "totalTokenCount": 60}})
        said = event({"candidates": [{"content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP"}]})
        for pieces in (Pieces(told), Pieces(said)):
            provider.post(f"https://generativelanguage.googleapis.com/{method}", pieces)
        answer = client.post(f"/{method}?alt=sse", json.dumps({"contents": [{"parts": [{"text": "hello"}]}]}))
        assert answer.content == said
        failed, served = rows()
        assert self.lost(failed) and (served.state, served.success) == ("SETTLED", True)

    @pytest.mark.parametrize("form", ["stream", "array", "lines", "whole"])
    def test_an_error_after_unseen_thoughts_is_charged_at_the_hold(self, client, provider, form):
        """And tried at one more key, of another account, but not at a third."""
        for group in ("a", "b", "c"):
            make_key(provider="google", billing_group=group)
        said = {"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]}
        told = {"usageMetadata": {"promptTokenCount": 10, "thoughtsTokenCount": 50, "totalTokenCount": 60}}
        slow = {"error": {"code": 429, "message": "You exceeded your current quota."}}
        method, answer = "gemini-2.5-pro:streamGenerateContent", Pieces(event(told), event(slow))
        if form == "array":
            answer = Pieces.whole(json=[told, slow])
        elif form == "lines":
            answer = Pieces("\n".join(map(json.dumps, [told, slow])).encode())
        elif form == "whole":
            method, answer = "gemini-2.5-pro:generateContent", Pieces.whole(json=said | slow)
        provider.post(f"https://generativelanguage.googleapis.com/v1beta/models/{method}", answer)
        asked = {"contents": [{"parts": [{"text": "hello"}]}]}
        query = "" if form == "whole" else "?alt=sse"
        refused = client.post(f"/v1beta/models/{method}{query}", json.dumps(asked))
        assert (refused.status_code, refused["x-should-retry"]) == (503, "false")
        assert len(rows()) == 2 and all(map(self.lost, rows()))

    def test_it_has_no_usage_and_is_estimated(self, client, simulator):
        make_key(secret=new_secret() + "-nousage")
        assert stream(client).content.endswith(DONE)
        row = only_row()
        assert (row.state, row.success, row.cost_source, row.input_tokens) == ("SETTLED", True, "estimated", None)
        assert 0 < row.cost_nano <= row.hold_nano


def test_it_refuses_before_it_streams(client):
    answer = stream(client)
    assert error_of(answer)["code"] == "no_key_available"
    books_balance()
