"""Text as people type and paste it: characters that are invisible or would mislead a reader."""

from __future__ import annotations

import unicodedata

TOKEN_PREFIX = "rfk_"  # noqa: S105  (the public prefix of an access token)

# Characters that look blank although Unicode does not classify them so: Hangul fillers, the Braille blank.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_JOINS = frozenset("\u200c\u200d")  # emoji and some scripts need these


def without_invisible(text: str) -> str:
    """Return the text without zero-width characters, byte order marks and directional marks."""
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


def name_problem(text: str) -> str:
    """Return why a text cannot be a name, as a sentence, or an empty string if it can.

    A name is a single visible line without marks that change the reading direction, which would disguise it.
    """
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        return "May not contain control characters."
    if any(character in _TURNS for character in text):
        return "May not contain marks that change the reading direction: it would not look like what it is."
    if not any(_is_visible(character) for character in text):
        return "May not be empty." if not text else "May not be empty: it contains only invisible characters."
    hidden = [character for character in text if unicodedata.category(character) == "Cf" and character not in _JOINS]
    return f"May not contain invisible characters (U+{ord(hidden[0]):04X})." if hidden else ""


def _is_visible(character: str) -> bool:
    category = unicodedata.category(character)
    return character not in _BLANK and not category.startswith(("C", "Z")) and category not in ("Mn", "Me")
