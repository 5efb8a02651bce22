"""The input and output limits of models. Pure.

The price data has no output limits, and some of its context windows are too small: they may raise a bound but never
lower one. Only this table lowers bounds; it is from the vendors' model pages, as of November 2026
(platform.openai.com/docs/models, platform.claude.com "Models overview", ai.google.dev/gemini-api/docs/models).
"""

from __future__ import annotations

import re
from functools import lru_cache

from llmkeys.prices import data

UNKNOWN_WINDOW = 1_050_000  # the largest common one

# Pattern of the bare name, context window, output limit. The first match counts; other models have no known limit.
_LIMITS = tuple(
    (re.compile(pattern), window, output)
    for pattern, window, output in (
        (r"gpt-3\.5-turbo", 16_385, 4_096),
        (r"gpt-4-32k", 32_768, 32_768),
        (r"gpt-4(-0613|-0314)?$", 8_192, 8_192),
        (r"gpt-4-turbo|gpt-4-.*preview|gpt-4o-2024-05-13", 128_000, 4_096),
        (r"gpt-4o|chatgpt-4o|gpt-audio", 128_000, 16_384),
        (r"gpt-4\.1", 1_047_576, 32_768),
        (r"gpt-4\.5", 128_000, 16_384),
        (r"o1-(mini|preview)", 128_000, 65_536),
        (r"o[134](-|:|$)", 200_000, 100_000),
        (r"gpt-5(\.[123])?-(chat|image)", 400_000, 128_000),
        (r"gpt-5-pro", 400_000, 272_000),
        (r"gpt-5(\.[123])?(-|:|$)", 400_000, 128_000),
        (r"gpt-(5\.\d|6)", 1_050_000, 128_000),
        (r"text-embedding-", 8_192, 0),
        (r"claude-(2|instant)", 200_000, 4_096),
        (r"claude-3-(opus|sonnet|haiku)", 200_000, 4_096),
        (r"claude-3[-.]5-", 200_000, 8_192),
        (r"claude-3[-.]7-", 200_000, 128_000),
        (r"claude-opus-4([-.][01])?(-2\d{7}|-latest|@|:|$)", 200_000, 32_000),
        (r"claude-(opus|sonnet|haiku)-4([-.][05])?(-2\d{7}|-latest|@|:|$)", 1_000_000, 64_000),
        (r"claude-", 1_000_000, 128_000),
        (r"gemini-(1\.0|pro$)", 32_768, 8_192),
        (r"gemini-1\.5", 2_097_152, 8_192),
        (r"gemini-2\.0", 1_048_576, 8_192),
        (r"gemini-\d", 1_048_576, 65_536),
    )
)


def known_window(model: str) -> int | None:
    """Return the model's context window, or None if this table does not have the model."""
    found = _limits(model)
    return found[0] if found else None


def max_output_tokens(model: str) -> int | None:
    """Return the maximum output tokens of an answer, or None if this table does not have the model."""
    found = _limits(model)
    return found[1] if found else None


def largest_window(provider: str, model: str) -> int:
    """Return the largest possible context window, for input that cannot be counted."""
    known = known_window(model)
    return max([known or 0, *data.listed_windows(provider, model)]) or UNKNOWN_WINDOW


def shown_window(provider: str, model: str) -> int | None:
    """Return the context window to show to people, or None if unknown."""
    return known_window(model) or max(data.listed_windows(provider, model), default=None)


@lru_cache(maxsize=4096)
def _limits(model: str) -> tuple[int, int] | None:
    name = model[:200].removeprefix("models/").rpartition("/")[2].lower()
    return next(((window, output) for pattern, window, output in _LIMITS if pattern.match(name)), None)
