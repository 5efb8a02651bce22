"""The dialect *Google generate*: what its requests can take, what its answers tell, how it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmkeys.dialects.base import Bound, Request, Rewrite, Seen
from llmkeys.dialects.google_generate import GoogleGenerate
from tests.dialects.helpers import PNG, events_of, pieces_of, refusal, request_of, seen_in
from tests.providers.helpers import recorded, recorded_bytes

GOOGLE = GoogleGenerate()
HI = [{"role": "user", "parts": [{"text": "hi"}]}]
ARRAY = recorded_bytes("google-generate-stream-jsonarray.json")


def ask(operation: str = "generate", *, model: str = "gemini-2.5-flash", query: str = "", **body: Any) -> Request:
    return request_of(GOOGLE, {"contents": HI} | body, operation=operation, path_model=model, query=query)


def bound(**body: Any) -> Bound:
    return ask(**body).bound


def with_part(part: dict[str, Any]) -> Request:
    return ask(contents=[{"parts": [part]}])


def sse(*documents: dict[str, Any]) -> Seen:
    request = ask("stream", query="alt=sse")
    return seen_in(request, [f"data: {json.dumps(document)}\r\n\r\n".encode() for document in documents])


class TestDoors:
    def test_the_model_is_in_the_path(self) -> None:
        paths = {door.operation: (door.path, door.action) for door in GOOGLE.doors[:5]}
        assert paths["generate"] == ("/v1beta/models/{model:path}:generateContent", ":generateContent")
        assert set(paths) == {"generate", "stream", "count_tokens", "embed", "batch_embed"}

    @pytest.mark.parametrize("model", ["gemini-2.5-flash", "models/gemini-2.5-flash"])
    def test_its_prefix_may_stay(self, model: str) -> None:
        assert ask(model=model).model == "gemini-2.5-flash"

    @pytest.mark.parametrize("model", ["", "a/b", "../x", "a b", "a?b", "a:b", "ä", "x" * 201, "models/"])
    def test_a_name_that_is_no_path_is_refused(self, model: str) -> None:
        assert list(refusal(ask(model=model))) == ["model"]

    def test_a_preset_that_cannot_exist_is_refused(self) -> None:
        assert refusal(ask(preset="cheap")) == {}
        assert list(refusal(ask(preset="x" * 201))) == ["preset"]

    def test_one_door_alone_streams(self) -> None:
        assert ask("stream").streamed
        assert not ask("generate", stream=True).streamed


class TestRequests:
    @pytest.mark.parametrize(
        ("operation", "body"),
        [
            ("generate", {}),
            ("stream", {"contents": {"parts": {"text": "hi"}}}),
            ("count_tokens", {}),
            ("count_tokens", {"contents": None, "generateContentRequest": {"contents": HI}}),
            ("embed", {"content": {"parts": [{"text": "hi"}]}}),
            ("batch_embed", {"requests": [{"model": "models/m", "content": {"parts": []}}]}),
        ],
    )
    def test_it_takes_whole_ones(self, operation: str, body: dict[str, Any]) -> None:
        assert refusal(ask(operation, **body)) == {}

    @pytest.mark.parametrize(
        ("operation", "body", "param", "words"),
        [
            ("generate", {"contents": None}, "contents", "is missing"),
            ("generate", {"contents": []}, "contents", "is empty"),
            ("generate", {"contents": "hi"}, "contents", "must be a list of objects"),
            ("generate", {"contents": None, "messages": []}, "contents", "send it to /v1/chat/completions"),
            ("embed", {}, "content", "generateContent"),
            ("batch_embed", {}, "requests", "is missing"),
            ("generate", {"generationConfig": 5}, "generationConfig", "must be an object"),
            ("generate", {"generationConfig": {}, "generation_config": {}}, "generationConfig", "twice"),
            (
                "generate",
                {"generationConfig": {"maxOutputTokens": 0}},
                "generationConfig.maxOutputTokens",
                "must be from 1",
            ),
            ("generate", {"generationConfig": {"candidateCount": "2"}}, "generationConfig.candidateCount", "whole"),
        ],
    )
    def test_it_names_what_is_wrong(self, operation: str, body: dict[str, Any], param: str, words: str) -> None:
        [(name, [told])] = refusal(ask(operation, **body)).items()
        assert name == param
        assert words in told


class TestBound:
    def test_a_text_takes_its_bytes(self) -> None:
        request = ask(generationConfig={"maxOutputTokens": 256.0, "candidateCount": 3})
        assert request.bound.input_tokens == len(request.raw) + 256
        assert (request.bound.output_tokens, request.bound.choices) == (256, 3)

    def test_names_may_be_written_either_way(self) -> None:
        found = bound(
            generation_config={"max_output_tokens": 77, "candidate_count": 2, "thinking_config": {"thinking_budget": 9}}
        )
        assert (found.output_tokens, found.choices, found.thinking_tokens) == (77, 2, 9)

    @pytest.mark.parametrize(("budget", "thinks"), [(9, 9), (9.0, 9), (-1, 0), (-1.0, 0)])
    def test_a_thinking_budget_may_be_written_with_a_point(self, budget: Any, thinks: int) -> None:
        found = bound(generationConfig={"thinkingConfig": {"thinkingBudget": budget}})
        assert (found.may_reason, found.thinking_tokens) == (True, thinks)

    def test_counting_is_free_and_embedding_makes_nothing(self) -> None:
        assert ask("count_tokens").bound.is_free
        found = ask("embed", content={"parts": [{"text": "hi"}]}).bound
        assert (found.output_tokens, found.is_free) == (0, False)

    def test_a_picture_counts_and_its_base64_does_not(self) -> None:
        for part in (
            {"inlineData": {"mimeType": "image/png", "data": PNG}},
            {"inline_data": {"mime_type": "image/png", "data": PNG}},
            {"functionResponse": {"name": "f", "parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}]}},
        ):
            request = with_part(part)
            assert request.bound.image_input_tokens == 6_000
            assert request.bound.input_tokens == len(request.raw) - len(PNG) + 6_000 + 256

    @pytest.mark.parametrize("tokens", [9_000, 9_000.0])
    def test_a_client_may_want_more_tokens_of_a_picture(self, tokens: Any) -> None:
        picture = {"inlineData": {"mimeType": "image/png", "data": PNG}, "mediaResolution": {"numTokens": tokens}}
        assert with_part(picture).bound.image_input_tokens == 9_000

    def test_sound_lasts_as_long_as_its_format_allows(self) -> None:
        sound = {"inlineData": {"mimeType": "audio/mp3", "data": "A" * 200_000}}
        assert with_part(sound).bound.audio_input_tokens == 6_000

    @pytest.mark.parametrize(
        "part",
        [
            {"fileData": {"mimeType": "text/plain", "fileUri": "https://x/files/1"}},
            {"file_data": {"file_uri": "gs://x/1"}},
            {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
            {"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}},
            {"inlineData": {"data": "AAAA"}},
        ],
    )
    def test_what_nobody_can_count_takes_the_whole_window(self, part: dict[str, Any]) -> None:
        assert with_part(part).bound.whole_window

    def test_so_does_content_that_google_keeps(self) -> None:
        assert bound(cachedContent="cachedContents/1").whole_window
        assert not bound().whole_window

    def test_what_a_function_was_called_with_is_text(self) -> None:
        request = with_part({"functionCall": {"args": {"inlineData": {"mimeType": "image/png", "data": PNG}}}})
        assert request.bound.input_tokens >= len(request.raw)

    @pytest.mark.parametrize(
        ("tool", "tokens", "searches"),
        [
            ({"functionDeclarations": [{"name": "f"}, {"name": "g"}]}, 0, 0),
            ({"googleSearch": {}}, 80_000, 5),
            ({"google_search": {}}, 80_000, 5),
            ({"googleMaps": {}}, 80_000, 5),
            ({"urlContext": {}}, 80_000, 0),
            ({"codeExecution": {}}, 80_000, 0),
            ({"computerUse": {}}, 0, 0),
            ({"googleSearch": {}, "codeExecution": {}}, 160_000, 5),
            ({"somethingNew": {}}, 80_000, 5),
        ],
    )
    def test_tools(self, tool: dict[str, Any], tokens: int, searches: int) -> None:
        found = bound(tools=[tool])
        assert (found.tool_input_tokens, found.searches) == (tokens, searches)

    @pytest.mark.parametrize(
        ("config", "may_reason", "budget"),
        [
            (None, None, 0),
            ({"thinkingBudget": 0}, False, 0),
            ({"thinkingBudget": -1}, True, 0),
            ({"thinkingBudget": 2048}, True, 2048),
            ({"thinkingLevel": "LOW"}, True, 0),
        ],
    )
    def test_thinking(self, config: Any, may_reason: bool | None, budget: int) -> None:
        found = bound(generationConfig={"thinkingConfig": config})
        assert (found.may_reason, found.thinking_tokens) == (may_reason, budget)

    def test_what_may_come_out(self) -> None:
        assert bound(generationConfig={"responseModalities": ["TEXT", "IMAGE"]}).output_kinds == {"text", "image"}
        assert bound(model="gemini-2.5-flash-preview-tts").output_kinds == {"text", "audio"}
        assert bound(model="gemini-2.5-flash-image").output_kinds == {"text", "image"}

    def test_the_tier(self) -> None:
        assert bound(serviceTier="PRIORITY").service_tier == "priority"
        assert bound(service_tier="flex").service_tier == "flex"
        assert bound().service_tier is None


class TestRewriting:
    def test_nothing_changes_without_need(self) -> None:
        request = ask()
        assert GOOGLE.rewritten(request, Rewrite(model="gemini-2.5-flash")) is request.raw

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({}, {"generationConfig": {"maxOutputTokens": 9}}),
            (
                {"generation_config": {"max_output_tokens": 99, "top_k": 1}},
                {"generation_config": {"top_k": 1, "maxOutputTokens": 9}},
            ),
        ],
    )
    def test_the_output_limit_goes_where_the_client_put_it(self, given: Any, expected: Any) -> None:
        body = json.loads(GOOGLE.rewritten(ask(**given), Rewrite(model="gemini-2.5-flash", output_limit=9)))
        assert body == {"contents": HI} | expected

    def test_another_model_is_named_in_the_body_too(self) -> None:
        change = Rewrite(model="gemini-embedding-001")
        one = {"model": "models/x", "content": {"parts": []}}
        body = json.loads(GOOGLE.rewritten(ask("batch_embed", contents=None, requests=[one]), change))
        assert body["requests"][0]["model"] == "models/gemini-embedding-001"
        body = json.loads(GOOGLE.rewritten(ask("count_tokens", generateContentRequest={"model": "models/x"}), change))
        assert body["generateContentRequest"]["model"] == "models/gemini-embedding-001"


class TestAnswers:
    def test_the_recording_with_cache_and_thoughts(self) -> None:
        seen = GOOGLE.see_answer(recorded("google-generate-nonstream-cached-thoughts.json"))
        usage = seen.usage
        assert usage is not None
        assert (usage.input_tokens, usage.cached_input_tokens) == (3520, 3512)
        assert (usage.output_tokens, usage.reasoning_tokens) == (44, 42)
        assert (usage.service_tier, usage.model) == ("standard", "gemini-2.5-flash")
        assert (seen.content_bytes, seen.is_finished, seen.id) == (6, True, "_VQYaqvRGbW6qtsPg4TDoAg")

    @pytest.mark.parametrize(
        ("counts", "expected"),
        [
            ({"promptTokenCount": 10, "totalTokenCount": 10}, (10, 0)),
            ({"promptTokenCount": 10, "totalTokenCount": 25}, (10, 15)),
            ({"promptTokenCount": 10, "candidatesTokenCount": 2, "thoughtsTokenCount": 3}, (10, 5)),
            ({"promptTokenCount": 10, "toolUsePromptTokenCount": 7, "totalTokenCount": 20}, (17, 3)),
            ({"candidatesTokenCount": 2, "totalTokenCount": 20}, (18, 2)),
            ({"promptTokenCount": "10", "candidatesTokenCount": 2.0}, (10, 2)),
            ({"promptTokenCount": 10}, (10, None)),
        ],
    )
    def test_a_total_proves_what_is_missing(self, counts: Any, expected: tuple[int, int | None]) -> None:
        usage = GOOGLE.see_answer({"usageMetadata": counts}).usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == expected

    def test_each_modality(self) -> None:
        usage = GOOGLE.see_answer(
            {
                "usageMetadata": {
                    "promptTokenCount": 1100,
                    "candidatesTokenCount": 1300,
                    "promptTokensDetails": [
                        {"modality": "TEXT", "tokenCount": 100},
                        {"modality": "AUDIO", "tokenCount": 500},
                        {"modality": "IMAGE", "tokenCount": 300},
                        {"modality": "VIDEO", "tokenCount": 200},
                    ],
                    "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 50}],
                    "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
                }
            }
        ).usage
        assert usage is not None
        assert (usage.audio_input_tokens, usage.image_input_tokens, usage.cached_audio_tokens) == (500, 300, 50)
        assert usage.video_input_tokens == 200
        assert (usage.image_output_tokens, usage.audio_output_tokens) == (1290, None)

    @pytest.mark.parametrize(
        ("grounding", "searches"),
        [
            (None, None),
            ({}, None),
            ({"webSearchQueries": ["a", "b"]}, 2),
            ({"groundingChunks": [{"web": {}}]}, 1),
            ({"groundingChunks": [{"retrievedContext": {}}, {"maps": {}}]}, 1),
            ({"groundingChunks": [{"retrievedContext": {"title": "a.pdf"}}]}, None),
            ({"groundingChunks": [7]}, None),
        ],
    )
    def test_searches_count_where_they_ran(self, grounding: Any, searches: int | None) -> None:
        usage = GOOGLE.see_answer(
            {"candidates": [{"groundingMetadata": grounding}], "usageMetadata": {"promptTokenCount": 1}}
        ).usage
        assert usage is not None
        assert usage.searches == searches

    def test_a_refused_prompt_is_finished_and_without_content(self) -> None:
        seen = GOOGLE.see_answer(
            {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}
        )
        assert (seen.has_content, seen.is_finished, seen.error) == (False, True, None)

    @pytest.mark.parametrize("body", [{"embedding": {"values": [0.1]}}, {"embeddings": [{"values": [0.1]}]}])
    def test_a_vector_has_no_output_tokens(self, body: Any) -> None:
        seen = GOOGLE.see_answer(body | {"usageMetadata": {"promptTokenCount": 4}})
        assert seen.usage is not None
        assert (seen.usage.input_tokens, seen.usage.output_tokens) == (4, 0)
        assert (seen.has_content, seen.content_bytes) == (True, 0)
        assert GOOGLE.see_answer(body).usage is None

    def test_a_count(self) -> None:
        usage = GOOGLE.see_answer({"totalTokens": 31, "promptTokensDetails": []}).usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == (31, 0)

    @pytest.mark.parametrize("name", ["google-error-429.json", "google-error-404-model.json"])
    def test_an_error_alone_or_in_a_list(self, name: str) -> None:
        body = recorded(name)
        assert GOOGLE.see_answer(body).error == body
        assert GOOGLE.see_answer([body]).error == body


class TestArrays:
    REQUEST = ask("stream")

    def test_the_recording(self) -> None:
        seen = seen_in(self.REQUEST, [ARRAY])
        assert seen.usage is not None
        assert (seen.usage.input_tokens, seen.usage.output_tokens, seen.usage.reasoning_tokens) == (11, 293, 291)
        assert (seen.has_content, seen.is_finished, seen.is_end) == (True, True, True)

    @pytest.mark.parametrize("size", [1, 2, 3, 64, 1000])
    def test_it_may_be_cut_anywhere(self, size: int) -> None:
        pieces = pieces_of(ARRAY, size)
        assert b"".join(events_of(self.REQUEST, pieces)) == ARRAY
        assert events_of(self.REQUEST, pieces) == events_of(self.REQUEST, [ARRAY])
        assert len(events_of(self.REQUEST, pieces)) == 4  # three elements and the bracket

    def test_signs_inside_texts_are_no_signs(self) -> None:
        texts = ['}]{["', '\\"}', "\\\\", '{"a": [1]}', "ä]"]
        elements = [{"candidates": [{"content": {"parts": [{"text": text}]}}]} for text in texts]
        stream = json.dumps(elements).encode()
        for size in (1, 3, 1000):
            events = events_of(self.REQUEST, pieces_of(stream, size))
            assert b"".join(events) == stream
            assert len(events) == len(texts) + 1
        assert seen_in(self.REQUEST, [stream]).content_bytes == sum(len(text.encode()) for text in texts)

    def test_an_error_that_is_no_array(self) -> None:
        body = recorded("google-error-429.json")
        assert seen_in(self.REQUEST, [json.dumps(body).encode()]).error == body

    def test_a_stream_that_comes_as_sse_is_read_all_the_same(self) -> None:
        chunk = b'data: {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4}}\r\n\r\n'
        usage = seen_in(self.REQUEST, pieces_of(chunk * 2, 5)).usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == (3, 4)

    def test_a_broken_one_has_no_end(self) -> None:
        seen = seen_in(self.REQUEST, [ARRAY[:1200]])
        assert (seen.is_end, seen.is_finished) == (False, False)


class TestStreams:
    def test_running_totals_grow_and_the_last_ones_stay(self) -> None:
        seen = sse(
            {"usageMetadata": {"promptTokenCount": 31, "totalTokenCount": 31}, "responseId": "r"},
            {"usageMetadata": {"promptTokenCount": 31, "candidatesTokenCount": 40, "totalTokenCount": 79}},
            {"usageMetadata": {"promptTokenCount": 31, "candidatesTokenCount": 40, "totalTokenCount": 79}},
        )
        assert seen.usage is not None
        assert (seen.usage.input_tokens, seen.usage.output_tokens, seen.id) == (31, 48, "r")

    def test_an_array_that_comes_for_sse_is_read_all_the_same(self) -> None:
        seen = seen_in(ask("stream", query="alt=sse"), pieces_of(ARRAY, 100))
        assert seen.usage is not None
        assert seen.usage.output_tokens == 293

    @pytest.mark.parametrize(
        ("part", "has_content"),
        [
            ({"text": ""}, False),
            ({"text": "", "thoughtSignature": "Eq0J"}, False),
            ({"text": "x"}, True),
            ({"text": "x", "thought": True}, True),
            ({"functionCall": {"name": "f", "args": {}}}, True),
            ({"inlineData": {"mimeType": "image/png", "data": PNG}}, True),
        ],
    )
    def test_content(self, part: dict[str, Any], has_content: bool) -> None:
        assert sse({"candidates": [{"content": {"parts": [part]}}]}).has_content is has_content

    def test_an_error_inside(self) -> None:
        error = {"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}
        assert sse({"candidates": []}, error).error == error


class TestTowardsTheClient:
    def test_errors_are_googles_with_our_reason(self) -> None:
        assert json.loads(GOOGLE.error_body(429, "all_keys_at_limit", "Words.")) == {
            "error": {
                "code": 429,
                "message": "Words.",
                "status": "RESOURCE_EXHAUSTED",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "all_keys_at_limit",
                        "domain": "llmkeys",
                    }
                ],
            }
        }

    @pytest.mark.parametrize(
        ("status", "name"),
        [(400, "INVALID_ARGUMENT"), (401, "UNAUTHENTICATED"), (404, "NOT_FOUND"), (503, "UNAVAILABLE")],
    )
    def test_each_status_has_its_name(self, status: int, name: str) -> None:
        assert json.loads(GOOGLE.error_body(status, "x", "y"))["error"]["status"] == name

    def test_a_field_is_named(self) -> None:
        details = json.loads(GOOGLE.error_body(400, "invalid_request", "No.", "contents"))["error"]["details"]
        assert details[1]["fieldViolations"] == [{"field": "contents", "description": "No."}]

    def test_sse(self) -> None:
        request = ask("stream", query="key=x&alt=sse")
        assert GOOGLE.stream_type(request) == "text/event-stream"
        assert GOOGLE.keep_alive(request) == b"\r\n"
        event = GOOGLE.error_event(502, "upstream_error", "Words.", request)
        assert event == GOOGLE.first_error_event(502, "upstream_error", "Words.", request)
        assert GOOGLE.see_event(event, request).error is not None

    def test_an_error_keeps_an_array_an_array(self) -> None:
        request = ask("stream")
        assert GOOGLE.stream_type(request) == "application/json"
        life = GOOGLE.keep_alive(request)
        first = life + GOOGLE.first_error_event(502, "upstream_error", "Words.", request)
        assert json.loads(first)[0]["error"]["status"] == "UNAVAILABLE"
        assert json.loads(life + GOOGLE.as_event(GOOGLE.error_body(404, "x", "y"), request))[0]["error"]["code"] == 404
        sent = events_of(request, [ARRAY])[0]
        later = life + sent + life + GOOGLE.error_event(502, "upstream_error", "Words.", request)
        assert json.loads(later)[1]["error"]["code"] == 502
