"""Removes secrets and account ids from text that comes from outside, before it is stored or shown."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, product

LIMIT = 500
PART = 12  # pieces of a secret of at least this length are treated like the secret
LEAST = 8  # shorter words are not secrets in a body
LEAST_IN_ANSWERS = 16  # shorter words are not secrets in a model's output
MASK = "***"

_TAIL = r"[\w*\-]*(?:(?:\.{2,}|…)[\w*\-]+)?"  # providers shorten keys themselves: sk-or-v1-au7...890
_KEYS = re.compile(rf"\b(?:sk-[\w*\-]{{3}}|rfk_\w{{3}}|AIza[\w*\-]{{3}}|AQ\.[\w\-]{{6}}){_TAIL}")
_NAMED = re.compile(
    r"(?i)(\bx-(?:goog-)?api-key|\bapi[_-]?key|[?&]key|\bauthorization|\baccess_token)(\s*[:=]\s*)(?:bearer\s+)?"
    r"[\"']?[^\s\"'&,;<>]+"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/*\-]{8,}=*")
# An id has a digit or a capital letter, or is long; `user_id` and `org-wide` are ordinary words.
_IDS = re.compile(r"\b(?:user_|org-|org_|proj_)(?:(?=[a-z]*[0-9A-Z])[A-Za-z0-9]{3,}|[A-Za-z0-9]{16,})")


def scrub(text: str, *, secrets: Iterable[str] = (), limit: int = LIMIT) -> str:
    """Return `text` as one printable line of at most `limit` characters without key material and account ids.

    Each of `secrets` is replaced too, including parts of 12 or more characters.
    """
    line = _one_line(text)
    for secret in secrets:
        line = _without(line, secret)
    line = _NAMED.sub(rf"\1\2{MASK}", line)
    line = _BEARER.sub(rf"\1{MASK}", line)
    line = _IDS.sub(MASK, _KEYS.sub(MASK, line))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def scrub_body(body: bytes) -> bytes:
    """Return a provider's body for a client, without key material and account ids."""
    text = body.decode("utf-8", "surrogateescape")
    clean = _IDS.sub(MASK, _KEYS.sub(MASK, text))
    return body if clean == text else clean.encode("utf-8", "surrogateescape")


def _one_line(text: str) -> str:
    """Remove unprintable characters (including zero-width ones, which could split a secret) and collapse spaces."""
    kept = (character for character in text if character.isprintable() or character.isspace())
    return " ".join("".join(kept).split())


def without_secret(data: bytes, secret: str) -> bytes:
    """Return an error, an event or a header's value without the secret that was sent, in whatever form it is repeated.

    Parts of 12 or more characters are removed too. Words of less than 8 characters, which local servers use, are not
    treated as secrets: they would be found everywhere.
    """
    if len(secret) < LEAST:
        return data
    clean = _replaced(data, _forms(secret))
    half = PART // 2  # every part contains one of these pieces, of which there are fewer
    if not any(secret[start : start + half].encode() in clean for start in range(0, len(secret) - half + 1, half)):
        return clean
    return _without(clean.decode("utf-8", "surrogateescape"), secret).encode("utf-8", "surrogateescape")


class StreamScrubber:
    """Removes the secret from a stream of bytes, even if it is split across pieces.

    Only bytes that may be the beginning of the secret are held back, so that no event is delayed; a piece that ends a
    line is passed on whole. Secrets of less than 16 characters are kept, because an answer may contain such words.
    """

    def __init__(self, secret: str):
        self._forms = _forms(secret) if len(secret) >= LEAST_IN_ANSWERS else ()
        self._longest = max((len(form) for form in self._forms), default=0)
        self._kept = b""

    def feed(self, piece: bytes) -> bytes:
        """Return what can be passed on now."""
        if not self._forms:
            return piece
        clean = _replaced(self._kept + piece if self._kept else piece, self._forms)
        held = self._held(clean)
        if not held:
            self._kept = b""
            return clean
        self._kept = clean[len(clean) - held :]
        return clean[: len(clean) - held]

    def rest(self) -> bytes:
        """Return what was held back. To be called at the end."""
        kept, self._kept = self._kept, b""
        return kept

    def _held(self, data: bytes) -> int:
        """Return the length of the longest suffix that is a prefix of one of the forms."""
        if data.endswith(b"\n"):
            return 0
        tail = data[-(self._longest - 1) :]
        longest = 0
        for form in self._forms:
            at = tail.find(form[:1])
            while at >= 0 and len(tail) - at > longest:
                if form.startswith(tail[at:]):
                    longest = len(tail) - at
                    break
                at = tail.find(form[:1], at + 1)
        return longest


def _replaced(data: bytes, forms: Iterable[bytes]) -> bytes:
    for form in forms:
        if form in data:
            data = data.replace(form, MASK.encode())
    return data


@lru_cache(maxsize=256)
def _forms(secret: str) -> tuple[bytes, ...]:
    """Return the forms of the secret: raw, escaped for JSON, URLs or HTML, in base64, and as hex digits."""
    raw = secret.encode()
    forms = {raw, raw.hex().encode(), raw.hex().upper().encode(), *_in_base64(raw)}
    signs = sorted({sign for sign in secret if not sign.isalnum() and sign not in "-_."})
    for upper in (True, False) if signs else ():
        code = {sign: f"{ord(sign):02X}" if upper else f"{ord(sign):02x}" for sign in signs}
        in_json = [(sign, f"\\u00{code[sign]}", *(("\\/",) if sign == "/" else ())) for sign in signs]
        in_urls = [(sign, f"%{code[sign]}") for sign in signs]
        in_html = [(f"&#x{code[sign]};", f"&#{ord(sign)};") for sign in signs]
        for written in chain(product(*in_json), product(*in_urls), product(*in_html)):
            form = secret.translate(str.maketrans(dict(zip(signs, written, strict=True))))
            forms |= {form.encode(), form.replace("\\", "\\\\").encode()}  # JSON inside JSON has both
    return tuple(sorted(forms, key=len, reverse=True))


def _in_base64(raw: bytes) -> Iterator[bytes]:
    """Yield the constant part of the base64 of any text with the secret, for each of the three alignments."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw).rstrip(b"=")
        is_cut = (before + len(raw)) % 3 != 0
        core = encoded[(0, 2, 3)[before] : len(encoded) - is_cut]
        yield from {core, core.replace(b"+", b"-").replace(b"/", b"_")}


def _without(text: str, secret: str) -> str:
    """Replace the secret and its parts; parts are found by their 12-character windows."""
    if not secret:
        return text
    text = text.replace(secret, MASK)
    hits: set[int] = set()
    for start in range(len(secret) - PART + 1):
        window = secret[start : start + PART]
        at = text.find(window)
        while at >= 0:
            hits.update(range(at, at + PART))
            at = text.find(window, at + 1)
    return _masked(text, hits) if hits else text


def _masked(text: str, hits: set[int]) -> str:
    pieces: list[str] = []
    for at, character in enumerate(text):
        if at not in hits:
            pieces.append(character)
        elif not pieces or pieces[-1] != MASK:
            pieces.append(MASK)
    return "".join(pieces)
