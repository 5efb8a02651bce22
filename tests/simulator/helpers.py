"""What the simulator is asked in these tests, and how."""

from __future__ import annotations

import json
import socket
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests

from llmkeys.simulator import SimulatorThread

ROOT = Path(__file__).resolve().parents[2]
MODELS = {
    "openrouter": "openai/gpt-6.1-terra",
    "openai": "gpt-6.1-terra",
    "anthropic": "claude-sonnet-5-5",
    "google": "gemini-3.8-flash",
}
KEYS = {
    "openrouter": "sk-or-v1-0123456789abcdef",
    "openai": "sk-proj-0123456789abcdef",
    "anthropic": "sk-ant-api03-0123456789abcdef",
    "google": "AQ.0123456789abcdef",
}
CHAT = {
    "openrouter": "/api/v1/chat/completions",
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/chat/completions",
    "google": "/v1beta/openai/chat/completions",
}
FREE = {
    "openrouter": "/api/v1/key",
    "openai": "/v1/models",
    "anthropic": "/v1/models?limit=1",
    "google": "/v1beta/models?pageSize=1",
}
PROVIDERS = list(MODELS)
every_provider = pytest.mark.parametrize("provider", PROVIDERS)


def body_of(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def chat(
    simulator: SimulatorThread, provider: str, text: str = "hello", *, ending: str = "ok", **more: Any
) -> requests.Response:
    """POST one chat request to this provider; `more` goes into the body."""
    body = {"model": MODELS[provider]} | body_of(text, **more)
    headers = {"Authorization": f"Bearer {KEYS[provider]}-{ending}"}
    return requests.post(simulator.base_url + CHAT[provider], json=body, headers=headers, timeout=10)


def exact(response: requests.Response) -> Any:
    return json.loads(response.text, parse_float=Decimal)


def events(text: str) -> list[Any]:
    """The data of a stream's events, parsed; "[DONE]" stays text."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one, parse_float=Decimal) for one in data]


def raw(simulator: SimulatorThread, data: bytes, *, seconds: float = 5.0) -> bytes:
    """Send these bytes and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", simulator.port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        while more := connection.recv(65_536):
            received += more
        return received
