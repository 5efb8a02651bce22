"""OpenAI embeddings, as answered by OpenRouter, OpenAI and Google's OpenAI layer."""

from __future__ import annotations

import base64
import struct
from typing import Any

from ..generation import Asked, Unacceptable
from ..http import Request
from .base import Dialect, Reply, named_model, whole_number

DIMENSIONS = 8
MOST_DIMENSIONS = 4_096


class OpenAIEmbeddings(Dialect):
    prefix = "embd-"

    def read(self, body: dict[str, Any], request: Request, action: str) -> Asked:
        model, given = named_model(body), body.get("input")
        if not isinstance(given, str | list) or not given:
            raise Unacceptable("The input is missing.")
        texts = [given] if isinstance(given, str) else given
        # A list of numbers is a single text that is already tokenized.
        inputs = [texts] if isinstance(texts[0], int) else texts
        words = [one if isinstance(one, str) else "token " * len(one) for one in inputs if isinstance(one, str | list)]
        return Asked(
            model=model,
            texts=words,
            last_user_text=" ".join(words),
            kind="embed",
            inputs=len(inputs),
            dimensions=whole_number(body, "dimensions", most=MOST_DIMENSIONS) or DIMENSIONS,
            in_base64=body.get("encoding_format") == "base64",
        )

    def whole(self, reply: Reply) -> dict[str, Any]:
        asked = reply.asked
        vector: Any = vector_of(asked.dimensions)
        if asked.in_base64:
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(asked.inputs)]
        body: dict[str, Any] = {"object": "list", "data": data, "model": reply.generation.model_name}
        if reply.is_routed:
            body |= {"id": reply.id, "provider": "Simulated"}
        if reply.reports_usage:
            tokens = reply.generation.tokens.prompt
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            body["usage"] = reply.falsified(usage | ({"cost": reply.generation.cost} if reply.is_routed else {}))
        return body


def vector_of(dimensions: int) -> list[float]:
    """Return a meaningless vector of length 1."""
    return [dimensions**-0.5] * dimensions
