"""What a request can take and make at most: text, media, tools, choices; never too few."""

from __future__ import annotations

import base64
import json
import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkeys.dialects.base import Bound
from llmkeys.dialects.bounds import BadCount, chat_bound, estimate_tokens, may_reason_unseen

OVERHEAD = 256
PNG = "data:image/png;base64," + "A" * 9_978  # 10,000 characters
SERVER_TOOL = 4_000  # the words of a tool that the provider describes


def bound_of(body: dict[str, Any]) -> Bound:
    return chat_bound(body, body_size=len(json.dumps(body)))


def with_part(part: Any, **more: Any) -> tuple[Bound, int]:
    """Return the bound of a body with one part, and its tokens less the overhead and the body's own bytes."""
    body = {"messages": [{"role": "user", "content": [part]}], **more}
    bound = bound_of(body)
    return bound, bound.input_tokens - OVERHEAD - len(json.dumps(body))


def wav(*, rate: int, channels: int = 1, bits: int = 16, tag: int = 1, seconds: int = 1) -> str:
    sound = b"\0" * (rate * channels * bits // 8 * seconds)
    form = struct.pack("<HHIIHH", tag, channels, rate, 1, 1, bits)
    head = b"RIFF" + struct.pack("<I", len(sound)) + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data"
    return base64.b64encode(head + struct.pack("<I", len(sound)) + sound).decode()


class TestText:
    def test_it_bounds_a_text_by_its_bytes(self) -> None:
        body = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "hello"}]}
        assert chat_bound(body, body_size=70) == Bound(70 + OVERHEAD, None, text_tokens=70)

    def test_it_adds_a_fixed_amount_for_each_tool_of_the_client(self) -> None:
        body = {"messages": [], "tools": [{"type": "function"}, {"type": "custom"}], "functions": [{}]}
        bound = chat_bound(body, body_size=100)
        assert (bound.input_tokens, bound.tool_input_tokens) == (100 + OVERHEAD + 3 * 400, 0)


class TestServerTools:
    """`max_uses`, else five rounds of 16,000 tokens, and a fee each."""

    @pytest.mark.parametrize(
        "body",
        [
            {"plugins": [{"id": "web"}]},
            {"web_search_options": {}},
            {"model": "openai/gpt-4o:online"},
            {"models": ["openai/gpt-4o", "openai/gpt-4.1:online"]},
            {"tools": [{"type": "openrouter:web_search"}]},
            {"tools": [{"type": "something_new"}]},
            {"model": "openai/gpt-4o-search-preview"},
            {"model": "perplexity/sonar-pro"},
        ],
    )
    def test_they_have_five_rounds(self, body: dict[str, Any]) -> None:
        bound = bound_of(body)
        assert (bound.tool_input_tokens, bound.searches) == (80_000, 5)
        assert bound.input_tokens == len(json.dumps(body)) + OVERHEAD + SERVER_TOOL

    @pytest.mark.parametrize("limit", [{"max_uses": 2}, {"parameters": {"max_uses": 2}}, {"max_uses": 2.0}])
    def test_or_as_many_as_the_client_allows(self, limit: Any) -> None:
        bound = bound_of({"tools": [{"type": "openrouter:web_search"} | limit]})
        assert (bound.tool_input_tokens, bound.searches) == (32_000, 2)

    @pytest.mark.parametrize("uses", [-1, 1.5, "2", True, None, []])
    def test_nonsense_is_no_limit(self, uses: Any) -> None:
        assert bound_of({"tools": [{"type": "web_search", "max_uses": uses}]}).searches == 5

    def test_they_add_up(self) -> None:
        tools = [{"type": "web_search", "max_uses": 1}, {"type": "image_generation"}]
        found = bound_of({"tools": tools, "plugins": [{"id": "web"}, {"id": "x", "enabled": False}]})
        assert (found.searches, found.drawings, found.tool_input_tokens) == (6, 5, 11 * 16_000)

    @pytest.mark.parametrize(
        ("results", "tens"), [(1, 1), (10, 1), (11, 2), (25, 3), (100, 10), (25.0, 3), (None, 1), ("25", 1)]
    )
    def test_openrouters_searches_cost_by_their_results(self, results: Any, tens: int) -> None:
        """openrouter.ai/docs/features/web-search: 4 USD for 1,000 results; a fee of ours covers ten."""
        found = bound_of({"plugins": [{"id": "web", "max_results": results}]})
        assert (found.searches, found.tool_input_tokens) == (5 * tens, 80_000 * tens)
        tool = {"type": "openrouter:web_search", "parameters": {"max_results": results, "max_uses": 1}}
        found = bound_of({"tools": [tool]})
        assert (found.searches, found.tool_input_tokens) == (tens, 16_000 * tens)

    def test_openrouters_tool_draws_with_another_model(self) -> None:
        tool = {"type": "openrouter:image_generation", "parameters": {"model": "openai/gpt-image-2"}}
        found = bound_of({"tools": [tool]})
        assert (found.drawings, found.drawing_models, found.searches) == (5, ("openai/gpt-image-2",), 0)

    @pytest.mark.parametrize(
        ("model", "engine", "pages"),
        [
            ("deepseek/deepseek-v3.2", None, 1_000), ("deepseek/deepseek-v3.2", "pdf-text", 0),
            ("openai/gpt-4o", None, 0), ("openai/gpt-4o", "mistral-ocr", 1_000), ("openai/gpt-4o", "native", 0),
            ("gpt-4o", None, 0),
        ],
    )  # fmt: skip
    def test_files_that_openrouter_reads_cost_by_the_page(self, model: str, engine: Any, pages: int) -> None:
        """openrouter.ai/docs, PDF inputs: 2 USD for 1,000 pages, unless the model or a free reader reads them."""
        plugins = [{"id": "file-parser", "pdf": {"engine": engine}}] if engine else []
        part = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
        body = {"model": model, "plugins": plugins, "messages": [{"role": "user", "content": [part]}]}
        assert dict(bound_of(body).fees).get("page", 0) == pages
        twice = body | {"messages": body["messages"] * 2}
        assert dict(bound_of(twice).fees).get("page", 0) == 2 * pages

    def test_the_best_of_several_answers_is_paid_with_all_of_them(self) -> None:
        assert bound_of({"n": 2, "best_of": 8}).choices == 8


class TestPictures:
    def test_the_base64_is_not_read_as_text(self) -> None:
        for address in ({"url": PNG}, PNG):
            bound, extra = with_part({"type": "image_url", "image_url": address})
            assert (bound.image_input_tokens, extra) == (6_000, 6_000 - 10_000)

    @pytest.mark.parametrize(
        ("detail", "model", "tokens"),
        [
            (None, "openai/gpt-4o", 6_000),
            ("original", "openai/gpt-4o", 15_000),
            (None, "gpt-6.1-sol", 15_000),
            ("low", "gpt-6.1-sol", 6_000),
            ("low", "openai/gpt-4o-mini", 50_000),
            (None, "qwen/qwen3-vl", 20_000),
            (None, "anthropic/claude-opus-5.5", 6_000),
        ],
    )
    def test_they_count_more_where_a_model_makes_more_of_them(self, detail: Any, model: str, tokens: int) -> None:
        picture = {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": detail}}
        assert with_part(picture, model=model)[0].image_input_tokens == tokens
        assert with_part(picture, model="gpt-4.1", models=[model])[0].image_input_tokens == tokens

    def test_base64_stays_in_the_bound_where_it_may_be_read_as_text(self) -> None:
        hidden = {"type": "image_url", "image_url": {"url": PNG}}
        body = {"messages": [], "tools": [{"type": "function", "function": {"parameters": hidden}}]}
        assert bound_of(body).input_tokens >= len(json.dumps(body)) + 6_000


class TestSound:
    def sound(self, data: str, written: str) -> Bound:
        return with_part({"type": "input_audio", "input_audio": {"data": data, "format": written}})[0]

    def test_mp3_lasts_longest_at_8_kbit(self) -> None:
        # 200,000 characters are 150,000 bytes: 150 s of 1,000 bytes each, 40 tokens a second
        assert self.sound("A" * 200_000, "mp3").audio_input_tokens == 6_000
        assert with_part({"type": "input_audio", "input_audio": {"data": "A" * 200_000, "format": "mp3"}})[1] == (
            6_000 - 200_000
        )

    @pytest.mark.parametrize(("rate", "bits", "tag"), [(24_000, 16, 1), (8_000, 8, 7), (4_000, 16, 1), (100, 8, 1)])
    def test_a_wav_tells_how_fast_it_plays(self, rate: int, bits: int, tag: int) -> None:
        seconds = 60
        found = self.sound(wav(rate=rate, bits=bits, tag=tag, seconds=seconds), "wav").audio_input_tokens
        assert 40 * seconds <= found <= 40 * seconds + 500

    @pytest.mark.parametrize(
        "data", [wav(rate=8000, tag=49), wav(rate=0, seconds=1) + "A" * 1000, "A" * 1000, "%%%" * 300]
    )
    def test_a_wav_that_does_not_is_taken_for_packed(self, data: str) -> None:
        assert self.sound(data, "wav").audio_input_tokens >= len(data) * 3 // 4 * 20

    @pytest.mark.parametrize(("written", "least"), [("aac", 64), ("opus", 16), ("flac", 2), ("", 2)])
    def test_silence_is_packed_into_little(self, written: str, least: int) -> None:
        assert self.sound("A" * 40_000, written).audio_input_tokens == 30_000 * 40 // least

    def test_a_long_one_counts_for_no_more_than_any_model_takes(self) -> None:
        # 15 MB of FLAC could be 7,500,000 seconds of silence
        assert self.sound("A" * 20_000_000, "flac").audio_input_tokens == 100_000_000

    def test_a_short_one_counts_for_something(self) -> None:
        assert self.sound("AAAA", "mp3").audio_input_tokens == 500

    def test_a_data_url_of_sound_is_sound(self) -> None:
        url = "data:audio/mp3;base64," + "A" * 200_000
        assert 6_000 <= with_part({"type": "image_url", "image_url": {"url": url}})[0].audio_input_tokens <= 6_010

    def test_an_earlier_spoken_answer_is_kept_by_the_provider(self) -> None:
        assert bound_of({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}).whole_window


class TestFiles:
    @pytest.mark.parametrize(
        "part",
        [
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "file", "file": {"file_data": "https://x.test/a.pdf"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
            {"type": "file", "file": {"file_data": "AAAA", "filename": "a.docx"}},
            {"type": "file", "file": {"file_data": "data:text/plain;base64,AAAA", "filename": "a.pdf"}},
            {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,AAAA"}},
            {"type": "video_url", "video_url": {"url": "https://x.test/a.mp4"}},
            {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
            {"type": "audio_url", "audio_url": {"url": "https://x.test/a.mp3"}},
        ],
    )
    def test_what_nobody_can_count_takes_the_whole_window(self, part: Any) -> None:
        assert with_part(part)[0].whole_window

    def test_a_plain_text_takes_its_bytes_and_a_half(self) -> None:
        url = "data:text/plain;base64," + "A" * 99_977
        for part in ({"type": "file", "file": {"file_data": url}}, {"type": "image_url", "image_url": {"url": url}}):
            bound, extra = with_part(part)
            assert not bound.whole_window
            assert extra == 112_500 - 100_000

    @pytest.mark.parametrize("body", [{"preset": "x"}, {"model": "@preset/x"}, {"model": "openai/gpt-4o@preset/x"}])
    def test_presets_are_kept_by_the_provider(self, body: dict[str, Any]) -> None:
        assert bound_of(body).whole_window

    @pytest.mark.parametrize("name", ["cached_content", "cachedContent"])
    @pytest.mark.parametrize("place", ["top", "extra_body"])
    def test_so_is_a_cache_of_googles(self, name: str, place: str) -> None:
        google = {"google": {name: "cachedContents/1"}}
        assert bound_of(google if place == "top" else {"extra_body": google}).whole_window
        assert not bound_of({"google": {name: None, "thinking_config": {}}}).whole_window

    def test_a_plain_request_does_not(self) -> None:
        assert not with_part({"type": "text", "text": "file"})[0].whole_window


class TestCacheWrites:
    @pytest.mark.parametrize(
        ("body", "hour"),
        [
            ({"cache_control": {"type": "ephemeral"}}, False),
            ({"messages": [{"role": "user", "content": "x", "cache_control": {}}]}, False),
            ({"messages": [{"content": [{"type": "text", "text": "x", "cache_control": {"ttl": "1h"}}]}]}, True),
            ({"tools": [{"function": {"cache_control": {"ttl": "5m"}}}]}, False),
            ({"extra": [[{"deep": {"cache_control": None}}]]}, False),
        ],
    )
    def test_it_sees_that_a_request_can_write_a_cache(self, body: dict[str, Any], hour: bool) -> None:
        assert (bound_of(body).can_write_cache, bound_of(body).can_write_cache_1h) == (True, hour)

    @pytest.mark.parametrize(
        ("body", "long"),
        [
            ({}, False),
            ({"prompt_cache_retention": "in_memory"}, False),
            ({"prompt_cache_options": {"ttl": "30m"}}, False),
            ({"prompt_cache_retention": "24h"}, True),
            ({"prompt_cache_options": {"ttl": "12h"}}, True),
        ],
    )
    def test_openai_may_keep_what_is_cached_for_longer(self, body: dict[str, Any], long: bool) -> None:
        assert bound_of(body).can_write_cache_1h is long

    def test_it_is_not_misled_by_a_text(self) -> None:
        assert not bound_of({"messages": [{"content": '"cache_control": {}'}]}).can_write_cache


class TestOutput:
    @pytest.mark.parametrize(
        ("body", "limit"),
        [
            ({}, None),
            ({"max_tokens": None}, None),
            ({"max_tokens": 1}, 1),
            ({"max_tokens": 256.0}, 256),
            ({"max_tokens": Decimal("256.0")}, 256),
            ({"max_completion_tokens": 100_000_000}, 100_000_000),
            ({"max_tokens": 10, "max_completion_tokens": 20}, 20),
            ({"max_tokens": 30, "max_completion_tokens": 20}, 30),
        ],
    )
    def test_it_reads_the_output_limit(self, body: dict[str, Any], limit: int | None) -> None:
        assert (chat_bound(body, body_size=9).output_tokens, chat_bound(body, body_size=9).unlimited_field) == (
            limit,
            "",
        )

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n"])
    @pytest.mark.parametrize(
        "value", [True, False, 1.5, "10", [], {}, 0, -2, 100_000_001, 10**400, float("inf"), float("nan")]
    )
    def test_it_refuses_a_bad_count_and_names_it(self, field: str, value: Any) -> None:
        with pytest.raises(BadCount, match=rf"^{field} must be (a whole number|from 1 to [\d,]+)\.$") as refused:
            chat_bound({field: value}, body_size=9)
        assert refused.value.param == field

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    @pytest.mark.parametrize("value", [-1, -1.0, Decimal(-1)])
    def test_minus_one_is_no_limit_and_is_told(self, field: str, value: Any) -> None:
        bound = chat_bound({"max_tokens": 5, field: value}, body_size=9)
        assert (bound.output_tokens, bound.unlimited_field) == (None, field)

    def test_it_reads_the_number_of_choices(self) -> None:
        assert bound_of({}).choices == bound_of({"n": None}).choices == 1
        assert bound_of({"n": 128}).choices == 128
        with pytest.raises(BadCount, match="n must be from 1 to 128"):
            bound_of({"n": 129})

    def test_it_adds_a_prediction_to_the_output(self) -> None:
        body = {"max_tokens": 100, "prediction": {"type": "content", "content": "größe"}}  # 7 bytes
        assert (bound_of(body).output_tokens, bound_of(body).prediction_tokens) == (107, 7)
        parts = {"prediction": {"content": [{"type": "text", "text": "12345"}]}}  # "text" counts too
        assert (bound_of(parts).output_tokens, bound_of(parts).prediction_tokens) == (None, 9)

    @pytest.mark.parametrize(
        ("body", "kinds"),
        [
            ({}, {"text"}),
            ({"modalities": ["text", "audio"]}, {"text", "audio"}),
            ({"modalities": ["IMAGE", 5]}, {"text", "image"}),
            ({"model": "openai/gpt-audio"}, {"text", "audio"}),
            ({"model": "m", "models": ["google/gemini-2.5-flash-image"]}, {"text", "image"}),
        ],
    )
    def test_it_tells_what_may_come_out(self, body: dict[str, Any], kinds: set[str]) -> None:
        assert bound_of(body).output_kinds == kinds

    def test_it_reads_the_service_tier(self) -> None:
        assert bound_of({"service_tier": "priority"}).service_tier == "priority"
        assert bound_of({"speed": "fast"}).service_tier == "fast"
        assert bound_of({"service_tier": 5}).service_tier is None


class TestReasoning:
    @pytest.mark.parametrize(
        ("body", "may_reason", "budget"),
        [
            ({}, None, 0),
            ({"reasoning_effort": "high"}, True, 0),
            ({"reasoning_effort": "none"}, False, 0),
            ({"reasoning": {"effort": "low"}}, True, 0),
            ({"reasoning": {"max_tokens": 2000}}, True, 2000),
            ({"reasoning": {"max_tokens": 2000.0}}, True, 2000),
            ({"reasoning": {"max_tokens": float("nan")}}, None, 0),
            ({"reasoning": {"enabled": False}}, False, 0),
            ({"reasoning": {"enabled": True}}, True, 0),
            ({"reasoning": {}}, None, 0),
            ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True, 1024),
            ({"thinking": {"type": "enabled", "budget_tokens": 30_000.0}}, True, 30_000),
            ({"thinking": {"type": "disabled"}}, False, 0),
            ({"extra_body": {"google": {"thinking_config": {"thinking_budget": 0}}}}, False, 0),
            ({"google": {"thinking_config": {"thinking_budget": 99}}}, True, 99),
            ({"google": {"thinkingConfig": {"thinkingBudget": 99}}, "extra_body": {"x": 1}}, True, 99),
        ],
    )
    def test_it_reads_every_name_of_it(self, body: dict[str, Any], may_reason: bool | None, budget: int) -> None:
        assert (bound_of(body).may_reason, bound_of(body).thinking_tokens) == (may_reason, budget)

    @pytest.mark.parametrize(
        "model",
        [
            *("gpt-6.1-sol", "openai/gpt-5-mini", "o3", "openai/o4-mini-high", "openai/gpt-oss-120b"),
            *("claude-opus-5-5", "anthropic/claude-sonnet-5.5", "~anthropic/claude-sonnet-latest", "claude-fable-5-2"),
            *("gemini-2.5-pro", "google/gemini-3.8-flash", "gemini-4-argon", "~google/gemini-pro-latest"),
            *("deepseek/deepseek-r1", "x-ai/grok-4", "qwen/qwen3-235b", "moonshotai/kimi-k2-thinking"),
            *("anthropic/claude-3.7-sonnet:thinking", "openrouter/auto"),
        ],
    )
    def test_models_that_think_unasked(self, model: str) -> None:
        assert may_reason_unseen(model, Bound(1, None))

    @pytest.mark.parametrize(
        "model", ["gpt-4o-mini", "openai/gpt-4.1", "claude-sonnet-4-5", "gemini-2.0-flash", "llama3.2", "mistral-large"]
    )
    def test_models_that_think_only_when_asked(self, model: str) -> None:
        assert not may_reason_unseen(model, Bound(1, None))
        assert may_reason_unseen(model, Bound(1, None, may_reason=True))

    @pytest.mark.parametrize(("model", "may"), [("gpt-6.1-sol", False), ("claude-opus-5-5", False), ("o3", True)])
    def test_some_cannot_be_stopped(self, model: str, may: bool) -> None:
        assert may_reason_unseen(model, Bound(1, None, may_reason=False)) is may


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["image_url", "file", "input_audio", "video_url", "data:image/png;base64,AAAA", "http://x"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["type", "content", "messages", "image_url", "url", "file", "file_data", "input_audio", "data", "video_url",
             "tools", "cache_control", "prediction", "role", "plugins", "model", "service_tier", "speed"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["messages", "tools", "prediction", "plugins", "model", "x"]), JUNK))
def test_it_takes_any_shape(body: dict[str, Any]) -> None:
    assert chat_bound(body, body_size=1000).input_tokens >= OVERHEAD


def test_it_takes_a_deep_body() -> None:
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]
    assert chat_bound({"messages": deep, "prediction": {"content": deep}}, body_size=9).input_tokens == 9 + OVERHEAD


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (3, 1), (4, 2), (300, 100)])
def test_it_estimates_a_token_for_three_bytes(size: int, tokens: int) -> None:
    assert estimate_tokens(size) == tokens
