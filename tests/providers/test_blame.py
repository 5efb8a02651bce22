"""`blames`: which of the fields that we added a 400 objects to, and what the server asks for instead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmkeys.providers import PROVIDERS, Blame

OURS = ("max_tokens", "stream_options", "max_completion_tokens", "max_output_tokens")


def blames(body: Any, names: tuple[str, ...] = OURS) -> dict[str, Blame]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = [provider.blames(raw, names) for provider in PROVIDERS.values()]
    assert all(each == found[0] for each in found)
    return found[0]


def said(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


def at_most(tokens: int) -> dict[str, Blame]:
    return {name: Blame(at_most=tokens) for name in OURS if name != "stream_options"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            said(
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.", "max_tokens",
            ),
            {"max_tokens": Blame(name="max_completion_tokens")},
        ),
        (said("Unrecognized request argument supplied: stream_options"), {"stream_options": Blame()}),
        (said("Extra fields", "stream_options.include_usage"), {"stream_options": Blame()}),
        ({"detail": [{"loc": ["body", "stream_options"], "msg": "extra"}]}, {"stream_options": Blame()}),
        (b'unknown field "stream_options"', {"stream_options": Blame()}),
        (said("max_tokens is too large: 16384. This model supports at most 4096 completion tokens."),
         {"max_tokens": Blame(at_most=4096)}),
        (said("`max_tokens` must be less than or equal to `8192`"), {"max_tokens": Blame(at_most=8192)}),
        (said("max_completion_tokens: the maximum value is 8192"), {"max_completion_tokens": Blame(at_most=8192)}),
        (said("max_tokens: 16384 > 4096, which is the maximum allowed number of output tokens for claude-x"),
         {"max_tokens": Blame(at_most=4096)}),
        (said("Invalid 'max_output_tokens': integer above maximum value. Expected a value <= 4096, but got 16384 "
              "instead."), {"max_output_tokens": Blame(at_most=4096)}),
        (said("Unable to submit request because it has a maxOutputTokens value of 16384 but the supported range is "
              "from 1 (inclusive) to 4097 (exclusive)."), {"max_output_tokens": Blame(at_most=4096)}),
        (said("This endpoint's maximum context length is 8192 tokens. However, you requested about 16386 tokens (2 of "
              "text input, 16384 in the output). Please reduce the length of either one, or use the middle-out "
              "transform to compress your prompt automatically."), at_most(8190)),
        (said("This model's maximum context length is 8192 tokens. However, you requested 8210 tokens (18 in the "
              "messages, 8192 in the completion). Please reduce the length of the messages or completion.", "messages"),
         at_most(8174)),
        (said("This model's maximum context length is 4097 tokens, however you requested 4322 tokens (4066 in your "
              "prompt; 256 for the completion)."), at_most(31)),
        (said("'max_tokens' or 'max_completion_tokens' is too large: 16384. This model's maximum context length is "
              "8192 tokens and your request has 20 input tokens (16384 > 8192 - 20)."), at_most(8172)),
        (said("input length and `max_tokens` exceed context limit: 188240 + 16384 > 200000, decrease input length or "
              "`max_tokens` and try again"), at_most(11760)),
        (said("This model's maximum context length is 8192 tokens. However, you requested 9100 tokens (9000 in the "
              "messages, 100 in the completion)."), {}),
        (said("This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."),
         {}),
        ({"error": {"message": "Unknown name \"streamOptions\": Cannot find field."}}, {"stream_options": Blame()}),
        (said("temperature: must be below 2"), {}),
        (said("my_max_tokens_2 is unknown"), {}),
        (b"", {}),
        (b"\xff\xfe", {}),
    ],
)  # fmt: skip
def test_it_finds_what_of_ours_is_blamed(body: Any, expected: dict[str, Blame]) -> None:
    assert blames(body) == expected


def test_it_blames_no_field_of_the_client() -> None:
    assert blames(said("Unsupported parameter: 'max_tokens'"), ("stream_options",)) == {}
