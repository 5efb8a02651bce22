"""One request to an ASGI application, without a web server: what it is sent, piece by piece, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

PATIENCE_SECONDS = 60


@dataclass
class Exchange:
    """`pieces` of the body arrive at once; None among them means that nothing more comes for now."""

    method: str = "GET"
    path: str = "/"
    query: bytes = b""
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()
    pieces: Iterable[bytes | None] = ()
    takes: bool = True
    status: int = 0
    answered: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    body: bytes = b""
    is_complete: bool = False

    def __post_init__(self) -> None:
        self._left = asyncio.Event()
        self.is_asked_for_more = asyncio.Event()  # after all pieces that it has
        self.gets_content = asyncio.Event()
        self._messages = self._make_messages()

    def _make_messages(self) -> list[dict[str, Any] | None]:
        pieces = list(self.pieces) or [b""]
        return [
            piece if piece is None else {"type": "http.request", "body": piece, "more_body": place < len(pieces)}
            for place, piece in enumerate(pieces, start=1)
        ]

    @property
    def scope(self) -> dict[str, Any]:
        given = self.headers.items() if isinstance(self.headers, Mapping) else self.headers
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in given]
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "headers": [(b"host", b"localhost"), *headers],
            "client": ("127.0.0.1", "50000"),
            "server": ("127.0.0.1", "8080"),
        }

    async def receive(self) -> dict[str, Any]:
        if self._messages and (message := self._messages.pop(0)) is not None:
            return message
        self.is_asked_for_more.set()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            pairs = [(name.decode(), value.decode("latin-1")) for name, value in message["headers"]]
            self.answered = {name: value for name, value in pairs if name != "set-cookie"}
            self.cookies = [value for name, value in pairs if name == "set-cookie"]
            return
        self.body += message.get("body", b"")
        if self.body:
            self.gets_content.set()
        self.is_complete = not message.get("more_body", False)
        if not self.takes and not self.is_complete:
            await asyncio.Event().wait()  # as a web server waits while the client takes nothing

    def leave(self) -> None:
        """The client goes away."""
        self._left.set()

    async def run(self, application: Any) -> Exchange:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await application(self.scope, self.receive, self.send)
        return self
