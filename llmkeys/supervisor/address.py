"""Where the web server listens: the `--bind` argument, and the sockets of its workers."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from llmkeys.exceptions import LLMKeysError

BACKLOG = 1024


class BindProblem(LLMKeysError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL for a browser on this machine, which could not open a wildcard address."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://{Address(host, self.port)}"

    @property
    def is_loopback(self) -> bool:
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def parse(text: str) -> Address:
    """Read `HOST:PORT`, `[IPv6]:PORT` or a bare `PORT`. Raises BindProblem."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65_535:
        raise BindProblem(f"--bind {text} is not an address; write it as HOST:PORT, for example 127.0.0.1:8080.")
    return Address(host, int(port))


def listen(address: Address, count: int) -> list[socket.socket]:
    """Return a listening socket for each worker; the kernel distributes connections among them. Raises BindProblem.

    With one socket for all, the worker that happened to be awake took up to 15 of 16 simultaneous connections while the
    other one was idle. The sockets are opened here and stay open here, so that while a worker is replaced its
    connections wait instead of being reset.
    """
    _listening(address, shared=False).close()  # fails if another program is listening, unlike with SO_REUSEPORT
    return [_listening(address, shared=True) for _ in range(count)]


def _listening(address: Address, *, shared: bool) -> socket.socket:
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BindProblem(f"{address} cannot be listened on: {error.strerror or error}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Inherited by accepted connections. Without it, the body of an answer waits 40 ms for the headers' delayed ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(target)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise BindProblem(_refused(address, error)) from None
    listener.setblocking(False)
    return listener


def _refused(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"The port {address} is in use by another program; stop it, or choose another one with --bind."
    if error.errno == errno.EACCES:
        return f"This user may not listen on {address}; choose a port above 1023 with --bind."
    return f"{address} cannot be listened on: {error.strerror}."
