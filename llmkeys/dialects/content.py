"""The size of the usable output in an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PICTURE_BYTES = 4_000  # for a picture in an estimate: about 1,300 tokens
_SOUND_SHARE = 1_000  # bytes of base64 audio that count as one byte of text

_NO_CONTENT = frozenset(
    {"role", "refusal_reason", "index", "id", "type", "call_id", "status", "mimeType"}
    | {"signature", "thoughtSignature", "encrypted_content"}
)
_PACKED = frozenset({"data", "b64_json", "partial_image_b64"})


def content_size(part: Any) -> int:
    """Return the bytes of text, reasoning and calls in an object; 0 for just a role or empty strings. Never raises."""
    total = 0
    stack: list[Any] = [part] if isinstance(part, Mapping | list) else []
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, Mapping):
            for name, value in node.items():
                if isinstance(value, str):
                    total += _size(name, value) if name not in _NO_CONTENT else 0
                elif isinstance(value, Mapping | list) and name not in _NO_CONTENT:
                    stack.append(value)
        elif isinstance(node, str):
            total += text_size(node)
    return total


def text_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _size(name: str, value: str) -> int:
    if value.startswith("data:image/"):
        return PICTURE_BYTES
    return -(-len(value) // _SOUND_SHARE) if name in _PACKED else text_size(value)
