"""Encrypted reasoning, which is bound to an organisation and refused with keys of any other."""

from __future__ import annotations

import hashlib

_PREFIX = "simulated-thought-"


def organisation_of(key: str) -> str:
    """Return the organisation of a key: that of `org-NAME` in the key, or else one for this key alone."""
    _, marked, name = key.partition("org-")
    return f"org-{name.split('-', 1)[0]}" if marked else key


def signature(organisation: str) -> str:
    """Return an encrypted reasoning block of this organisation."""
    return _PREFIX + hashlib.sha256(organisation.encode()).hexdigest()[:32]


def is_foreign(found: str, key: str) -> bool:
    """Return whether it is a reasoning block that this simulator encrypted for another organisation."""
    return found.startswith(_PREFIX) and found != signature(organisation_of(key))
