"""The calls that cost nothing."""

from __future__ import annotations

from decimal import Decimal

import requests

from llmkeys.simulator import SimulatorThread
from tests.simulator.helpers import KEYS, chat, events, exact


class TestFreeCalls:
    def get(self, simulator: SimulatorThread, path: str, key: str = "sk-x-ok") -> requests.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return requests.get(simulator.base_url + path, headers=headers, timeout=10)

    def test_it_describes_an_openrouter_key(self, simulator: SimulatorThread) -> None:
        chat(simulator, "openrouter")
        data = exact(self.get(simulator, "/api/v1/key", f"{KEYS['openrouter']}-ok"))["data"]
        assert data["usage"] == Decimal("0.000101")
        assert data["limit"] is None
        assert data["is_management_key"] is False
        assert KEYS["openrouter"] not in str(data)
        assert self.get(simulator, "/api/v1/key", "").status_code == 401

    def test_it_lists_openrouters_models_for_everyone(self, simulator: SimulatorThread) -> None:
        answer = self.get(simulator, "/api/v1/models", "")
        models = {model["id"]: model for model in answer.json()["data"]}
        assert len(models) >= 15
        pricing = models["openai/gpt-6.1-terra"]["pricing"]
        assert (pricing["prompt"], pricing["completion"]) == ("0.000001", "0.000005")
        assert pricing["overrides"][0]["min_prompt_tokens"] == 272_000
        assert all("simulated" in model["name"] and "simulated" in model["description"] for model in models.values())
        assert models["openai/gpt-4o"]["top_provider"]["max_completion_tokens"] == 16_384
        assert self.get(simulator, "/api/v1/models", "sk-or-v1-x-401").status_code == 401

    def test_it_tells_the_cost_of_a_generation_later(self, simulator: SimulatorThread) -> None:
        answer = chat(simulator, "openrouter", "hi", stream=True)
        generation = answer.headers["X-Generation-Id"]
        assert generation == events(answer.text)[0]["id"]
        data = exact(self.get(simulator, f"/api/v1/generation?id={generation}"))["data"]
        assert data["total_cost"] == Decimal("0.000101")
        assert (data["native_tokens_prompt"], data["native_tokens_completion"]) == (1, 20)
        assert self.get(simulator, "/api/v1/generation?id=gen-unknown").status_code == 404
        assert self.get(simulator, "/api/v1/generation").status_code == 404

    def test_it_lists_the_vendors_models(self, simulator: SimulatorThread) -> None:
        assert "gpt-6-luna" in {model["id"] for model in self.get(simulator, "/v1/models").json()["data"]}
        page = self.get(simulator, "/anthropic/v1/models?limit=1").json()
        assert (len(page["data"]), page["has_more"]) == (1, True)
        rest = self.get(simulator, f"/anthropic/v1/models?after_id={page['last_id']}").json()
        assert rest["has_more"] is False
        assert page["last_id"] not in {model["id"] for model in rest["data"]}
        page = self.get(simulator, "/v1beta/models?pageSize=1").json()
        assert len(page["models"]) == 1
        following = self.get(simulator, f"/google/v1beta/models?pageToken={page['nextPageToken']}").json()
        assert page["models"][0] not in following["models"]
        listed = self.get(simulator, "/v1beta/openai/models").json()["data"]
        assert {"id": "models/gemini-2.5-flash", "object": "model", "owned_by": "simulated"} in listed
        assert self.get(simulator, "/google/v1/models").json() == self.get(simulator, "/v1beta/models").json()
