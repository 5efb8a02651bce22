"""Take secrets and account ids out of words that come from outside, before anybody stores or shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

LIMIT = 500
PART = 12  # from this length on a piece of a secret counts as the secret
MASK = "***"

_TAIL = r"[\w*\-]*(?:(?:\.{2,}|…)[\w*\-]+)?"  # providers shorten keys themselves: sk-or-v1-au7...890
_KEYS = re.compile(rf"\b(?:sk-[\w*\-]{{3}}|rfk_\w{{3}}|AIza[\w*\-]{{3}}|AQ\.[\w\-]{{6}}){_TAIL}")
_NAMED = re.compile(
    r"(?i)(\bx-(?:goog-)?api-key|\bapi[_-]?key|[?&]key|\bauthorization|\baccess_token)(\s*[:=]\s*)(?:bearer\s+)?"
    r"[\"']?[^\s\"'&,;<>]+"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/*\-]{8,}=*")
# An id has a digit or a capital, or is long: `user_id` and `org-wide` are ordinary words.
_IDS = re.compile(r"\b(?:user_|org-|org_|proj_)(?:(?=[a-z]*[0-9A-Z])[A-Za-z0-9]{3,}|[A-Za-z0-9]{16,})")


def scrub(text: str, *, secrets: Iterable[str] = (), limit: int = LIMIT) -> str:
    """Return `text` as one printable line of at most `limit` characters without key material and account ids.

    Each of `secrets` is replaced too, and every part of it of 12 characters or more.
    """
    line = _one_line(text)
    for secret in secrets:
        line = _without(line, secret)
    line = _NAMED.sub(rf"\1\2{MASK}", line)
    line = _BEARER.sub(rf"\1{MASK}", line)
    line = _IDS.sub(MASK, _KEYS.sub(MASK, line))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def scrub_body(body: bytes) -> bytes:
    """Return a provider's body for a client, unchanged but for key material and account ids."""
    text = body.decode("utf-8", "surrogateescape")
    clean = _IDS.sub(MASK, _KEYS.sub(MASK, text))
    return body if clean == text else clean.encode("utf-8", "surrogateescape")


def _one_line(text: str) -> str:
    """Remove what does not print (also zero-width characters, which could split a secret); spaces become one."""
    kept = (character for character in text if character.isprintable() or character.isspace())
    return " ".join("".join(kept).split())


def _without(text: str, secret: str) -> str:
    """Replace the secret and its parts; parts are found by their 12-character windows."""
    if not secret:
        return text
    text = text.replace(secret, MASK)
    windows = {secret[start : start + PART] for start in range(len(secret) - PART + 1)}
    hit = [False] * len(text)
    for start in range(len(text) - PART + 1):
        if text[start : start + PART] in windows:
            hit[start : start + PART] = [True] * PART
    return _masked(text, hit)


def _masked(text: str, hit: list[bool]) -> str:
    pieces: list[str] = []
    for character, is_secret in zip(text, hit, strict=True):
        if not is_secret:
            pieces.append(character)
        elif not pieces or pieces[-1] != MASK:
            pieces.append(MASK)
    return "".join(pieces)


def without_secret(body: bytes, secret: str) -> bytes:
    """Return a body without a known secret, raw or as JSON writes it; providers repeat keys in their errors."""
    if not secret:
        return body
    in_json = json.dumps(secret)[1:-1]
    for text in {secret, in_json, in_json.replace("/", "\\/")}:
        body = body.replace(text.encode(), MASK.encode())
    return body
