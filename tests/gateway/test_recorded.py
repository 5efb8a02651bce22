"""Every recorded answer of a real provider, played through the front door: the tokens and the cost that the provider
itself reports, or that its price list gives; each sum is worked out beside it in USD per million tokens."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from llmkeys.lib.money import nano_to_usd
from tests.gateway.door import Pieces, only_row
from tests.helpers import make_key
from tests.providers.helpers import MANIFEST, recorded_bytes

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 500}
INPUT: dict[str, Any] = {"input": "hi", "max_output_tokens": 500}
CONTENTS: dict[str, Any] = {
    "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
    "generationConfig": {"maxOutputTokens": 500},
}
# file: (body, input, cached, written, output, reasoning, USD, how it is known)
TOLD: dict[str, tuple[dict[str, Any], int, int, int, int, int, str, str]] = {
    # OpenRouter says what it charged.
    "openrouter-chat-nonstream.json": (
        CHAT | {"model": "openai/gpt-4o-mini"}, 20, 0, 0, 1, 0, "0.0000036", "provider",
    ),
    "openrouter-chat-nonstream-anthropic-cache-write.json": (
        CHAT | {"model": "anthropic/claude-sonnet-4.6"}, 3214, 0, 3211, 100, 0, "0.01355025", "provider",
    ),
    "openrouter-chat-stream.sse": (CHAT | {"model": "openai/gpt-4o-mini"}, 20, 0, 0, 1, 0, "0.0000036", "provider"),
    "openrouter-responses-stream.sse": (INPUT | {"model": "openai/gpt-4o"}, 17, 0, 0, 4, 0, "0.0000825", "provider"),
    # 120 × 2 + 1024 × 0.5 + 2 × 8 = 768
    "openai-chat-nonstream-cached.json": (CHAT | {"model": "gpt-4.1"}, 1144, 1024, 0, 2, 0, "0.000768", "computed"),
    # 8 × 4 + 4012 × 5 + 4 × 20 = 20,172
    "openai-chat-nonstream-cache-write.json": (
        CHAT | {"model": "gpt-5.6-sol"}, 4020, 0, 4012, 4, 0, "0.020172", "computed",
    ),
    # 12 × 30 + 5 × 60 = 660
    "openai-chat-stream-include-usage.sse": (CHAT | {"model": "gpt-4"}, 12, 0, 0, 5, 0, "0.00066", "computed"),
    # 17 × 5 + 20 × 25 = 585
    "anthropic-messages-stream.sse": (CHAT | {"model": "claude-opus-4-6"}, 17, 0, 0, 20, 0, "0.000585", "computed"),
    # 8 × 0.3 + 3512 × 0.03 + (2 + 42) × 2.5 = 217.76
    "google-generate-nonstream-cached-thoughts.json": (CONTENTS, 3520, 3512, 0, 44, 42, "0.00021776", "computed"),
    # gemini-3.6-flash until the end of 2026: 11 × 0.75 + (2 + 291) × 3.75 = 1,107
    "google-generate-stream-jsonarray.json": (CONTENTS, 11, 0, 0, 293, 291, "0.001107", "computed"),
}  # fmt: skip


def test_every_recorded_answer_is_in_the_table() -> None:
    answers = {name for name, entry in MANIFEST.items() if entry["status"] == 200 and entry["method"] == "POST"}
    assert answers == TOLD.keys()


@pytest.mark.parametrize("name", TOLD)
def test_it_is_charged_as_its_provider_charges(client: Any, provider: Any, name: str) -> None:
    body, *tokens, cost, source = TOLD[name]
    url, raw = MANIFEST[name]["url"], recorded_bytes(name)
    make_key(provider=name.partition("-")[0])
    path = "/v1" + url.partition("/v1")[2]
    is_stream = "stream" in name and "nonstream" not in name
    if is_stream and body is not CONTENTS:
        body = body | {"stream": True}
    kind = "application/json" if name.endswith(".json") else "text/event-stream"
    provider.post(url, Pieces(raw, headers={"Content-Type": kind}))
    answer = client.post(path, json.dumps(body))
    assert answer.status_code == 200
    assert b"".join(answer.pieces) if is_stream else answer.content
    row = only_row()
    counts = [row.input_tokens, row.cached_input_tokens, row.cache_write_tokens, row.output_tokens]
    assert [count or 0 for count in (*counts, row.reasoning_tokens)] == tokens
    assert (nano_to_usd(row.cost_nano), row.cost_source, row.state) == (Decimal(cost), source, "SETTLED")
