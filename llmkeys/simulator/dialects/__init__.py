"""The dialects of the simulated providers, and their paths."""

from __future__ import annotations

from ..auth import Caller
from .anthropic_messages import AnthropicMessages
from .base import Dialect, Reply, Stream
from .google_generate import METHODS, GoogleGenerate
from .openai_chat import OpenAIChat
from .openai_embeddings import OpenAIEmbeddings
from .openai_responses import OpenAIResponses

__all__ = ["Dialect", "Reply", "Stream", "spoken"]

_CHAT, _RESPONSES, _EMBEDDINGS, _MESSAGES = OpenAIChat(), OpenAIResponses(), OpenAIEmbeddings(), AnthropicMessages()
_GENERATE = GoogleGenerate()
_GOOGLE_MODELS = "/v1beta/models/"
_PATHS: dict[tuple[str, str], tuple[Dialect, str]] = {
    ("openrouter", "/api/v1/chat/completions"): (_CHAT, ""),
    ("openrouter", "/api/v1/responses"): (_RESPONSES, ""),
    ("openrouter", "/api/v1/embeddings"): (_EMBEDDINGS, ""),
    ("openrouter", "/api/v1/messages"): (_MESSAGES, ""),
    ("openai", "/v1/chat/completions"): (_CHAT, ""),
    ("openai", "/v1/responses"): (_RESPONSES, ""),
    ("openai", "/v1/embeddings"): (_EMBEDDINGS, ""),
    ("anthropic", "/v1/chat/completions"): (_CHAT, ""),
    ("anthropic", "/v1/messages"): (_MESSAGES, ""),
    ("anthropic", "/v1/messages/count_tokens"): (_MESSAGES, "count_tokens"),
    ("google", "/v1beta/openai/chat/completions"): (_CHAT, ""),
    ("google", "/v1beta/openai/embeddings"): (_EMBEDDINGS, ""),
}


def spoken(caller: Caller) -> tuple[Dialect, str] | None:
    """Return the dialect of a path and its action (for Google: model and method), or None."""
    if caller.provider == "google" and caller.path.startswith(_GOOGLE_MODELS):
        action = caller.path.removeprefix(_GOOGLE_MODELS)
        return (_GENERATE, action) if action.rpartition(":")[2] in METHODS and ":" in action else None
    return _PATHS.get((caller.provider, caller.path))
