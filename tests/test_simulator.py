"""The simulator over real sockets: the oracle for money in other tests, so checked against literals here."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests

from llmkeys.simulator import SimulatorThread
from llmkeys.simulator.behaviour import ending, read_directives
from llmkeys.simulator.generation import pieces_of

ROOT = Path(__file__).resolve().parent.parent
MODELS = {
    "openrouter": "openai/gpt-6.1-terra",
    "openai": "gpt-6.1-terra",
    "anthropic": "claude-sonnet-5-5",
    "google": "gemini-3.8-flash",
}
KEYS = {
    "openrouter": "sk-or-v1-0123456789abcdef",
    "openai": "sk-proj-0123456789abcdef",
    "anthropic": "sk-ant-api03-0123456789abcdef",
    "google": "AQ.0123456789abcdef",
}
CHAT = {
    "openrouter": "/api/v1/chat/completions",
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/chat/completions",
    "google": "/v1beta/openai/chat/completions",
}
FREE = {
    "openrouter": "/api/v1/key",
    "openai": "/v1/models",
    "anthropic": "/v1/models?limit=1",
    "google": "/v1beta/models?pageSize=1",
}
PROVIDERS = list(MODELS)
every_provider = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatorThread]:
    with SimulatorThread() as simulator:
        yield simulator


@pytest.fixture
def simulator(running: SimulatorThread) -> SimulatorThread:
    running.reset()
    return running


def body_of(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def chat(
    simulator: SimulatorThread, provider: str, text: str = "hello", *, ending: str = "ok", **more: Any
) -> requests.Response:
    """POST one chat request to this provider; `more` goes into the body."""
    body = {"model": MODELS[provider]} | body_of(text, **more)
    headers = {"Authorization": f"Bearer {KEYS[provider]}-{ending}"}
    return requests.post(simulator.base_url + CHAT[provider], json=body, headers=headers, timeout=10)


def exact(response: requests.Response) -> Any:
    return json.loads(response.text, parse_float=Decimal)


def events(text: str) -> list[Any]:
    """The data of a stream's events, parsed; "[DONE]" stays text."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one, parse_float=Decimal) for one in data]


def raw(simulator: SimulatorThread, data: bytes, *, seconds: float = 5.0) -> bytes:
    """Send these bytes and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", simulator.port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        while more := connection.recv(65_536):
            received += more
        return received


# --- money: every literal is worked out by hand -------------------------------------------------------------------


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


# --- answers ------------------------------------------------------------------------------------------------------


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
        text = "[[chunks=4 chunk_delay_ms=100]]"
        body = json.dumps({"model": MODELS["openai"], "stream": True, **body_of(text)})
        connection.request("POST", CHAT["openai"], body, {"Authorization": "Bearer sk-x-ok"})
        answer = connection.getresponse()
        arrivals = []
        while line := answer.readline():
            if b'"content":' in line and b'"content":""' not in line:
                arrivals.append(time.monotonic())
        gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
        assert len(arrivals) == 4
        assert min(gaps) > 0.05
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


# --- who is asked -------------------------------------------------------------------------------------------------


class TestAddressing:
    @pytest.mark.parametrize(
        ("path", "headers", "provider"),
        [
            ("/v1/chat/completions", {"Authorization": "Bearer sk-proj-1-ok"}, "openai"),
            ("/v1/chat/completions", {"Authorization": "Bearer sk-ant-api03-1-ok"}, "anthropic"),
            ("/v1/chat/completions", {"x-api-key": "any-ok"}, "anthropic"),
            (
                "/v1/chat/completions",
                {"Authorization": "Bearer any-ok", "anthropic-version": "2023-06-01"},
                "anthropic",
            ),
            ("/openai/v1/chat/completions", {"Authorization": "Bearer any-ok"}, "openai"),
            ("/anthropic/v1/chat/completions", {"Authorization": "Bearer any-ok"}, "anthropic"),
            ("/anthropic/v1/chat/completions", {"x-api-key": "any-ok"}, "anthropic"),
            ("/google/v1beta/openai/chat/completions", {"Authorization": "Bearer any-ok"}, "google"),
            ("/v1beta/openai/chat/completions", {"x-goog-api-key": "any-ok"}, "google"),
            ("/openrouter/api/v1/chat/completions", {"Authorization": "Bearer any-ok"}, "openrouter"),
        ],
    )
    def test_it_knows_who_is_asked(
        self, simulator: SimulatorThread, path: str, headers: dict[str, str], provider: str
    ) -> None:
        body = {"model": MODELS[provider]} | body_of()
        answer = requests.post(simulator.base_url + path, json=body, headers=headers, timeout=10)
        assert answer.status_code == 200
        assert simulator.journal()[0]["provider"] == provider

    @every_provider
    def test_it_refuses_a_request_without_a_key(self, simulator: SimulatorThread, provider: str) -> None:
        body = {"model": MODELS[provider]} | body_of()
        path = f"/{provider}{CHAT[provider]}"
        for headers in ({}, {"Authorization": "Bearer "}):
            answer = requests.post(simulator.base_url + path, json=body, headers=headers, timeout=10)
            assert answer.status_code == (400 if provider == "google" else 401)

    @every_provider
    def test_it_refuses_the_invalid_key(self, simulator: SimulatorThread, provider: str) -> None:
        for path in (CHAT[provider], FREE[provider]):
            method = "POST" if path == CHAT[provider] else "GET"
            url = f"{simulator.base_url}/{provider}{path}"
            body = {"model": MODELS[provider]} | body_of()
            headers = {"Authorization": "Bearer invalid"}
            answer = requests.request(method, url, json=body, headers=headers, timeout=10)
            assert answer.status_code == (400 if provider == "google" else 401)

    def test_it_refuses_two_google_keys_at_once(self, simulator: SimulatorThread) -> None:
        headers = {"Authorization": "Bearer a-ok", "x-goog-api-key": "a-ok"}
        answer = requests.post(simulator.base_url + CHAT["google"], json=body_of(), headers=headers, timeout=10)
        assert answer.status_code == 400
        assert "Multiple authentication credentials" in answer.json()[0]["error"]["message"]

    def test_it_answers_other_paths_in_the_providers_shape(self, simulator: SimulatorThread) -> None:
        headers = {"Authorization": "Bearer sk-x-ok"}
        answer = requests.post(simulator.base_url + "/v1/responses", json={}, headers=headers, timeout=10)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"].startswith("simulated: there is nothing at POST /v1/responses")
        assert requests.get(simulator.base_url + "/nowhere", timeout=10).status_code == 404
        assert requests.get(simulator.base_url + CHAT["openai"], headers=headers, timeout=10).status_code == 405


# --- failures -----------------------------------------------------------------------------------------------------

REFUSED = {
    "429": {"openrouter": 429, "openai": 429, "anthropic": 429, "google": 429},
    "401": {"openrouter": 401, "openai": 401, "anthropic": 401, "google": 401},
    "402": {"openrouter": 402, "openai": 429, "anthropic": 400, "google": 402},
    "403": {"openrouter": 403, "openai": 403, "anthropic": 403, "google": 403},
    "404": {"openrouter": 404, "openai": 404, "anthropic": 404, "google": 404},
    "400": {"openrouter": 400, "openai": 400, "anthropic": 400, "google": 400},
    "500": {"openrouter": 500, "openai": 500, "anthropic": 500, "google": 500},
    "503": {"openrouter": 503, "openai": 503, "anthropic": 529, "google": 503},
    "echo": {"openrouter": 401, "openai": 401, "anthropic": 401, "google": 401},
}


class TestRefusals:
    @pytest.mark.parametrize("kind", list(REFUSED))
    @pytest.mark.parametrize("stream", [False, True])
    @every_provider
    def test_it_refuses_in_the_providers_own_shape(
        self, simulator: SimulatorThread, provider: str, kind: str, stream: bool
    ) -> None:
        answer = chat(simulator, provider, ending=kind, stream=stream)
        assert answer.status_code == REFUSED[kind][provider]
        assert answer.headers["Content-Type"] == "application/json"
        body = answer.json()
        error = body[0]["error"] if provider == "google" else body["error"]
        wanted = {
            "openrouter": {"message", "code"},
            "openai": {"message", "type", "param", "code"},
            "anthropic": {"type", "message"},
            "google": {"code", "message", "status"},
        }
        assert wanted[provider] <= set(error)
        assert (f"{KEYS[provider]}-echo" in error["message"]) is (kind == "echo")
        entry = simulator.journal()[0]
        assert (entry["billed"], entry["cost"], entry["behaviour"]) == (False, "0", kind)

    def test_it_says_how_long_to_wait(self, simulator: SimulatorThread) -> None:
        for provider in ("openrouter", "openai", "anthropic"):
            assert chat(simulator, provider, ending="429").headers["Retry-After"] == "7"
        details = chat(simulator, "google", ending="429").json()[0]["error"]["details"]
        assert details[1]["retryDelay"] == "7s"

    def test_it_names_lack_of_credit_as_each_provider_does(self, simulator: SimulatorThread) -> None:
        assert chat(simulator, "openai", ending="402").json()["error"]["type"] == "insufficient_quota"
        assert "Retry-After" not in chat(simulator, "openai", ending="402").headers
        words = chat(simulator, "anthropic", ending="402").json()["error"]["message"]
        assert words.startswith("Your credit balance is too low to access the Anthropic API")
        words = chat(simulator, "openrouter", ending="403").json()["error"]["message"]
        assert words.startswith("Key limit exceeded (total limit)")

    def test_it_fails_only_the_first_requests_of_a_key(self, simulator: SimulatorThread) -> None:
        statuses = [chat(simulator, "openai", ending="429x2").status_code for _ in range(4)]
        assert statuses == [429, 429, 200, 200]
        assert chat(simulator, "openrouter", ending="500x1").status_code == 500
        simulator.reset()
        assert chat(simulator, "openai", ending="429x2").status_code == 429

    def test_it_is_steered_by_the_text(self, simulator: SimulatorThread) -> None:
        assert chat(simulator, "openai", "[[status=500]]").status_code == 500
        assert chat(simulator, "openai", "[[status=418]]").status_code == 418
        assert chat(simulator, "anthropic", "[[behaviour=503]]").status_code == 529
        assert chat(simulator, "openai", "[[status=200 nonsense=1 prompt_tokens=x]]").status_code == 200

    @pytest.mark.parametrize("kind", ["401", "403", "500", "echo"])
    @every_provider
    def test_it_refuses_free_calls_too(self, simulator: SimulatorThread, provider: str, kind: str) -> None:
        key = f"{KEYS[provider]}-{kind}"
        headers = {"x-goog-api-key": key} if provider == "google" else {"Authorization": f"Bearer {key}"}
        answer = requests.get(simulator.base_url + FREE[provider], headers=headers, timeout=10)
        assert answer.status_code == REFUSED[kind][provider]
        assert isinstance(answer.json(), dict)
        assert (key in answer.text) is (kind == "echo")
        assert simulator.journal() == []

    def test_it_passes_the_free_call_once_the_failures_are_used_up(self, simulator: SimulatorThread) -> None:
        headers = {"Authorization": f"Bearer {KEYS['openai']}-401x1"}
        url = simulator.base_url + FREE["openai"]
        assert requests.get(url, headers=headers, timeout=10).status_code == 401
        assert chat(simulator, "openai", ending="401x1").status_code == 401
        assert requests.get(url, headers=headers, timeout=10).status_code == 200


class TestTrouble:
    def test_it_hangs(self, simulator: SimulatorThread) -> None:
        with pytest.raises(requests.exceptions.ReadTimeout):
            requests.post(
                simulator.base_url + CHAT["openai"],
                json={"model": MODELS["openai"]} | body_of(),
                headers={"Authorization": "Bearer sk-x-hang"},
                timeout=0.3,
            )
        entry = simulator.wait_for_entries(1)[0]
        assert (entry["status"], entry["billed"], entry["cost"], entry["completed"]) == (None, True, "0.000101", False)

    def test_it_is_slow(self, simulator: SimulatorThread) -> None:
        begin = time.monotonic()
        assert chat(simulator, "openai", ending="slow").status_code == 200
        assert time.monotonic() - begin >= 2.0

    @every_provider
    def test_it_cuts_a_stream_after_two_chunks(self, simulator: SimulatorThread, provider: str) -> None:
        received, error = self._read_to_the_end(simulator, provider, "cut", stream=True)
        contents = [one["choices"][0]["delta"].get("content") for one in events(received.decode())]
        assert [text for text in contents if text] == ["simulated word word word", " word word word word"]
        assert isinstance(error, ConnectionResetError)
        assert simulator.journal()[0]["completed"] is False
        assert simulator.journal()[0]["billed"] is True

    def test_it_cuts_a_body_in_half(self, simulator: SimulatorThread) -> None:
        received, error = self._read_to_the_end(simulator, "openai", "cut", stream=False)
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])
        assert len(body) == length // 2
        assert isinstance(error, ConnectionResetError)

    @pytest.mark.parametrize("stream", [False, True])
    def test_it_stalls(self, simulator: SimulatorThread, stream: bool) -> None:
        received, error = self._read_to_the_end(simulator, "openai", "stall", stream=stream)
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        if stream:
            assert body.count(b'"delta":{"content":') == 2
        else:
            assert len(body) == int(re.search(rb"Content-Length: (\d+)", head)[1]) // 2
        assert isinstance(error, TimeoutError)
        assert simulator.journal()[0]["completed"] is False

    def _read_to_the_end(
        self, simulator: SimulatorThread, provider: str, kind: str, *, stream: bool
    ) -> tuple[bytes, OSError | None]:
        body = json.dumps({"model": MODELS[provider], "stream": stream, **body_of()}).encode()
        head = f"POST {CHAT[provider]} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEYS[provider]}-{kind}\r\n"
        received = b""
        with socket.create_connection(("127.0.0.1", simulator.port), timeout=0.5) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            try:
                while more := connection.recv(65_536):
                    received += more
            except OSError as error:
                return received, error
        return received, None

    @every_provider
    def test_it_ends_a_stream_without_an_end(self, simulator: SimulatorThread, provider: str) -> None:
        chunks = events(chat(simulator, provider, ending="noend", stream=True).text)
        assert "[DONE]" not in chunks
        assert not any(chunk.get("usage") or chunk["choices"][0]["finish_reason"] for chunk in chunks)
        assert simulator.journal()[0]["completed"] is True

    def test_it_sends_broken_json(self, simulator: SimulatorThread) -> None:
        answer = chat(simulator, "openai", ending="malformed")
        assert answer.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(answer.text)
        with pytest.raises(json.JSONDecodeError):
            events(chat(simulator, "openai", ending="malformed", stream=True).text)

    @pytest.mark.parametrize("stream", [False, True])
    def test_it_sends_a_web_page_or_nothing(self, simulator: SimulatorThread, stream: bool) -> None:
        page = chat(simulator, "openai", ending="html", stream=stream)
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "simulated" in page.text
        nothing = chat(simulator, "openai", ending="empty", stream=stream)
        assert (nothing.status_code, nothing.content) == (200, b"")
        assert [entry["billed"] for entry in simulator.journal()] == [True, True]

    @pytest.mark.parametrize(
        ("kind", "prompt", "cost"),
        [("zerousage", 0, 0), ("negusage", -1, Decimal("-0.000101")), ("strusage", *["abc"] * 2)],
    )
    def test_it_reports_false_usage(self, simulator: SimulatorThread, kind: str, prompt: Any, cost: Any) -> None:
        whole = exact(chat(simulator, "openrouter", ending=kind))["usage"]
        streamed = events(chat(simulator, "openrouter", ending=kind, stream=True).text)[-2]["usage"]
        for usage in (whole, streamed):
            assert (usage["prompt_tokens"], usage["cost"]) == (prompt, cost)
            assert usage["is_byok"] is False
        billed = "0" if kind == "zerousage" else "0.000101"
        assert [entry["cost"] for entry in simulator.journal()] == [billed, billed]

    @every_provider
    def test_it_withholds_usage(self, simulator: SimulatorThread, provider: str) -> None:
        assert "usage" not in chat(simulator, provider, ending="nousage").json()
        options = {"include_usage": True}
        streamed = chat(simulator, provider, ending="nousage", stream=True, stream_options=options)
        assert "usage" not in streamed.text
        assert streamed.text.endswith("data: [DONE]\n\n")

    @every_provider
    def test_it_fails_inside_an_answer(self, simulator: SimulatorThread, provider: str) -> None:
        answer = chat(simulator, provider, ending="miderror")
        assert (answer.status_code, "choices" in answer.json()) == (200, False)
        assert answer.json()["error"]["message"]
        *_, last = events(chat(simulator, provider, ending="miderror", stream=True).text)
        assert last["error"]["message"]
        assert [entry["billed"] for entry in simulator.journal()] == [False, True]

    def test_it_marks_openrouters_error_chunk(self, simulator: SimulatorThread) -> None:
        *_, last = events(chat(simulator, "openrouter", ending="miderror", stream=True).text)
        assert last["choices"][0]["finish_reason"] == "error"
        assert last["error"]["code"] == 502


# --- free calls ---------------------------------------------------------------------------------------------------


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


# --- the journal --------------------------------------------------------------------------------------------------


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
            lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert [(line["n"], line["cost"], line["behaviour"]) for line in lines] == [
            (1, "0.000101", "ok"),
            (2, "0.000101", "hang"),
        ]

    def test_it_knows_the_most_requests_at_once(self, simulator: SimulatorThread) -> None:
        threads = [threading.Thread(target=chat, args=(simulator, "openai", "[[delay_ms=400]]")) for _ in range(6)]
        for thread in threads:
            thread.start()
        simulator.wait_for_entries(6)
        assert simulator.summary()["inFlight"] == 6
        assert not any(entry["completed"] for entry in simulator.journal())
        for thread in threads:
            thread.join()
        assert simulator.summary().items() >= {"inFlight": 0, "maxConcurrent": 6, "completed": 6}.items()


# --- HTTP ---------------------------------------------------------------------------------------------------------


def post_bytes(body: bytes, *headers: str, path: str = CHAT["openai"]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Authorization: Bearer sk-x-ok", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


CHAT_BODY = json.dumps({"model": "gpt-6-luna", **body_of()}).encode()


class TestHttp:
    def test_it_keeps_a_connection_alive(self, simulator: SimulatorThread) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=10)
        connection.connect()
        used = connection.sock
        for stream in (False, True, False):
            body = json.dumps({"model": MODELS["openai"], "stream": stream, **body_of()})
            connection.request("POST", CHAT["openai"], body, {"Authorization": "Bearer sk-x-ok"})
            answer = connection.getresponse()
            assert answer.status == 200
            assert b"simulated" in answer.read()
            assert connection.sock is used
        connection.close()

    def test_it_answers_pipelined_requests_in_order(self, simulator: SimulatorThread) -> None:
        slow = json.dumps({"model": "gpt-6-luna", **body_of("[[delay_ms=100 completion_tokens=1]]")}).encode()
        first = post_bytes(slow, f"Content-Length: {len(slow)}")
        second = post_bytes(CHAT_BODY, f"Content-Length: {len(CHAT_BODY)}", "Connection: close")
        received = raw(simulator, first + second)
        assert received.count(b"HTTP/1.1 200 OK") == 2
        assert received.index(b'"simulated"') < received.index(b'"simulated word')

    def test_it_reads_a_chunked_body_byte_by_byte(self, simulator: SimulatorThread) -> None:
        half = len(CHAT_BODY) // 2
        chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in (CHAT_BODY[:half], CHAT_BODY[half:]))
        data = post_bytes(chunks + b"0\r\nTrailer: x\r\n\r\n", "Transfer-Encoding: chunked", "Connection: close")
        with socket.create_connection(("127.0.0.1", simulator.port), timeout=5) as connection:
            for position in range(len(data)):
                connection.sendall(data[position : position + 1])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")

    def test_it_invites_a_body_that_waits(self, simulator: SimulatorThread) -> None:
        head = post_bytes(b"", f"Content-Length: {len(CHAT_BODY)}", "Expect: 100-continue")
        with socket.create_connection(("127.0.0.1", simulator.port), timeout=5) as connection:
            connection.sendall(head)
            assert connection.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(CHAT_BODY)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")

    def test_it_takes_a_large_body(self, simulator: SimulatorThread) -> None:
        text = "word " * 6_000_000
        usage = chat(simulator, "openai", text).json()["usage"]
        assert usage["prompt_tokens"] == 6_000_000

    def test_it_refuses_a_body_over_40_mb(self, simulator: SimulatorThread) -> None:
        received = raw(simulator, post_bytes(b"", f"Content-Length: {40 * 1024 * 1024 + 1}"))
        assert received.startswith(b"HTTP/1.1 413 ")
        assert b"Connection: close" in received

    @pytest.mark.parametrize(
        "data",
        [
            b"nonsense\r\n\r\n",
            b"nonsense\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nName : x\r\n\r\n",
            post_bytes(b"", "Content-Length: -1"),
            post_bytes(b"", "Content-Length: +1"),
            post_bytes(b"", "Content-Length: 1", "Content-Length: 2"),
            post_bytes(b"", "Content-Length: 1", "Transfer-Encoding: chunked"),
            post_bytes(b"", "Transfer-Encoding: gzip"),
            post_bytes(b"zz\r\n", "Transfer-Encoding: chunked"),
            post_bytes(b"3\r\nabcde\r\n", "Transfer-Encoding: chunked"),
        ],
    )
    def test_it_refuses_a_malformed_request(self, simulator: SimulatorThread, data: bytes) -> None:
        received = raw(simulator, data)
        assert received.startswith(b"HTTP/1.1 400 ")
        assert b"simulated: " in received
        assert simulator.journal() == []

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", b"505"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 70_000, b"431"),
            (post_bytes(b"", "Content-Length: 1", "Expect: a miracle"), b"417"),
        ],
    )
    def test_it_refuses_what_it_cannot_do(self, simulator: SimulatorThread, data: bytes, status: bytes) -> None:
        assert raw(simulator, data).startswith(b"HTTP/1.1 " + status)

    def test_it_streams_to_an_old_client(self, simulator: SimulatorThread) -> None:
        body = json.dumps({"model": "gpt-6-luna", "stream": True, **body_of()}).encode()
        data = post_bytes(body, f"Content-Length: {len(body)}").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        received = raw(simulator, data)
        assert b"chunked" not in received
        assert received.endswith(b"data: [DONE]\n\n")

    def test_it_notices_a_client_that_leaves(self, simulator: SimulatorThread) -> None:
        body = json.dumps({"model": "gpt-6-luna", "stream": True, **body_of("[[chunk_delay_ms=60000]]")}).encode()
        with socket.create_connection(("127.0.0.1", simulator.port), timeout=5) as connection:
            connection.sendall(post_bytes(body, f"Content-Length: {len(body)}"))
            assert connection.recv(65_536)
            assert simulator.summary()["inFlight"] == 1
        deadline = time.monotonic() + 5
        while simulator.summary()["inFlight"] and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        assert simulator.summary()["inFlight"] == 0
        assert simulator.journal()[0]["completed"] is False

    def test_it_waits_for_a_slow_reader(self, simulator: SimulatorThread) -> None:
        # About 9 MB: more than the kernel takes off the server's hands.
        text = "[[completion_tokens=40000 chunks=5000]]"
        body = json.dumps({"model": "gpt-6-luna", "stream": True, **body_of(text, n=8)}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(5)
            connection.connect(("127.0.0.1", simulator.port))
            connection.sendall(post_bytes(body, f"Content-Length: {len(body)}", "Connection: close"))
            assert simulator.wait_for_entries(1)[0]["completed"] is False
            received = bytearray()
            while more := connection.recv(1 << 20):
                received += more
        assert received.endswith(b"0\r\n\r\n")
        assert received.count(b'"delta":{"content":') == 40_000
        assert simulator.journal()[0]["completed"] is True

    def test_it_serves_many_connections_at_once(self, simulator: SimulatorThread) -> None:
        def use(count: int) -> None:
            with requests.Session() as session:
                headers = {"Authorization": "Bearer sk-x-ok"}
                for _ in range(count):
                    url = simulator.base_url + CHAT["openai"]
                    session.post(url, data=CHAT_BODY, headers=headers, timeout=20).raise_for_status()

        threads = [threading.Thread(target=use, args=(5,)) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # 320 x (1 x 0.1 + 20 x 0.5) = 3232 millionths
        assert simulator.summary().items() >= {"count": 320, "completed": 320, "cost": "0.003232"}.items()


# --- small parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sk-or-v1-abc-429", ("429", None)),
        ("sk-or-v1-abc-429x2", ("429", 2)),
        ("AIzaXYZ-cutx10", ("cut", 10)),
        ("invalid", ("invalid", None)),
        ("sk-or-v1-0123abcd", ("ok", None)),
        ("sk-or-v1-418", ("ok", None)),
        ("", ("ok", None)),
    ],
)
def test_it_reads_the_end_of_a_key(key: str, expected: tuple[str, int | None]) -> None:
    assert ending(key) == expected


def test_it_reads_directives_over_several_brackets() -> None:
    found = read_directives("a [[prompt_tokens=10]] b [[cost=0.5 status=999 chunks=-1 delay_ms=1]]")
    assert (found.prompt_tokens, found.cost, found.status, found.chunks, found.delay_ms) == (
        10,
        Decimal("0.5"),
        None,
        None,
        1,
    )
    assert read_directives(f"[[prompt_tokens={'9' * 9000}]]").prompt_tokens is None


def test_it_never_makes_a_piece_without_a_word() -> None:
    assert pieces_of(3, 5) == ["simulated", " word", " word"]
    assert pieces_of(5, 2) == ["simulated word word", " word word"]
    assert pieces_of(0, 5) == []


def test_it_needs_nothing_of_the_product() -> None:
    code = "import sys, llmkeys.simulator; print([m for m in sys.modules if m.startswith(('llmkeys', 'django'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name for name in re.findall(r"'([^']+)'", done.stdout) if not name.startswith("llmkeys.simulator")}
    assert loaded == {"llmkeys"}


# --- the command --------------------------------------------------------------------------------------------------

# Bare settings: the command must work before there is a database, a secret or any other part of the product.
RUN = """
import sys
from django.conf import settings
settings.configure()
import django
django.setup()
from llmkeys.management.commands.simulator import Command
Command().run_from_argv(["manage.py", "simulator", *sys.argv[1:]])
"""


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class TestCommand:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_runs_until_a_signal(self, number: signal.Signals, tmp_path: Path) -> None:
        file = tmp_path / "journal.jsonl"
        with command("--bind", "127.0.0.1:0", "--latency-ms", "50", "--journal", str(file)) as process:
            assert process.stdout is not None
            greeting = [process.stdout.readline() for _ in range(5)]
            assert greeting[0].startswith("SIMULATOR of OpenRouter, OpenAI, Anthropic and Google on http://127.0.0.1:")
            url = re.search(r"OPENROUTER_BASE_URL=(\S+)", "".join(greeting))[1]
            begin = time.monotonic()
            headers = {"Authorization": "Bearer sk-or-v1-x-ok"}
            body = {"model": "openai/gpt-6-luna", **body_of()}
            assert requests.post(f"{url}/chat/completions", json=body, headers=headers, timeout=10).ok
            assert time.monotonic() - begin >= 0.05
            process.send_signal(number)
            output, errors = process.communicate(timeout=10)
            assert (process.returncode, errors) == (0, "")
            assert "has stopped" in output
        assert len(file.read_text().splitlines()) == 1

    def test_it_says_that_the_port_is_in_use(self, simulator: SimulatorThread) -> None:
        with command("--bind", f"127.0.0.1:{simulator.port}") as process:
            _, errors = process.communicate(timeout=10)
        assert process.returncode == 1
        assert "in use already" in errors
        assert len(errors.splitlines()) == 1

    @pytest.mark.parametrize("address", ["9900", "127.0.0.1:", "127.0.0.1:99999", ":1"])
    def test_it_refuses_an_address_that_is_none(self, address: str) -> None:
        with command("--bind", address) as process:
            _, errors = process.communicate(timeout=10)
        assert (process.returncode, len(errors.splitlines())) == (1, 1)
        assert "HOST:PORT" in errors

    def test_it_helps_with_an_example(self) -> None:
        with command("--help") as process:
            output, _ = process.communicate(timeout=10)
        assert process.returncode == 0
        assert "example:\n  manage.py simulator --bind 127.0.0.1:9900" in output
        assert "-429x2" in output
        assert "[[prompt_tokens=1000" in output
