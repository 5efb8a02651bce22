"""`chat_usage`: the recordings' own numbers, and whatever a provider may send instead of a number."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from llmkeys.dialects.base import Usage
from llmkeys.dialects.usage import read_openai_usage
from llmkeys.providers import PROVIDERS, get
from tests.providers.helpers import recorded, recorded_chunks


def chat_usage(provider: str, usage: Any, **more: Any) -> Usage | None:
    return get(provider).chat_usage({"usage": usage, **more})


def told(provider: str, usage: Any, **more: Any) -> Usage:
    found = chat_usage(provider, usage, **more)
    assert found is not None
    return found


class TestRecordings:
    def test_it_reads_openrouter(self) -> None:
        assert read_openai_usage(recorded("openrouter-chat-nonstream.json")) == Usage(
            input_tokens=20,
            cached_input_tokens=0,
            output_tokens=1,
            reasoning_tokens=0,
            cost_usd=Decimal("0.0000036"),
        )

    def test_it_reads_openrouters_cache_writes(self) -> None:
        usage = read_openai_usage(recorded("openrouter-chat-nonstream-anthropic-cache-write.json"))
        assert usage == Usage(
            input_tokens=3214,
            cached_input_tokens=0,
            cache_write_tokens=3211,
            output_tokens=100,
            reasoning_tokens=0,
            cost_usd=Decimal("0.01355025"),
        )

    def test_it_reads_openrouters_stream_once_and_in_the_last_chunk(self) -> None:
        found = [read_openai_usage(chunk) for chunk in recorded_chunks("openrouter-chat-stream.sse")]
        assert found[:-1] == [None] * (len(found) - 1)
        assert found[-1] == Usage(
            input_tokens=20,
            cached_input_tokens=0,
            output_tokens=1,
            reasoning_tokens=0,
            cost_usd=Decimal("0.0000036"),
        )

    def test_it_reads_openais_cached_tokens(self) -> None:
        assert read_openai_usage(recorded("openai-chat-nonstream-cached.json")) == Usage(
            input_tokens=1144,
            cached_input_tokens=1024,
            output_tokens=2,
            reasoning_tokens=0,
            service_tier="default",
        )

    def test_it_reads_openais_cache_writes(self) -> None:
        assert read_openai_usage(recorded("openai-chat-nonstream-cache-write.json")) == Usage(
            input_tokens=4020,
            cached_input_tokens=0,
            cache_write_tokens=4012,
            output_tokens=4,
            reasoning_tokens=0,
            service_tier="default",
        )

    def test_it_reads_openais_stream_past_the_null_usage(self) -> None:
        found = [read_openai_usage(chunk) for chunk in recorded_chunks("openai-chat-stream-include-usage.sse")]
        assert found[:-1] == [None] * (len(found) - 1)
        assert found[-1] == Usage(input_tokens=12, cached_input_tokens=0, output_tokens=5, reasoning_tokens=0)


class TestOpenRouterCost:
    TOKENS = {"prompt_tokens": 10, "completion_tokens": 5}

    def cost(self, **usage: Any) -> Decimal | None:
        return told("openrouter", self.TOKENS | usage).cost_usd

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

    @pytest.mark.parametrize(
        "cost",
        [-1, Decimal("-0.1"), float("nan"), float("inf"), Decimal("NaN"), Decimal("Infinity"), "0.1", True, None, []],
    )
    def test_it_takes_nonsense_for_not_told(self, cost: Any) -> None:
        assert self.cost(cost=cost) is None

    def test_it_keeps_a_cost_without_counts(self) -> None:
        assert told("openrouter", {"cost": Decimal("0.5")}) == Usage(cost_usd=Decimal("0.5"))

    @pytest.mark.parametrize("name", ["openai", "anthropic", "google"])
    def test_it_believes_nobody_else(self, name: str) -> None:
        assert told(name, self.TOKENS | {"cost": 1}).cost_usd is None


class TestGoogle:
    def test_it_finds_the_thinking_tokens_in_the_total(self) -> None:
        usage = told("google", {"completion_tokens": 12, "prompt_tokens": 35, "total_tokens": 109})
        assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (35, 74, 62)

    def test_it_keeps_the_reasoning_that_is_told(self) -> None:
        details = {"reasoning_tokens": 60}
        usage = told(
            "google",
            {"completion_tokens": 12, "prompt_tokens": 35, "total_tokens": 109, "completion_tokens_details": details},
        )
        assert (usage.output_tokens, usage.reasoning_tokens) == (74, 60)

    def test_it_never_counts_less_than_the_completion(self) -> None:
        usage = told("google", {"completion_tokens": 12, "prompt_tokens": 35, "total_tokens": 40})
        assert (usage.output_tokens, usage.reasoning_tokens) == (12, 0)

    def test_it_does_without_a_total(self) -> None:
        usage = told("google", {"completion_tokens": 12, "prompt_tokens": 35})
        assert (usage.output_tokens, usage.reasoning_tokens) == (12, None)

    def test_it_does_without_a_completion(self) -> None:
        usage = told("google", {"prompt_tokens": 35, "total_tokens": 109})
        assert (usage.output_tokens, usage.reasoning_tokens) == (74, None)


@pytest.mark.parametrize("name", PROVIDERS)
class TestAnyProvider:
    @pytest.mark.parametrize(
        "count",
        ["12", -1, True, 1.5, Decimal("1.5"), float("nan"), float("inf"), Decimal("sNaN"), 10**9 + 1, [], {}, None],
    )
    def test_it_takes_nonsense_for_not_told(self, name: str, count: Any) -> None:
        usage = told(name, {"prompt_tokens": 7, "completion_tokens": count})
        assert (usage.input_tokens, usage.output_tokens, usage.is_known) == (7, None, False)

    @pytest.mark.parametrize("count", [12, 12.0, Decimal("12"), Decimal("12.0")])
    def test_it_takes_whole_numbers_of_any_type(self, name: str, count: Any) -> None:
        usage = told(name, {"prompt_tokens": 7, "completion_tokens": count})
        assert (usage.output_tokens, type(usage.output_tokens)) == (12, int)

    def test_it_keeps_zero_as_zero(self, name: str) -> None:
        assert told(name, {"prompt_tokens": 0, "completion_tokens": 0}).is_known

    def test_it_clamps_nothing(self, name: str) -> None:
        prompt, completion = {"cached_tokens": 2161, "cache_write_tokens": 2161}, {"reasoning_tokens": 11}
        usage = told(
            name,
            {
                "prompt_tokens": 2168,
                "completion_tokens": 10,
                "prompt_tokens_details": prompt,
                "completion_tokens_details": completion,
            },
        )
        assert (usage.cached_input_tokens, usage.cache_write_tokens, usage.reasoning_tokens) == (2161, 2161, 11)

    @pytest.mark.parametrize("usage", [None, [], {}, "many", 5, {"prompt_tokens": "x"}, [{}], True])
    def test_it_finds_none_where_there_is_none(self, name: str, usage: Any) -> None:
        assert chat_usage(name, usage) is None
        assert get(name).chat_usage(usage) is None

    def test_it_keeps_the_service_tier(self, name: str) -> None:
        assert told(name, {"prompt_tokens": 1}, service_tier="flex").service_tier == "flex"
        assert told(name, {"prompt_tokens": 1}, service_tier=["flex"]).service_tier == ""
