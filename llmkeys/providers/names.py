"""Names of models: the client's, OpenRouter's, and the vendor's own.

Clients send three kinds of names: `vendor/model` (OpenRouter's way), a bare name (the vendor's way), and names
that only OpenRouter has (`:free` and other variants, `~openai/gpt-latest`, `openrouter/auto`).
"""

from __future__ import annotations

import re

LONGEST = 200
VARIANTS = frozenset({"free", "nitro", "floor", "online", "thinking", "extended", "exacto", "batch", "beta"})

_LOOKS = {
    "openai": re.compile(r"(?:ft:)?(?:gpt-|chatgpt-|codex-|o\d+(?:-|$)|text-embedding-(?!0))"),
    "anthropic": re.compile(r"claude-"),
    "google": re.compile(r"(?:gemini-|gemma-|text-embedding-0)"),
}
_VENDOR_NAME = {
    "openai": re.compile(r"(?!gpt-oss)(?:ft:.+|[^:]+)"),  # the open-weight models are not in OpenAI's own API
    "anthropic": re.compile(r"[^:]+"),
    "google": re.compile(r"[A-Za-z0-9._-]+"),  # in Google's own dialect the name is part of the path
}
VENDORS = tuple(_VENDOR_NAME)  # vendors whose own names differ from OpenRouter's
_DATED = re.compile(r"-\d{8}$")
_HYPHEN_VERSION = re.compile(r"(?<![\d.])(\d{1,2})-(\d{1,2})(?![\d.])")
_DOT_VERSION = re.compile(r"(\d)\.(\d)")
# From Claude 4 on, OpenRouter's permanent slugs have the version before the family: claude-4.6-sonnet-20260217.
_CLAUDE_SLUG = re.compile(r"claude-([4-9]|\d\d)(?:\.(\d+))?-([a-z]+)(?:-\d{8})?")


def is_valid(model: object) -> bool:
    """Return whether it is a name of 1 to 200 printable characters without spaces."""
    return isinstance(model, str) and 0 < len(model) <= LONGEST and model.isprintable() and " " not in model


def at_openrouter(model: str) -> str | None:
    """Return OpenRouter's name of a model, or None for a bare name whose vendor is unknown.

    Also None if the vendor's prefix makes the name longer than any name may be.
    """
    if not is_valid(model):
        return None
    vendor, rest = _split(model)
    if not vendor or not rest or rest.startswith("ft:"):  # a fine-tuned model exists only in its owner's account
        return None
    name = f"{vendor}/{_claude_at_openrouter(rest) if vendor == 'anthropic' else rest}"
    return name if len(name) <= LONGEST else None


def common_name(model: str) -> str:
    """Return the same name for all spellings of a model; never a longer one than `LONGEST` for a valid name."""
    return at_openrouter(model) or model


def at_vendor(model: str, vendor: str) -> str | None:
    """Return the vendor's own name of a model, or None if the vendor does not serve it."""
    if not is_valid(model):
        return None
    named_vendor, rest = _split(model)
    if named_vendor != vendor or "/" in rest or not _VENDOR_NAME[vendor].fullmatch(rest):
        return None
    return _claude_at_vendor(rest) if vendor == "anthropic" else rest


def _split(model: str) -> tuple[str, str]:
    """Return vendor and name; the vendor is empty if it cannot be derived from a bare name."""
    if model.startswith(("models/", "google/models/")):  # Google's own resource names
        return "google", model.partition("models/")[2]
    vendor, slash, rest = model.partition("/")
    return (vendor, rest if vendor else "") if slash else (_vendor_by_look(model), model)


def _vendor_by_look(name: str) -> str:
    base, colon, variant = name.removeprefix("ft:").partition(":")
    if colon and not name.startswith("ft:") and variant not in VARIANTS:
        return ""  # a tag of a local server, such as gemma-3:4b
    return next((vendor for vendor, look in _LOOKS.items() if base and look.match(name)), "")


def _claude_at_openrouter(name: str) -> str:
    """Return claude-sonnet-4.5 for claude-sonnet-4-5-20250929; a name with a dot is already OpenRouter's spelling."""
    base, colon, variant = name.partition(":")
    if "." in base or not base.startswith("claude-") or _CLAUDE_SLUG.fullmatch(base):
        return name
    base = _HYPHEN_VERSION.sub(r"\1.\2", _DATED.sub("", base)).removesuffix("-latest")
    return base.removesuffix(".0") + colon + variant


def _claude_at_vendor(name: str) -> str:
    """Return claude-sonnet-4-5 for claude-sonnet-4.5."""
    slug = _CLAUDE_SLUG.fullmatch(name)
    if slug:
        major, minor, family = slug.groups()
        return f"claude-{family}-{major}" + (f"-{minor}" if minor else "")
    return _DOT_VERSION.sub(r"\1-\2", name)
