"""The dialect *OpenAI chat*: what its chunks and answers tell, however a server writes them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from llmkeys.dialects.base import Request, Rewrite, Seen
from llmkeys.dialects.openai_chat import OpenAIChat
from tests.dialects.helpers import PNG, pieces_of, refusal, request_of, seen_in
from tests.providers.helpers import recorded, recorded_bytes

CHAT = OpenAIChat()
HI = [{"role": "user", "content": "hi"}]
COUNTS = {
    "prompt_tokens": 9000,
    "completion_tokens": 20,
    "total_tokens": 9020,
    "prompt_tokens_details": {"cached_tokens": 8000},
}
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def ask(**body: Any) -> Request:
    return request_of(CHAT, {"model": "openai/gpt-4o-mini", "max_tokens": 50, "messages": HI} | body)


def line(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode()


def see(event: bytes, **body: Any) -> Seen:
    return CHAT.see_event(event, ask(stream=True, **body))


def delta(**fields: Any) -> bytes:
    return line({"id": "gen-1", "choices": [{"index": 0, "delta": fields}]}) + b"\n\n"


class TestRequests:
    @pytest.mark.parametrize(
        ("body", "param", "words"),
        [
            ({"messages": None}, "messages", "is missing"),
            ({"messages": "hi"}, "messages", "must be a list of objects"),
            ({"messages": None, "input": "hi"}, "messages", "This is a Responses body: send it to /v1/responses"),
            ({"messages": None, "contents": []}, "messages", ":generateContent"),
            ({"messages": None, "prompt": "hi"}, "messages", "legacy completions"),
            ({"max_tokens": 0}, "max_tokens", "must be from 1"),
            ({"n": 129}, "n", "must be from 1 to 128"),
            ({"stream_options": []}, "stream_options", "must be an object"),
            ({"models": ["a", "x" * 201]}, "models", "at most 200 printable characters"),
            ({"models": "a\nb"}, "models", "at most 200 printable characters"),
            ({"preset": "x" * 201}, "preset", "at most 200 printable characters"),
            ({"preset": {"name": "x"}}, "preset", "must be a string"),
        ],
    )
    def test_it_names_what_is_wrong(self, body: dict[str, Any], param: str, words: str) -> None:
        [(name, [told])] = refusal(ask(**body)).items()
        assert name == param
        assert words in told

    def test_models_that_may_answer(self) -> None:
        assert ask(models=["a", 5, "", "b"]).other_models == ("a", "b")
        assert ask(models="a").other_models == ("a",)
        assert refusal(ask(models=["a"] * 50)) == {}
        assert list(refusal(ask(models=["a"] * 51))) == ["models"]


class TestRewriting:
    def change(self, request: Request, **change: Any) -> dict[str, Any]:
        return json.loads(CHAT.rewritten(request, Rewrite(**({"model": "openai/gpt-4o-mini"} | change))))

    def test_nothing_changes_without_need(self) -> None:
        request = ask(stream=True, stream_options={"include_usage": True})
        assert CHAT.rewritten(request, Rewrite(model="openai/gpt-4o-mini", asks_usage=True)) is request.raw

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    def test_the_limit_keeps_the_clients_name_for_it(self, field: str) -> None:
        body = self.change(ask(max_tokens=None, **{field: 99} if field != "max_tokens" else {}), output_limit=9)
        assert [body.get(name) for name in ("max_tokens", "max_completion_tokens")].count(9) == 1

    def test_usage_is_asked_for(self) -> None:
        body = self.change(ask(stream=True, stream_options={"include_obfuscation": False}), asks_usage=True)
        assert body["stream_options"] == {"include_obfuscation": False, "include_usage": True}

    def test_a_lower_price_of_the_client_stays(self) -> None:
        request = ask(provider={"order": ["x"], "max_price": {"prompt": 1, "image": 2}})
        body = self.change(request, max_price={"prompt": Decimal(3), "completion": Decimal(5)})
        assert body["provider"] == {"order": ["x"], "max_price": {"prompt": 1.0, "completion": 5.0, "image": 2}}


class TestStreams:
    @pytest.mark.parametrize(
        ("name", "counts", "cost"),
        [
            ("openrouter-chat-stream.sse", (20, 1), Decimal("0.0000036")),
            ("openai-chat-stream-include-usage.sse", (12, 5), None),
        ],
    )
    @pytest.mark.parametrize("size", [1, 11, 10_000])
    def test_the_recordings(self, name: str, counts: tuple[int, int], cost: Decimal | None, size: int) -> None:
        seen = seen_in(ask(stream=True), pieces_of(recorded_bytes(name), size))
        assert seen.usage is not None
        assert (seen.usage.input_tokens, seen.usage.output_tokens, seen.usage.cost_usd) == (*counts, cost)
        assert (seen.has_content, seen.is_finished, seen.is_end) == (True, True, True)

    @pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r", "\n\r\n", "\r\n\n"])
    def test_any_end_of_line(self, end: str) -> None:
        stream = (line({"choices": [], "usage": COUNTS}).decode() + end + "data: [DONE]" + end).encode()
        seen = seen_in(ask(stream=True), pieces_of(stream, 9))
        assert seen.usage is not None
        assert (seen.usage.input_tokens, seen.is_end) == (9000, True)

    def test_a_later_poorer_usage_takes_nothing_away(self) -> None:
        poor = {"prompt_tokens": 9000, "completion_tokens": 20}
        for later in (ZEROS, poor):
            events = [line({"choices": [], "usage": usage}) + b"\n\n" for usage in (COUNTS, later)]
            usage = seen_in(ask(stream=True), events).usage
            assert usage is not None
            assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == (9000, 8000, 20)

    def test_the_tier_of_one_chunk_is_remembered(self) -> None:
        first = line({"choices": [{"delta": {"role": "assistant"}}], "service_tier": "priority"}) + b"\n\n"
        usage = seen_in(ask(stream=True), [first, line({"choices": [], "usage": COUNTS}) + b"\n\n"]).usage
        assert usage is not None
        assert usage.service_tier == "priority"

    @pytest.mark.parametrize(
        "event",
        [
            b": OPENROUTER PROCESSING\n%b\n\n" % line({"choices": [], "usage": COUNTS}),
            b"event: x\nid: 5\n%b\n\n" % line({"choices": [], "usage": COUNTS}),
        ],
    )
    def test_comments_and_other_fields_are_skipped_line_by_line(self, event: bytes) -> None:
        seen = see(event)
        assert seen.usage is not None
        assert (seen.usage.input_tokens, seen.is_usage_only) == (9000, True)

    def test_lines_that_are_glued_together_are_read_one_by_one(self) -> None:
        usage, error = line({"choices": [], "usage": COUNTS}), line({"error": {"code": 429}})
        seen = see(delta(content="hello")[:-1] + usage + b"\ndata: [DONE]\n\n")
        assert (seen.content_bytes, seen.is_end, seen.is_usage_only) == (5, True, False)
        assert seen.usage is not None
        assert see(b": comment\n" + error + b"\n\n").error == {"error": {"code": 429}}

    def test_one_document_on_several_lines(self) -> None:
        seen = see(b'data: {"choices": [],\ndata: "usage": {"prompt_tokens": 3}}\n\n')
        assert seen.usage is not None
        assert seen.usage.input_tokens == 3

    def test_a_usage_that_the_client_wants_is_its_own(self) -> None:
        event = line({"choices": [], "usage": COUNTS}) + b"\n\n"
        assert see(event).is_usage_only
        assert not see(event, stream_options={"include_usage": True}).is_usage_only
        assert not see(line({"choices": [{"delta": {}}], "usage": COUNTS}) + b"\n\n").is_usage_only

    @pytest.mark.parametrize(
        "fields", [{}, {"role": "assistant"}, {"role": "assistant", "content": ""}, {"content": None}]
    )
    def test_what_is_no_content(self, fields: dict[str, Any]) -> None:
        assert not see(delta(**fields)).has_content

    @pytest.mark.parametrize(
        ("fields", "size"),
        [
            ({"content": "größe"}, 7),
            ({"reasoning": "hm"}, 2),
            ({"reasoning_content": "hm"}, 2),
            ({"refusal": "no"}, 2),
            ({"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "{}"}}]}, 3),
            ({"images": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]}, 4_000),
            ({"audio": {"id": "a", "data": "A" * 5_000}}, 5),
        ],
    )
    def test_what_is_content(self, fields: dict[str, Any], size: int) -> None:
        seen = see(delta(**fields))
        assert (seen.has_content, seen.content_bytes) == (True, size)

    @pytest.mark.parametrize(
        "document",
        [
            {"error": {"code": 429, "message": "Rate limit exceeded"}},
            {"error": {"code": "server_error"}, "choices": [{"delta": {"content": ""}, "finish_reason": "error"}]},
            {"choices": [{"delta": {}, "error": {"code": 502}}]},
            {"choices": [{"delta": {}, "finish_reason": "error"}]},
        ],
    )
    def test_errors(self, document: dict[str, Any]) -> None:
        assert see(line(document) + b"\n\n").error == document

    def test_a_large_event_tells_its_usage(self) -> None:
        picture = {"images": [{"image_url": {"url": "data:image/png;base64," + "A" * 5_000_000}}]}
        stream = line({"choices": [{"delta": picture}], "usage": COUNTS}) + b"\n\n"
        usage = seen_in(ask(stream=True), pieces_of(stream, 65_536)).usage
        assert usage is not None
        assert usage.input_tokens == 9000

    def test_what_may_tell_more_than_content_is_found(self) -> None:
        assert CHAT.telling is not None
        for event in (
            line({"usage": COUNTS}),
            b'data: {"u\\u0073age":{}}',
            line({"error": {}}),
            b"data: [DONE]",
            line({"choices": [{"finish_reason": "stop"}]}),
            line({"service_tier": "flex"}),
        ):
            assert CHAT.telling.search(event)
        assert not CHAT.telling.search(delta(content="hello"))


class TestAnswers:
    def test_the_recordings(self) -> None:
        seen = CHAT.see_answer(recorded("openrouter-chat-nonstream-anthropic-cache-write.json"))
        assert seen.usage is not None
        assert (seen.usage.cache_write_tokens, seen.usage.cost_usd) == (3211, Decimal("0.01355025"))
        assert (seen.has_content, seen.is_finished) == (True, True)

    @pytest.mark.parametrize("name", ["openai-error-400.json", "openrouter-error-401.json", "google-error-429.json"])
    def test_errors_alone_or_in_a_list(self, name: str) -> None:
        body = recorded(name)
        assert CHAT.see_answer(body).error == body
        assert CHAT.see_answer([body]).error == body


def test_an_error_on_several_lines_becomes_one_event() -> None:
    body = recorded_bytes("openai-error-401-invalid-key.json")
    assert b"\n" in body.strip()
    event = CHAT.as_event(body, ask(stream=True))
    assert CHAT.see_event(event, ask(stream=True)).error == json.loads(body)
    assert event.count(b"\n") == 2
