"""Encrypted reasoning: what one organisation's model wrote, no other organisation's key can open."""

from __future__ import annotations

import hashlib

_PREFIX = "simulated-thought-"


def organisation_of(key: str) -> str:
    """Which organisation a key belongs to: each key to its own, but keys with `org-NAME` in them to that one."""
    _, marked, name = key.partition("org-")
    return f"org-{name.split('-', 1)[0]}" if marked else key


def signature(organisation: str) -> str:
    """An encrypted reasoning block of this organisation."""
    return _PREFIX + hashlib.sha256(organisation.encode()).hexdigest()[:32]


def is_foreign(found: str, key: str) -> bool:
    """True for an encrypted reasoning block of the simulator's that another organisation wrote."""
    return found.startswith(_PREFIX) and found != signature(organisation_of(key))
