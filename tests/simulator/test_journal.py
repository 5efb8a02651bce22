"""What it remembers of each request."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import requests

from llmkeys.simulator import SimulatorThread
from tests.simulator.helpers import CHAT, MODELS, body_of, chat


class TestJournal:
    def test_it_notes_every_request(self, simulator: SimulatorThread) -> None:
        headers = {"Authorization": "Bearer sk-or-v1-secretpart-tail-ok", "X-Client-Request-Id": "req-7"}
        body = {"model": "openai/gpt-6-luna"} | body_of("[[prompt_tokens=1000 completion_tokens=100]]")
        requests.post(simulator.base_url + CHAT["openrouter"], json=body, headers=headers, timeout=10)
        entries = requests.get(simulator.base_url + "/_journal", timeout=10).json()
        assert entries == simulator.journal()
        entry = entries[0]
        assert (
            entry.items()
            >= {
                "provider": "openrouter",
                "path": "/api/v1/chat/completions",
                "keyTail": "-tail-ok",
                "model": "openai/gpt-6-luna",
                "stream": False,
                "promptTokens": 1000,
                "completionTokens": 100,
                "cost": "0.00015",
                "status": 200,
                "billed": True,
                "behaviour": "ok",
                "requestId": "req-7",
                "completed": True,
            }.items()
        )
        assert "secretpart" not in json.dumps(entries)

    def test_it_is_read_from_a_number_on(self, simulator: SimulatorThread) -> None:
        for _ in range(3):
            chat(simulator, "openai")
        first = simulator.journal()[0]["n"]
        later = requests.get(f"{simulator.base_url}/_journal?after={first}", timeout=10).json()
        assert [entry["n"] for entry in later] == [first + 1, first + 2]

    def test_it_sums_up_and_forgets(self, simulator: SimulatorThread) -> None:
        chat(simulator, "openai")
        chat(simulator, "openai", ending="500")
        summary = requests.get(simulator.base_url + "/_journal/summary", timeout=10).json()
        assert (summary["count"], summary["billed"], summary["cost"]) == (2, 1, "0.000101")
        assert requests.post(simulator.base_url + "/_reset", timeout=10).status_code == 200
        assert requests.get(simulator.base_url + "/_journal", timeout=10).json() == []
        assert requests.get(simulator.base_url + "/_reset", timeout=10).status_code == 405
        assert requests.get(simulator.base_url + "/_health", timeout=10).json() == {"status": "ok", "simulated": True}

    def test_it_is_on_disk_before_the_answer_begins(self, tmp_path: Path) -> None:
        file = tmp_path / "journal.jsonl"
        with SimulatorThread(journal_file=file) as simulator:
            chat(simulator, "openai")
            with pytest.raises(requests.exceptions.ReadTimeout):
                headers = {"Authorization": "Bearer sk-x-hang"}
                body = {"model": MODELS["openai"]} | body_of()
                requests.post(simulator.base_url + CHAT["openai"], json=body, headers=headers, timeout=0.3)
            simulator.wait_for_entries(2)
            lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert [(line["n"], line["cost"], line["behaviour"]) for line in lines] == [
            (1, "0.000101", "ok"),
            (2, "0.000101", "hang"),
        ]

    def test_it_knows_the_most_requests_at_once(self, simulator: SimulatorThread) -> None:
        threads = [threading.Thread(target=chat, args=(simulator, "openai", "[[delay_ms=3000]]")) for _ in range(6)]
        for thread in threads:
            thread.start()
        simulator.wait_for_entries(6)
        assert simulator.summary()["inFlight"] == 6
        assert not any(entry["completed"] for entry in simulator.journal())
        for thread in threads:
            thread.join()
        assert simulator.summary().items() >= {"inFlight": 0, "maxConcurrent": 6, "completed": 6}.items()
