"""From a client's own body to the bill: whatever it asks for, in every dialect, the hold covers what that may cost.

Bodies are drawn with every feature that costs something, for every model of the price data; beside each feature stands
what the providers' documents let it take. What an answer within that is billed comes from the price library.
300 requests in the ordinary run, 20,000 with `--hypothesis-profile=long`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmkeys.dialects import DIALECTS
from llmkeys.dialects.base import Request, Usage
from llmkeys.prices.cost import charge
from llmkeys.prices.limits import known_window, max_output_tokens
from llmkeys.prices.worst_case import WorstCase, worst_case
from tests.dialects.helpers import request_of
from tests.pricing import oracle
from tests.pricing.helpers import NOBODYS, NOW, sent_limit
from tests.pricing.test_properties import NAMES, many

FEES = {"openai": 10_000_000, "anthropic": 10_000_000, "google": 14_000_000, "openrouter": 20_000_000}  # nano-dollars
GROUNDED_PROMPT = 35_000_000  # Gemini 2 is billed by the prompt, however many searches it took
ROUNDS, ROUND_TOKENS = 5, 16_000  # of a tool that the provider runs itself
SOUND = base64.b64encode(b"\0" * 40_000).decode()  # ten seconds of MP3 at 32 kbit/s
PICTURE = base64.b64encode(b"\x89PNG" + b"\0" * 5_000).decode()
PDF = base64.b64encode(b"%PDF" + b"\0" * 5_000).decode()
WORDS = st.text('abc äöü日本 {}"\\\n', max_size=400)
PLACES = {  # which provider speaks which dialect, and where a test sends
    "openai-chat": ("openrouter", "openai", "anthropic", "google"), "openai-responses": ("openrouter", "openai"),
    "openai-embeddings": ("openrouter", "openai"), "anthropic-messages": ("anthropic",),
    "google-generate": ("google",),
}  # fmt: skip


@dataclass
class Allowed:
    """The most that a body lets an answer take; `files`: a part of it may be as long as the model's window."""

    text: int = 0
    sound: int = 0
    pictures: int = 0
    files: bool = False
    searches: int = 0
    drawings: int = 0
    limit: int | None = None
    choices: int = 1
    beside: int = 0  # output beside the answer: a rejected prediction
    can_write: bool = False
    can_write_long: bool = False


@dataclass
class Asked:
    provider: str
    model: str
    request: Request
    allowed: Allowed
    others: list[str] = field(default_factory=list)

    def worst(self) -> WorstCase:
        self.request.dialect.validate(self.request)
        return worst_case(
            self.provider, self.model, self.request.bound, at=NOW, other_models=self.request.other_models, strict=True,
            prices=NOBODYS,
        )  # fmt: skip


def picture_tokens(model: str) -> int:
    """Return what the vendors' documents let a picture take."""
    if "4o-mini" in model:
        return 2_833 + 8 * 5_667
    return 85 + 8 * 170 if "gpt" in model else 4_784  # tiles of 512 pixels; Claude's high resolution, Gemini takes less


def fees(provider: str, model: str, searches: int) -> int:
    if provider == "google" and "gemini-2" in model:
        return min(1, searches) * GROUNDED_PROMPT
    return searches * FEES[provider]


@st.composite
def asked(draw: Any) -> Asked:
    dialect = draw(st.sampled_from([one for one in DIALECTS if one.name in PLACES]))
    provider = draw(st.sampled_from(PLACES[dialect.name]))
    model = draw(st.sampled_from(NAMES[provider]))
    allowed, others = Allowed(), list[str]()
    texts = draw(st.lists(WORDS.filter(bool), min_size=1, max_size=3))
    allowed.text = sum(len(text.encode()) for text in texts)
    limit = allowed.limit = draw(st.sampled_from([None, 1]) | st.integers(1, 150_000))
    has_media = dialect.name != "openai-embeddings"
    media = draw(st.lists(st.sampled_from(["sound", "picture", "file"]), max_size=3)) if has_media else []
    tools = draw(st.booleans())
    for kind in media:
        allowed.sound += 32 * 10 if kind == "sound" else 0  # Gemini takes 32 tokens a second, OpenAI 10
        allowed.pictures += picture_tokens(model) if kind == "picture" else 0
        allowed.files |= kind == "file"
    body = _BODIES[dialect.name](draw, allowed, texts, media, tools, limit)
    if provider == "openrouter":
        others = draw(st.lists(st.sampled_from(NAMES[provider]), max_size=2))
        body |= {"models": others} if others else {}
        allowed.pictures = max(picture_tokens(name) for name in (model, *others)) * media.count("picture")
    if dialect.name == "google-generate":
        return Asked(provider, model, request_of(dialect, body, operation="generate", path_model=model), allowed)
    return Asked(provider, model, request_of(dialect, {"model": model, **body}), allowed, others)


def _chat(draw: Any, allowed: Allowed, texts: list[str], media: list[str], tools: bool, limit: int | None) -> Any:
    parts = {
        "sound": {"type": "input_audio", "input_audio": {"data": SOUND, "format": "mp3"}},
        "picture": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
        "file": {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
    }
    content = [*({"type": "text", "text": text} for text in texts), *(parts[kind] for kind in media)]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}]}
    allowed.choices = draw(st.sampled_from([1, 1, 3]))
    body |= {"n": allowed.choices} if allowed.choices > 1 else {}
    body |= {draw(st.sampled_from(["max_tokens", "max_completion_tokens"])): limit} if limit else {}
    if tools:
        body["tools"] = [{"type": "function", "function": {"name": "f"}}, {"type": "openrouter:web_search"}]
        allowed.searches = ROUNDS
    if draw(st.booleans()):
        prediction = draw(WORDS)
        body["prediction"] = {"type": "content", "content": prediction}
        allowed.beside, allowed.text = len(prediction.encode()), allowed.text + len(prediction.encode())
    return body | draw(st.sampled_from([{}, {"modalities": ["text", "audio"]}, {"reasoning_effort": "high"}]))


def _responses(draw: Any, allowed: Allowed, texts: list[str], media: list[str], tools: bool, limit: int | None) -> Any:
    parts = {
        "sound": {"type": "input_audio", "input_audio": {"data": SOUND, "format": "mp3"}},
        "picture": {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}"},
        "file": {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
    }
    content = [*({"type": "input_text", "text": text} for text in texts), *(parts[kind] for kind in media)]
    body: dict[str, Any] = {"input": [{"role": "user", "content": content}]}
    body |= {"max_output_tokens": limit} if limit else {}
    if tools:
        body["tools"] = [{"type": "web_search"}, {"type": "image_generation"}]
        allowed.searches = allowed.drawings = ROUNDS
    return body


def _messages(draw: Any, allowed: Allowed, texts: list[str], media: list[str], tools: bool, limit: int | None) -> Any:
    parts = {
        "sound": {"type": "text", "text": "no sound here"},
        "picture": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
        "file": {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
    }
    content: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
    ttl = draw(st.sampled_from([None, "5m", "1h"]))
    if ttl:
        content[0]["cache_control"] = {"type": "ephemeral", "ttl": ttl}
        allowed.can_write, allowed.can_write_long = True, ttl == "1h"
    allowed.sound = 0
    body: dict[str, Any] = {"messages": [{"role": "user", "content": [*content, *(parts[kind] for kind in media)]}]}
    body |= {"max_tokens": limit} if limit else {}
    if tools:
        uses = draw(st.integers(1, 9))
        body["tools"] = [{"type": "web_search_20250305", "name": "web_search", "max_uses": uses}]
        allowed.searches = uses
    return body | draw(st.sampled_from([{}, {"thinking": {"type": "enabled", "budget_tokens": 200_000}}]))


def _google(draw: Any, allowed: Allowed, texts: list[str], media: list[str], tools: bool, limit: int | None) -> Any:
    parts = {
        "sound": {"inlineData": {"mimeType": "audio/mp3", "data": SOUND}},
        "picture": {"inline_data": {"mime_type": "image/png", "data": PICTURE}},
        "file": {"inlineData": {"mimeType": draw(st.sampled_from(["application/pdf", "video/mp4"])), "data": PDF}},
    }
    body: dict[str, Any] = {"contents": [{"parts": [*({"text": text} for text in texts), *map(parts.get, media)]}]}
    allowed.choices = draw(st.sampled_from([1, 1, 4]))
    config: dict[str, Any] = {"candidateCount": allowed.choices, "thinkingConfig": {"thinkingBudget": -1}}
    body["generationConfig"] = config | ({"maxOutputTokens": limit} if limit else {})
    if tools:
        body["tools"] = [{"googleSearch": {}}, {"functionDeclarations": [{"name": "f"}]}]
        allowed.searches = ROUNDS
    return body


def _embeddings(draw: Any, allowed: Allowed, texts: list[str], *_: Any) -> Any:
    allowed.limit, allowed.choices = 0, 1
    return {"input": texts}


_BODIES: dict[str, Callable[..., Any]] = {
    "openai-chat": _chat, "openai-responses": _responses, "anthropic-messages": _messages,
    "google-generate": _google, "openai-embeddings": _embeddings,
}  # fmt: skip


@st.composite
def bills(draw: Any) -> tuple[Asked, str, Usage]:
    """Draw a request, which of its models answers, and what that takes and makes."""
    case = draw(asked())

    def up_to(most: int) -> int:
        return draw(st.just(most) | st.integers(0, most))

    allowed, answered = case.allowed, draw(st.sampled_from([case.model, *case.others]))
    window = known_window(answered) or oracle.window(case.provider, answered)  # a longer prompt is refused
    sound, pictures, text = up_to(allowed.sound), up_to(allowed.pictures), up_to(allowed.text)
    video = 0
    if allowed.files:  # of a PDF, or of a video
        text, video = text + up_to(window or 100_000), up_to(window or 100_000)
    total = min(text + sound + pictures + video, window or 10**9)
    sound, pictures = min(sound, total), min(pictures, max(0, total - sound))
    video = min(video, max(0, total - sound - pictures))
    searches = up_to(allowed.searches)
    tool_text = up_to(searches * ROUND_TOKENS)
    plain = total - sound - pictures - video + tool_text
    may_write = allowed.can_write or "claude" not in answered
    written = up_to(plain) if may_write else 0
    own = max_output_tokens(answered)
    limit = sent_limit(case.worst()) if allowed.limit is None else allowed.limit
    limit = limit if own is None else min(own, limit)
    output = up_to(limit) * allowed.choices + up_to(allowed.beside)
    drawn = up_to(allowed.drawings) * 6_208  # gpt-image-1, high quality, 1024 × 1536
    usage = Usage(
        input_tokens=total + tool_text,
        cached_input_tokens=draw(st.integers(0, plain - written)),
        cache_write_tokens=written,
        cache_write_1h_tokens=draw(st.integers(0, written)) if allowed.can_write_long else 0,
        audio_input_tokens=sound,
        image_input_tokens=pictures,
        video_input_tokens=video,
        output_tokens=output + drawn,
        image_output_tokens=drawn,
        drawn_input_tokens=0,
        drawn_output_tokens=drawn,
        reasoning_tokens=draw(st.integers(0, output)),
        searches=searches,
        model=answered,
    )
    return case, answered, usage


@many
@given(bills())
def test_the_hold_of_a_body_covers_what_its_answer_is_billed(found: tuple[Asked, str, Usage]) -> None:
    case, answered, usage = found
    worst = case.worst()
    cost = charge(usage, worst, saw_content=False)
    assert cost is None or cost.nano <= worst.nano
    if not oracle.entries(case.provider, answered) or answered.endswith(":free"):
        return
    billed = oracle.bill(case.provider, answered, usage, NOW, drawn_by="gpt-image-1")
    assert billed is None or billed + fees(case.provider, answered, usage.searches or 0) <= worst.nano
