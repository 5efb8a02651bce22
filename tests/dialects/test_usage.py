"""`read_openai_usage`: the recordings' own numbers, and whatever a server may write instead of a number."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from llmkeys.dialects.base import Usage
from llmkeys.dialects.usage import read_openai_usage
from tests.providers.helpers import recorded, recorded_chunks


def told(usage: Any, **more: Any) -> Usage:
    found = read_openai_usage({"usage": usage, **more})
    assert found is not None
    return found


class TestRecordings:
    def test_it_reads_openrouter(self) -> None:
        assert read_openai_usage(recorded("openrouter-chat-nonstream.json")) == Usage(
            input_tokens=20,
            cached_input_tokens=0,
            audio_input_tokens=0,
            video_input_tokens=0,
            output_tokens=1,
            reasoning_tokens=0,
            image_output_tokens=0,
            cost_usd=Decimal("0.0000036"),
            model="openai/gpt-4o-mini",
        )

    def test_it_reads_openrouters_cache_writes(self) -> None:
        usage = read_openai_usage(recorded("openrouter-chat-nonstream-anthropic-cache-write.json"))
        assert usage is not None
        assert (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens) == (3214, 0, 3211)
        assert (usage.output_tokens, usage.cost_usd) == (100, Decimal("0.01355025"))

    def test_it_reads_openais_cached_tokens(self) -> None:
        usage = read_openai_usage(recorded("openai-chat-nonstream-cached.json"))
        assert usage is not None
        assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == (1144, 1024, 2)
        assert usage.service_tier == "default"

    def test_it_reads_openais_cache_writes(self) -> None:
        usage = read_openai_usage(recorded("openai-chat-nonstream-cache-write.json"))
        assert usage is not None
        assert (usage.input_tokens, usage.cache_write_tokens, usage.output_tokens) == (4020, 4012, 4)

    @pytest.mark.parametrize(
        ("name", "counts"),
        [("openrouter-chat-stream.sse", (20, 0, 1)), ("openai-chat-stream-include-usage.sse", (12, 0, 5))],
    )
    def test_it_finds_a_streams_counts_in_its_last_chunk_alone(self, name: str, counts: tuple[int, ...]) -> None:
        *before, last = [read_openai_usage(chunk) for chunk in recorded_chunks(name)]
        assert last is not None
        assert (last.input_tokens, last.cached_input_tokens, last.output_tokens) == counts
        assert before
        assert not any(usage.is_known for usage in before if usage)


class TestCost:
    TOKENS = {"prompt_tokens": 10, "completion_tokens": 5}

    def cost(self, **usage: Any) -> Decimal | None:
        return told(self.TOKENS | usage).cost_usd

    def test_it_adds_the_upstream_bill_only_for_the_owners_own_key(self) -> None:
        details = {"upstream_inference_cost": Decimal("0.02")}
        assert self.cost(cost=Decimal("0.001"), is_byok=True, cost_details=details) == Decimal("0.021")
        assert self.cost(cost=0, is_byok=True, cost_details=details) == Decimal("0.02")
        assert self.cost(cost=Decimal("0.02"), is_byok=False, cost_details=details) == Decimal("0.02")

    @pytest.mark.parametrize("details", [None, {}, {"upstream_inference_cost": None}, []])
    def test_it_takes_the_fee_alone_for_no_cost(self, details: Any) -> None:
        assert self.cost(cost=0, is_byok=True, cost_details=details) is None

    def test_it_keeps_zero_as_zero(self) -> None:
        assert self.cost(cost=0) == 0

    def test_it_reads_floats_by_their_shortest_form(self) -> None:
        assert self.cost(cost=0.0000036) == Decimal("0.0000036")

    def test_it_reads_costs_written_as_texts(self) -> None:
        assert self.cost(cost="0.003") == Decimal("0.003")
        details = {"upstream_inference_cost": "2e-6"}
        assert self.cost(cost="0", is_byok=True, cost_details=details) == Decimal("0.000002")

    @pytest.mark.parametrize(
        "cost",
        [
            *(-1, Decimal("-0.1"), float("nan"), float("inf"), Decimal("NaN"), Decimal("Infinity"), True, None, []),
            *("", "free", "-0.1", "NaN", "Infinity", "1e9", "9" * 5000),
        ],
    )
    def test_it_takes_nonsense_for_not_told(self, cost: Any) -> None:
        assert self.cost(cost=cost) is None

    def test_it_keeps_a_cost_without_counts(self) -> None:
        assert told({"cost": Decimal("0.5")}) == Usage(cost_usd=Decimal("0.5"))


class TestTotals:
    """A total proves what is missing: Google's OpenAI layer hides the thinking, others leave a count out."""

    def test_it_finds_hidden_thinking(self) -> None:
        usage = told({"completion_tokens": 12, "prompt_tokens": 35, "total_tokens": 109})
        assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (35, 74, 62)

    def test_it_keeps_the_reasoning_that_is_told(self) -> None:
        details = {"reasoning_tokens": 60}
        usage = told(
            {"completion_tokens": 12, "prompt_tokens": 35, "total_tokens": 109, "completion_tokens_details": details}
        )
        assert (usage.output_tokens, usage.reasoning_tokens) == (74, 60)

    def test_it_never_counts_less_than_the_completion(self) -> None:
        usage = told({"completion_tokens": 12, "prompt_tokens": 35, "total_tokens": 40})
        assert (usage.output_tokens, usage.reasoning_tokens) == (12, None)

    @pytest.mark.parametrize("missing", [{}, {"completion_tokens": None}])
    def test_it_finds_the_completion(self, missing: dict[str, Any]) -> None:
        assert told({"prompt_tokens": 35, "total_tokens": 109} | missing).output_tokens == 74

    @pytest.mark.parametrize("missing", [{}, {"prompt_tokens": None}])
    def test_it_finds_the_prompt(self, missing: dict[str, Any]) -> None:
        assert told({"completion_tokens": 9, "total_tokens": 109} | missing).input_tokens == 100

    def test_a_total_alone_splits_nothing(self) -> None:
        assert not told({"total_tokens": 109, "prompt_tokens_details": {"cached_tokens": 5}}).is_known


class TestCounts:
    @pytest.mark.parametrize("count", [12, 12.0, Decimal("12"), Decimal("12.0"), "12", "12.0", " 12 "])
    def test_it_takes_whole_numbers_of_any_type(self, count: Any) -> None:
        usage = told({"prompt_tokens": 7, "completion_tokens": count})
        assert (usage.output_tokens, type(usage.output_tokens)) == (12, int)

    @pytest.mark.parametrize(
        "count",
        ["twelve", "-1", -1, True, 1.5, Decimal("1.5"), float("nan"), float("inf"), Decimal("sNaN"), 10**9 + 1, []],
    )
    def test_it_takes_nonsense_for_not_told(self, count: Any) -> None:
        usage = told({"prompt_tokens": 7, "completion_tokens": count})
        assert (usage.input_tokens, usage.output_tokens, usage.is_known) == (7, None, False)

    def test_it_reads_counts_that_are_all_texts(self) -> None:
        usage = told({"prompt_tokens": "10", "completion_tokens": "4", "total_tokens": "14"})
        assert (usage.input_tokens, usage.output_tokens) == (10, 4)

    def test_it_keeps_zero_as_zero(self) -> None:
        assert told({"prompt_tokens": 0, "completion_tokens": 0}).is_known

    def test_it_clamps_nothing(self) -> None:
        usage = told(
            {
                "prompt_tokens": 2168,
                "completion_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 2161, "cache_write_tokens": 2161},
                "completion_tokens_details": {"reasoning_tokens": 11},
            },
        )
        assert (usage.cached_input_tokens, usage.cache_write_tokens, usage.reasoning_tokens) == (2161, 2161, 11)

    @pytest.mark.parametrize("usage", [None, [], {}, "many", 5, {"prompt_tokens": "x"}, [{}], True])
    def test_it_finds_none_where_there_is_none(self, usage: Any) -> None:
        assert read_openai_usage({"usage": usage}) is None

    def test_it_reads_each_modality(self) -> None:
        usage = told(
            {
                "prompt_tokens": 2360,
                "completion_tokens": 50,
                "prompt_tokens_details": {"audio_tokens": 2340, "image_tokens": 3, "video_tokens": 5},
                "completion_tokens_details": {"audio_tokens": 40, "image_tokens": 4},
            }
        )
        assert (usage.audio_input_tokens, usage.image_input_tokens, usage.video_input_tokens) == (2340, 3, 5)
        assert (usage.audio_output_tokens, usage.image_output_tokens) == (40, 4)


class TestPlaces:
    COUNTS = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}

    @pytest.mark.parametrize(
        "chunk",
        [
            {"usage": COUNTS, "choices": [{"delta": {}, "usage": None}]},
            {"usage": None, "choices": [{"delta": {}, "usage": COUNTS}]},
            {"choices": [{"delta": {"usage": COUNTS}}]},
            {"x_groq": {"usage": COUNTS}},
            {"usage": {"input_tokens": 5, "output_tokens": 7}},
        ],
    )
    def test_it_finds_usage_wherever_hosts_put_it(self, chunk: dict[str, Any]) -> None:
        usage = read_openai_usage(chunk)
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == (5, 7)

    def test_it_finds_cached_tokens_beside_the_totals(self) -> None:
        assert told(self.COUNTS | {"cached_tokens": 4}).cached_input_tokens == 4
        assert told(self.COUNTS | {"prompt_cache_hit_tokens": 3}).cached_input_tokens == 3

    def test_it_finds_the_tier_in_the_body_and_in_the_usage(self) -> None:
        assert told({"prompt_tokens": 1}, service_tier="flex").service_tier == "flex"
        assert told({"prompt_tokens": 1, "service_tier": "priority"}).service_tier == "priority"
        assert told({"prompt_tokens": 1}, service_tier=["flex"]).service_tier == ""
        assert told({"prompt_tokens": 1}, service_tier="auto").service_tier == ""


class TestMerging:
    WHOLE = Usage(input_tokens=9000, cached_input_tokens=8000, output_tokens=20, cost_usd=Decimal("0.5"))

    @pytest.mark.parametrize(
        "poorer",
        [
            None,
            Usage(),
            Usage(input_tokens=0, cached_input_tokens=0, output_tokens=0, cost_usd=Decimal(0)),
            Usage(input_tokens=9000, output_tokens=20),
        ],
    )
    def test_a_poorer_usage_takes_nothing_away(self, poorer: Usage | None) -> None:
        assert self.WHOLE.merged(poorer) == self.WHOLE
        assert poorer is None or poorer.merged(self.WHOLE) == self.WHOLE

    def test_the_larger_count_wins_and_a_told_tier_stays(self) -> None:
        merged = Usage(output_tokens=3, service_tier="priority").merged(Usage(input_tokens=2, output_tokens=7))
        assert merged == Usage(input_tokens=2, output_tokens=7, service_tier="priority")

    def test_parts_that_come_in_different_events_add_up(self) -> None:
        start = Usage(input_tokens=1017, plain_input_tokens=17, cached_input_tokens=1000, cache_write_tokens=0)
        delta = Usage(input_tokens=5000, plain_input_tokens=5000, output_tokens=20)
        assert start.merged(delta).input_tokens == 6000
