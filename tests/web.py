"""The product behind a real web server in this process, and programs that speak HTTP with it over real sockets.

In this process, so that a stopped clock, overridden settings and the test database are the server's too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from requests.structures import CaseInsensitiveDict

from tests.serving import free_port

JSON = "application/json"
PATIENCE_SECONDS = 30.0


def application() -> Any:
    """Return what the web server runs."""
    from refactai_site.asgi import application as product

    return product


class _Watched:
    """The application, with an eye on which clients it has heard the end of."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._over: set[int] = set()
        self._changed = threading.Condition()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        port = int(scope["client"][1])
        with self._changed:
            self._over.discard(port)

        async def heard() -> Any:
            message = await receive()
            if message["type"] == "http.disconnect":
                self._note(port)
            return message

        try:
            await self._app(scope, heard, send)
        finally:
            self._note(port)

    def _note(self, port: int) -> None:
        with self._changed:
            self._over.add(port)
            self._changed.notify_all()

    def wait_until_over(self, port: int) -> None:
        with self._changed:
            heard = self._changed.wait_for(lambda: port in self._over, PATIENCE_SECONDS)
        assert heard, "the server did not hear that its client has gone"


class WebServer:
    """granian in a thread of its own. On asyncio's own loop: uvloop resolves names past `socket.getaddrinfo`, by
    which the tests decide where a provider is."""

    def __init__(self) -> None:
        from granian.constants import HTTPModes, Interfaces
        from granian.server.embed import Server

        self.watched = _Watched(application())
        self.port = free_port()
        self._ready = threading.Event()
        self._make: Callable[[], Server] = lambda: Server(
            self.watched,
            address="127.0.0.1",
            port=self.port,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            blocking_threads=1,
            websockets=False,
            log_enabled=False,
            backpressure=4096,
        )
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="web", daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS), "the web server does not start"
        self._wait_for_the_socket()

    async def _serve(self) -> None:
        self._loop, self._server = asyncio.get_running_loop(), self._make()
        self._loop.call_soon(self._ready.set)
        await self._server.serve()

    def _wait_for_the_socket(self) -> None:
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            pause.wait(0.01)
        raise AssertionError("the web server does not listen")

    def stop(self) -> None:
        """Stop as after SIGTERM: the application's lifespan ends."""
        self._loop.call_soon_threadsafe(application().stop)
        self._loop.call_soon_threadsafe(self._server.stop)
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the web server does not stop"


_running: WebServer | None = None


def server() -> WebServer:
    """Return the server of this process, started when the first test asks for it."""
    global _running
    if _running is None:
        _running = WebServer()
    return _running


def stop() -> None:
    global _running
    if _running is not None:
        _running.stop()
        _running = None


class Wire:
    """One connection to the server, on which a test sends whatever bytes it likes."""

    def __init__(self) -> None:
        self._server = server()
        self._socket = socket.create_connection(("127.0.0.1", self._server.port), timeout=PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = self._socket.getsockname()[1]
        self._buffer = bytearray()

    def send(self, *pieces: bytes) -> Wire:
        for piece in pieces:
            self._socket.sendall(piece)
        return self

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> Wire:
        self._method = method
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self._server.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def chunks(self, *pieces: bytes) -> Wire:
        """Send the body in these chunks, and its end."""
        return self.send(*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece), b"0\r\n\r\n")

    def half_close(self) -> Wire:
        """Say that nothing more is sent; answers can still come."""
        self._socket.shutdown(socket.SHUT_WR)
        return self

    def answer(self, *, keep: bool = False) -> Reply:
        """Return the answer once its head is there; one that has a length is read to its end.

        The connection is closed after it unless it is to be kept for another request.
        """
        return Reply(self, has_body=self._method != "HEAD", keep=keep)

    def says_nothing_for(self, seconds: float) -> bool:
        """Return whether nothing at all comes within this time, not even an end."""
        if self._buffer:
            return False
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(PATIENCE_SECONDS)
        return False

    def close(self, *, with_reset: bool = False) -> None:
        if with_reset and self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def wait_until_heard(self) -> None:
        self._server.watched.wait_until_over(self._port)

    def to_the_end(self) -> bytes:
        with contextlib.suppress(ConnectionError):
            while True:
                self._read_on()
        return self._take(len(self._buffer))

    def line(self) -> bytes:
        while b"\n" not in self._buffer:
            self._read_on()
        return self._take(self._buffer.index(b"\n") + 1).rstrip(b"\r\n")

    def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._read_on()
        return self._take(size)

    def _read_on(self) -> None:
        received = self._socket.recv(65_536)
        if not received:
            raise ConnectionError("the connection ended in the middle of the answer")
        self._buffer += received

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


class Reply:
    """An answer. `pieces` gives a stream chunk by chunk as the server sent them, `content` all that is left."""

    def __init__(self, wire: Wire, *, has_body: bool = True, keep: bool = False) -> None:
        self.wire, self._keep = wire, keep
        self.informational: list[int] = []
        while True:
            self.status_code = int(wire.line().split(b" ", 2)[1])
            self.headers: CaseInsensitiveDict[str] = CaseInsensitiveDict(self._header_lines())
            if self.status_code >= 200:
                break
            self.informational.append(self.status_code)
        self._has_body = has_body and self.status_code not in (204, 304)
        self.streaming = self._has_body and self.headers.get("Transfer-Encoding") == "chunked"
        self.pieces = self._read()
        if not self.streaming:
            _ = self.content

    def __getitem__(self, name: str) -> str:
        return self.headers[name]

    @cached_property
    def content(self) -> bytes:
        return b"".join(self.pieces)

    def json(self) -> Any:
        return json.loads(self.content)

    def close(self, *, with_reset: bool = False) -> None:
        """Hang up in the middle, and wait until the application has heard of it."""
        self.pieces.close()
        self.wire.close(with_reset=with_reset)
        self.wire.wait_until_heard()

    def _header_lines(self) -> Iterator[tuple[str, str]]:
        while line := self.wire.line().decode("latin-1"):
            name, _, value = line.partition(":")
            yield name, value.strip()

    def _read(self) -> Any:
        if not self._has_body:
            pass
        elif "Content-Length" in self.headers:
            yield self.wire.exactly(int(self.headers["Content-Length"]))
        elif not self.streaming:
            yield self.wire.to_the_end()
        else:
            while size := int(self.wire.line().partition(b";")[0], 16):
                piece = self.wire.exactly(size)
                self.wire.line()
                yield piece
            self.wire.line()
        if not self._keep:
            self.wire.close()


class Program:
    """A program with an access token, or without. Every request has a connection of its own, closed at its end."""

    def __init__(self, token: str = "", *, headers: Mapping[str, str] | None = None) -> None:
        self._headers = dict(headers or {})
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def begin(self, method: str, path: str, data: bytes | str = b"", content_type: str = JSON, **more: Any) -> Wire:
        """Send a request and return its wire, on which the answer has not been waited for."""
        raw = data.encode() if isinstance(data, str) else data
        return self.open(method, path, {"Content-Length": str(len(raw)), "Content-Type": content_type}, **more).send(
            raw
        )

    def open(self, method: str, path: str, own: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Wire:
        """Send the head of a request alone: how its body goes out is the test's matter."""
        return Wire().head(method, path, {**self._headers, **own, **(headers or {})})

    def get(self, path: str, **more: Any) -> Reply:
        return self.open("GET", path, {}, **more).answer()

    def head(self, path: str, **more: Any) -> Reply:
        return self.open("HEAD", path, {}, **more).answer()

    def options(self, path: str, **more: Any) -> Reply:
        return self.open("OPTIONS", path, {}, **more).answer()

    def post(self, path: str, data: bytes | str = b"", **more: Any) -> Reply:
        return self.begin("POST", path, data, **more).answer()

    def put(self, path: str, data: bytes | str = b"", **more: Any) -> Reply:
        return self.begin("PUT", path, data, **more).answer()

    def patch(self, path: str, data: bytes | str = b"", **more: Any) -> Reply:
        return self.begin("PATCH", path, data, **more).answer()

    def delete(self, path: str, data: bytes | str = b"", **more: Any) -> Reply:
        return self.begin("DELETE", path, data, **more).answer()


class Person(Program):
    """A browser without scripts in which this user has logged in."""

    def __init__(self, user: Any) -> None:
        from django.conf import settings
        from django.middleware.csrf import CSRF_SECRET_LENGTH
        from django.test import Client
        from django.utils.crypto import get_random_string

        client, secret = Client(), get_random_string(CSRF_SECRET_LENGTH)
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        cookies = {
            settings.SESSION_COOKIE_NAME: client.cookies[settings.SESSION_COOKIE_NAME].value,
            settings.CSRF_COOKIE_NAME: secret,
        }
        joined = "; ".join(f"{name}={value}" for name, value in cookies.items())
        super().__init__(headers={"Cookie": joined, "X-CSRFToken": secret})

    def look(self, path: str, **query: str) -> Reply:
        return self.get(f"{path}?{urlencode(query)}" if query else path)

    def send_form(self, path: str, fields: Mapping[str, str], **headers: str) -> Reply:
        return self.post(path, urlencode(fields), content_type="application/x-www-form-urlencoded", headers=headers)
