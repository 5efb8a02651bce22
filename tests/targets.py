"""A notification target on this machine: a web hook that keeps what it is told, or refuses it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "hook-7f3a9c51d2"  # as in the address of a real web hook: who knows it may post


class Target:
    """Listens from the start; `status` is what it answers, `heard` the messages that it accepted."""

    def __init__(self) -> None:
        self.status = 200
        self.heard: list[dict[str, Any]] = []
        self.refused = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def name(self) -> str:
        return f"json://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.name}/{SECRET}"

    @property
    def lines(self) -> list[str]:
        """Every alert that arrived, without its time."""
        return [line.partition("  ")[2] for body in self.heard for line in body["message"].splitlines()]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if target.status == 200 and self.path.startswith(f"/{SECRET}"):
                    target.heard.append(body)
                else:
                    target.refused += 1
                self.send_response(target.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
