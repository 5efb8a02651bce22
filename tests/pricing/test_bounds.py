"""`chat_bound` and its parts: the tokens of a chat body, never too few."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkeys.dialects.bounds import Bound, chat_bound, choice_count, estimate_tokens, output_limit

OVERHEAD = 256
PNG = "data:image/png;base64," + "A" * 9_978  # 10,000 characters


def bound_of(body) -> Bound:
    return chat_bound(body, body_size=len(json.dumps(body)))


def input_of_part(part, **more) -> int:
    """Return the tokens of a body with one part, less the overhead and the body's own bytes."""
    body = {"messages": [{"role": "user", "content": [part]}], **more}
    return bound_of(body).input_tokens - OVERHEAD - len(json.dumps(body))


class TestText:
    def test_it_bounds_a_text_by_its_bytes(self):
        body = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "hello"}]}
        assert chat_bound(body, body_size=70) == Bound(70 + OVERHEAD, None, 1, False, None)

    def test_it_adds_a_fixed_amount_for_each_tool(self):
        body = {"messages": [], "tools": [{"type": "function"}, {"type": "function"}], "functions": [{}]}
        assert chat_bound(body, body_size=100).input_tokens == 100 + OVERHEAD + 3 * 400

    def test_it_adds_search_results(self):
        assert chat_bound({"plugins": [{"id": "web"}]}, body_size=10).input_tokens == 10 + OVERHEAD + 20_000
        assert chat_bound({"web_search_options": {}}, body_size=10).input_tokens == 10 + OVERHEAD + 20_000
        assert chat_bound({"model": "openai/gpt-4o:online"}, body_size=10).input_tokens == 10 + OVERHEAD + 20_000


class TestMedia:
    def test_it_counts_a_picture_and_not_its_base64(self):
        assert input_of_part({"type": "image_url", "image_url": {"url": PNG}}) == 6_000 - 10_000
        assert input_of_part({"type": "image_url", "image_url": PNG}) == 6_000 - 10_000

    def test_it_counts_a_picture_elsewhere(self):
        assert input_of_part({"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}) == 6_000

    def test_it_counts_more_where_a_picture_is_dearer(self):
        part = {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "original"}}
        assert input_of_part(part) == 15_000
        assert input_of_part(part, model="openai/gpt-4o-mini") == 50_000

    def test_it_counts_sound_by_its_length(self):
        # 100,000 characters are 75,000 bytes: 75,000 / 64 = 1,171.9
        part = {"type": "input_audio", "input_audio": {"data": "A" * 100_000, "format": "mp3"}}
        assert input_of_part(part) == 1_172 - 100_000
        assert input_of_part({"type": "input_audio", "input_audio": {"data": "AAAA"}}) == 500 - 4

    def test_it_counts_a_file_by_its_bytes(self):
        # 100,000 characters are 75,000 bytes
        assert input_of_part({"type": "file", "file": {"file_data": "A" * 100_000}}) == 75_000 - 100_000
        assert input_of_part({"type": "file", "file": {"file_data": "AAAA"}}) == 6_000 - 4

    def test_it_counts_a_file_that_is_called_a_picture(self):
        url = "data:text/plain;base64," + "A" * 99_977
        assert input_of_part({"type": "image_url", "image_url": {"url": url}}) == 75_000 - 100_000

    @pytest.mark.parametrize(
        "part",
        [
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "file", "file": {"file_data": "https://x.test/a.pdf"}},
            {"type": "video_url", "video_url": {"url": "https://x.test/a.mp4"}},
        ],
    )
    def test_it_counts_a_million_for_what_it_cannot_see(self, part):
        assert input_of_part(part) == 1_000_000

    def test_it_leaves_base64_in_the_bound_where_it_may_be_read_as_text(self):
        hidden = {"type": "image_url", "image_url": {"url": PNG}}
        body = {"messages": [], "tools": [{"type": "function", "function": {"parameters": hidden}}]}
        assert bound_of(body).input_tokens >= len(json.dumps(body)) + 6_000


class TestCacheWrites:
    @pytest.mark.parametrize(
        "body",
        [
            {"cache_control": {"type": "ephemeral"}},
            {"messages": [{"role": "user", "content": "x", "cache_control": {}}]},
            {"messages": [{"content": [{"type": "text", "text": "x", "cache_control": {"ttl": "1h"}}]}]},
            {"tools": [{"function": {"cache_control": {}}}]},
            {"extra": [[{"deep": {"cache_control": None}}]]},
        ],
    )
    def test_it_sees_that_a_request_can_write_a_cache(self, body):
        assert bound_of(body).can_write_cache

    def test_it_is_not_misled_by_a_text(self):
        assert not bound_of({"messages": [{"content": '"cache_control": {}'}]}).can_write_cache


class TestOutput:
    @pytest.mark.parametrize(
        ("body", "limit"),
        [
            ({}, None),
            ({"max_tokens": None}, None),
            ({"max_tokens": 1}, 1),
            ({"max_completion_tokens": 100_000_000}, 100_000_000),
            ({"max_tokens": 10, "max_completion_tokens": 20}, 20),
            ({"max_tokens": 30, "max_completion_tokens": 20}, 30),
        ],
    )
    def test_it_reads_the_output_limit(self, body, limit):
        assert output_limit(body) == limit
        assert bound_of(body).output_tokens == limit

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n"])
    @pytest.mark.parametrize("value", [True, False, 1.5, 1.0, "10", [], 0, -1, 100_000_001])
    def test_it_refuses_a_bad_limit_in_words(self, field, value):
        for function in (output_limit, bound_of):
            with pytest.raises(ValueError, match=rf"^{field} must be (a whole number|from 1 to [\d,]+)\.$"):
                function({field: value})

    def test_it_reads_the_number_of_choices(self):
        assert choice_count({}) == choice_count({"n": None}) == 1
        assert bound_of({"n": 128}).choices == 128
        with pytest.raises(ValueError, match="n must be from 1 to 128"):
            choice_count({"n": 129})

    def test_it_adds_a_prediction_to_the_output(self):
        body = {"max_tokens": 100, "prediction": {"type": "content", "content": "größe"}}  # 7 bytes
        assert (bound_of(body).output_tokens, bound_of(body).prediction_tokens) == (107, 7)
        parts = {"prediction": {"content": [{"type": "text", "text": "12345"}]}}  # "text" counts too
        assert (bound_of(parts).output_tokens, bound_of(parts).prediction_tokens) == (None, 9)

    def test_it_reads_the_service_tier(self):
        assert bound_of({"service_tier": "priority"}).service_tier == "priority"
        assert bound_of({"speed": "fast"}).service_tier == "fast"
        assert bound_of({"service_tier": 5}).service_tier is None


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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["messages", "tools", "prediction", "plugins", "model", "x"]), JUNK))
def test_it_takes_any_shape(body):
    assert chat_bound(body, body_size=1000).input_tokens >= OVERHEAD


def test_it_takes_a_deep_body():
    deep: list = []
    for _ in range(50_000):
        deep = [deep]
    assert chat_bound({"messages": deep, "prediction": {"content": deep}}, body_size=9).input_tokens == 9 + OVERHEAD


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (3, 1), (4, 2), (300, 100)])
def test_it_estimates_a_token_for_three_bytes(size, tokens):
    assert estimate_tokens(size) == tokens
