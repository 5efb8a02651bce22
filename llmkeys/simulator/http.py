"""A minimal HTTP/1.1: an incremental request parser, and answers as lists of parts to send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

if TYPE_CHECKING:
    from .journal import Entry

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 40 * 1024 * 1024
FOREVER = inf


class BadRequest(Exception):
    """The received bytes are not a valid request; the connection is closed after this status."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(slots=True)
class Request:
    """A request; header names are in lower case, the path is decoded and has no query."""

    method: str
    path: str
    query: str
    version: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def keep_alive(self) -> bool:
        wish = self.headers.get("connection", "").lower()
        return wish == "keep-alive" if self.version == "HTTP/1.0" else wish != "close"

    def parameter(self, name: str) -> str | None:
        return parse_qs(self.query).get(name, [None])[0]


class End(Enum):
    RESET = "reset"


Part = bytes | float | End


@dataclass(slots=True)
class Answer:
    """A response; parts are bytes, pauses in seconds (FOREVER: silence) and a reset; `length` None is a stream."""

    status: int
    parts: Sequence[Part]
    length: int | None
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    entry: Entry | None = None

    def head(self, *, version: str, keep_alive: bool) -> bytes:
        lines = [_STATUS_LINES[self.status], f"Content-Type: {self.content_type}", "X-Simulated: true"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        elif version != "HTTP/1.0":
            lines.append("Transfer-Encoding: chunked")
        lines.append("Connection: keep-alive" if keep_alive else "Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _status_line(status: int) -> str:
    try:
        return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP/1.1 {status} Overloaded" if status == 529 else f"HTTP/1.1 {status} Simulated"


_STATUS_LINES = {status: _status_line(status) for status in range(200, 600)}


class RequestParser:
    """Parses bytes into requests: call `feed`, then `next` until it returns None; remaining bytes are kept.

    Raises BadRequest once; the parser cannot be used afterwards.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._request: Request | None = None
        self._remaining: int | None = None
        self._chunked: bytearray | None = None
        self._in_trailers = False
        self.expects_continue = False

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Request | None:
        """Return the next complete request, or None until more bytes have arrived."""
        if self._request is None and not self._read_head():
            return None
        body = self._read_chunks() if self._chunked is not None else self._read_counted()
        if body is None:
            return None
        request, self._request = self._request, None
        self._chunked, self.expects_continue = None, False
        assert request is not None
        request.body = body
        return request

    def _read_head(self) -> bool:
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
        if end < 0:
            self._refuse_hopeless_head()
            return False
        head = self._buffer[:end].decode("latin-1")
        del self._buffer[: end + 4]
        self._request = request = parse_head(head)
        self._expect_body(request.headers)
        return True

    def _refuse_hopeless_head(self) -> None:
        if len(self._buffer) >= MAX_HEAD_BYTES:
            raise BadRequest(431, "The request headers are too long.")
        newline = self._buffer.find(b"\n")
        if newline >= 0 and self._buffer[newline - 1 : newline] != b"\r":
            raise BadRequest(400, "Header lines must end with CRLF.")

    def _expect_body(self, headers: dict[str, str]) -> None:
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if coding is not None and (length is not None or coding.lower() != "chunked"):
            raise BadRequest(400, "A body must be either chunked or have a Content-Length.")
        if coding is not None:
            self._chunked, self._remaining, self._in_trailers = bytearray(), None, False
        else:
            self._remaining = _content_length(length)
        expectation = headers.get("expect", "").lower()
        if expectation not in ("", "100-continue"):
            raise BadRequest(417, "The only supported expectation is 100-continue.")
        self.expects_continue = bool(expectation)

    def _read_counted(self) -> bytes | None:
        length = self._remaining or 0
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _read_chunks(self) -> bytes | None:
        assert self._chunked is not None
        while True:
            if self._in_trailers:
                return bytes(self._chunked) if self._skip_trailers() else None
            if self._remaining is None and not self._read_chunk_size():
                return None
            if self._remaining is not None and not self._read_chunk():
                return None

    def _read_chunk_size(self) -> bool:
        """Read "1a;extension"; the last chunk has size 0 and trailers follow."""
        line = self._take_line()
        if line is None:
            return False
        digits = line.split(b";", 1)[0].strip()
        if not digits or len(digits) > 8 or digits.strip(b"0123456789abcdefABCDEF"):
            raise BadRequest(400, "The size of a chunk must be a hexadecimal number.")
        size = int(digits, 16)
        if len(self._chunked or b"") + size > MAX_BODY_BYTES:
            raise BadRequest(413, "The body is larger than 40 MB.")
        self._in_trailers = size == 0
        self._remaining = size or None
        return True

    def _read_chunk(self) -> bool:
        assert self._chunked is not None and self._remaining is not None
        size = self._remaining
        if len(self._buffer) < size + 2:
            return False
        if self._buffer[size : size + 2] != b"\r\n":
            raise BadRequest(400, "A chunk must end with CRLF.")
        self._chunked += self._buffer[:size]
        del self._buffer[: size + 2]
        self._remaining = None
        return True

    def _skip_trailers(self) -> bool:
        while (line := self._take_line()) is not None:
            if not line:
                return True
        return False

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n", 0, MAX_HEAD_BYTES)
        if end < 0:
            if len(self._buffer) >= MAX_HEAD_BYTES:
                raise BadRequest(400, "A line of the chunked body is too long.")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


def parse_head(head: str) -> Request:
    """Parse the request line and the headers; repeated headers are joined by commas."""
    first, *lines = head.split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[0].isalpha() or not words[1].startswith("/"):
        raise BadRequest(400, "The request line is not METHOD /path HTTP/1.1.")
    if words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadRequest(505 if words[2].startswith("HTTP/") else 400, "This server speaks HTTP/1.1.")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or " " in name or "\t" in name:
            raise BadRequest(400, "A header line is not Name: value.")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if "host" not in headers and words[2] == "HTTP/1.1":
        raise BadRequest(400, "The Host header is missing.")
    path, _, query = words[1].partition("?")
    return Request(words[0], unquote(path) if "%" in path else path, query, words[2], headers)


def _content_length(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise BadRequest(400, "Content-Length is not a whole number.")
    if int(text) > MAX_BODY_BYTES:
        raise BadRequest(413, "The body is larger than 40 MB.")
    return int(text)
