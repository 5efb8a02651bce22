"""What the provider tests share: the recordings, a fixed present, and errors built after the provider reference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from llmkeys.providers import Failure, get

RECORDED = Path(__file__).parent / "recorded"
MANIFEST: dict[str, dict[str, Any]] = {
    entry["file"]: entry for entry in json.loads((RECORDED / "manifest.json").read_text())
}
NOW = datetime(2026, 11, 23, 20, 30, tzinfo=UTC)  # a Monday


def recorded_bytes(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def recorded(name: str) -> Any:
    """Return a recorded JSON body as the product reads it, with Decimal for fractions."""
    return json.loads(recorded_bytes(name), parse_float=Decimal)


def recorded_chunks(name: str) -> Iterator[Any]:
    """Yield the JSON of each data line of a recorded stream."""
    for line in recorded_bytes(name).decode().splitlines():
        if line.startswith("data:") and "[DONE]" not in line:
            yield json.loads(line.removeprefix("data:"), parse_float=Decimal)


def classify_recorded(provider: str, name: str) -> Failure:
    entry = MANIFEST[name]
    body = recorded_bytes(name)
    return get(provider).classify(status=entry["status"], headers=entry["headers"], body=body, at=NOW)


def classify(provider: str, status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return get(provider).classify(status=status, headers=headers or {}, body=raw, at=NOW)
