"""Images, audio and files in a request, in every dialect's form: the most input tokens that they can take.

No model reads base64 as text, so if a provider treats a part as media, its bytes are subtracted from the text and an
amount for the image, audio or file is added. What cannot be counted (PDFs, videos, what only the provider can open)
takes a model's whole context window.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmkeys.lib.reading import whole_number

IMAGE_TOKENS = 6_000
IMAGE_TOKENS_ORIGINAL = 15_000  # `detail: original`: not scaled down
IMAGE_TOKENS_OTHERS = 20_000  # other vendors' models split an image into any number of tiles
IMAGE_TOKENS_4O_MINI = 50_000  # which charges 2,833 + 5,667 for each of up to eight tiles
AUDIO_TOKENS = 500
AUDIO_TOKENS_PER_SECOND = 40  # Gemini uses 32, OpenAI 10
# The fewest bytes for one second of audio in each format; some compress silence to almost nothing.
LEAST_BYTES_PER_SECOND = {"mp3": 1_000, "mpeg": 1_000, "mpga": 1_000, "aac": 64, "ogg": 16, "opus": 16, "webm": 16}
LEAST_BYTES_PER_SECOND_UNKNOWN = 2
MOST_MEDIA_TOKENS = 100_000_000

_PCM = frozenset({1, 3, 6, 7})  # uncompressed, floating point, A-law, mu-law
_EXTENSIBLE = 0xFFFE
_PLAIN_TEXT = re.compile(r"text/|application/(?:json|xml|x-?ndjson|yaml|x-yaml|javascript|typescript|sql)\b")
_NEWEST_OPENAI = re.compile(r"~?(?:openai/)?gpt-(?:5\.[4-9]|[6-9]|\d\d|latest)")  # default may be `original`
OWN_VENDORS = ("openai/", "anthropic/", "google/", "models/")


@dataclass(slots=True)
class Survey:
    """What was found in a body; tokens are upper bounds."""

    text_bytes: int
    audio_tokens: int = 0
    image_tokens: int = 0
    images: int = 0
    file_tokens: int = 0
    whole_window: bool = False
    unseen_bytes: int = 0  # the base64 of what cannot be counted
    can_write_cache: bool = False
    can_write_cache_1h: bool = False
    media: set[int] = field(default_factory=set)  # ids of the parts that a provider treats as media

    @property
    def tokens(self) -> int:
        return self.text_bytes + self.audio_tokens + self.image_tokens + self.file_tokens


def survey(body: Mapping[str, Any], *, size: int, places: Iterable[Any], models: Sequence[str]) -> Survey:
    """Search a body of `size` bytes of JSON for media, in one pass and without recursion, even if it is malformed.

    `places` are the parts that the provider treats as media. A similar object elsewhere may be given to the model as
    text, so it counts as media and its bytes also count as text. `models` are those that may answer.
    """
    found, in_place = Survey(size), {id(part) for part in places}
    for_image = image_tokens(models)
    stack: list[Any] = [dict(body)]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if "cache_control" in node:
                note_cache(found, node["cache_control"])
            kind = node.get("type")
            reader = _READERS.get(kind) if isinstance(kind, str) else _google_reader(node)
            if reader is not None and (part := reader(node)) is not None:
                _add(found, part, for_image, node if id(node) in in_place else None)
            node = node.values()
        stack.extend([child for child in node if isinstance(child, dict | list)])
    found.text_bytes = max(0, found.text_bytes)
    return found


def note_cache(found: Survey, control: Any) -> None:
    """Note that the client has a cache written, for as long as `control` says."""
    found.can_write_cache = True
    ttl = control.get("ttl") if isinstance(control, dict) else None
    found.can_write_cache_1h = found.can_write_cache_1h or (ttl is not None and ttl != "5m")


def image_tokens(models: Sequence[str]) -> int:
    """Return the tokens of an image for the model that counts the most for it."""
    most = IMAGE_TOKENS
    for model in models:
        name = model.lower().removeprefix("~")
        if "4o-mini" in name:
            most = max(most, IMAGE_TOKENS_4O_MINI)
        elif "/" in name and not name.startswith(OWN_VENDORS):
            most = max(most, IMAGE_TOKENS_OTHERS)
        elif _NEWEST_OPENAI.match(name):
            most = max(most, IMAGE_TOKENS_ORIGINAL)
    return most


# --- parts, as each dialect writes them ------------------------------------------------------------------------------


@dataclass(slots=True)
class Part:
    """An image, audio or file: base64 or a data URL in `data`, empty if it is stored elsewhere."""

    kind: str  # image, audio, text, or `unseen` if it cannot be counted
    data: str = ""
    format: str = ""
    detail: Any = None


def _part(address: Any, default: str, *, mime: str = "", name: str = "", detail: Any = None) -> Part | None:
    """Read base64 (of type `mime`, if given), a data URL, or the address of something stored elsewhere."""
    if not isinstance(address, str) or not address:
        return None
    if address[:4].lower() == "http" or address[:5].lower() in ("gs://", "s3://", "file:"):
        return Part(default if default == "image" else "unseen", detail=detail)
    if address[:5].lower() == "data:":
        mime = address[5:100].partition(",")[0].partition(";")[0]
    mime = mime.lower()
    if mime.startswith("image/"):
        return Part("image", address, detail=detail)
    if mime.startswith("audio/"):
        return Part("audio", address, mime[6:].removeprefix("x-"))
    if _PLAIN_TEXT.match(mime) and not name.lower().endswith(".pdf"):
        return Part("text", address)
    return Part("unseen" if mime else default, address, detail=detail)


def _inner(node: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = node.get(name)
    return inner if isinstance(inner, dict) else {}


def _image_url(node: Mapping[str, Any]) -> Part | None:
    inner = node.get("image_url")
    detail = node.get("detail")
    if isinstance(inner, dict):
        detail = inner.get("detail", detail)
        inner = inner.get("url")
    if inner is None and node.get("file_id"):
        return Part("image", detail=detail)
    return _part(inner, "image", mime="", detail=detail)


def _source(node: Mapping[str, Any]) -> Part | None:
    """Read Anthropic's `image` and `document`: base64, an address, or a file of the Files API."""
    source, is_image = _inner(node, "source"), node["type"] == "image"
    kind = source.get("type")
    if kind == "base64":
        mime = source.get("media_type")
        return _part(source.get("data"), "image" if is_image else "unseen", mime=mime if isinstance(mime, str) else "")
    return Part("image" if is_image else "unseen") if kind in ("url", "file") else None


def _input_audio(node: Mapping[str, Any]) -> Part | None:
    inner = _inner(node, "input_audio")
    data, written = inner.get("data"), inner.get("format")
    if not isinstance(data, str):
        return None
    part = _part(data, "audio")
    if part is not None and part.kind == "audio" and isinstance(written, str):
        part.format = written.lower()
    return part


def _address_of(name: str, default: str) -> Any:
    def read(node: Mapping[str, Any]) -> Part | None:
        inner = node.get(name)
        found = _part(inner.get("url") if isinstance(inner, dict) else inner, default)
        return found if found is None or found.kind != "image" else Part("unseen", found.data)

    return read


def _file(node: Mapping[str, Any]) -> Part | None:
    inner = node if node["type"] == "input_file" else _inner(node, "file")
    name = inner.get("filename")
    part = _part(inner.get("file_data"), "unseen", name=name if isinstance(name, str) else "")
    if part is not None:
        return part
    return Part("unseen") if inner.get("file_id") or inner.get("file_url") else None


def _made_picture(node: Mapping[str, Any]) -> Part | None:
    return _part(node.get("result"), "image")


_READERS = {
    "image_url": _image_url,
    "input_image": _image_url,
    "computer_screenshot": _image_url,
    "image": _source,
    "document": _source,
    "image_generation_call": _made_picture,
    "input_audio": _input_audio,
    "audio_url": _address_of("audio_url", "audio"),
    "video_url": _address_of("video_url", "unseen"),
    "input_video": _address_of("video_url", "unseen"),
    "file": _file,
    "input_file": _file,
}


def _google_reader(node: Mapping[str, Any]) -> Any:
    """Return the reader of one of Google's parts, which have no type and either spelling of the names."""
    if "inlineData" in node or "inline_data" in node:
        return _inline_data
    if "fileData" in node or "file_data" in node:
        return _file_data
    return None


def _inline_data(node: Mapping[str, Any]) -> Part | None:
    blob = _inner(node, "inlineData") or _inner(node, "inline_data")
    mime = blob.get("mimeType", blob.get("mime_type"))
    return _part(blob.get("data"), "unseen", mime=mime if isinstance(mime, str) else "", detail=_resolution(node))


def _file_data(node: Mapping[str, Any]) -> Part | None:
    return Part("unseen") if _inner(node, "fileData") or _inner(node, "file_data") else None


def _resolution(node: Mapping[str, Any]) -> Any:
    """Return the tokens that a client wants Google to use for an image, if it says so."""
    wanted = _inner(node, "mediaResolution") or _inner(node, "media_resolution")
    return wanted.get("numTokens", wanted.get("num_tokens"))


# --- tokens of parts --------------------------------------------------------------------------------------------------


def _add(found: Survey, part: Part, for_image: int, in_place: Mapping[str, Any] | None) -> None:
    """Add the most that a part can take; if it is `in_place`, subtract its bytes from the text."""
    if in_place is not None:
        found.text_bytes -= len(part.data)
        found.media.add(id(in_place))
    if part.kind == "image":
        found.images += 1
        found.image_tokens += _picture(part, for_image)
    elif part.kind == "audio" and part.data:
        found.audio_tokens += _sound(part)
    elif part.kind == "text":
        found.file_tokens += _decoded(part.data) * 3 // 2  # UTF-16 may grow by half in UTF-8
    else:
        found.whole_window = True
        found.unseen_bytes += len(part.data)


def _picture(part: Part, for_image: int) -> int:
    if (tokens := whole_number(part.detail)) is not None:
        return max(for_image, min(tokens, MOST_MEDIA_TOKENS))
    if part.detail in ("low", "high") and for_image == IMAGE_TOKENS_ORIGINAL:
        return IMAGE_TOKENS
    return max(for_image, IMAGE_TOKENS_ORIGINAL) if part.detail == "original" else for_image


def _sound(part: Part) -> int:
    begin = part.data.partition(",")[2] if part.data[:5].lower() == "data:" else part.data
    least = _wav_bytes_per_second(begin[:128]) if part.format in ("wav", "wave") else None
    least = least or LEAST_BYTES_PER_SECOND.get(part.format, LEAST_BYTES_PER_SECOND_UNKNOWN)
    tokens = -(-_decoded(part.data) * AUDIO_TOKENS_PER_SECOND // least)
    return max(AUDIO_TOKENS, min(tokens, MOST_MEDIA_TOKENS))


def _wav_bytes_per_second(begin: str) -> int | None:
    """Return the bytes per second of a WAV file, from the fields that decoders use; None if that is impossible."""
    try:
        head = base64.b64decode(begin[: len(begin) // 4 * 4], validate=True)
    except ValueError:
        return None
    if len(head) < 46 or head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt ":
        return None
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head, 20)
    tag = struct.unpack_from("<H", head, 44)[0] if tag == _EXTENSIBLE else tag
    return rate * channels * bits // 8 or None if tag in _PCM else None


def _decoded(data: str) -> int:
    """Return the number of bytes that base64 encodes, counting a data URL's short prefix as data."""
    return -(-len(data) * 3 // 4)
