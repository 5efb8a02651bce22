"""The form of requests and answers in each dialect, as plain data: no Django, no network."""

from __future__ import annotations

from llmkeys.dialects.anthropic_messages import AnthropicMessages
from llmkeys.dialects.base import Bound, Dialect, Door, Request, Rewrite, Seen, Usage
from llmkeys.dialects.google_generate import GoogleGenerate
from llmkeys.dialects.openai_chat import OpenAIChat
from llmkeys.dialects.openai_embeddings import OpenAIEmbeddings
from llmkeys.dialects.openai_responses import OpenAIResponses

__all__ = ["DIALECTS", "Bound", "Dialect", "Door", "Request", "Rewrite", "Seen", "Usage", "get"]

DIALECTS: tuple[Dialect, ...] = (
    OpenAIChat(),
    OpenAIResponses(),
    OpenAIEmbeddings(),
    AnthropicMessages(),
    GoogleGenerate(),
)


def get(name: str) -> Dialect:
    """Return the dialect with this name. Raises KeyError."""
    return _BY_NAME[name]


_BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
