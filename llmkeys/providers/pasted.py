"""Reads a provider's key as it was pasted, typed, imported or found in the environment, without quotes and white space.

Used by the REST API, the forms, the commands, imports and the environment. Error messages describe what was given
instead of a key and never repeat it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from llmkeys import providers
from llmkeys.lib.texts import TOKEN_PREFIX, without_invisible
from llmkeys.providers.base import Provider

MOST = 500
LEAST = 8  # at a provider's own base URL; local servers use words such as "ollama"

_QUOTES = "\"'`´‘’‚‛“”„‟«»‹›＂＇"
_OUR_TOKEN = re.compile(rf"(?<![A-Za-z0-9_-]){TOKEN_PREFIX}", re.IGNORECASE)
_REFERENCE = re.compile(
    r"\$\{|\$\(|\{\{|^\$\w+(?::\w+)?$|^%\w+%$|^!\w+\s|^<[^>]*>$|^arn:|^(?:os\.environ|process\.env)|^(?:env|secretref|vault|file|ssm):|"
    r"^(?:op|vault|aws-sm|gcp-sm|azure-kv|keyring|secret)://",
    re.IGNORECASE,
)
_URL = re.compile(
    r"[a-z][a-z0-9+.-]*://|www\.|"
    r"(?:localhost|\d{1,3}(?:\.\d{1,3}){3}|(?:[a-z0-9-]+\.)+(?:com|ai|org|net|io|dev|local))(?::\d{1,5})?(?:/\S*)?$",
    re.IGNORECASE,
)
_PATH = re.compile(r"^(?:~|\.{1,2})?/|^[A-Za-z]:\\")
_HEADER = re.compile(
    r"^(?:-H\s*)?[\"']?(?:authorization|proxy-authorization|x-api-key|x-goog-api-key|api-key)[\"']?\s*:|"
    r"^(?:bearer(?:\s|:|%20|\+|$)|(?:basic|token)\s)",
    re.IGNORECASE,
)
_ASSIGNMENT = re.compile(
    r"^(?:export\s+|set\s+|setx\s+|env\s+|\$env:|const\s+|let\s+|var\s+|--)?[\"']?[A-Za-z_][\w.-]*[\"']?\s*"
    r"(?::?=\s*[^=\s]|:\s+\S|[\"']\s*:|=>)|(?:[A-Z][A-Z0-9_]*(?:KEY|TOKEN)|api[_-]?key)\s*:\s*\S"
)
_OPTION = re.compile(r"^(?:export|set|setx|--[a-z-]+)\s", re.IGNORECASE)
_MASK = re.compile(r"\.{2}|…|\*{2}|•|●|·{3}|█|⋯")
_BETWEEN_KEYS = re.compile(r"[,;|\s]+")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*_(?:API_?)?(?:KEY|TOKEN|SECRET)(?:_\d+)?")
_NAME_OF_A_KEY = re.compile(r"(?:[A-Za-z]+[_ -])*api[_ -]?key|(?:[A-Za-z]+[_ -])+(?:key|token|secret)", re.IGNORECASE)
_FILL_IN = re.compile(
    r"(?=.*\b(?:your|insert|enter|paste|put|replace)\b)(?=.*(?:key|token|secret|here|this))|\bkey here\b|"
    r"\b(?:change|replace|fill)[ ]?me\d*\b|\bchange ?this\b"
)
_STAND_INS = frozenset(
    [
        "placeholder",
        "undefined",
        "redacted",
        "hidden",
        "todo",
        "tbd",
        "fixme",
        "changeme",
        "example",
        "sample",
        "masked",
    ]
)
# Prefixes of other companies' keys, which must not be sent to a provider.
_OF_OTHERS = {
    "gsk_": "Groq", "xai-": "xAI", "pplx-": "Perplexity", "hf_": "Hugging Face", "r8_": "Replicate", "ghp_": "GitHub",
    "gho_": "GitHub", "github_pat_": "GitHub", "glpat-": "GitLab", "AKIA": "Amazon", "ASIA": "Amazon",
    "ya29.": "Google's OAuth", "xoxb-": "Slack", "xoxp-": "Slack", "tgp_v1_": "Together", "fw_": "Fireworks",
    "csk-": "Cerebras", "nvapi-": "NVIDIA",
}  # fmt: skip


def stripped(value: str) -> str:
    """Return the text without surrounding white space and quotes, and without invisible characters."""
    text = without_invisible(value).strip()
    while text and (text[0] in _QUOTES or text[-1] in _QUOTES):
        text = text.strip(_QUOTES).strip()
    return text


def read_secret(value: Any, provider: Provider | None, *, base_url: str = "") -> str:
    """Return the key in a given value. Raises ValueError with a description of what it is instead.

    With a `base_url` that is not the provider's own, any word is accepted, and so are keys of other companies.
    """
    if not isinstance(value, str):
        raise ValueError("May not be empty." if value is None else "Must be a string.")
    text = stripped(value[: MOST * 20])
    if not text:
        raise ValueError("May not be empty.")
    is_own = provider is None or provider.is_own(base_url or provider.default_base_url)
    problem = (
        _not_one_key(text)
        or _not_a_key(text, is_own=is_own)
        or (_of_another(text, provider) if provider and is_own else "")
        or _unfit(text, least=LEAST if is_own else 1)
        or (provider.secret_problem(text) if provider else "")
    )
    if problem:
        raise ValueError(problem)
    return text


def _not_one_key(text: str) -> str:
    """Return a message if it is not a single key, but a token of ours, a reference, a header, an assignment …"""
    if _OUR_TOKEN.search(text):
        return "This is an access token of this product, not a provider's API key."
    if _REFERENCE.search(text):
        return "This is a reference to a variable or another store, not the key itself. Paste the key it refers to."
    if _URL.match(text):
        return "This is a web address (URL), not a key."
    if _PATH.match(text):
        return "This is the path of a file, not a key. Paste the contents of the file."
    if text[0] in "{[":
        return "This is JSON, not a key. Paste only the key in it."
    if _HEADER.match(text):
        return "This is an HTTP header (“Bearer …”), not a key. Paste only the key in it."
    if _ASSIGNMENT.match(text) or _OPTION.match(text):
        return "This is an assignment (NAME=…), not a key. Paste only the part after the sign."
    if _MASK.search(text):
        return "This is a masked key, with a part hidden. Paste the whole key, or create a new one."
    parts = [part for part in _BETWEEN_KEYS.split(text) if len(part) >= LEAST]
    if len(parts) > 1:
        return f"These are {len(parts)} keys, or one with white space or commas in it. Add each key separately."
    return ""


def _not_a_key(text: str, *, is_own: bool) -> str:
    words = re.sub(r"[\W_]+", " ", text).strip().lower()
    prefix = next((known for known in _prefixes() if text.startswith(known)), "")
    rest = re.sub(r"[\W_]+", "", text[len(prefix) :]).lower()
    is_name = _VARIABLE.fullmatch(text) or (is_own and _NAME_OF_A_KEY.fullmatch(text))
    stands_for_one = (
        words in _STAND_INS or rest in _STAND_INS or _FILL_IN.search(words) or re.search("x{8}|^x{3,}$", rest)
    )
    return "This is a placeholder, not a key. Replace it with the actual key." if is_name or stands_for_one else ""


def _prefixes() -> list[str]:
    every = {prefix for provider in providers.PROVIDERS.values() for prefix in provider.secret_prefixes}
    return sorted(every, key=len, reverse=True)


def _of_another(text: str, provider: Provider) -> str:
    """Return a message if it looks like another company's key, which would be sent to this provider."""
    longest = next((known for known in _prefixes() if text.startswith(known)), "")
    owner = next((one.label for one in providers.PROVIDERS.values() if longest and longest in one.secret_prefixes), "")
    if owner == provider.label:
        return ""
    owner = owner or next((label for prefix, label in _OF_OTHERS.items() if text.startswith(prefix)), "")
    if not owner:
        return ""
    looks = f" Keys of {provider.label} look like {provider.secret_hint}."
    return f"This looks like a key of {owner}, not of {provider.label}: it would be sent to another company.{looks}"


def _unfit(text: str, *, least: int) -> str:
    for character in text:
        if not (character.isascii() and (character.isalnum() or character in "._~+/=:-")):
            return f"It contains {_named(character)}. Keys are made of letters, digits and . _ ~ + / = : - only."
    if len(text) > MOST:
        return f"A key has at most {MOST} characters; this has {len(text)}."
    if len(text) < least:
        return "This is too short for a provider's API key."
    return ""


def _named(character: str) -> str:
    if character in "\r\n\u2028\u2029":
        return "a line break"
    if character.isspace():
        return "white space"
    if character.isascii() and character.isprintable():
        return f"“{character}”"
    name = unicodedata.name(character, "")
    return f"a character that is not ASCII (U+{ord(character):04X}{' ' + name if name else ''})"
