"""The dialect *Anthropic messages*: what its requests can take, what its answers tell, how it refuses."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from llmkeys.dialects.anthropic_messages import AnthropicMessages
from llmkeys.dialects.base import Bound, Request, Rewrite, Seen
from tests.dialects.helpers import PNG, pieces_of, refusal, request_of, seen_in
from tests.providers.helpers import recorded_bytes

MESSAGES = AnthropicMessages()
HI = [{"role": "user", "content": "hi"}]


def ask(**body: Any) -> Request:
    return request_of(MESSAGES, {"model": "claude-opus-5-5", "max_tokens": 100, "messages": HI} | body)


def bound(**body: Any) -> Bound:
    return ask(**body).bound


def stream(*events: dict[str, Any]) -> Seen:
    pieces = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
    return seen_in(ask(stream=True), pieces)


class TestRequests:
    def test_it_takes_a_plain_one(self) -> None:
        request = ask()
        assert refusal(request) == {}
        assert (request.model, request.other_models, request.streamed) == ("claude-opus-5-5", (), False)
        assert ask(stream=True).streamed

    @pytest.mark.parametrize(
        ("body", "param", "words"),
        [
            ({"messages": None}, "messages", "is missing"),
            ({"messages": []}, "messages", "is empty"),
            ({"messages": "hi"}, "messages", "must be a list of objects"),
            ({"messages": ["hi"]}, "messages", "must be a list of objects"),
            ({"messages": None, "input": "hi"}, "messages", "send it to /v1/responses"),
            ({"messages": None, "contents": []}, "messages", "generateContent"),
            ({"messages": None, "prompt": "hi"}, "messages", "not served"),
            ({"max_tokens": 1.5}, "max_tokens", "must be a whole number"),
            ({"max_tokens": "100"}, "max_tokens", "must be a whole number"),
            ({"max_tokens": -2}, "max_tokens", "must be from 0 to 100,000,000"),
            ({"model": 5}, "model", "must be a string"),
            ({"model": "x" * 201}, "model", "at most 200"),
            ({"fallbacks": [{"model": "x" * 201}]}, "models", "at most 200"),
            ({"tools": [{"type": "advisor_20260301", "model": "x" * 201}]}, "models", "at most 200"),
            ({"stream": "yes"}, "stream", "true or false"),
            ({"thinking": "high"}, "thinking", "must be an object"),
        ],
    )
    def test_it_names_what_is_wrong(self, body: dict[str, Any], param: str, words: str) -> None:
        [(name, [told])] = refusal(ask(**body)).items()
        assert name == param
        assert words in told

    def test_counting_is_free_and_never_streams(self) -> None:
        request = request_of(MESSAGES, {"model": "m", "messages": HI, "stream": True}, operation="count_tokens")
        assert refusal(request) == {}
        assert request.bound.is_free
        assert request.bound.output_tokens == 0
        assert not request.streamed


class TestBound:
    def test_a_text_takes_its_bytes(self) -> None:
        request = ask()
        assert request.bound.input_tokens == len(request.raw) + 256
        assert request.bound.output_tokens == 100

    @pytest.mark.parametrize("limit", [256, 256.0, Decimal("256.0")])
    def test_a_whole_number_may_have_a_point(self, limit: Any) -> None:
        request = request_of(MESSAGES, {"max_tokens": limit, "messages": HI}, raw=b"{}")
        assert request.bound.output_tokens == 256

    def test_no_limit_is_left_to_the_gateway(self) -> None:
        assert MESSAGES.needs_output_limit
        assert bound(max_tokens=None).output_tokens is None

    def test_zero_fills_a_cache(self) -> None:
        assert bound(max_tokens=0).output_tokens == 0

    def test_minus_one_is_no_limit_and_is_told(self) -> None:
        assert (bound(max_tokens=-1).output_tokens, bound(max_tokens=-1).unlimited_field) == (None, "max_tokens")

    @pytest.mark.parametrize(
        ("thinking", "may_reason", "budget"),
        [
            (None, None, 0),
            ({"type": "disabled"}, False, 0),
            ({"type": "adaptive"}, True, 0),
            ({"type": "between_tools"}, True, 0),
            ({"type": "enabled", "budget_tokens": 2048}, True, 2048),
        ],
    )
    def test_thinking(self, thinking: Any, may_reason: bool | None, budget: int) -> None:
        found = bound(thinking=thinking)
        assert (found.may_reason, found.thinking_tokens) == (may_reason, budget)

    @pytest.mark.parametrize(
        ("control", "hour"),
        [({"type": "ephemeral"}, False), ({"type": "ephemeral", "ttl": "5m"}, False), ({"ttl": "1h"}, True)],
    )
    @pytest.mark.parametrize("place", ["system", "tools", "top", "messages", "result"])
    def test_cache_control_may_stand_anywhere(self, control: Any, hour: bool, place: str) -> None:
        block = {"type": "text", "text": "x", "cache_control": control}
        result = [{"type": "tool_result", "tool_use_id": "t", "content": [block]}]
        body: dict[str, Any] = {
            "system": {"system": [block]},
            "tools": {"tools": [{"name": "f", "input_schema": {}, "cache_control": control}]},
            "top": {"cache_control": control},
            "messages": {"messages": [{"role": "user", "content": [block]}]},
            "result": {"messages": [{"role": "user", "content": result}]},
        }[place]
        found = bound(**body)
        assert (found.can_write_cache, found.can_write_cache_1h) == (True, hour)

    def test_a_picture_counts_and_its_base64_does_not(self) -> None:
        source = {"type": "base64", "media_type": "image/png", "data": PNG}
        request = ask(messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])
        assert request.bound.image_input_tokens == 6_000
        assert request.bound.input_tokens == len(request.raw) - len(PNG) + 6_000 + 256

    @pytest.mark.parametrize("source", [{"type": "url", "url": "https://x/a.png"}, {"type": "file", "file_id": "f"}])
    def test_a_picture_elsewhere_counts_too(self, source: Any) -> None:
        picture = {"type": "image", "source": source}
        result = {"type": "tool_result", "tool_use_id": "t", "content": [picture]}
        assert bound(messages=[{"role": "user", "content": [result]}]).image_input_tokens == 6_000

    @pytest.mark.parametrize(
        "source",
        [
            {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
            {"type": "url", "url": "https://x/a.pdf"},
            {"type": "file", "file_id": "file_1"},
        ],
    )
    def test_a_document_takes_the_whole_window(self, source: Any) -> None:
        assert bound(messages=[{"role": "user", "content": [{"type": "document", "source": source}]}]).whole_window

    def test_a_document_of_plain_text_takes_its_bytes(self) -> None:
        source = {"type": "text", "media_type": "text/plain", "data": "hello"}
        request = ask(messages=[{"role": "user", "content": [{"type": "document", "source": source}]}])
        assert not request.bound.whole_window
        assert request.bound.input_tokens == len(request.raw) + 256

    def test_what_a_tool_was_called_with_is_text(self) -> None:
        call = {"type": "tool_use", "id": "t", "name": "f", "input": {"type": "image", "data": PNG}}
        request = ask(messages=[{"role": "assistant", "content": [call]}])
        assert request.bound.input_tokens >= len(request.raw)

    def test_own_tools_are_counted(self) -> None:
        request = ask(tools=[{"name": "f", "input_schema": {}}, {"type": "custom", "name": "g", "input_schema": {}}])
        assert request.bound.input_tokens == len(request.raw) + 256 + 1_000 + 80
        assert request.bound.tool_input_tokens == 0

    @pytest.mark.parametrize("kind", ["bash_20250124", "text_editor_20250728", "computer_20251124", "memory_20250818"])
    def test_tools_that_the_client_runs_have_no_rounds(self, kind: str) -> None:
        assert bound(tools=[{"type": kind, "name": "x"}]).tool_input_tokens == 0

    @pytest.mark.parametrize(
        ("tool", "tokens", "searches"),
        [
            ({"type": "web_search_20250305", "name": "web_search", "max_uses": 3}, 48_000, 3),
            ({"type": "web_search_20260318", "name": "web_search"}, 80_000, 5),
            ({"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": 2}, 32_000, 0),
            ({"type": "web_fetch_20260318", "max_uses": 2, "max_content_tokens": 50_000}, 100_000, 0),
            ({"type": "web_fetch_20260318", "max_uses": 50.0, "max_content_tokens": 50_000.0}, 2_500_000, 0),
            ({"type": "web_search_20250305", "name": "web_search", "max_uses": 50.0}, 800_000, 50),
            ({"type": "code_execution_20260521", "name": "code_execution"}, 80_000, 0),
            ({"type": "mcp_toolset", "mcp_server_name": "x"}, 80_000, 0),
            ({"type": "something_new_20270101"}, 80_000, 5),
        ],
    )
    def test_a_tool_that_anthropic_runs(self, tool: Any, tokens: int, searches: int) -> None:
        found = bound(tools=[tool])
        assert (found.tool_input_tokens, found.searches) == (tokens, searches)

    def test_a_compaction_reads_the_conversation_once_more(self) -> None:
        edits = {"edits": [{"type": "compact_20260112"}]}
        assert bound(context_management=edits).tool_input_tokens >= bound().input_tokens
        assert bound(context_management=edits).output_tokens == 100 + 16_000
        assert bound(context_management={"edits": [{"type": "clear_thinking_20251015"}]}).tool_input_tokens == 0

    def test_a_fallback_may_answer_and_reads_everything_again(self) -> None:
        request = ask(fallbacks=[{"model": "claude-fable-5-2", "max_tokens": 500}])
        assert request.other_models == ("claude-fable-5-2",)
        assert (request.bound.output_tokens, request.bound.choices) == (500, 2)
        assert request.bound.tool_input_tokens >= len(request.raw)

    def test_an_advisor_is_another_model(self) -> None:
        advisor = {"type": "advisor_20260301", "name": "advisor", "model": "claude-fable-5-2", "max_uses": 2}
        request = ask(tools=[advisor])
        assert request.other_models == ("claude-fable-5-2",)
        assert request.bound.output_tokens == 100 + 2 * 16_000
        assert bound(tools=[advisor | {"max_tokens": 20_000.0}]).output_tokens == 100 + 2 * 20_000

    def test_tier_and_region(self) -> None:
        assert bound(speed="fast").service_tier == "fast"
        assert bound(service_tier="standard_only").service_tier is None
        assert bound(inference_geo="us").region == "us"

    def test_openrouters_fields(self) -> None:
        request = ask(model="anthropic/claude-opus-5.5:online", models=["openai/gpt-6.1-sol"], plugins=[{"id": "web"}])
        assert request.other_models == ("openai/gpt-6.1-sol",)
        assert request.bound.searches == 10


class TestRewriting:
    def test_nothing_changes_without_need(self) -> None:
        request = ask()
        assert MESSAGES.rewritten(request, Rewrite(model="claude-opus-5-5")) is request.raw

    def test_model_limit_and_price(self) -> None:
        request = ask(max_tokens=None)
        change = Rewrite(model="anthropic/claude-opus-5.5", output_limit=4096, max_price={"prompt": Decimal("4")})
        body = json.loads(MESSAGES.rewritten(request, change))
        assert (body["model"], body["max_tokens"]) == ("anthropic/claude-opus-5.5", 4096)
        assert body["provider"] == {"max_price": {"prompt": 4.0}}
        assert body["messages"] == HI


class TestAnswers:
    WHOLE = {
        "id": "msg_1",
        "type": "message",
        "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": "größe"}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 418,
            "cache_read_input_tokens": 1111,
            "cache_creation": {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 18},
            "output_tokens": 33,
            "output_tokens_details": {"thinking_tokens": 7},
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 5},
            "service_tier": "standard",
            "inference_geo": "us",
            "speed": "fast",
        },
    }

    def test_it_reads_all_kinds(self) -> None:
        seen = MESSAGES.see_answer(self.WHOLE)
        usage = seen.usage
        assert usage is not None
        assert (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens) == (1532, 1111, 418)
        assert (usage.cache_write_1h_tokens, usage.output_tokens, usage.reasoning_tokens) == (18, 33, 7)
        assert (usage.searches, usage.service_tier, usage.region, usage.speed) == (2, "standard", "us", "fast")
        assert usage.model == "claude-sonnet-4-5"
        assert (seen.id, seen.has_content, seen.content_bytes, seen.is_finished) == ("msg_1", True, 7, True)

    def test_compaction_is_beside_the_totals(self) -> None:
        more = {"type": "compaction", "input_tokens": 1000, "cache_read_input_tokens": 9, "output_tokens": 50}
        same = {"type": "message", "input_tokens": 3, "output_tokens": 33}
        usage = MESSAGES.see_answer(
            self.WHOLE | {"usage": {"input_tokens": 3, "output_tokens": 33, "iterations": [more, same]}}
        ).usage
        assert usage is not None
        assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == (3, None, 33)
        kinds = ("input_tokens", "cached_input_tokens", "output_tokens")
        assert tuple(map(usage.total, kinds)) == (1012, 9, 83)

    def test_it_reads_a_count(self) -> None:
        usage = MESSAGES.see_answer({"input_tokens": 2095}).usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == (2095, 0)

    def test_it_finds_an_error(self) -> None:
        body = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        assert MESSAGES.see_answer(body).error == body

    def test_it_reads_openrouters_cost(self) -> None:
        usage = MESSAGES.see_answer(self.WHOLE | {"usage": {"input_tokens": 1, "cost": Decimal("0.002")}}).usage
        assert usage is not None
        assert usage.cost_usd == Decimal("0.002")


def start(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_1", "model": "claude-opus-4-6", "usage": usage}}


def delta(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **fields}}


class TestStreams:
    def test_the_recording(self) -> None:
        seen = seen_in(ask(stream=True), [recorded_bytes("anthropic-messages-stream.sse")])
        assert seen.usage is not None
        assert (seen.usage.input_tokens, seen.usage.output_tokens, seen.usage.model) == (17, 20, "claude-opus-4-6")
        assert (seen.usage.service_tier, seen.usage.region) == ("standard", "global")
        assert (seen.has_content, seen.is_finished, seen.is_end) == (True, True, True)
        assert seen.id == "msg_01RtVNwYH2vM9SnBWNptSdTu"

    @pytest.mark.parametrize("size", [1, 2, 7, 100, 5000])
    def test_it_may_be_cut_anywhere(self, size: int) -> None:
        recording = recorded_bytes("anthropic-messages-stream.sse")
        assert seen_in(ask(stream=True), pieces_of(recording, size)) == seen_in(ask(stream=True), [recording])

    def test_the_start_tells_the_input_and_not_the_output(self) -> None:
        seen = stream(start(input_tokens=17, cache_read_input_tokens=1000, output_tokens=1))
        assert seen.usage is not None
        assert (seen.usage.input_tokens, seen.usage.output_tokens) == (1017, None)
        assert not seen.has_content

    def test_deltas_are_running_totals(self) -> None:
        last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 20}}
        seen = stream(
            start(input_tokens=17, cache_read_input_tokens=1000, output_tokens=1),
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15, "input_tokens": 30}},
            last,
            last,
        )
        assert seen.usage is not None
        assert (seen.usage.input_tokens, seen.usage.cached_input_tokens, seen.usage.output_tokens) == (1030, 1000, 20)

    @pytest.mark.parametrize(
        "event",
        [
            start(input_tokens=1),
            {"type": "ping"},
            {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
            {"type": "content_block_stop", "index": 0},
            delta("text_delta", text=""),
        ],
    )
    def test_what_is_no_content(self, event: dict[str, Any]) -> None:
        assert not stream(event).has_content

    @pytest.mark.parametrize(
        ("event", "size"),
        [
            (delta("text_delta", text="größe"), 7),
            (delta("thinking_delta", thinking="hm"), 2),
            (delta("input_json_delta", partial_json='{"a"'), 4),
            (delta("signature_delta", signature="EqQB"), 0),
            (delta("citations_delta", citation={"cited_text": "abc"}), 0),
            ({"type": "content_block_start", "content_block": {"type": "tool_use", "id": "t", "name": "find"}}, 4),
            ({"type": "content_block_start", "content_block": {"type": "redacted_thinking", "data": "A" * 2000}}, 2),
            ({"type": "content_block_start", "content_block": {"type": "web_search_tool_result", "content": ["x"]}}, 0),
        ],
    )
    def test_what_is_content(self, event: dict[str, Any], size: int) -> None:
        seen = stream(event)
        assert (seen.has_content, seen.content_bytes) == (True, size)

    def test_an_error_inside(self) -> None:
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        assert stream(start(input_tokens=1), error).error == error


class TestTowardsTheClient:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (413, "request_too_large"),
            (429, "rate_limit_error"),
            (502, "api_error"),
            (503, "overloaded_error"),
            (504, "timeout_error"),
        ],
    )
    def test_errors_have_anthropics_type_and_our_code(self, status: int, kind: str) -> None:
        body = json.loads(MESSAGES.error_body(status, "all_keys_at_limit", "Words."))
        error = {"type": kind, "message": "Words.", "code": "all_keys_at_limit"}
        assert body == {"type": "error", "error": error}

    def test_an_error_in_a_stream_is_an_error_event(self) -> None:
        event = MESSAGES.error_event(502, "upstream_error", "Words.", ask(stream=True))
        assert event.startswith(b"event: error\ndata: {")
        assert event.endswith(b"}\n\n")
        seen = MESSAGES.see_event(event, ask(stream=True))
        assert seen.error is not None
        assert seen.error["error"]["code"] == "upstream_error"

    @pytest.mark.parametrize(
        ("body", "kind"), [(b'{"type":"error",\n"error":{}}\n', b"error"), (b'{"type":"message"}', b"message")]
    )
    def test_a_whole_answer_as_an_event(self, body: bytes, kind: bytes) -> None:
        event = MESSAGES.as_event(body, ask(stream=True))
        assert event.startswith(b"event: " + kind + b"\ndata: {")
        assert event.count(b"\n") == 3

    def test_a_keep_alive_is_a_ping(self) -> None:
        assert MESSAGES.keep_alive(ask(stream=True)) == b'event: ping\ndata: {"type": "ping"}\n\n'

    def test_headers_that_go_along(self) -> None:
        assert {"anthropic-version", "anthropic-beta"} <= MESSAGES.passed_headers
        assert not [name for name in MESSAGES.passed_headers if name.startswith("x-stainless")]


class TestSealedThoughts:
    THOUGHT: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": "EqQ-1"}
    REDACTED: dict[str, Any] = {"type": "redacted_thinking", "data": "EqQ-2"}

    def test_it_sees_them_in_answers(self) -> None:
        assert MESSAGES.see_answer({"content": [self.THOUGHT, {"type": "text", "text": "x"}]}).sealed == "EqQ-1"
        assert MESSAGES.see_answer({"content": [self.THOUGHT, self.REDACTED]}).sealed == "EqQ-2"
        assert MESSAGES.see_answer({"content": [self.THOUGHT | {"signature": 7}]}).sealed == ""

    def test_it_sees_them_in_streams(self) -> None:
        delta = {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "EqQ-1"}}
        event = f"event: content_block_delta\ndata: {json.dumps(delta)}\n\n".encode()
        assert MESSAGES.telling is not None
        assert MESSAGES.telling.search(event)
        assert MESSAGES.see_event(event, request_of(MESSAGES, {})).sealed == "EqQ-1"

    def test_the_last_one_of_a_request_counts(self) -> None:
        turns = [{"role": "assistant", "content": [self.THOUGHT]}, {"role": "assistant", "content": [self.REDACTED]}]
        assert request_of(MESSAGES, {"messages": [*turns, *HI]}).sealed == "EqQ-2"
        assert request_of(MESSAGES, {"messages": [*turns[:1], 5, {"content": [["x"]]}]}).sealed == "EqQ-1"
        assert request_of(MESSAGES, {"messages": HI}).sealed == ""
