"""What holds for every dialect: no hook raises on anything, streams may be cut anywhere, bytes stay as they are."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkeys.dialects.anthropic_messages import AnthropicMessages
from llmkeys.dialects.base import Dialect, Door, Request, Rewrite
from llmkeys.dialects.bounds import BadCount, may_reason_unseen
from llmkeys.dialects.google_generate import GoogleGenerate
from llmkeys.dialects.openai_chat import OpenAIChat
from llmkeys.dialects.openai_embeddings import OpenAIEmbeddings
from llmkeys.dialects.openai_responses import OpenAIResponses
from llmkeys.exceptions import InvalidInput
from tests.dialects.helpers import events_of, seen_in

ALL = [OpenAIChat(), OpenAIResponses(), OpenAIEmbeddings(), AnthropicMessages(), GoogleGenerate()]
DOORS = [(dialect, door) for dialect in ALL for door in dialect.doors]

NAMES = [
    *("type", "content", "messages", "input", "contents", "parts", "text", "role", "system", "tools", "requests"),
    *("image_url", "url", "file", "file_data", "input_audio", "data", "format", "source", "media_type", "inlineData"),
    *("mimeType", "fileData", "functionResponse", "output", "result", "detail", "mediaResolution", "numTokens"),
    *("cache_control", "ttl", "prediction", "plugins", "model", "models", "service_tier", "speed", "thinking"),
    *("budget_tokens", "reasoning", "reasoning_effort", "effort", "generationConfig", "thinkingConfig", "max_uses"),
    *("thinkingBudget", "responseModalities", "modalities", "fallbacks", "context_management", "edits", "environment"),
    *("usage", "usageMetadata", "prompt_tokens", "input_tokens", "output_tokens", "total_tokens", "iterations"),
    *("prompt_tokens_details", "input_tokens_details", "cache_creation", "server_tool_use", "promptTokensDetails"),
    *("modality", "tokenCount", "promptTokenCount", "totalTokenCount", "candidates", "groundingMetadata", "choices"),
    *("delta", "message", "error", "response", "item", "content_block", "finish_reason", "finishReason", "tool_usage"),
    *("web_search", "image_gen", "num_requests", "action", "totalTokens", "embedding", "stop_reason", "promptFeedback"),
    *("stream", "max_tokens", "max_output_tokens", "n", "provider", "max_price", "metadata", "conversation", "id"),
]
WORDS = [
    *("image_url", "input_image", "image", "document", "file", "input_file", "input_audio", "video_url", "base64"),
    *("message", "message_start", "message_delta", "content_block_start", "content_block_delta", "message_stop"),
    *("tool_use", "tool_result", "web_search", "image_generation", "advisor_20260301", "compact_20260112", "error"),
    *("response.completed", "response.output_text.delta", "response.output_item.done", "web_search_call", "namespace"),
    *("data:image/png;base64,AAAA", "data:audio/wav;base64,UklGRg==", "data:text/plain,x", "https://x/a", "wav", "ä"),
    *("ephemeral", "1h", "none", "AUDIO", "\ud800", "-1", "12"),
]
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10)
    | st.sampled_from(WORDS)
)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=30,
)
bodies = st.dictionaries(st.sampled_from(NAMES), anything, max_size=8)
relaxed = settings(max_examples=100)


def request(dialect: Dialect, door: Door, body: Any, *, query: str = "") -> Request:
    raw = json.dumps(body, default=str).encode()
    return Request(dialect=dialect, door=door, body=body, raw=raw, path_model="gemini-2.5-flash", query=query)


@relaxed
@given(place=st.sampled_from(DOORS), body=bodies)
def test_a_request_is_taken_or_refused_in_words(place: tuple[Dialect, Door], body: dict[str, Any]) -> None:
    asked = request(*place, body)
    try:
        asked.dialect.validate(asked)
    except InvalidInput as refused:
        assert all(words for found in refused.errors.values() for words in found)
    assert isinstance(asked.model, str)
    assert all(isinstance(name, str) and name for name in asked.other_models)
    assert isinstance(asked.streamed, bool)
    try:
        assert isinstance(asked.sealed, str)
        bound = asked.bound
    except BadCount as bad:
        assert bad.param
        return
    assert bound.input_tokens >= 0
    assert bound.text_tokens <= bound.input_tokens
    assert bound.audio_input_tokens + bound.image_input_tokens <= bound.input_tokens
    assert max(bound.input_tokens, bound.tool_input_tokens, bound.output_tokens or 0) < 10**15
    for model in ("gpt-4o", "claude-opus-5-5"):
        assert asked.dialect.tighter_bound(asked, model).input_tokens <= bound.input_tokens
        assert may_reason_unseen(model, bound) in (True, False)


@relaxed
@given(place=st.sampled_from(DOORS), body=bodies)
def test_a_changed_request_is_json(place: tuple[Dialect, Door], body: dict[str, Any]) -> None:
    asked = request(*place, json.loads(json.dumps(body, default=str)))
    try:
        asked.dialect.validate(asked)
    except InvalidInput:
        return
    change = Rewrite(model="other", output_limit=5, asks_usage=True, max_price={"prompt": Decimal("0.5")})
    assert isinstance(json.loads(asked.dialect.rewritten(asked, change)), dict)


@relaxed
@given(dialect=st.sampled_from(ALL), body=anything | bodies)
def test_a_whole_answer_never_raises(dialect: Dialect, body: Any) -> None:
    seen = dialect.see_answer(body)
    assert seen.content_bytes >= 0
    assert seen.has_content or not seen.content_bytes
    assert seen.usage is None or seen.usage.merged(seen.usage) == seen.usage


@relaxed
@given(
    place=st.sampled_from(DOORS),
    body=anything | bodies,
    frame=st.sampled_from([b"data: %b\n\n", b"event: x\r\ndata: %b\r\n\r\n", b"[%b", b",%b", b"%b]", b"%b", b": %b"]),
)
def test_an_event_never_raises(place: tuple[Dialect, Door], body: Any, frame: bytes) -> None:
    event = frame % json.dumps(body, default=str).encode()
    seen = place[0].see_event(event, request(*place, {}))
    assert seen.has_content or not seen.content_bytes


@relaxed
@given(place=st.sampled_from(DOORS), event=st.binary(max_size=60))
def test_bytes_that_mean_nothing_never_raise(place: tuple[Dialect, Door], event: bytes) -> None:
    place[0].see_event(event, request(*place, {}))


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
def test_deep_answers_never_raise(dialect: Dialect) -> None:
    for depth in (500, 5_000, 100_000):
        deep = b'{"delta":' * depth + b"1" + b"}" * depth
        dialect.see_event(b"data: " + deep + b"\n\n", request(dialect, dialect.doors[0], {}))
    body: Any = {"text": "x"}
    for _ in range(50_000):
        body = {"content": [body]}
    dialect.see_answer({"choices": [{"message": body}], "content": [body], "output": [body]})


ELEMENTS = st.lists(bodies, min_size=1, max_size=5)


@relaxed
@given(
    place=st.sampled_from(
        [place for place in DOORS if place[1].operation in ("chat", "messages", "responses", "stream")]
    ),
    elements=ELEMENTS,
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
    query=st.sampled_from(["alt=sse", ""]),
)
def test_a_stream_may_be_cut_anywhere(
    place: tuple[Dialect, Door], elements: list[Any], end: str, cuts: list[int], query: str
) -> None:
    asked = request(*place, {"stream": True}, query=query)
    if place[0].name == "google-generate" and not query:
        stream = json.dumps(elements, default=str).encode()
    else:
        stream = "".join(f"data: {json.dumps(one, default=str)}{end}{end}" for one in elements).encode()
    at = sorted({min(cut, len(stream)) for cut in cuts})
    pieces = [stream[begin:stop] for begin, stop in zip([0, *at], [*at, len(stream)], strict=True)]
    assert b"".join(events_of(asked, pieces)) == stream
    assert seen_in(asked, pieces) == seen_in(asked, [stream])


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 409, 413, 415, 418, 429, 500, 502, 503, 504, 529])
def test_every_error_carries_code_and_words(dialect: Dialect, status: int) -> None:
    whole = dialect.error_body(status, "some_code", "Some “words”.", "messages")
    for text in (
        whole.decode(),
        dialect.error_event(status, "some_code", "Some “words”.", request(dialect, dialect.doors[-1], {})).decode(),
    ):
        assert "some_code" in text
        assert "Some “words”." in text
    assert json.loads(whole)["error"]["message"] == "Some “words”."
    assert dialect.see_answer(json.loads(whole)).error is not None
