"""What a request and an answer look like in each dialect, in plain data: no Django, no network."""

from __future__ import annotations

from llmkeys.dialects.base import Dialect
from llmkeys.dialects.openai_chat import OpenAIChat

DIALECTS: tuple[Dialect, ...] = (OpenAIChat(),)


def get(name: str) -> Dialect:
    """Return the dialect of this name. Raises KeyError."""
    return _BY_NAME[name]


_BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
