"""A scripted provider on loopback: a test decides every byte it sends, every pause it makes, and how it hangs up.

It speaks TLS under the providers' own names, so that the product runs with its real base URLs, and plain HTTP at
`provider.local` for what a local server would be. What a test did not script is not answered, and fails that test.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json as json_module
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from requests.structures import CaseInsensitiveDict

from tests.tls import Authority

PATIENCE_SECONDS = 30.0  # a script that waits longer than this is stuck
_GOODBYE_SECONDS = 0.2


class _Ending:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


RESET = _Ending("RESET")  # the connection ends with a reset
CLOSE = _Ending("CLOSE")  # the connection ends as if all had been said
SILENCE = _Ending("SILENCE")  # nothing comes any more, until the other side hangs up


class Gate:
    """A place in a script where the provider waits until the test opens it."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._lock = threading.Lock()

    def wait_until_reached(self) -> None:
        assert self._reached.wait(PATIENCE_SECONDS), "the provider did not come so far"

    def open(self) -> None:
        with self._lock:
            self._open.set()
            for loop, event in self._waiting:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(event.set)

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    async def pass_through(self) -> None:
        event = asyncio.Event()
        with self._lock:
            self._waiting.append((asyncio.get_running_loop(), event))
            if self._open.is_set():
                event.set()
        self._reached.set()
        await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)


class Pieces:
    """One answer: its head at once, then piece by piece.

    A piece is bytes (sent as they are, one chunk each), a `Gate`, `RESET`, `CLOSE`, `SILENCE`, or a function, which
    is called in a thread of its own; what it raises fails the test. `framing` is "chunked", "length" (a length can be
    claimed that is not true), "close" (the end of the connection is the end of the body) or "raw", where the pieces
    are all that is sent, the head included. `informational` are whole 1xx heads that go before.
    """

    def __init__(
        self,
        *pieces: Any,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        framing: str = "chunked",
        length: int | None = None,
        informational: tuple[bytes, ...] = (),
        reason: str = "Whatever",
    ) -> None:
        self.pieces, self.status, self.framing, self.reason = pieces, status, framing, reason
        self.headers = {"Content-Type": "text/event-stream", **(headers or {})}
        self.length = sum(len(piece) for piece in pieces if isinstance(piece, bytes)) if length is None else length
        self.informational = informational

    @classmethod
    def whole(
        cls,
        *,
        json: Any = None,
        body: bytes | str = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        content_type: str = "",
    ) -> Pieces:
        """Return a complete answer with its length."""
        if json is not None:
            body, content_type = json_module.dumps(json), content_type or "application/json"
        raw = body.encode() if isinstance(body, str) else body
        given = {"Content-Type": content_type or "text/plain", **(headers or {})}
        return cls(raw, status=status, headers=given, framing="length")

    def head(self) -> bytes:
        if self.framing == "raw":
            return b""
        named = dict(self.headers)
        if self.framing == "chunked":
            named["Transfer-Encoding"] = "chunked"
        elif self.framing == "length":
            named["Content-Length"] = str(self.length)
        else:
            named["Connection"] = "close"
        lines = [f"HTTP/1.1 {self.status} {self.reason}", *(f"{name}: {value}" for name, value in named.items())]
        return b"".join(self.informational) + "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass
class Received:
    """A request as it came in."""

    connection: int
    scheme: str
    method: str
    target: str
    raw_headers: list[tuple[str, str]]
    body: bytes
    at: float = field(default_factory=time.monotonic)
    gone: threading.Event = field(default_factory=threading.Event)  # the client hung up before the answer's end
    answered: threading.Event = field(default_factory=threading.Event)

    @property
    def headers(self) -> CaseInsensitiveDict[str]:
        return CaseInsensitiveDict(self.raw_headers)

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def url(self) -> str:
        """The address that was asked, without the query."""
        return f"{self.scheme}://{self.headers.get('Host', '')}{self.path}"

    @property
    def json(self) -> Any:
        return json_module.loads(self.body)

    @property
    def secret(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")


Match = Callable[[Received], bool]


@dataclass
class Route:
    """What is answered to one method and address; `match` may ask for more. `answer` may be made for each request."""

    method: str
    url: str
    answer: Pieces | Callable[[Received], Pieces]
    match: Match
    asked: int = 0

    def fits(self, request: Received) -> bool:
        return request.method == self.method and request.url == self.url.partition("?")[0] and self.match(request)


def anything(request: Received) -> bool:
    return True


class Script:
    """What one test has the provider say, and what it was asked."""

    def __init__(self, *, local: str = "", must_be_asked: bool = True) -> None:
        self.local = local  # the address of the plain server, for a base URL that is not the provider's own
        self.must_be_asked = must_be_asked  # whether the test fails where something scripted was never asked for
        self.handshake = ""  # "reset", "stall" or "foreign": what becomes of new TLS connections
        self.calls: list[Received] = []
        self.unexpected: list[str] = []
        self.failures: list[BaseException] = []
        self._routes: list[Route] = []
        self._queue: list[Pieces] = []
        self._lock = threading.Lock()

    # --- what a test says ----------------------------------------------------------------------------------------

    def post(self, url: str, answer: Any = None, *, match: Match = anything, **whole: Any) -> None:
        """Answer a POST with `Pieces`, or with a whole answer: `json`, `body`, `status`, `headers`, `content_type`.

        Where several answers fit, each serves once in turn, and the last one for good.
        """
        self._add("POST", url, answer, match, whole)

    def get(self, url: str, answer: Any = None, *, match: Match = anything, **whole: Any) -> None:
        self._add("GET", url, answer, match, whole)

    def replace(self, url: str, answer: Any = None, *, match: Match = anything, **whole: Any) -> None:
        """Answer POSTs to this address from now on with this alone, where the other answers are for other requests."""
        with self._lock:
            self._routes = [
                route for route in self._routes if (route.method, route.url, route.match) != ("POST", url, match)
            ]
        self.post(url, answer, match=match, **whole)

    def sends(self, *answers: Pieces) -> list[Pieces]:
        """Answer the next requests to any chat address, whichever key asks, with these; return those that are left."""
        with self._lock:
            self._queue = list(answers)
            return self._queue

    def reset(self) -> None:
        """Forget what was scripted and what was asked."""
        with self._lock:
            self._routes, self._queue, self.calls = [], [], []

    def _add(self, method: str, url: str, answer: Any, match: Match, whole: dict[str, Any]) -> None:
        with self._lock:
            self._routes.append(Route(method, url, answer or Pieces.whole(**whole), match))

    # --- what the server asks ------------------------------------------------------------------------------------

    def answer_to(self, request: Received) -> Pieces | None:
        with self._lock:
            self.calls.append(request)
            if self._queue and request.method == "POST" and request.path.endswith("/chat/completions"):
                return self._queue.pop(0)
            fitting = [route for route in self._routes if route.fits(request)]
            if not fitting:
                self.unexpected.append(f"{request.method} {request.url}")
                return None
            route = fitting[0]
            if route.asked and len(fitting) > 1:
                self._routes.remove(route)
                route = fitting[1]
            route.asked += 1
            answer = route.answer
        return answer if isinstance(answer, Pieces) else answer(request)

    # --- the end of the test -------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise what went wrong on the provider's side."""
        if self.failures:
            raise self.failures[0]
        assert not self.unexpected, f"the provider was asked what no test has scripted: {self.unexpected}"
        if self.must_be_asked:
            never = [f"{route.method} {route.url}" for route in self._routes if not route.asked]
            assert not never, f"the provider was never asked: {never}"


def delta(text: str, **more: str) -> bytes:
    """Return a chunk of a streamed chat answer without the empty line that ends it."""
    return b"data: " + json_module.dumps({"choices": [{"index": 0, "delta": {"content": text}, **more}]}).encode()


def sent_with(secret: str) -> Match:
    """Match a request that carries this secret."""
    return _SentWith(secret)


@dataclass(frozen=True)
class _SentWith:
    secret: str

    def __call__(self, request: Received) -> bool:
        return request.secret == self.secret


class _HangUp(Exception):
    """The script has ended the connection."""


class ScriptedProvider:
    """The server, in a thread of its own for a whole test session. A `Script` at a time is on its stage.

    Connections that are idle stay open from test to test, as at a provider; one in the middle of an answer is cut.
    """

    def __init__(self, trusted: Authority, foreign: Authority) -> None:
        self._trusted, self._foreign = trusted, foreign
        self._script: Script | None = None
        self.strays: list[str] = []  # what was asked while no test had a script
        self._connections: dict[int, tuple[asyncio.Task[None], threading.Event]] = {}
        self._numbers = itertools.count(1)
        self._stalled: list[socket.socket] = []
        self._loop = asyncio.new_event_loop()
        self._tls, self._plain = _listener(), _listener()
        self.tls_port, plain_port = self._tls.getsockname()[1], self._plain.getsockname()[1]
        self.local = f"http://127.0.0.1:{plain_port}"
        self._accepting: list[asyncio.Task[None]] = []
        self._thread = threading.Thread(target=self._run, name="provider", daemon=True)
        self._thread.start()

    def play(self, script: Script) -> None:
        script.local = self.local
        self._script = script

    def end(self) -> None:
        """Take the script away and cut the answers that are under way."""
        self._script = None
        self._wait_for(self._cut(busy_only=True))

    def hang_up(self) -> None:
        """Close every connection: the next request needs a new one."""
        self._wait_for(self._cut(busy_only=False))

    def stop(self) -> None:
        self._wait_for(self._cut(busy_only=False, for_good=True))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)

    # --- connections ---------------------------------------------------------------------------------------------

    def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        for listener, scheme in ((self._tls, "https"), (self._plain, "http")):
            self._accepting.append(self._loop.create_task(self._accept(listener, scheme)))
        self._loop.run_forever()

    async def _accept(self, listener: socket.socket, scheme: str) -> None:
        while True:
            accepted, _ = await self._loop.sock_accept(listener)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each piece leaves at once
            number, busy = next(self._numbers), threading.Event()
            task = self._loop.create_task(self._serve(accepted, scheme, number, busy))
            self._connections[number] = (task, busy)
            task.add_done_callback(lambda _, number=number: self._connections.pop(number, None))

    async def _cut(self, *, busy_only: bool, for_good: bool = False) -> None:
        tasks = [task for task, busy in self._connections.values() if busy.is_set() or not busy_only]
        tasks += self._accepting if for_good else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stalled in self._stalled:
            stalled.close()
        self._stalled.clear()

    async def _serve(self, accepted: socket.socket, scheme: str, number: int, busy: threading.Event) -> None:
        mode = self._script.handshake if self._script is not None else ""
        context: ssl.SSLContext | None = None
        if scheme == "https":
            if mode == "reset":
                await self._loop.sock_recv(accepted, 1)
                return _reset(accepted)
            if mode == "stall":
                self._stalled.append(accepted)
                return None
            context = self._foreign.server_side if mode == "foreign" else self._trusted.server_side
        reader = asyncio.StreamReader(limit=2**26)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, accepted, ssl=context)
        except OSError:  # the client would not have our certificate
            return None
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        try:
            await self._converse(reader, writer, scheme, number, busy)
        except (_HangUp, ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            busy.clear()
            if not transport.is_closing():
                transport.close()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(writer.wait_closed(), _GOODBYE_SECONDS)
            transport.abort()
        return None

    async def _converse(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        scheme: str,
        number: int,
        busy: threading.Event,
    ) -> None:
        """Answer one request after another. The next one's first byte is waited for all along: an end comes there."""
        beginning = self._loop.create_task(reader.read(1))
        try:
            while first := await beginning:
                busy.set()
                request = await _read_request(reader, first, scheme, number)
                beginning = self._loop.create_task(reader.read(1))
                script = self._script
                if script is None:
                    self.strays.append(f"{request.method} {request.url}")
                    return
                answer = script.answer_to(request)
                if answer is None:
                    return
                await self._answer_while_heard(script, request, answer, writer, beginning)
                request.answered.set()
                busy.clear()
                if answer.framing in ("close", "raw"):
                    return
        finally:
            beginning.cancel()

    async def _answer_while_heard(
        self, script: Script, request: Received, answer: Pieces, writer: asyncio.StreamWriter, listening: asyncio.Task
    ) -> None:
        answering = self._loop.create_task(_send(script, answer, writer))
        try:
            await asyncio.wait({answering, listening}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                has_gone = isinstance(answering.exception(), ConnectionError)
            else:
                has_gone = listening.exception() is not None or not listening.result()
            if has_gone:
                request.gone.set()
                raise _HangUp
            await answering
        finally:
            answering.cancel()


async def _send(script: Script, answer: Pieces, writer: asyncio.StreamWriter) -> None:
    writer.write(answer.head())
    await writer.drain()
    for piece in answer.pieces:
        if piece is RESET:
            _reset(writer.get_extra_info("socket"), writer.transport)
            raise _HangUp
        if piece is CLOSE:
            raise _HangUp
        if piece is SILENCE:
            await asyncio.Event().wait()
        elif isinstance(piece, Gate):
            await piece.pass_through()
        elif callable(piece):
            await _call(script, piece)
        elif piece:
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if answer.framing == "chunked" else piece
            writer.write(framed)
            await writer.drain()
            # A drain that need not wait gives nobody else a turn: a script without an end would never hear that the
            # other side has gone, and the provider would stand still for every test that follows.
            await asyncio.sleep(0)
    if answer.framing == "chunked":
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _call(script: Script, function: Callable[[], object]) -> None:
    """Call what a test put between two pieces, in a thread, which may ask the product or look into the database."""
    from django.db import connections

    def call() -> None:
        try:
            function()
        except BaseException as failure:  # an assertion too: raised at the end of the test
            script.failures.append(failure)
        finally:
            connections.close_all()

    await asyncio.get_running_loop().run_in_executor(None, call)
    if script.failures:
        raise _HangUp


async def _read_request(reader: asyncio.StreamReader, first: bytes, scheme: str, connection: int) -> Received:
    head = first + await reader.readuntil(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = line.split(" ", 2)
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    known = CaseInsensitiveDict(headers)
    if known.get("Transfer-Encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(known.get("Content-Length", "0")))
    return Received(connection, scheme, method, target, headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    collected = []
    while size := int((await reader.readline()).partition(b";")[0], 16):
        collected.append(await reader.readexactly(size))
        await reader.readline()
    while (await reader.readline()).strip():
        pass
    return b"".join(collected)


def _listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    listener.setblocking(False)
    return listener


def _reset(sock: Any, transport: Any = None) -> None:
    """Hang up so that the other side gets a reset and no end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if transport is None:
        sock.close()
    else:
        transport.abort()
