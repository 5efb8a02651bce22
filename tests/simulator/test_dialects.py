"""Every dialect: answers, streams, usage, tools, thinking and failures, in the words of the provider."""

from __future__ import annotations

import base64
import json
import struct
from decimal import Decimal
from typing import Any

import pytest
import requests

from llmkeys.simulator import SimulatorThread
from tests.simulator.helpers import KEYS, MODELS, exact
from tests.spoken import FLASH, SPOKEN, Spoken, values

WORDS = "simulated" + " word" * 19
every_dialect = pytest.mark.parametrize("spoken", SPOKEN.values(), ids=SPOKEN)


def headers(provider: str, ending: str) -> dict[str, str]:
    key = f"{KEYS[provider]}-{ending}"
    return {"x-goog-api-key": key} if provider == "google" else {"Authorization": f"Bearer {key}"}


def ask(
    simulator: SimulatorThread,
    spoken: Spoken,
    text: str = "three little words",
    *,
    ending: str = "ok",
    stream: bool = False,
    **more: Any,
) -> requests.Response:
    return requests.post(
        simulator.base_url + spoken.path(stream=stream, simulator=True),
        json=spoken.asked(text, stream=stream, **more),
        headers=headers(spoken.provider, ending),
        timeout=10,
    )


class TestAnswers:
    @every_dialect
    def test_it_answers(self, simulator: SimulatorThread, spoken: Spoken) -> None:
        answer = ask(simulator, spoken)
        assert (answer.status_code, answer.headers["X-Simulated"]) == (200, "true")
        assert "".join(spoken.texts(answer.content)) == WORDS
        assert spoken.model in answer.text

    @every_dialect
    def test_it_streams(self, simulator: SimulatorThread, spoken: Spoken) -> None:
        answer = ask(simulator, spoken, stream=True)
        assert "".join(spoken.texts(answer.content)) == WORDS
        assert spoken.ends in answer.content
        assert len(spoken.texts(answer.content)) == 5

    @every_dialect
    def test_it_bills_what_it_reports(self, simulator: SimulatorThread, spoken: Spoken) -> None:
        """3 words in, 20 out, at haiku's 1 and 5, gpt-4.1-mini's 0.4 and 1.6, flash's 0.3 and 2.5 USD per million."""
        wanted = {"openrouter": "0.000103", "anthropic": "0.000103", "openai": "0.0000332", "google": "0.0000509"}
        for stream in (False, True):
            ask(simulator, spoken, stream=stream)
        entries = simulator.journal()
        assert [entry["cost"] for entry in entries] == [wanted[spoken.provider]] * 2
        assert [entry["stream"] for entry in entries] == [False, True]
        assert [entry["model"] for entry in entries] == [spoken.model] * 2

    @every_dialect
    def test_it_keeps_to_the_output_limit(self, simulator: SimulatorThread, spoken: Spoken) -> None:
        for stream in (False, True):
            answer = ask(simulator, spoken, stream=stream, max_tokens=7)
            assert len("".join(spoken.texts(answer.content)).split()) == 7
            cut = ('"length"', "max_output_tokens", '"max_tokens"', "MAX_TOKENS")
            assert any(word in answer.text for word in cut)

    def test_it_names_openais_events(self, simulator: SimulatorThread) -> None:
        answer = ask(simulator, SPOKEN["responses"], stream=True)
        events = values(answer.content)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event")] == [
            event["type"] for event in events
        ]
        assert "event: " not in ask(simulator, SPOKEN["routed responses"], stream=True).text

    def test_it_ends_googles_lines_as_google_does(self, simulator: SimulatorThread) -> None:
        answer = ask(simulator, SPOKEN["generate"], stream=True)
        assert answer.text.count("\r\n\r\n") == answer.text.count("data: ") == 6
        array = ask(simulator, SPOKEN["generate as an array"], stream=True)
        assert array.headers["Content-Type"] == "application/json"
        assert len(array.json()) == 6


class TestUsage:
    TOLD = "[[prompt_tokens=1000 cached_tokens=300 cache_write_tokens=200 completion_tokens=50 reasoning_tokens=10]]"

    def last_usage(self, simulator: SimulatorThread, name: str, field: str) -> list[dict[str, Any]]:
        """Return the usage of a whole answer, and the last one of a stream."""
        found = []
        for stream in (False, True):
            events = values(ask(simulator, SPOKEN[name], self.TOLD, stream=stream).content)
            told = [event.get(field) or event.get("response", {}).get(field) for event in events]
            found.append([one for one in told if one][-1])
        return found

    def test_it_reports_as_openai_does(self, simulator: SimulatorThread) -> None:
        for usage in self.last_usage(simulator, "responses", "usage"):
            assert usage == {
                "input_tokens": 1000,
                "input_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 200},
                "output_tokens": 50,
                "output_tokens_details": {"reasoning_tokens": 10},
                "total_tokens": 1050,
            }

    def test_it_reports_as_anthropic_does(self, simulator: SimulatorThread) -> None:
        for usage in self.last_usage(simulator, "messages", "usage"):
            assert usage["input_tokens"] == 500
            assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (300, 200)
            assert (usage["output_tokens"], usage["output_tokens_details"]["thinking_tokens"]) == (50, 10)
        # 500 x 1 + 300 x 0.1 + 200 x 1.25 + 50 x 5 = 1030 millionths
        assert {entry["cost"] for entry in simulator.journal()} == {"0.00103"}

    def test_it_reports_as_google_does(self, simulator: SimulatorThread) -> None:
        for usage in self.last_usage(simulator, "generate", "usageMetadata"):
            counts = ("promptTokenCount", "cachedContentTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
            assert [usage[name] for name in counts] == [1000, 300, 40, 10]
            assert usage["totalTokenCount"] == 1050

    @pytest.mark.parametrize("name", ["routed messages", "routed responses"])
    def test_it_tells_the_cost_at_openrouter(self, simulator: SimulatorThread, name: str) -> None:
        usage = exact(ask(simulator, SPOKEN[name]))["usage"]
        assert usage["cost"] == Decimal("0.000103")

    def test_it_tells_the_input_first_at_anthropic(self, simulator: SimulatorThread) -> None:
        first = values(ask(simulator, SPOKEN["messages"], self.TOLD, stream=True).content)[0]
        assert first["message"]["usage"]["input_tokens"] == 500
        assert first["message"]["usage"]["output_tokens"] == 1

    def test_it_tells_running_totals_at_google(self, simulator: SimulatorThread) -> None:
        events = values(ask(simulator, SPOKEN["generate"], stream=True).content)
        assert [event["usageMetadata"].get("candidatesTokenCount") for event in events] == [4, 8, 12, 16, 20, 20]

    @every_dialect
    @pytest.mark.parametrize("stream", [False, True])
    def test_it_withholds_usage(self, simulator: SimulatorThread, spoken: Spoken, stream: bool) -> None:
        text = ask(simulator, spoken, ending="nousage", stream=stream).text
        assert not any(told in text for told in ('"usage":{', "usageMetadata", "prompt_tokens", "input_tokens"))

    @every_dialect
    def test_it_reports_false_usage(self, simulator: SimulatorThread, spoken: Spoken) -> None:
        for ending, sign in (("negusage", "-"), ("strusage", '"abc"'), ("zerousage", "0")):
            for stream in (False, True):
                told = ask(simulator, spoken, ending=ending, stream=stream).text
                name = "okens" if spoken.provider != "google" else "okenCount"
                assert f'{name}":{sign}' in told


class TestTools:
    CALL = '[[tool=look_up {"word": "budget", "depth": 2}]]'
    OFFERS = {
        "chat": {"tools": [{"type": "function", "function": {"name": "look_up"}}]},
        "responses": {"tools": [{"type": "function", "name": "look_up"}]},
        "messages": {"tools": [{"name": "look_up", "input_schema": {"type": "object"}}]},
        "generate": {"tools": [{"functionDeclarations": [{"name": "look_up"}]}]},
    }
    RESULTS = {
        "chat": {"messages": [{"role": "user", "content": CALL}, {"role": "tool", "content": "42"}]},
        "responses": {"input": [{"role": "user", "content": CALL}, {"type": "function_call_output", "output": "42"}]},
        "messages": {
            "messages": [
                {"role": "user", "content": CALL},
                {"role": "user", "content": [{"type": "tool_result", "content": "42"}]},
            ]
        },
        "generate": {
            "contents": [
                {"role": "user", "parts": [{"text": CALL}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "look_up", "response": {}}}]},
            ]
        },
    }

    def call_in(self, name: str, answer: bytes) -> tuple[str, Any]:
        """Return the name and the arguments of the call, put together from all events."""
        called, arguments, ready = "", "", None
        for value in values(answer):
            match name:
                case "chat":
                    for choice in value["choices"]:
                        for call in (choice.get("delta") or choice.get("message")).get("tool_calls", []):
                            called = call["function"].get("name") or called
                            arguments += call["function"]["arguments"]
                case "responses":
                    for item in value.get("output", [value.get("item") or {}]):
                        called = item.get("name") or called
                        arguments = item.get("arguments") or arguments
                case "messages":
                    for block in value.get("content", [value.get("content_block") or {}]):
                        called, ready = block.get("name") or called, block.get("input") or ready
                    arguments += value.get("delta", {}).get("partial_json", "")
                case "generate":
                    for part in value["candidates"][0]["content"]["parts"]:
                        if "functionCall" in part:
                            called, ready = part["functionCall"]["name"], part["functionCall"]["args"]
        return called, ready or json.loads(arguments or "null")

    @pytest.mark.parametrize("name", list(OFFERS))
    def test_it_calls_a_tool(self, simulator: SimulatorThread, name: str) -> None:
        for stream in (False, True):
            answer = ask(simulator, SPOKEN[name], self.CALL, stream=stream, **self.OFFERS[name])
            assert self.call_in(name, answer.content) == ("look_up", {"word": "budget", "depth": 2})
            assert "".join(SPOKEN[name].texts(answer.content)) == WORDS

    @pytest.mark.parametrize("name", list(OFFERS))
    def test_it_goes_on_after_the_tool(self, simulator: SimulatorThread, name: str) -> None:
        answer = ask(simulator, SPOKEN[name], self.CALL, **self.OFFERS[name] | self.RESULTS[name])
        assert answer.status_code == 200
        assert self.call_in(name, answer.content) == ("", None)

    @pytest.mark.parametrize("name", list(OFFERS))
    def test_it_calls_no_tool_that_is_not_offered(self, simulator: SimulatorThread, name: str) -> None:
        assert self.call_in(name, ask(simulator, SPOKEN[name], self.CALL).content) == ("", None)

    def test_it_calls_custom_tools_in_a_namespace(self, simulator: SimulatorThread) -> None:
        tools = [{"type": "namespace", "name": "functions", "tools": [{"type": "custom", "name": "run"}]}]
        text, items = '[[tool=run {"input": "a(1)"}]]', [{"type": "additional_tools", "tools": tools}]
        following = {"input": [*items, {"role": "user", "content": text}]}
        call = ask(simulator, SPOKEN["responses"], **following).json()["output"][-1]
        assert (call["type"], call["name"], call["namespace"]) == ("custom_tool_call", "run", "functions")
        assert call["input"] == "a(1)"
        streamed = values(ask(simulator, SPOKEN["responses"], stream=True, **following).content)
        assert "".join(event["delta"] for event in streamed if event["type"].endswith("input.delta")) == "a(1)"


class TestThinking:
    THINKS = "[[reasoning_tokens=5]]"

    def test_it_thinks_aloud_at_anthropic(self, simulator: SimulatorThread) -> None:
        spoken, wish = SPOKEN["messages"], {"thinking": {"type": "adaptive"}}
        block, text = ask(simulator, spoken, self.THINKS, **wish).json()["content"]
        assert (block["type"], text["type"]) == ("thinking", "text")
        streamed = values(ask(simulator, spoken, self.THINKS, stream=True, **wish).content)
        deltas = [event["delta"]["type"] for event in streamed if event["type"] == "content_block_delta"]
        assert deltas[:3] == ["thinking_delta", "signature_delta", "text_delta"]

    def test_it_hides_thinking_where_nobody_asks_for_it(self, simulator: SimulatorThread) -> None:
        assert [block["type"] for block in ask(simulator, SPOKEN["messages"], self.THINKS).json()["content"]] == [
            "text"
        ]
        assert 'thought"' not in ask(simulator, SPOKEN["generate"], self.THINKS).text
        assert "encrypted" not in ask(simulator, SPOKEN["responses"], self.THINKS).text

    def test_it_shows_thoughts_at_google(self, simulator: SimulatorThread) -> None:
        config = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
        for stream in (False, True):
            answer = values(ask(simulator, SPOKEN["generate"], self.THINKS, stream=stream, **config).content)
            assert answer[0]["candidates"][0]["content"]["parts"][0]["thought"] is True

    def test_it_seals_thinking_for_one_organisation(self, simulator: SimulatorThread) -> None:
        responses, include = SPOKEN["responses"], {"include": ["reasoning.encrypted_content"]}
        thought = ask(simulator, responses, self.THINKS, **include).json()["output"][0]
        following = {"input": [thought, {"role": "user", "content": "go on"}]}
        assert ask(simulator, responses, **following).status_code == 200
        assert ask(simulator, responses, ending="other-ok", **following).status_code == 400
        messages = SPOKEN["messages"]
        block = ask(simulator, messages, self.THINKS, thinking={"type": "enabled"}).json()["content"][0]
        user = {"role": "user", "content": "go on"}
        following = {"messages": [user, {"role": "assistant", "content": [block]}, user]}
        assert ask(simulator, messages, **following).status_code == 200
        assert ask(simulator, messages, ending="other-ok", **following).status_code == 400


class TestVectorsAndCounts:
    def post(self, simulator: SimulatorThread, provider: str, path: str, body: dict[str, Any]) -> requests.Response:
        return requests.post(simulator.base_url + path, json=body, headers=headers(provider, "ok"), timeout=10)

    @pytest.mark.parametrize(
        ("provider", "path", "model"),
        [
            ("openrouter", "/api/v1/embeddings", "openai/text-embedding-3-small"),
            ("openai", "/v1/embeddings", "text-embedding-3-small"),
            ("google", "/v1beta/openai/embeddings", "gemini-embedding-001"),
        ],
    )
    def test_it_embeds(self, simulator: SimulatorThread, provider: str, path: str, model: str) -> None:
        body = self.post(simulator, provider, path, {"model": model, "input": ["one two", "three"]}).json()
        assert [len(one["embedding"]) for one in body["data"]] == [8, 8]
        assert body["usage"]["prompt_tokens"] == 3
        packed = {"model": model, "input": "one", "dimensions": 4, "encoding_format": "base64"}
        vector = self.post(simulator, provider, path, packed).json()["data"][0]["embedding"]
        assert struct.unpack("<4f", base64.b64decode(vector)) == (0.5,) * 4
        assert Decimal(simulator.journal()[0]["cost"]) in (Decimal("0.00000006"), Decimal("0.00000045"))

    def test_it_embeds_as_google_does(self, simulator: SimulatorThread) -> None:
        path, content = "/v1beta/models/gemini-embedding-001", {"parts": [{"text": "one two"}]}
        one = self.post(simulator, "google", f"{path}:embedContent", {"content": content}).json()
        assert len(one["embedding"]["values"]) == 8
        requests = [{"model": "models/gemini-embedding-001", "content": content}] * 2
        several = self.post(simulator, "google", f"{path}:batchEmbedContents", {"requests": requests}).json()
        assert len(several["embeddings"]) == 2
        assert several["usageMetadata"]["promptTokenCount"] == 4

    def test_it_counts_for_nothing(self, simulator: SimulatorThread) -> None:
        body = {"model": MODELS["anthropic"], "messages": [{"role": "user", "content": "one two three"}]}
        counted = self.post(simulator, "anthropic", "/anthropic/v1/messages/count_tokens", body)
        assert counted.json() == {"input_tokens": 3}
        contents = {"contents": [{"parts": [{"text": "one two"}]}]}
        assert self.post(simulator, "google", f"{FLASH}:countTokens", contents).json()["totalTokens"] == 2
        assert [(entry["billed"], entry["cost"]) for entry in simulator.journal()] == [(False, "0")] * 2

    def test_it_makes_no_vectors_of_a_model_that_writes(self, simulator: SimulatorThread) -> None:
        body = {"model": MODELS["openai"], "input": "one"}
        assert self.post(simulator, "openai", "/v1/embeddings", body).status_code == 404
        body = SPOKEN["responses"].asked() | {"model": "text-embedding-3-small"}
        assert self.post(simulator, "openai", "/v1/responses", body).status_code == 404

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("/v1/models/gpt-6-luna", "id"),
            ("/anthropic/v1/models/claude-haiku-4-5", "id"),
            ("/v1beta/openai/models/gemini-2.5-flash", "id"),
            ("/v1beta/models/gemini-2.5-flash", "name"),
        ],
    )
    def test_it_describes_one_model(self, simulator: SimulatorThread, path: str, name: str) -> None:
        bearer = {"Authorization": "Bearer sk-x-ok"}
        found = requests.get(simulator.base_url + path, headers=bearer, timeout=10).json()
        assert found[name].endswith(path.rpartition("/")[2])
        assert requests.get(f"{simulator.base_url}{path}9", headers=bearer, timeout=10).status_code == 404


class TestFailures:
    @every_dialect
    @pytest.mark.parametrize("kind", ["400", "401", "402", "403", "404", "429", "500", "503", "echo"])
    def test_it_refuses(self, simulator: SimulatorThread, spoken: Spoken, kind: str) -> None:
        for stream in (False, True):
            answer = ask(simulator, spoken, ending=kind, stream=stream)
            assert answer.status_code >= 400
            assert answer.json()["error"]["message"]
        assert [entry["billed"] for entry in simulator.journal()] == [False, False]

    @every_dialect
    def test_it_cuts_after_two_chunks(self, simulator: SimulatorThread, spoken: Spoken) -> None:
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            ask(simulator, spoken, ending="cut", stream=True)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            ask(simulator, spoken, ending="cut")
        assert [(entry["billed"], entry["completed"]) for entry in simulator.journal()] == [(True, False)] * 2

    @every_dialect
    def test_it_stalls_and_hangs(self, simulator: SimulatorThread, spoken: Spoken) -> None:
        for ending, stream in (("stall", True), ("stall", False), ("hang", False)):
            with pytest.raises(requests.exceptions.RequestException):
                requests.post(
                    simulator.base_url + spoken.path(stream=stream, simulator=True),
                    json=spoken.asked(stream=stream),
                    headers=headers(spoken.provider, ending),
                    timeout=0.2,
                )

    @every_dialect
    def test_it_ends_a_stream_without_an_end(self, simulator: SimulatorThread, spoken: Spoken) -> None:
        text = ask(simulator, spoken, ending="noend", stream=True).content
        assert b"word" in text
        assert spoken.ends not in text

    @every_dialect
    def test_it_sends_broken_json(self, simulator: SimulatorThread, spoken: Spoken) -> None:
        for stream in (False, True):
            answer = ask(simulator, spoken, ending="malformed", stream=stream)
            assert answer.status_code == 200
            with pytest.raises(json.JSONDecodeError):
                values(answer.content)

    @every_dialect
    def test_it_sends_a_web_page_or_nothing(self, simulator: SimulatorThread, spoken: Spoken) -> None:
        for stream in (False, True):
            assert ask(simulator, spoken, ending="html", stream=stream).headers["Content-Type"].startswith("text/html")
            assert ask(simulator, spoken, ending="empty", stream=stream).content == b""

    @every_dialect
    def test_it_fails_inside_an_answer(self, simulator: SimulatorThread, spoken: Spoken) -> None:
        whole = ask(simulator, spoken, ending="miderror")
        assert (whole.status_code, spoken.texts(whole.content)) == (200, [])
        assert whole.json()["error"]["message"]
        streamed = ask(simulator, spoken, ending="miderror", stream=True)
        assert len(spoken.texts(streamed.content)) == 2
        assert "error" in json.dumps(values(streamed.content)[-1])
