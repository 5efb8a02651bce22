"""The dialect *OpenAI embeddings*: vectors cost input alone."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from llmkeys.dialects.base import Request, Rewrite
from llmkeys.dialects.openai_embeddings import OpenAIEmbeddings
from tests.dialects.helpers import PNG, refusal, request_of

EMBEDDINGS = OpenAIEmbeddings()


def ask(given: Any = "hi", **body: Any) -> Request:
    return request_of(EMBEDDINGS, {"model": "text-embedding-3-small", "input": given} | body)


@pytest.mark.parametrize("given", ["hi", ["hi", "there"], [1, 2, 3], [[1, 2], [3]], [{"content": []}]])
def test_it_takes_texts_and_tokens(given: Any) -> None:
    assert refusal(ask(given)) == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": None}, "is missing"),
        ({"input": ""}, "is empty"),
        ({"input": []}, "is empty"),
        ({"input": {}}, "must be a string"),
        ({"input": None, "messages": []}, "send it to /v1/chat/completions"),
    ],
)
def test_it_says_what_is_wrong_with_the_input(body: dict[str, Any], words: str) -> None:
    [(name, [told])] = refusal(ask(**{"given": None} | body)).items()
    assert name == "input"
    assert words in told


def test_a_body_for_another_dialect_is_told_where_it_belongs() -> None:
    from llmkeys.dialects.openai_chat import OpenAIChat

    body = {"model": "text-embedding-3-small", "input": "hi"}
    assert "send it to /v1/embeddings" in refusal(request_of(OpenAIChat(), body))["messages"][0]


def test_it_takes_its_bytes_and_makes_nothing() -> None:
    request = ask([[1, 2], [3]])
    assert (request.bound.input_tokens, request.bound.output_tokens) == (len(request.raw) + 256, 0)
    assert not ask(stream=True).streamed


@pytest.mark.parametrize(
    ("given", "inputs"),
    [("hi", 1), (["hi"], 1), (["hi", "there"], 2), ([1, 2, 3], 1), ([[1, 2], [3], [4]], 3), ([{"content": []}] * 2, 2)],
)
def test_it_counts_the_texts_that_are_read_separately(given: Any, inputs: int) -> None:
    assert ask(given).bound.inputs == inputs


def test_a_picture_counts_and_its_base64_does_not() -> None:
    url = f"data:image/png;base64,{PNG}"
    request = ask([{"content": [{"type": "image_url", "image_url": {"url": url}}]}])
    assert request.bound.input_tokens == len(request.raw) - len(url) + 6_000 + 256


def test_the_model_alone_changes() -> None:
    request = ask()
    assert EMBEDDINGS.rewritten(request, Rewrite(model="text-embedding-3-small", output_limit=5)) is request.raw
    body = json.loads(EMBEDDINGS.rewritten(request, Rewrite(model="openai/text-embedding-3-small")))
    assert body == {"model": "openai/text-embedding-3-small", "input": "hi"}


@pytest.mark.parametrize("usage", [{"prompt_tokens": 8, "total_tokens": 8}, {"prompt_tokens": 8}])
def test_no_output_is_right(usage: dict[str, Any]) -> None:
    seen = EMBEDDINGS.see_answer({"object": "list", "data": [{"embedding": [0.1]}], "model": "m", "usage": usage})
    assert seen.usage is not None
    assert (seen.usage.input_tokens, seen.usage.output_tokens) == (8, 0)
    assert (seen.has_content, seen.content_bytes) == (True, 0)


def test_it_reads_a_cost_and_an_error() -> None:
    usage = EMBEDDINGS.see_answer({"data": [{}], "usage": {"prompt_tokens": 8, "cost": Decimal("0.1")}}).usage
    assert usage is not None
    assert usage.cost_usd == Decimal("0.1")
    error = {"error": {"message": "no"}}
    assert EMBEDDINGS.see_answer(error).error == error
    assert EMBEDDINGS.see_answer([error]).error == error
