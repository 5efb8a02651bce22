"""What it answers, streamed and not."""

from __future__ import annotations

import http.client
import json
import time
from decimal import Decimal
from typing import Any

import pytest
import requests

from llmkeys.simulator import SimulatorThread
from tests.simulator.helpers import CHAT, MODELS, body_of, chat, events, every_provider


class TestAnswers:
    @every_provider
    def test_it_says_that_it_is_simulated(self, simulator: SimulatorThread, provider: str) -> None:
        answer = chat(simulator, provider)
        body = answer.json()
        assert answer.headers["X-Simulated"] == "true"
        assert body["system_fingerprint"] == "simulated"
        assert body["model"] == MODELS[provider]
        assert body["choices"][0]["message"]["content"] == "simulated" + " word" * 19
        assert body["choices"][0]["finish_reason"] == "stop"

    @every_provider
    def test_it_streams(self, simulator: SimulatorThread, provider: str) -> None:
        answer = chat(simulator, provider, "hi", stream=True, stream_options={"include_usage": True})
        *chunks, done = events(answer.text)
        assert done == "[DONE]"
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
        assert "".join(delta.get("content", "") for delta in deltas) == "simulated" + " word" * 19
        assert chunks[-1]["usage"]["total_tokens"] == 21
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert simulator.journal()[0]["stream"] is True

    def test_it_streams_like_openrouter(self, simulator: SimulatorThread) -> None:
        answer = chat(simulator, "openrouter", "hi", stream=True)
        assert answer.text.startswith(": OPENROUTER PROCESSING\n\ndata: {")
        *chunks, last, _ = events(answer.text)
        assert last["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert last["usage"]["cost"] == Decimal("0.000101")
        assert not any("usage" in chunk for chunk in chunks)
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"

    def test_it_streams_like_openai(self, simulator: SimulatorThread) -> None:
        without = events(chat(simulator, "openai", "hi", stream=True).text)
        assert not any("usage" in chunk for chunk in without[:-1])
        *chunks, last, _ = events(
            chat(simulator, "openai", "hi", stream=True, stream_options={"include_usage": True}).text
        )
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == 21
        assert all(chunk["usage"] is None for chunk in chunks)

    def test_it_streams_every_choice(self, simulator: SimulatorThread) -> None:
        chunks = events(chat(simulator, "openai", "hi", stream=True, n=2).text)[:-1]
        assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}

    def test_it_sends_each_chunk_at_once(self, simulator: SimulatorThread) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=10)
        text = "[[chunks=4 chunk_delay_ms=60000]]"  # the second one comes after the patience of this connection
        body = json.dumps({"model": MODELS["openai"], "stream": True, **body_of(text)})
        connection.request("POST", CHAT["openai"], body, {"Authorization": "Bearer sk-x-ok"})
        answer = connection.getresponse()
        while b'"content":"simulated' not in (line := answer.readline()):
            assert line, "it ended without content"
        connection.close()

    def test_it_waits_before_the_first_byte(self, simulator: SimulatorThread) -> None:
        begin = time.monotonic()
        assert chat(simulator, "openai", "[[delay_ms=150]]").status_code == 200
        assert time.monotonic() - begin >= 0.15

    def test_it_takes_the_first_of_openrouters_models(self, simulator: SimulatorThread) -> None:
        headers = {"Authorization": "Bearer sk-or-v1-x-ok"}
        body = body_of(models=["openai/gpt-6-luna", "openai/gpt-4o"])
        answer = requests.post(simulator.base_url + CHAT["openrouter"], json=body, headers=headers, timeout=10)
        assert answer.json()["model"] == "openai/gpt-6-luna"

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"model": "no-such-model"}, 404),
            ({"messages": []}, 400),
            ({"messages": "hello"}, 400),
            ({"max_tokens": 0}, 400),
            ({"max_tokens": "9"}, 400),
            ({"n": 1000}, 400),
            ({"model": 7}, 400),
        ],
    )
    @every_provider
    def test_it_refuses_a_bad_body(
        self, simulator: SimulatorThread, provider: str, change: dict[str, Any], status: int
    ) -> None:
        answer = chat(simulator, provider, **change)
        assert answer.status_code == status
        assert simulator.journal()[0]["billed"] is False

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
    def test_it_refuses_what_is_no_json_object(self, simulator: SimulatorThread, body: bytes) -> None:
        headers = {"Authorization": "Bearer sk-x-ok"}
        answer = requests.post(simulator.base_url + CHAT["openai"], data=body, headers=headers, timeout=10)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
