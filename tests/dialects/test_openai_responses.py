"""The dialect *OpenAI responses*: what its requests can take, what its answers tell, how it refuses."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from llmkeys.dialects.base import Bound, Request, Rewrite, Seen
from llmkeys.dialects.openai_responses import OpenAIResponses
from tests.dialects.helpers import PNG, pieces_of, refusal, request_of, seen_in
from tests.providers.helpers import recorded_bytes

RESPONSES = OpenAIResponses()
RECORDING = recorded_bytes("openrouter-responses-stream.sse")
DATA_URL = f"data:image/png;base64,{PNG}"


def ask(**body: Any) -> Request:
    return request_of(RESPONSES, {"model": "gpt-4.1", "input": "hi"} | body)


def bound(**body: Any) -> Bound:
    return ask(**body).bound


def message(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "message", "role": "user", "content": list(parts)}]


def stream(*events: dict[str, Any]) -> Seen:
    return seen_in(ask(stream=True), [f"data: {json.dumps(event)}\n\n".encode() for event in events])


class TestRequests:
    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"input": message({"type": "input_text", "text": "hi"})},
            {"input": None, "previous_response_id": "resp_1"},
            {"input": None, "prompt": {"id": "pmpt_1"}},
            {"store": True, "background": False, "stream": True},
            {"instructions": "x", "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k"},
        ],
    )
    def test_it_takes_whole_ones(self, body: dict[str, Any]) -> None:
        assert refusal(ask(**body)) == {}

    @pytest.mark.parametrize(
        ("body", "param", "words"),
        [
            ({"input": None}, "input", "is missing"),
            ({"input": None, "messages": []}, "input", "send it to /v1/chat/completions"),
            ({"input": None, "contents": []}, "input", "generateContent"),
            ({"input": 5}, "input", "must be a string, or a list of objects"),
            ({"input": ["hi"]}, "input", "must be a string, or a list of objects"),
            ({"background": True}, "background", "is not served"),
            ({"background": "yes"}, "background", "true or false"),
            ({"max_output_tokens": 0}, "max_output_tokens", "must be from 1"),
            ({"reasoning": "high"}, "reasoning", "must be an object"),
            ({"stream": 1}, "stream", "true or false"),
        ],
    )
    def test_it_names_what_is_wrong(self, body: dict[str, Any], param: str, words: str) -> None:
        [(name, [told])] = refusal(ask(**body)).items()
        assert name == param
        assert words in told


class TestBound:
    def test_a_text_takes_its_bytes(self) -> None:
        request = ask(max_output_tokens=256.0)
        assert request.bound == Bound(len(request.raw) + 256, 256, text_tokens=len(request.raw))

    def test_no_limit_and_minus_one(self) -> None:
        assert bound().output_tokens is None
        found = bound(max_output_tokens=-1)
        assert (found.output_tokens, found.unlimited_field) == (None, "max_output_tokens")

    @pytest.mark.parametrize(
        "items",
        [
            message({"type": "input_image", "image_url": DATA_URL}),
            [{"type": "function_call_output", "output": [{"type": "input_image", "image_url": DATA_URL}]}],
            [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": DATA_URL}}],
        ],
    )
    def test_a_picture_counts_and_its_base64_does_not(self, items: Any) -> None:
        request = ask(input=items)
        assert request.bound.image_input_tokens == 6_000
        assert request.bound.input_tokens == len(request.raw) - len(DATA_URL) + 6_000 + 256

    def test_a_picture_that_was_made_before_is_one(self) -> None:
        request = ask(input=[{"type": "image_generation_call", "id": "ig_1", "result": PNG}])
        assert request.bound.input_tokens == len(request.raw) - len(PNG) + 6_000 + 256

    def test_sound(self) -> None:
        sound = {"type": "input_audio", "input_audio": {"data": "A" * 200_000, "format": "mp3"}}
        assert bound(input=message(sound)).audio_input_tokens == 6_000

    @pytest.mark.parametrize(
        "body",
        [
            {"input": message({"type": "input_file", "file_id": "file-1"})},
            {"input": message({"type": "input_file", "file_url": "https://x/a.pdf"})},
            {"input": message({"type": "input_file", "file_data": "data:application/pdf;base64,AAAA"})},
            {"input": [{"type": "item_reference", "id": "msg_1"}]},
            {"previous_response_id": "resp_1"},
            {"conversation": "conv_1"},
            {"prompt": {"id": "pmpt_1"}},
            {"model": "openai/gpt-4.1@preset/x"},
        ],
    )
    def test_what_the_provider_keeps_or_opens_takes_the_whole_window(self, body: dict[str, Any]) -> None:
        assert bound(**body).whole_window
        assert not bound().whole_window

    @pytest.mark.parametrize(
        ("tool", "tokens", "searches"),
        [
            ({"type": "function", "name": "f"}, 0, 0),
            ({"type": "custom", "name": "f"}, 0, 0),
            ({"type": "local_shell"}, 0, 0),
            ({"type": "apply_patch"}, 0, 0),
            ({"type": "computer_use_preview"}, 0, 0),
            ({"type": "namespace", "tools": [{"type": "function", "name": "f"}]}, 0, 0),
            ({"type": "shell", "environment": {"type": "local"}}, 0, 0),
            ({"type": "tool_search", "execution": "client"}, 0, 0),
            ({"type": "shell"}, 80_000, 0),
            ({"type": "mcp", "server_label": "x"}, 80_000, 0),
            ({"type": "web_search"}, 80_000, 5),
            ({"type": "web_search_preview"}, 80_000, 5),
            ({"type": "file_search", "vector_store_ids": []}, 80_000, 0),  # its fee is another
            ({"type": "code_interpreter", "container": {"type": "auto"}}, 80_000, 0),
            ({"type": "something_new"}, 80_000, 5),
            ({"type": ["odd"]}, 80_000, 5),
        ],
    )
    def test_tools(self, tool: dict[str, Any], tokens: int, searches: int) -> None:
        for found in (bound(tools=[tool]), bound(input=[{"type": "additional_tools", "tools": [tool]}])):
            assert (found.tool_input_tokens, found.searches) == (tokens, searches)

    def test_which_of_openais_two_tools_searches(self) -> None:
        new, old = {"type": "web_search"}, {"type": "web_search_preview_2025_03_11"}
        stored = {"id": "pmpt_1"}  # nobody knows which tools it declares
        assert bound().preview_search is bound(tools=[new]).preview_search is False
        assert bound(tools=[old]).preview_search is bound(tools=[old], prompt=stored).preview_search is True
        assert bound(tools=[new, old]).preview_search is bound(prompt=stored).preview_search is None

    @pytest.mark.parametrize("calls", [2, 2.0])
    def test_the_client_may_limit_the_calls(self, calls: Any) -> None:
        found = bound(tools=[{"type": "web_search"}, {"type": "mcp"}], max_tool_calls=calls)
        assert (found.tool_input_tokens, found.searches) == (32_000, 2)

    def test_pictures_that_a_tool_makes_are_another_models(self) -> None:
        found = bound(tools=[{"type": "image_generation"}], max_output_tokens=100)
        assert (found.output_kinds, found.output_tokens) == ({"text"}, 100)
        assert (found.drawings, found.drawing_models, found.searches) == (5, (), 0)
        named = {"type": "image_generation", "model": "gpt-image-1-mini"}
        found = bound(tools=[named], max_tool_calls=1)
        assert (found.drawings, found.drawing_models) == (1, ("gpt-image-1-mini",))
        assert bound(tools=[named, {"type": "image_generation"}]).drawing_models == ()

    @pytest.mark.parametrize(
        ("tool", "fee"),
        [
            ({"type": "code_interpreter", "container": {"type": "auto"}}, "container 1g"),
            ({"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "16g"}}, "container 16g"),
            ({"type": "code_interpreter", "container": "cntr_1"}, "container 64g"),
            ({"type": "shell", "environment": {"type": "container_auto", "memory_limit": "4g"}}, "container 4g"),
            ({"type": "shell", "environment": {"type": "container_reference", "container_id": "x"}}, "container 64g"),
            ({"type": "code_interpreter", "container": {"type": "auto", "memory_limit": ["odd"]}}, "container 64g"),
        ],
    )
    def test_a_machine_that_runs_code_costs_by_its_memory(self, tool: dict[str, Any], fee: str) -> None:
        assert bound(tools=[tool]).fees == ((fee, 1),)

    def test_searching_in_stored_files_has_a_fee_of_its_own(self) -> None:
        tools = [{"type": "file_search", "vector_store_ids": ["vs_1"]}, {"type": "web_search"}]
        found = bound(tools=tools)
        assert (found.fees, found.searches, found.tool_input_tokens) == ((("file search", 5),), 5, 160_000)
        assert bound(tools=tools, max_tool_calls=2).fees == (("file search", 2),)

    def test_a_stored_prompt_may_declare_any_tool(self) -> None:
        found = bound(prompt={"id": "pmpt_1"})
        assert (found.searches, found.drawings, found.drawing_models) == (5, 5, ())
        assert found.fees == (("file search", 5), ("container of a prompt", 1))
        assert found.tool_input_tokens == 4 * 80_000
        found = bound(prompt={"id": "pmpt_1"}, max_tool_calls=0)
        assert (found.searches, found.drawings, found.tool_input_tokens) == (0, 0, 0)
        assert found.fees == (("file search", 0), ("container of a prompt", 0))

    def test_a_tool_of_the_request_stands_for_that_of_its_stored_prompt(self) -> None:
        own = [
            {"type": "code_interpreter", "container": {"type": "auto"}},
            {"type": "image_generation", "model": "gpt-image-1-mini"},
        ]
        found = bound(prompt={"id": "pmpt_1"}, tools=own)
        assert found.fees == (("container 1g", 1), ("file search", 5))
        assert (found.searches, found.drawings, found.drawing_models) == (5, 5, ("gpt-image-1-mini",))

    def test_a_compaction_reads_the_conversation_once_more(self) -> None:
        found = bound(context_management=[{"type": "compaction", "compact_threshold": 1000}])
        assert found.tool_input_tokens >= bound().input_tokens

    def test_reasoning_tier_and_cache(self) -> None:
        assert bound(reasoning={"effort": "high"}).may_reason is True
        assert bound(reasoning={"effort": "none"}).may_reason is False
        assert bound(service_tier="flex").service_tier == "flex"
        assert bound(prompt_cache_options={"ttl": "12h"}).can_write_cache_1h
        assert not bound(prompt_cache_options={"ttl": "30m"}).can_write_cache_1h

    def test_the_vocabulary_counts_tighter(self) -> None:
        request = ask(input=message({"type": "input_text", "text": "The quick brown fox. " * 200}), instructions="Go.")
        assert RESPONSES.tighter_bound(request, "gpt-6.1-terra").input_tokens < request.bound.input_tokens / 2
        assert RESPONSES.tighter_bound(request, "anthropic/claude-opus-5.5") == request.bound


class TestRewriting:
    def test_nothing_changes_without_need(self) -> None:
        request = ask()
        assert RESPONSES.rewritten(request, Rewrite(model="gpt-4.1", asks_usage=True)) is request.raw

    def test_model_limit_and_price(self) -> None:
        change = Rewrite(model="openai/gpt-4.1", output_limit=9, max_price={"prompt": Decimal(2)})
        body = json.loads(RESPONSES.rewritten(ask(provider={"max_price": {"prompt": 1}}), change))
        assert body == {
            "model": "openai/gpt-4.1",
            "input": "hi",
            "max_output_tokens": 9,
            "provider": {"max_price": {"prompt": 1.0}},
        }


USAGE = {
    "input_tokens": 500,
    "input_tokens_details": {
        "cached_tokens": 100,
        "cache_write_tokens": 300,
        "cache_write_tokens_details": {"ttl_30m_tokens": 280, "ttl_12h_tokens": 20},
    },
    "output_tokens": 40,
    "output_tokens_details": {"reasoning_tokens": 30},
    "total_tokens": 540,
}
TEXT = {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "größe"}]}
WHOLE = {
    "id": "resp_1",
    "object": "response",
    "model": "gpt-6.1-sol",
    "status": "completed",
    "service_tier": "priority",
    "error": None,
    "output": [TEXT],
    "usage": USAGE,
}


class TestAnswers:
    def test_it_reads_all_kinds(self) -> None:
        seen = RESPONSES.see_answer(WHOLE)
        usage = seen.usage
        assert usage is not None
        assert (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens) == (500, 100, 300)
        assert (usage.cache_write_1h_tokens, usage.output_tokens, usage.reasoning_tokens) == (20, 40, 30)
        assert (usage.service_tier, usage.model) == ("priority", "gpt-6.1-sol")
        assert (seen.id, seen.has_content, seen.content_bytes, seen.is_finished) == ("resp_1", True, 7, True)

    def test_searches_that_ran(self) -> None:
        calls = [
            {"type": "web_search_call", "action": {"type": "search", "query": "x"}},
            {"type": "web_search_call"},
            {"type": "web_search_call", "action": {"type": "open_page"}},
            {"type": "file_search_call"},
        ]
        usage = RESPONSES.see_answer(WHOLE | {"output": calls}).usage
        assert usage is not None
        assert (usage.searches, usage.file_searches) == (2, 1)
        told = {"web_search": {"num_requests": 1}}
        usage = RESPONSES.see_answer(WHOLE | {"output": calls, "tool_usage": told}).usage
        assert usage is not None
        assert (usage.searches, usage.file_searches) == (1, 1)

    def test_pictures_that_a_tool_made(self) -> None:
        drawn = {"input_tokens": 50, "input_tokens_details": {"image_tokens": 30}, "output_tokens": 4000}
        usage = RESPONSES.see_answer(WHOLE | {"tool_usage": {"image_gen": drawn}}).usage
        assert usage is not None
        assert (usage.input_tokens, usage.image_input_tokens) == (550, 30)
        assert (usage.output_tokens, usage.image_output_tokens) == (4040, 4000)
        own = usage.of_the_model()
        assert (own.input_tokens, own.image_input_tokens, own.output_tokens, own.image_output_tokens) == (500, 0, 40, 0)

    def test_machines_in_which_code_ran(self) -> None:
        calls = [{"type": "code_interpreter_call", "container_id": name} for name in ("a", "b", "a")]
        usage = RESPONSES.see_answer(WHOLE | {"output": [*calls, {"type": "shell_call", "status": "completed"}]}).usage
        assert usage is not None and usage.containers == 2

    def test_a_failure(self) -> None:
        body = WHOLE | {"status": "failed", "error": {"code": "server_error", "message": "x"}, "output": []}
        seen = RESPONSES.see_answer(body)
        assert seen.error is not None
        assert seen.error["error"]["code"] == "server_error"
        assert not seen.has_content


class TestStreams:
    def test_the_recording(self) -> None:
        seen = seen_in(ask(stream=True), [RECORDING])
        assert seen.usage is not None
        assert (seen.usage.input_tokens, seen.usage.output_tokens) == (17, 4)
        assert (seen.usage.cost_usd, seen.usage.service_tier) == (Decimal("0.0000825"), "")
        assert (seen.content_bytes, seen.is_finished, seen.is_end) == (len("Skipper or Sundance"), True, True)
        assert seen.id == "gen-1785882264-Dc8eXAHSnjmKOswYtXdR"

    @pytest.mark.parametrize("size", [1, 7, 500])
    def test_it_may_be_cut_anywhere(self, size: int) -> None:
        assert seen_in(ask(stream=True), pieces_of(RECORDING, size)) == seen_in(ask(stream=True), [RECORDING])

    @pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
    def test_openai_ends_without_a_marker(self, kind: str) -> None:
        seen = stream({"type": kind, "response": WHOLE})
        assert (seen.is_end, seen.is_finished, seen.has_content) == (True, True, True)
        assert seen.usage is not None
        assert seen.usage.output_tokens == 40

    @pytest.mark.parametrize(
        "event",
        [
            {"type": "response.created", "response": {"id": "r", "usage": None, "output": []}},
            {"type": "response.output_item.added", "item": {"type": "message", "role": "assistant", "content": []}},
            {"type": "response.output_item.added", "item": {"type": "reasoning", "id": "rs_1", "summary": []}},
            {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}},
            {"type": "response.output_text.delta", "delta": ""},
            {"type": "response.web_search_call.in_progress"},
        ],
    )
    def test_what_is_no_content(self, event: dict[str, Any]) -> None:
        assert not stream(event).has_content

    @pytest.mark.parametrize(
        ("event", "size"),
        [
            ({"type": "response.output_text.delta", "delta": "größe", "obfuscation": "xxxxx"}, 7),
            ({"type": "response.reasoning_summary_text.delta", "delta": "hm"}, 2),
            ({"type": "response.function_call_arguments.delta", "delta": '{"a"'}, 4),
            ({"type": "response.output_item.added", "item": {"type": "function_call", "name": "f"}}, 0),
            ({"type": "response.output_text.done", "text": "all of it"}, 0),
            ({"type": "response.image_generation_call.partial_image", "partial_image_b64": PNG}, 0),
        ],
    )
    def test_what_is_content(self, event: dict[str, Any], size: int) -> None:
        seen = stream(event)
        assert (seen.has_content, seen.content_bytes) == (True, size)

    @pytest.mark.parametrize(
        "event",
        [
            {"type": "error", "code": "server_is_overloaded", "message": "Busy", "param": None, "sequence_number": 2},
            {"type": "error", "error": {"code": "server_is_overloaded", "message": "Busy"}},
            {"type": "response.failed", "response": {"error": {"code": "server_is_overloaded", "message": "Busy"}}},
        ],
    )
    def test_errors_in_every_shape(self, event: dict[str, Any]) -> None:
        seen = stream(event)
        assert seen.error is not None
        assert seen.error["error"]["code"] == "server_is_overloaded"
        assert seen.error["error"]["message"] == "Busy"


class TestTowardsTheClient:
    def test_an_error_in_a_stream_has_both_shapes(self) -> None:
        event = RESPONSES.error_event(502, "upstream_error", "Words.", ask(stream=True))
        assert event.startswith(b"event: error\ndata: {")
        [data] = [line for line in event.splitlines() if line.startswith(b"data: ")]
        body = json.loads(data[6:])
        assert (body["type"], body["code"], body["message"]) == ("error", "upstream_error", "Words.")
        assert body["error"]["code"] == "upstream_error"

    def test_a_whole_error_is_openais(self) -> None:
        body = json.loads(RESPONSES.error_body(429, "all_keys_at_limit", "Words.", "input"))
        assert body["error"] == {
            "message": "Words.",
            "type": "rate_limit_error",
            "param": "input",
            "code": "all_keys_at_limit",
        }

    def test_a_keep_alive_is_a_comment(self) -> None:
        assert RESPONSES.keep_alive(ask(stream=True)).startswith(b":")


class TestSealedThoughts:
    THOUGHT: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA-1"}

    def test_it_sees_them_in_answers(self) -> None:
        assert RESPONSES.see_answer({"output": [self.THOUGHT, {"type": "message", "content": []}]}).sealed == "gAAA-1"
        assert RESPONSES.see_answer({"output": [{"type": "web_search_call", "encrypted_content": "x"}]}).sealed == ""
        assert RESPONSES.see_answer({"output": [self.THOUGHT | {"encrypted_content": 7}]}).sealed == ""

    def test_a_stored_answer_without_one_is_known_by_its_id(self) -> None:
        assert RESPONSES.see_answer(WHOLE).sealed == RESPONSES.see_answer(WHOLE | {"store": True}).sealed == "resp_1"
        assert RESPONSES.see_answer(WHOLE | {"store": False}).sealed == ""
        assert RESPONSES.see_answer(WHOLE | {"output": [self.THOUGHT]}).sealed == "gAAA-1"
        assert ask(previous_response_id="resp_1").sealed == "resp_1"
        assert ask(previous_response_id=["resp_1"]).sealed == ""
        assert ask(input=[self.THOUGHT], previous_response_id="resp_1").sealed == "gAAA-1"

    def test_the_last_one_of_a_request_counts(self) -> None:
        later = self.THOUGHT | {"encrypted_content": "gAAA-2"}
        assert ask(input=[self.THOUGHT, later, {"role": "user", "content": "hi"}]).sealed == "gAAA-2"
        assert ask(input="hi").sealed == ask(input=[{"type": ["reasoning"]}, 5]).sealed == ""
