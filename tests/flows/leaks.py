"""Looks for secrets where none may be: in files, logs, answers and command lines, in every disguise that is likely."""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

# What a masked key may show: its known prefix, eight characters more, and the last four.
PREFIXES = ("sk-or-v1-", "sk-ant-api03-", "sk-proj-", "AIza", "rfk_")
SHOWN_AT_THE_BEGINNING, SHOWN_AT_THE_END = 8, 4


def hidden_part(secret: str) -> str:
    """Return the part of a secret that no mask shows; who finds that has found the secret."""
    prefix = next((prefix for prefix in PREFIXES if secret.startswith(prefix)), "")
    hidden = secret[len(prefix) + SHOWN_AT_THE_BEGINNING : -SHOWN_AT_THE_END]
    assert len(hidden) >= 16, "too short to look for"
    return hidden


def disguises(secret: str) -> dict[str, bytes]:
    """Return the secret's hidden part as it might stand in a file."""
    plain = hidden_part(secret).encode()
    found = {
        "plain": plain,
        "reversed": plain[::-1],
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
        "UTF-16": plain.decode().encode("utf-16-le"),
        "URL": quote(plain).encode(),
    }
    for shift in range(3):  # base64 looks different at each of three places; its edges depend on the neighbours
        padded = base64.b64encode(b"\0" * shift + plain)
        found[f"base64 at {shift}"] = padded[4:].rstrip(b"=")[:-2]
        found[f"URL-safe base64 at {shift}"] = base64.urlsafe_b64encode(b"\0" * shift + plain)[4:].rstrip(b"=")[:-2]
    return found


@dataclass
class Search:
    """What is looked for; `find` says what was found in a piece of data."""

    secrets: dict[str, str]  # by what they are
    _needles: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, secret in self.secrets.items():
            for how, needle in disguises(secret).items():
                self._needles[f"{what}, {how}"] = needle

    def find(self, data: bytes) -> list[str]:
        return [what for what, needle in self._needles.items() if needle in data]

    def find_in_files(self, *places: Path) -> list[str]:
        files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
        return [f"{file.name}: {what}" for file in files if file.is_file() for what in self.find(file.read_bytes())]


@dataclass
class CommandLines:
    """Every command line on this machine that was seen while this was open."""

    seen: set[bytes] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> CommandLines:
        self._thread = threading.Thread(target=self._watch, name="command-lines")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for directory in Path("/proc").glob("[0-9]*"):
                try:
                    self.seen.add((directory / "cmdline").read_bytes())
                except OSError:
                    continue
