"""One request in each dialect, as programs send them: at which address, with which body, and what an answer says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Spoken:
    """A dialect at one provider. Addresses begin behind the provider's origin, or the product's."""

    name: str
    provider: str
    model: str
    address: str
    at_simulator: str
    body: Callable[[str, str, int], Body]
    pieces: Callable[[Any], list[str]]  # the texts in a whole answer, or in one event of a stream
    stream_address: str = ""  # where another address streams
    ends: bytes = b"[DONE]"  # what only a whole stream holds

    def asked(self, text: str = "hello", *, stream: bool = False, max_tokens: int = 200, **more: Any) -> Body:
        """Return the body of a request."""
        body = self.body(self.model, text, max_tokens) | more
        return body | {"stream": True} if stream and not self.stream_address else body

    def path(self, *, stream: bool = False, simulator: bool = False) -> str:
        """Return where it goes: in the product, or in the simulator."""
        address = (self.stream_address or self.address) if stream else self.address
        return (self.at_simulator if simulator else "") + address

    def texts(self, answer: bytes) -> list[str]:
        """Return all texts of an answer, whole or streamed, in order."""
        return [piece for value in values(answer) for piece in self.pieces(value)]


def values(answer: bytes) -> list[Any]:
    """Return the JSON values of an answer: of each event, or of the one body."""
    text = answer.decode()
    if text.lstrip().startswith(("{", "[")):
        found = json.loads(text)
        return found if isinstance(found, list) else [found]
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(one) for one in data if one != "[DONE]"]


def _chat(model: str, text: str, limit: int) -> Body:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": limit}


def _chat_texts(value: Any) -> list[str]:
    found = [choice.get("delta") or choice.get("message") or {} for choice in value.get("choices", [])]
    return [one["content"] for one in found if one.get("content")]


def _responses(model: str, text: str, limit: int) -> Body:
    return {"model": model, "input": [{"role": "user", "content": text}], "max_output_tokens": limit}


def _responses_texts(value: Any) -> list[str]:
    if "type" in value:
        return [value["delta"]] if value["type"] == "response.output_text.delta" else []
    return [part["text"] for item in value.get("output", []) for part in item.get("content", [])]


def _messages_texts(value: Any) -> list[str]:
    if "delta" in value:
        return [value["delta"]["text"]] if "text" in value["delta"] else []
    return [block["text"] for block in value.get("content", []) if block["type"] == "text"]


def _generate(model: str, text: str, limit: int) -> Body:
    contents = [{"role": "user", "parts": [{"text": text}]}]
    return {"contents": contents, "generationConfig": {"maxOutputTokens": limit}}


def _generate_texts(value: Any) -> list[str]:
    parts = [part for candidate in value.get("candidates", []) for part in candidate["content"]["parts"]]
    return [part["text"] for part in parts if part.get("text") and not part.get("thought")]


FLASH = "/v1beta/models/gemini-2.5-flash"
SPOKEN = {
    one.name: one
    for one in (
        Spoken(
            "chat",
            "openrouter",
            "anthropic/claude-haiku-4.5",
            "/v1/chat/completions",
            "/api",
            _chat,
            _chat_texts,
        ),
        Spoken(
            "responses",
            "openai",
            "gpt-4.1-mini",
            "/v1/responses",
            "/openai",
            _responses,
            _responses_texts,
            ends=b"response.completed",
        ),
        Spoken(
            "routed responses",
            "openrouter",
            "anthropic/claude-haiku-4.5",
            "/v1/responses",
            "/api",
            _responses,
            _responses_texts,
        ),
        Spoken(
            "messages",
            "anthropic",
            "claude-haiku-4-5",
            "/v1/messages",
            "/anthropic",
            _chat,
            _messages_texts,
            ends=b"message_stop",
        ),
        Spoken(
            "routed messages",
            "openrouter",
            "anthropic/claude-haiku-4.5",
            "/v1/messages",
            "/api",
            _chat,
            _messages_texts,
            ends=b"message_stop",
        ),
        Spoken(
            "generate",
            "google",
            "gemini-2.5-flash",
            f"{FLASH}:generateContent",
            "/google",
            _generate,
            _generate_texts,
            stream_address=f"{FLASH}:streamGenerateContent?alt=sse",
            ends=b'"finishReason"',
        ),
        Spoken(
            "generate as an array",
            "google",
            "gemini-2.5-flash",
            f"{FLASH}:generateContent",
            "/google",
            _generate,
            _generate_texts,
            stream_address=f"{FLASH}:streamGenerateContent",
            ends=b'"finishReason"',
        ),
    )
}
