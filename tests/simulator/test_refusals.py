"""Who is asked, and the failures it plays."""

from __future__ import annotations

import json
import re
import socket
import time
from decimal import Decimal
from typing import Any

import pytest
import requests

from llmkeys.simulator import SimulatorThread
from tests.simulator.helpers import CHAT, FREE, KEYS, MODELS, body_of, chat, events, every_provider, exact


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
        answer = requests.post(simulator.base_url + "/v1/completions", json={}, headers=headers, timeout=10)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"].startswith("simulated: there is nothing at POST /v1/completions")
        assert requests.get(simulator.base_url + "/nowhere", timeout=10).status_code == 404
        assert requests.get(simulator.base_url + CHAT["openai"], headers=headers, timeout=10).status_code == 405


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
        received, seconds = b"", 2 if kind == "stall" else 5
        with socket.create_connection(("127.0.0.1", simulator.port), timeout=seconds) as connection:
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
