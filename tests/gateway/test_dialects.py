"""Every dialect at the front door: bytes as they came, cost from its own counts, errors in its own shape."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from llmkeys.lib.money import nano_to_usd
from llmkeys.models import AccessToken, ApiKey, UsageRecord
from tests.gateway.door import RESET, Gate, Pieces, event, limits, only_row
from tests.helpers import make_key, new_secret
from tests.providers.helpers import recorded_bytes

ANTHROPIC = "https://api.anthropic.com/v1"
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/models"
OPENAI = "https://api.openai.com/v1"
TEXT = [{"role": "user", "content": "hi"}]
PARTS = [{"role": "user", "parts": [{"text": "hi"}]}]


@dataclass
class Call:
    """A request in one dialect, where it goes, an answer, and what that costs by the provider's price list."""

    name: str
    provider: str
    path: str
    url: str
    body: dict[str, Any]
    answer: dict[str, Any]
    cost: str
    stream: dict[str, Any] = field(default_factory=dict)  # what makes it a stream
    stream_path: str = ""
    stream_url: str = ""
    events: list[bytes] = field(default_factory=list)


def named(kind: str, **body: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **body})}\n\n".encode()


# gpt-6.1-terra: 1 USD per million in, 5 out. claude-sonnet-5-5: 2 and 10, cached 0.1, written 2.5.
# gemini-2.5-flash: 0.3 and 2.5, cached 0.03. text-embedding-3-small: 0.02.
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "model": "gpt-6.1-terra",
    "status": "completed",
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hello"}]}],
    "usage": {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100},
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5-5",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 1000,
        "cache_read_input_tokens": 10_000,
        "cache_creation_input_tokens": 400,
        "output_tokens": 100,
        "inference_geo": "global",
    },
}
GENERATED = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "hello"}]}, "finishReason": "STOP"}],
    "usageMetadata": {
        "promptTokenCount": 11_000,
        "cachedContentTokenCount": 10_000,
        "candidatesTokenCount": 60,
        "thoughtsTokenCount": 40,
        "totalTokenCount": 11_100,
    },
    "modelVersion": "gemini-2.5-flash",
}
CALLS = {
    call.name: call
    for call in (
        Call(
            "responses",
            "openai",
            "/v1/responses",
            f"{OPENAI}/responses",
            {"model": "gpt-6.1-terra", "input": "hi", "max_output_tokens": 500, "store": False},
            RESPONSE,
            "0.0015",
            {"stream": True},
            events=[
                named("response.created", response={"id": "resp_1", "usage": None}),
                named("response.output_text.delta", delta="hello"),
                named("response.completed", response=RESPONSE),
            ],
        ),
        Call(
            "messages",
            "anthropic",
            "/v1/messages",
            f"{ANTHROPIC}/messages",
            {"model": "claude-sonnet-5-5", "messages": TEXT, "max_tokens": 500},
            MESSAGE,
            "0.005",  # 1,000 × 2 + 10,000 × 0.1 + 400 × 2.5 + 100 × 10 millionths
            {"stream": True},
            events=[
                named(
                    "message_start", message=MESSAGE | {"content": [], "usage": MESSAGE["usage"] | {"output_tokens": 1}}
                ),
                named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
                named("ping"),
                named("content_block_delta", index=0, delta={"type": "text_delta", "text": "hello"}),
                named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 100}),
                named("message_stop"),
            ],
        ),
        Call(
            "generate",
            "google",
            "/v1beta/models/gemini-2.5-flash:generateContent",
            f"{GOOGLE}/gemini-2.5-flash:generateContent",
            {"contents": PARTS, "generationConfig": {"maxOutputTokens": 500}},
            GENERATED,
            "0.00085",  # 1,000 × 0.3 + 10,000 × 0.03 + 100 × 2.5 millionths
            stream_path="/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
            stream_url=f"{GOOGLE}/gemini-2.5-flash:streamGenerateContent",
            events=[
                event({"candidates": [{"content": {"parts": [{"text": "hel"}]}}]}, b"\r\n\r\n"),
                event(GENERATED, b"\r\n\r\n"),
            ],
        ),
        Call(
            "embeddings",
            "openai",
            "/v1/embeddings",
            f"{OPENAI}/embeddings",
            {"model": "text-embedding-3-small", "input": ["hi", "there"]},
            {"object": "list", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 1000, "total_tokens": 1000}},
            "0.00002",
        ),
    )
}
STREAMED = [name for name, call in CALLS.items() if call.events]


def post(client: Any, path: str, body: Any, **headers: str) -> Any:
    return client.post(path, json.dumps(body), headers=headers)


@pytest.mark.parametrize("name", CALLS)
def test_a_whole_answer_costs_what_the_price_list_says(client: Any, provider: Any, name: str) -> None:
    call = CALLS[name]
    make_key(provider=call.provider)
    provider.post(call.url, json=call.answer)
    answer = post(client, call.path, call.body)
    assert (answer.status_code, answer.json()) == (200, call.answer)
    assert Decimal(answer["X-LLM-Cost-USD"]) == Decimal(call.cost)
    assert json.loads(provider.calls[0].body) == call.body
    row = only_row()
    assert (row.state, row.cost_source, nano_to_usd(row.cost_nano)) == ("SETTLED", "computed", Decimal(call.cost))


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_arrives_unchanged_and_costs_the_same(client: Any, provider: Any, name: str) -> None:
    call = CALLS[name]
    make_key(provider=call.provider)
    provider.post(call.stream_url or call.url, Pieces(*call.events))
    answer = post(client, call.stream_path or call.path, call.body | call.stream)
    assert (answer.status_code, answer["Content-Type"]) == (200, "text/event-stream")
    assert answer.content == b"".join(call.events)
    assert nano_to_usd(only_row().cost_nano) == Decimal(call.cost)


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("announced", ["application/json", "text/event-stream"])
def test_a_stream_that_nobody_asked_for_arrives_unchanged_and_costs_the_same(
    client: Any, provider: Any, name: str, announced: str
) -> None:
    call = CALLS[name]
    make_key(provider=call.provider)
    provider.post(call.url, Pieces(*call.events, headers={"Content-Type": announced}))
    answer = post(client, call.path, call.body)
    assert (answer.status_code, answer.content) == (200, b"".join(call.events))
    assert Decimal(answer["X-LLM-Cost-USD"]) == nano_to_usd(only_row().cost_nano) == Decimal(call.cost)
    assert (only_row().state, only_row().success) == ("SETTLED", True)
    assert len(provider.calls) == 1


def test_googles_array_arrives_unchanged(client: Any, provider: Any) -> None:
    make_key(provider="google")
    recording = recorded_bytes("google-generate-stream-jsonarray.json")
    pieces = [recording[at : at + 700] for at in range(0, len(recording), 700)]
    method = "gemini-3.6-flash:streamGenerateContent"
    provider.post(f"{GOOGLE}/{method}", Pieces(*pieces, headers={"Content-Type": "application/json"}))
    answer = post(client, f"/v1beta/models/{method}", {"contents": PARTS})
    assert (answer["Content-Type"], answer.content) == ("application/json", recording)
    # 11 in at 0.75 and 293 out at 3.75 per million
    assert nano_to_usd(only_row().cost_nano) == Decimal("0.001107")


def answers_after(client: Any, provider: Any, tool: str, *calls: str) -> Any:
    """Return the usage row of a response of gpt-4o with this tool, after these calls: $0.0035 for its tokens."""
    key = make_key(provider="openai")
    output = [*({"type": call} for call in calls), *RESPONSE["output"]]
    provider.post(f"{OPENAI}/responses", json=RESPONSE | {"model": "gpt-4o", "output": output})
    body = CALLS["responses"].body | {"model": "gpt-4o", "tools": [{"type": tool}]}
    assert post(client, "/v1/responses", body).status_code == 200
    return UsageRecord.objects.get(key=key)


@pytest.mark.parametrize(
    ("tool", "cost"), [("web_search", "0.0135"), ("web_search_preview", "0.0285"), ("file_search", "0.006")]
)
def test_a_search_costs_what_its_tool_costs(client: Any, provider: Any, tool: str, cost: str) -> None:
    row = answers_after(client, provider, tool, f"{tool.removesuffix('_preview')}_call")
    assert (nano_to_usd(row.cost_nano), row.cost_source) == (Decimal(cost), "computed")


def test_the_hold_covers_the_searches_of_a_stored_prompt(client: Any, provider: Any) -> None:
    make_key(provider="openai")
    full = {"input_tokens": 128_000, "output_tokens": 100, "total_tokens": 128_100}
    output = [*[{"type": "web_search_call"}] * 5, *RESPONSE["output"]]
    answer = RESPONSE | {"model": "gpt-4o", "output": output, "usage": full}
    provider.post(f"{OPENAI}/responses", json=answer)
    body = CALLS["responses"].body | {"model": "gpt-4o", "prompt": {"id": "pmpt_1"}}
    assert post(client, "/v1/responses", body).status_code == 200
    row = only_row()
    # 128,000 × 2.5 and 100 × 10 millionths, and 5 × 0.025: nobody knows which of two tools searched
    assert (nano_to_usd(row.cost_nano), row.cost_source, row.overrun) == (Decimal("0.446"), "estimated", False)


def test_looking_into_stored_files_costs_no_search_at_google(client: Any, provider: Any) -> None:
    call = CALLS["generate"]
    make_key(provider="google")
    found = {"groundingChunks": [{"retrievedContext": {"title": "a.pdf", "text": "hello"}}]}
    [candidate] = GENERATED["candidates"]
    provider.post(call.url, json=GENERATED | {"candidates": [candidate | {"groundingMetadata": found}]})
    post(client, call.path, call.body | {"tools": [{"fileSearch": {"fileSearchStoreNames": ["fileSearchStores/1"]}}]})
    row = only_row()
    assert (nano_to_usd(row.cost_nano), row.cost_source, row.overrun) == (Decimal(call.cost), "computed", False)


@pytest.mark.parametrize(
    ("provider_name", "path", "url", "body", "answer"),
    [
        (
            "anthropic",
            "/v1/messages/count_tokens",
            f"{ANTHROPIC}/messages/count_tokens",
            {"model": "claude-sonnet-5-5", "messages": TEXT},
            {"input_tokens": 12},
        ),
        (
            "google",
            "/v1beta/models/gemini-2.5-flash:countTokens",
            f"{GOOGLE}/gemini-2.5-flash:countTokens",
            {"contents": PARTS},
            {"totalTokens": 12},
        ),
    ],
)
def test_counting_is_free(
    client: Any, provider: Any, provider_name: str, path: str, url: str, body: Any, answer: Any
) -> None:
    make_key(provider=provider_name, **limits(daily="0.000001"))
    provider.post(url, json=answer)
    reply = post(client, path, body)
    assert (reply.status_code, reply.json()) == (200, answer)
    assert only_row().cost_nano == 0


def test_headers_and_query_of_the_dialect_go_along(client: Any, provider: Any) -> None:
    call = CALLS["messages"]
    make_key(provider="anthropic")
    provider.post(call.url, json=call.answer)
    headers = {"anthropic-beta": "context-1m", "anthropic-version": "2026-10-21", "x-stainless-os": "Linux"}
    post(client, f"{call.path}?beta=true", call.body, **headers)
    sent = provider.calls[0]
    assert sent.query == {"beta": "true"}
    assert (sent.headers["anthropic-beta"], sent.headers["anthropic-version"]) == ("context-1m", "2026-10-21")
    assert "x-stainless-os" not in sent.headers


def test_all_lines_of_a_header_go_along(client: Any, provider: Any) -> None:
    call = CALLS["messages"]
    make_key(provider="anthropic")
    provider.post(call.url, json=call.answer)
    lines = {"anthropic-beta": "context-1m", "Anthropic-Beta": "skills, files-api"}
    assert post(client, call.path, call.body, **lines).status_code == 200
    assert provider.calls[0].headers["anthropic-beta"] == "context-1m, skills, files-api"


def test_headers_of_google_go_along_but_for_credentials_and_who_the_client_is(client: Any, provider: Any) -> None:
    call = CALLS["generate"]
    make_key(provider="google", secret=(secret := new_secret("google")))
    provider.post(call.url, json=call.answer)
    along = {
        "x-goog-api-client": "google-genai-sdk/3.6.1 gl-python/3.11",
        "x-goog-request-params": "model=models/gemini-2.5-flash",
        "x-goog-anything-new": "1",
        "x-server-timeout": "60",
    }
    withheld = {
        "x-goog-fieldmask": "candidates.content",  # the usage would be missing
        "x-goog-user-project": "another-project",
        "x-goog-iam-authorization-token": "of the client",
        "x-goog-iap-jwt-assertion": "of the client",
        "x-goog-authenticated-user-email": "accounts.google.com:anna@example.com",
        "x-googly": "1",
    }
    post(client, call.path, call.body, **along, **withheld, **{"x-goog-api-key": "rfk_mine"})
    sent = provider.calls[0].headers
    assert {name: sent.get(name) for name in along} == along
    assert [name for name in withheld if name in sent] == []
    assert sent["x-goog-api-key"] == secret


def test_googles_key_in_the_query_is_the_programs_own_and_fields_without_the_usage_are_not_asked_for(
    client: Any, provider: Any
) -> None:
    call = CALLS["generate"]
    make_key(provider="google")
    provider.post(call.url, json=call.answer)
    post(client, f"{call.path}?key=rfk_mine&prettyPrint=false&fields=candidates&%24fields=candidates", call.body)
    assert provider.calls[0].query == {"prettyPrint": "false"}


def test_anthropic_gets_a_limit_where_a_client_sets_none(client: Any, provider: Any, settings: Any) -> None:
    call = CALLS["messages"]
    settings.BUDGET_MODE = "soft"
    make_key(provider="anthropic")
    provider.post(call.url, json=call.answer)
    post(client, call.path, call.body | {"max_tokens": None})
    assert provider.calls[0].json["max_tokens"] == settings.DEFAULT_MAX_TOKENS


def test_the_hold_covers_the_models_that_anthropic_may_fall_back_to(client: Any, provider: Any) -> None:
    call = CALLS["messages"]
    make_key(provider="anthropic", **limits(daily="0.03"))  # 500 tokens of claude-fable-5-2 cost $0.02, twice
    provider.post(call.url, json=call.answer)
    assert post(client, call.path, call.body).status_code == 200
    answer = post(client, call.path, call.body | {"fallbacks": [{"model": "claude-fable-5-2"}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request_exceeds_budget")


class TestLimitsOfFallbacks:
    """Opus 5.5: 20 for a million tokens out; a fallback may have a limit of its own."""

    ASKED = {"model": "claude-opus-5-5", "messages": TEXT, "max_tokens": 64_000}

    def sent(self, client: Any, provider: Any, **asked: Any) -> Any:
        provider.post(CALLS["messages"].url, json=CALLS["messages"].answer)
        answer = post(client, "/v1/messages", self.ASKED | asked)
        assert answer.status_code == 200, answer.content
        return provider.calls[0].json

    def test_what_the_room_lowers_is_lowered_for_them_too(self, client: Any, provider: Any) -> None:
        make_key(provider="anthropic", **limits(daily="1.5"))
        entries = [{"model": "claude-opus-5-5", "max_tokens": most} for most in (64_000, None, 4_096.0)]
        sent = self.sent(client, provider, fallbacks=entries)
        assert 16_000 <= sent["max_tokens"] < 1_500_000 / 20 / 4
        assert [entry["max_tokens"] for entry in sent["fallbacks"]] == [sent["max_tokens"], None, 4_096]

    def test_they_are_held_where_the_request_has_none(self, client: Any, provider: Any) -> None:
        make_key(provider="anthropic", **limits())
        entry = {"model": "claude-opus-5-5", "max_tokens": 100_000}
        sent = self.sent(client, provider, max_tokens=None, fallbacks=[entry])
        assert only_row().hold_nano >= 2 * 100_000 * 20_000
        assert (sent["max_tokens"], sent["fallbacks"]) == (100_000, [entry])

    def test_a_low_one_does_not_limit_the_model_that_was_named(self, client: Any, provider: Any, settings: Any) -> None:
        make_key(provider="anthropic", **limits())
        sent = self.sent(client, provider, max_tokens=None, fallbacks=[{"model": "claude-opus-5-5", "max_tokens": 9}])
        assert sent["max_tokens"] == settings.DEFAULT_MAX_TOKENS

    def test_a_fast_one_is_held_at_the_price_of_fast_ones(self, client: Any, provider: Any) -> None:
        make_key(provider="anthropic", **limits())
        self.sent(client, provider, fallbacks=[{"model": "claude-opus-5-5", "speed": "fast"}])
        assert only_row().hold_nano >= 2 * 64_000 * 40_000

    def test_a_lowered_limit_stays_above_their_thinking(self, client: Any, provider: Any) -> None:
        make_key(provider="anthropic", **limits(daily="1"))
        thinking = {"type": "enabled", "budget_tokens": 30_000}
        body = self.ASKED | {"fallbacks": [{"model": "claude-opus-5-5", "thinking": thinking}]}
        answer = post(client, "/v1/messages", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request_exceeds_budget")


class TestAdvisors:
    """Haiku 5.5 (0.1 in, 0.5 out; 0.5 and 2.5 above 100,000) asks Opus 5.5 (4 and 20) for advice."""

    TOOL = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-5-5", "max_uses": 1}
    ASKED = {"model": "claude-haiku-5-5", "messages": TEXT, "max_tokens": 500, "tools": [TOOL]}
    OWN = {"input_tokens": 2_000, "output_tokens": 300}
    ADVICE = {"type": "advisor_message", "model": "claude-opus-5-5", "input_tokens": 30_000, "output_tokens": 2_000}

    def answered(self, client: Any, provider: Any, *iterations: Any, streamed: bool = False, **asked: Any) -> Any:
        """Return the row of an answer of Haiku's with these iterations beside its own."""
        make_key(provider="anthropic", **limits())
        told = self.OWN | {"iterations": [{"type": "message", **self.OWN}, *iterations]}
        message = MESSAGE | {"model": "claude-haiku-5-5", "usage": told}
        end = named("message_delta", delta={"stop_reason": "end_turn"}, usage=told)
        url, start = CALLS["messages"].url, message | {"content": [], "usage": self.OWN | {"output_tokens": 1}}
        if streamed:
            pieces = [named("message_start", message=start), *CALLS["messages"].events[1:4], end, named("message_stop")]
            provider.post(url, Pieces(*pieces))
        else:
            provider.post(url, json=message)
        answer = post(client, "/v1/messages", self.ASKED | {"stream": streamed} | asked)
        assert (answer.status_code, answer.content[-1:]) == (200, b"\n" if streamed else b"}"), answer.content
        row = only_row()
        assert (row.state, row.overrun) == ("SETTLED", False)
        assert row.cost_nano <= row.hold_nano
        return row

    @pytest.mark.parametrize("streamed", [False, True])
    def test_advice_costs_what_the_model_costs_that_gave_it(self, client: Any, provider: Any, streamed: bool) -> None:
        row = self.answered(client, provider, self.ADVICE, streamed=streamed)
        # 2,000 × 0.1 + 300 × 0.5 and 30,000 × 4 + 2,000 × 20 millionths
        assert (row.cost_nano, row.cost_source) == (350_000 + 160_000_000, "computed")
        assert (row.input_tokens, row.output_tokens) == (32_000, 2_300)

    def test_each_prompt_has_the_rates_of_its_own_length(self, client: Any, provider: Any) -> None:
        summary = {"type": "compaction", "input_tokens": 99_000, "output_tokens": 1_000}
        edits = {"edits": [{"type": "compact_20260112"}]}
        advice = self.ADVICE | {"input_tokens": 99_000}
        message = [{"role": "user", "content": "word " * 20_000}]
        row = self.answered(client, provider, advice, summary, context_management=edits, messages=message)
        # 350 and 99,000 × 0.1 + 1,000 × 0.5 and 99,000 × 4 + 2,000 × 20
        assert row.cost_nano == 350_000 + 10_400_000 + 436_000_000
        assert (row.input_tokens, row.output_tokens) == (200_000, 3_300)

    def test_advice_of_an_unknown_name_is_as_dear_as_the_dearest_that_was_named(
        self, client: Any, provider: Any
    ) -> None:
        row = self.answered(client, provider, self.ADVICE | {"model": "claude-of-tomorrow"})
        assert (row.cost_nano, row.cost_source) == (350_000 + 160_000_000, "computed")

    def test_the_hold_covers_an_advisor_that_reads_a_file_in_every_round(self, client: Any, provider: Any) -> None:
        source = {"type": "file", "file_id": "file_1"}
        document = [{"role": "user", "content": [{"type": "document", "source": source}]}]
        advice = [self.ADVICE | {"input_tokens": 990_000}] * 2
        tool = self.TOOL | {"max_uses": 2, "caching": {"type": "ephemeral", "ttl": "1h"}}
        written = {"cache_creation": {"ephemeral_1h_input_tokens": 990_000}, "input_tokens": 0}
        row = self.answered(client, provider, *(one | written for one in advice), messages=document, tools=[tool])
        assert row.cost_nano == 350_000 + 2 * (990_000 * 8 + 2_000 * 20) * 1_000


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "where", "expected"),
        [
            ("responses", ("error", "type"), "api_error"),
            ("messages", ("error", "type"), "overloaded_error"),
            ("generate", ("error", "status"), "UNAVAILABLE"),
        ],
    )
    def test_they_have_the_dialects_shape(self, client: Any, name: str, where: tuple[str, str], expected: str) -> None:
        call = CALLS[name]
        answer = post(client, call.path, call.body)  # no key is stored
        assert answer.status_code == 503
        assert answer.json()[where[0]][where[1]] == expected
        assert "no_key_available" in answer.content.decode()
        assert "No API key available" in answer.json()["error"]["message"]

    @pytest.mark.parametrize("name", CALLS)
    def test_a_bad_body_names_its_field(self, client: Any, name: str) -> None:
        call = CALLS[name]
        answer = post(client, call.path, {"model": "gpt-6.1-terra"})
        assert answer.status_code == 400
        assert "is missing" in answer.json()["error"]["message"]
        assert "invalid_request" in answer.content.decode()

    @pytest.mark.parametrize(
        ("provider_name", "path", "url", "body", "beginning"),
        [
            (
                "google",
                "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
                f"{GOOGLE}/gemini-2.5-flash:streamGenerateContent",
                CALLS["generate"].body,
                b" ",
            ),
            (
                "anthropic",
                "/v1/messages",
                f"{ANTHROPIC}/messages",
                CALLS["messages"].body | {"stream": True},
                b'event: ping\ndata: {"type": "ping"}\n\n',
            ),
        ],
    )
    def test_after_a_keep_alive_they_come_inside_the_stream(
        self,
        client: Any,
        provider: Any,
        settings: Any,
        pauses: Any,
        provider_name: str,
        path: str,
        url: str,
        body: Any,
        beginning: bytes,
    ) -> None:
        settings.KEEPALIVE_SECONDS = 0.05
        make_key(provider=provider_name)
        gate = Gate()
        provider.post(url, Pieces(gate, RESET))
        wire = client.begin("POST", path, json.dumps(body))
        gate.wait_until_reached()
        answer = wire.answer()  # the head: a keep-alive has gone out
        gate.open()
        assert answer.status_code == 200
        content = answer.content
        assert content.startswith(beginning)
        if provider_name == "google":
            [element] = json.loads(content)
            assert element["error"]["status"] == "UNAVAILABLE"
        else:
            assert b"event: error\ndata: {" in content
        assert b"upstream_error" in content

    def test_the_hold_shrinks_as_soon_as_the_input_is_told(self, client: Any, provider: Any) -> None:
        call = CALLS["messages"]
        key = make_key(provider="anthropic")
        gate = Gate()
        provider.post(call.url, Pieces(*call.events[:4], gate, *call.events[4:]))
        body = call.body | {
            "max_tokens": 50_000,
            "messages": [{"role": "user", "content": "x" * 60_000}],
            **call.stream,
        }
        wire = client.begin("POST", call.path, json.dumps(body))
        gate.wait_until_reached()
        answer = wire.answer()
        row, key = only_row(), ApiKey.objects.get(id=key.id)
        # 1,000 × 2 + 10,000 × 0.1 + 400 × 2.5 and 50,000 × 10 millionths of a dollar; more than 60,000 × 2.5 before
        assert (row.state, row.hold_nano, key.held_nano) == ("HELD", 504_000_000, 504_000_000)
        assert AccessToken.objects.get(id=row.token_id).held_nano == 504_000_000
        gate.open()
        assert b"message_stop" in answer.content
        row.refresh_from_db()
        key.refresh_from_db()
        assert (row.state, row.cost_nano, row.hold_nano, row.overrun) == ("SETTLED", 5_000_000, 504_000_000, False)
        assert key.held_nano == 0

    def test_the_hold_covers_the_region_that_a_workspace_has_chosen(self, client: Any, provider: Any) -> None:
        """5 × 4 and 64,000 × 20; a tenth more in one country, which only the first event tells."""
        make_key(provider="anthropic", **limits())
        told = {"input_tokens": 5, "cache_read_input_tokens": 0, "inference_geo": "us"}
        message = MESSAGE | {"model": "claude-opus-5-5", "content": [], "usage": told | {"output_tokens": 1}}
        end = named("message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 64_000})
        start, gate = [named("message_start", message=message), *CALLS["messages"].events[1:4]], Gate()
        provider.post(CALLS["messages"].url, Pieces(*start, gate, end))
        asked = {"model": "claude-opus-5-5", "messages": TEXT, "max_tokens": 64_000, "stream": True}
        wire = client.begin("POST", "/v1/messages", json.dumps(asked))
        gate.wait_until_reached()
        answer = wire.answer()
        gate.open()
        assert b"message_delta" in answer.content
        row = only_row()
        assert (row.state, row.overrun) == ("SETTLED", False)
        assert row.cost_nano == row.hold_nano == 1_408_022_000

    def test_a_body_for_another_dialect_is_told_where_it_belongs(self, client: Any) -> None:
        answer = post(client, "/v1/chat/completions", CALLS["responses"].body)
        assert "/v1/responses" in answer.json()["error"]["message"]
        answer = post(client, "/v1/messages", CALLS["generate"].body)
        assert ":generateContent" in answer.json()["error"]["message"]

    def test_a_providers_own_error_comes_back_unchanged(self, client: Any, provider: Any) -> None:
        call = CALLS["messages"]
        make_key(provider="anthropic")
        body = recorded_bytes("anthropic-error-400.json")
        provider.post(call.url, body=body, status=400, content_type="application/json")
        answer = post(client, call.path, call.body)
        assert (answer.status_code, answer.content) == (400, body)

    @pytest.mark.parametrize("name", STREAMED)
    def test_what_breaks_in_the_middle_ends_with_an_error_event(self, client: Any, provider: Any, name: str) -> None:
        call = CALLS[name]
        make_key(provider=call.provider)
        first = call.events[:-1] if name != "generate" else call.events[:1]
        provider.post(call.stream_url or call.url, Pieces(*first, RESET))
        answer = post(client, call.stream_path or call.path, call.body | call.stream)
        assert answer.content.startswith(b"".join(first))
        assert b"upstream_error" in answer.content[len(b"".join(first)) :]
