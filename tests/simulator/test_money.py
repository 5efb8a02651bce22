"""What it bills: the oracle for money in other tests, so checked against literals here."""

from __future__ import annotations

from decimal import Decimal

import pytest

from llmkeys.simulator import SimulatorThread
from tests.simulator.helpers import chat, exact


class TestMoney:
    def test_it_bills_the_default_answer(self, simulator: SimulatorThread) -> None:
        # 3 words in, 20 words out at 1 and 5 USD per million: 0.000003 + 0.0001.
        body = exact(chat(simulator, "openrouter", "three little words"))
        assert body["usage"]["prompt_tokens"] == 3
        assert body["usage"]["completion_tokens"] == 20
        assert body["usage"]["total_tokens"] == 23
        assert body["usage"]["cost"] == Decimal("0.000103")
        assert simulator.journal()[0]["cost"] == "0.000103"

    def test_it_writes_small_costs_without_exponent_or_noise(self, simulator: SimulatorThread) -> None:
        # 20 tokens at 0.15 and 1 token at 0.6 per million: the cost of a real recorded answer.
        text = "[[prompt_tokens=20 completion_tokens=1]]"
        answer = chat(simulator, "openrouter", text, model="openai/gpt-4o-mini")
        assert '"cost":0.0000036,' in answer.text
        assert '"upstream_inference_prompt_cost":0.000003,' in answer.text
        assert '"upstream_inference_completions_cost":0.0000006}' in answer.text

    @pytest.mark.parametrize(
        ("provider", "model", "directives", "cost"),
        [
            # 890 x 2 + 100 x 0.1 + 10 x 2.5 + 50 x 10 = 2315 millionths
            (
                "openrouter",
                "anthropic/claude-sonnet-5.5",
                "prompt_tokens=1000 cached_tokens=100 cache_write_tokens=10 completion_tokens=50",
                "0.002315",
            ),
            # 976 x 0.15 + 1024 x 0.075 + 10 x 0.6 = 229.2
            ("openai", "gpt-4o-mini", "prompt_tokens=2000 cached_tokens=1024 completion_tokens=10", "0.0002292"),
            # 1000 x 0.75 + 74 x 3.75 = 1027.5; thinking is billed as output
            (
                "google",
                "gemini-3.8-flash",
                "prompt_tokens=1000 completion_tokens=74 reasoning_tokens=62",
                "0.0010275",
            ),
            # No cache on Anthropic's OpenAI layer: 1000 x 2 + 100 x 10 = 3000
            (
                "anthropic",
                "claude-sonnet-5-5",
                "prompt_tokens=1000 cached_tokens=900 completion_tokens=100",
                "0.003",
            ),
            # At the threshold 272000 x 1 + 10 x 5, one above it 272001 x 2 + 10 x 7.5.
            ("openai", "gpt-6.1-terra", "prompt_tokens=272000 completion_tokens=10", "0.27205"),
            ("openai", "gpt-6.1-terra", "prompt_tokens=272001 completion_tokens=10", "0.544077"),
            # 1000 x 0.1 + 100 x 0.5 = 150
            ("openrouter", "openai/gpt-6-luna", "prompt_tokens=1000 completion_tokens=100", "0.00015"),
            ("openrouter", "anthropic/claude-haiku-5.5", "prompt_tokens=1000 completion_tokens=100", "0.00015"),
            # 1000 x 0.3 + 100 x 2.5 = 550
            ("google", "models/gemini-2.5-flash", "prompt_tokens=1000 completion_tokens=100", "0.00055"),
            ("openrouter", "openai/gpt-6-luna", "cost=0.0123", "0.0123"),
        ],
    )
    def test_it_bills_by_the_price_list(
        self, simulator: SimulatorThread, provider: str, model: str, directives: str, cost: str
    ) -> None:
        answer = chat(simulator, provider, f"[[{directives}]]", model=model)
        assert answer.status_code == 200
        assert simulator.journal()[0]["cost"] == cost
        assert simulator.summary()["cost"] == cost
        assert exact(answer)["usage"].get("cost", Decimal(cost)) == Decimal(cost)
        assert ("cost" in answer.json()["usage"]) is (provider == "openrouter")

    def test_it_adds_costs_up_exactly(self, simulator: SimulatorThread) -> None:
        for _ in range(10):
            chat(simulator, "openrouter", "[[prompt_tokens=1 completion_tokens=0]]", model="openai/gpt-6-luna")
        assert simulator.summary()["cost"] == "0.000001"

    def test_it_never_exceeds_the_output_limit(self, simulator: SimulatorThread) -> None:
        for limit in ("max_tokens", "max_completion_tokens"):
            body = chat(simulator, "openai", "hi [[completion_tokens=50]]", **{limit: 7}).json()
            assert body["usage"]["completion_tokens"] == 7
            assert body["choices"][0]["finish_reason"] == "length"
            assert len(body["choices"][0]["message"]["content"].split()) == 7

    def test_it_bills_every_choice(self, simulator: SimulatorThread) -> None:
        body = chat(simulator, "openai", "hi", n=3, max_tokens=4).json()
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
        assert body["usage"]["completion_tokens"] == 12

    def test_it_leaves_thinking_out_of_googles_completion(self, simulator: SimulatorThread) -> None:
        directives = "[[prompt_tokens=35 completion_tokens=74 reasoning_tokens=62]]"
        usage = chat(simulator, "google", directives).json()["usage"]
        assert usage == {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109}

    def test_it_gives_anthropics_layer_three_totals(self, simulator: SimulatorThread) -> None:
        usage = chat(simulator, "anthropic", "one two").json()["usage"]
        assert usage == {"prompt_tokens": 2, "completion_tokens": 20, "total_tokens": 22}

    def test_it_counts_words_of_text_parts(self, simulator: SimulatorThread) -> None:
        parts = [{"type": "text", "text": "a b"}, {"type": "image_url", "image_url": {"url": "data:"}}]
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]
        assert chat(simulator, "openai", messages=messages).json()["usage"]["prompt_tokens"] == 4
