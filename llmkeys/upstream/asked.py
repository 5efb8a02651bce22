"""Our own requests to providers: tests of keys, model lists, costs. The only user of `requests`.

No redirect is ever followed (the key would be sent along), and a provider's address comes from the settings alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from django.conf import settings
from requests.adapters import HTTPAdapter
from requests.hooks import default_hooks
from requests.models import PreparedRequest, Response
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies

from llmkeys import providers
from llmkeys.database import sql
from llmkeys.providers.base import Call, Provider
from llmkeys.providers.scrub import scrub, without_secret
from llmkeys.vault import keyring
from llmkeys.vault.keyring import SecretHolder

USER_AGENT = "RefactAI-LLM-key-management"
MAX_ANSWER_BYTES = 128 * 1024 * 1024
CHECK_SECONDS = 20  # the free calls: a test, a model list
_CHUNK_BYTES = 65_536


class TransportError(Exception):
    """The provider gave no complete answer; the message contains no secrets.

    `sent` says whether the request may have reached the provider (and been billed), `timed_out` that it was too slow.
    """

    def __init__(self, message: str, *, sent: bool, timed_out: bool = False):
        super().__init__(message)
        self.sent, self.timed_out = sent, timed_out


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer from a provider."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Stream:
    """An open answer from a provider, read piece by piece."""

    def __init__(self, response: Response, host: str, answer_seconds: float):
        self._response, self._host, self._patience = response, host, answer_seconds
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    def pieces(self) -> Iterator[bytes]:
        """Yield data as it arrives. Raises TransportError on a reset or a silence that is too long."""
        raw = self._response.raw
        while True:
            with _reading_errors(self._host, self._patience):
                piece = raw.read1(_CHUNK_BYTES, decode_content=True)
            if not piece:
                return
            yield piece

    def read(self) -> bytes:
        """Return the rest of the body, at most 128 MB."""
        collected, size = [], 0
        for piece in self.pieces():
            collected.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise TransportError(f"{self._host} sent more than 128 MB.", sent=True)
        return b"".join(collected)

    def abort(self) -> None:
        """Close the connection, so that the provider can stop working."""
        self._response.raw.close()
        self._response.close()


def base_url(provider: Provider) -> str:
    return settings.PROVIDER_BASE_URLS[provider.name]


def check_key(key: SecretHolder, *, seconds: float = CHECK_SECONDS) -> Answer:
    """Make the provider's free test call, which may take at most `seconds`."""
    return _free_call(key, providers.get(key.provider).check_call, seconds)


def list_models(key: SecretHolder) -> Answer:
    """Fetch the provider's own model list."""
    return _free_call(key, providers.get(key.provider).models_call)


def fetch_generation(key: SecretHolder, generation_id: str) -> Answer:
    """Fetch from OpenRouter what one request of this key really cost."""
    provider, secret = providers.get(key.provider), keyring.open_secret(key)
    call = provider.generation_call(base_url=base_url(provider), secret=secret, generation_id=generation_id)
    return _call(call, secret)


def check_secret(provider: Provider, secret: str, workspace_id: str = "") -> Answer:
    """Make the free test call with a secret that is not stored yet."""
    return _call(provider.check_call(base_url=base_url(provider), secret=secret, workspace_id=workspace_id), secret)


def reach(provider: Provider, *, seconds: float) -> Answer:
    """Send a request without a key to the provider's address; any answer shows that it is reachable. Reads no body."""
    call = Call("GET", base_url(provider), {})
    with _within(seconds, call.url):
        stream = _send(call, seconds, "")
        stream.abort()
        return Answer(stream.status, stream.headers, b"")


def _free_call(key: SecretHolder, make: Callable[..., Call], seconds: float = CHECK_SECONDS) -> Answer:
    provider, secret = providers.get(key.provider), keyring.open_secret(key)
    return _call(make(base_url=base_url(provider), secret=secret, workspace_id=key.workspace_id), secret, seconds)


def _call(call: Call, secret: str, seconds: float = CHECK_SECONDS) -> Answer:
    with _within(seconds, call.url):
        stream = _send(call, seconds, secret)
        try:
            headers = {name: without_secret(value.encode(), secret).decode() for name, value in stream.headers.items()}
            return Answer(stream.status, CaseInsensitiveDict(headers), without_secret(stream.read(), secret))
        finally:
            stream.abort()


class _Deadline:
    """The end of a call, however slowly its answer trickles in: a socket's own limit starts anew with every byte."""

    def __init__(self, seconds: float):
        self._at = time.monotonic() + seconds
        self._timer: threading.Timer | None = None
        self.has_passed = self.has_answer = False

    def watch(self, sock: socket.socket) -> None:
        """Hang up when the time is over."""
        self._timer = threading.Timer(max(0.0, self._at - time.monotonic()), self._hang_up, [sock])
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _hang_up(self, sock: socket.socket) -> None:
        self.has_passed = True
        # Closing it would not wake the thread that reads; the copy is plain, whatever TLS is around it.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as plain:
            plain.shutdown(socket.SHUT_RDWR)


_deadline: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)


@contextlib.contextmanager
def _within(seconds: float, url: str) -> Iterator[None]:
    """Let a call take at most `seconds` until its last byte. Raises TransportError."""
    deadline = _Deadline(seconds)
    before = _deadline.set(deadline)
    try:
        yield
    except TransportError:
        if not deadline.has_passed:
            raise
    finally:
        deadline.end()
        _deadline.reset(before)
    if deadline.has_passed:
        what = "give its whole answer" if deadline.has_answer else "answer"
        raise TransportError(f"{_host(url)} did not {what} within {seconds:.0f} s.", sent=True, timed_out=True)


def _host(url: str) -> str:
    return urlsplit(url).hostname or "the provider"


def _send(call: Call, answer_seconds: float, secret: str) -> Stream:
    sql.release()  # the provider may take minutes
    request = PreparedRequest()
    request.method, request.url, request.hooks = call.method, call.url, default_hooks()
    try:
        request.headers = CaseInsensitiveDict(_header_bytes(call.headers))
    except UnicodeEncodeError:
        raise TransportError("The key contains characters that no HTTP header can carry.", sent=False) from None
    host = _host(call.url)
    proxies, verify = _surroundings(call.url.split("/", 3)[2], call.url)
    timeout: Any = urllib3.Timeout(connect=min(settings.TIMEOUT_SECONDS, answer_seconds), read=answer_seconds)
    with _sending_errors(host, timeout, secret):
        response = _adapter().send(request, stream=True, timeout=timeout, verify=verify, proxies=proxies)
    return Stream(response, host, answer_seconds)


def _header_bytes(headers: Mapping[str, str]) -> dict[str, str]:
    given = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Accept": "*/*", **headers}
    for value in given.values():
        value.encode("latin-1")
    return given


class _WatchedConnection:
    """What every connection has in addition: from the head of an answer on, the deadline of the call is kept."""

    sock: Any

    def getresponse(self) -> Any:
        deadline = _deadline.get()
        if deadline is not None:
            deadline.watch(self.sock)
        response = super().getresponse()  # type: ignore[misc]
        if deadline is not None:
            deadline.has_answer = True
        return response


class _LeanAdapter(HTTPAdapter):
    """`requests`' adapter without cookies and repeated parsing of the address, which saves 0.1 ms per call."""

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        address = request.url.split("/", 3)[:3]
        known = self.__dict__.setdefault("_known", {})
        pool: Any = known.get((*address, verify))
        if pool is None:
            pool = super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
            if not issubclass(pool.ConnectionCls, _WatchedConnection):
                pool.ConnectionCls = type("_Watched", (_WatchedConnection, pool.ConnectionCls), {})
            known[(*address, verify)] = pool
        return pool

    def build_response(self, req: Any, resp: Any) -> Response:
        response = Response()
        response.status_code, response.headers, response.raw = resp.status, resp.headers, resp
        response.request, response.url, response.connection = req, req.url, self
        return response


@lru_cache(maxsize=1)
def _adapter() -> HTTPAdapter:
    """Return the adapter, whose pool of connections all threads of the process share."""
    return _LeanAdapter(pool_connections=16, pool_maxsize=256, max_retries=0)


@lru_cache(maxsize=64)
def _surroundings(_host: str, url: str) -> tuple[dict[str, str], str]:
    """Return the proxies and the CA bundle that the environment names, looked up once per address."""
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    return get_environ_proxies(url), bundle


@contextlib.contextmanager
def _sending_errors(host: str, timeout: urllib3.Timeout, secret: str) -> Iterator[None]:
    try:
        yield
    except requests.exceptions.ConnectTimeout:
        words = f"{host} could not be reached within {timeout.connect_timeout:.0f} s."
        raise TransportError(words, sent=False, timed_out=True) from None
    except requests.exceptions.Timeout:
        words = f"{host} did not answer within {timeout.read_timeout:.0f} s."
        raise TransportError(words, sent=True, timed_out=True) from None
    except requests.exceptions.SSLError as error:
        raise TransportError(scrub(f"TLS with {host} failed: {_cause(error)}", secrets=(secret,)), sent=False) from None
    except requests.exceptions.ProxyError:
        raise TransportError(f"The proxy on the way to {host} failed.", sent=False) from None
    except requests.exceptions.ConnectionError as error:
        cause = _cause(error)
        if isinstance(cause, urllib3.exceptions.NewConnectionError | urllib3.exceptions.NameResolutionError):
            raise TransportError(f"{host} refused the connection or could not be found.", sent=False) from None
        raise TransportError(f"{host} closed the connection without an answer.", sent=True) from None
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, ValueError, OSError) as error:
        raise TransportError(f"The request to {host} failed: {type(error).__name__}.", sent=True) from None


def _cause(error: Exception) -> object:
    inner = error.args[0] if error.args else error
    return getattr(inner, "reason", None) or inner


@contextlib.contextmanager
def _reading_errors(host: str, seconds: float) -> Iterator[None]:
    try:
        yield
    except (TimeoutError, urllib3.exceptions.ReadTimeoutError):
        words = f"{host} fell silent for {seconds:.0f} s in the middle of its answer."
        raise TransportError(words, sent=True, timed_out=True) from None
    except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
        raise TransportError(f"{host} broke off in the middle of its answer.", sent=True) from None
