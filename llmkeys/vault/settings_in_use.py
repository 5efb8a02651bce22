"""Keyed digests of the settings in use, by which two processes can be compared without revealing a value."""

from __future__ import annotations

import hmac
import os

from django.conf import settings

from refactai_site import env, settings_file
from refactai_site.data_dir import read_or_create_secret_key


def digests() -> dict[str, str]:
    """Return a digest of each variable's value, with a key that never leaves the data directory."""
    key = read_or_create_secret_key(settings.DATA_DIR).encode()
    return {
        name: hmac.digest(key, f"{name}\0{value}".encode("utf-8", "surrogateescape"), "sha256").hex()
        for name, value in _values().items()
    }


def _values() -> dict[str, str]:
    in_force = {name: _as_text(value) for name, value in env.IN_FORCE.items() if name != settings_file.DATA_DIR}
    return in_force | {name: os.environ.get(name, "").strip() for name in settings_file.KEY_VARIABLES}


def _as_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def different_from(published: dict[str, str]) -> list[str]:
    """Return the variables whose values here differ from those that a server has published."""
    return sorted(name for name, digest in digests().items() if published.get(name, digest) != digest)
