"""Relayed requests to providers: one pool of connections per event loop, answers read piece by piece.

No redirect is ever followed (the key would be sent along), no cookies are kept, nothing about the client's connection
is forwarded, and a provider's address comes from the settings alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from functools import lru_cache
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import aiohttp
from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from multidict import CIMultiDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from llmkeys.exceptions import SecretMissing, ServerStopping
from llmkeys.providers.scrub import StreamScrubber, scrub, without_secret
from llmkeys.upstream.asked import USER_AGENT, TransportError
from llmkeys.vault import keyring
from llmkeys.vault.keyring import SecretHolder

MAX_ANSWER_BYTES = 128 * 1024 * 1024
RESTED_SECONDS = 2.0  # no server closes an idle connection sooner
AT_ONCE_SECONDS = 1.0  # an idle connection that ends this soon was closed before the request reached the server
IDLE_SECONDS = 30.0  # routers forget connections that are idle longer, and a request on one of those is lost
_HEADER_BYTES = 64 * 1024


class OpenAnswer:
    """A provider's answer whose status and headers have arrived."""

    def __init__(self, response: aiohttp.ClientResponse, host: str, secret: str):
        self._response, self._host = response, host
        self.status = response.status
        self.headers = _without_secret(response.headers, secret)
        self._waiting: asyncio.Timeout | None = None
        self._decode = _decoder(response.headers.get("content-encoding", ""))
        # What the provider says is shown and stored, and may repeat the key in any form: the whole key is removed here,
        # and parts of it are removed from errors.
        self._scrubber = StreamScrubber(secret)
        self.without_secret: Callable[[bytes], bytes] = lambda data: without_secret(data, secret)

    async def next_piece(self, deadline: float, *, silent_seconds: float) -> bytes:
        """Return the data that arrives next, b"" at the end. `deadline` is on the event loop's clock.

        Raises TransportError on a reset, or if nothing arrives in time.
        """
        try:
            async with asyncio.timeout_at(deadline) as self._waiting:
                while piece := await self._response.content.readany():
                    if clean := self._scrubber.feed(self._decode(piece)):
                        return clean
            return self._scrubber.rest()
        except TimeoutError:
            words = f"{self._host} fell silent for {silent_seconds:.0f} s in the middle of its answer."
            raise TransportError(words, sent=True, timed_out=True) from None
        except (aiohttp.ClientError, OSError, zlib.error, ValueError):
            raise TransportError(f"{self._host} broke off in the middle of its answer.", sent=True) from None

    def hurry(self, deadline: float) -> None:
        """Let the wait in progress, if any, end at `deadline` at the latest."""
        waiting = self._waiting
        if waiting is not None and not waiting.expired() and (waiting.when() or deadline) > deadline:
            with contextlib.suppress(RuntimeError):  # it has just ended
                waiting.reschedule(deadline)

    async def read_some(self, seconds: float) -> bytes:
        """Return the data that arrives next within `seconds`, b"" at the end. Raises TransportError."""
        return await self.next_piece(asyncio.get_running_loop().time() + seconds, silent_seconds=seconds)

    async def read(self, seconds: float) -> bytes:
        """Return the whole body, at most 128 MB, within `seconds` however slowly it arrives. Raises TransportError."""
        pieces, size = [], 0
        deadline = asyncio.get_running_loop().time() + seconds
        while piece := await self.next_piece(deadline, silent_seconds=seconds):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise TransportError(f"{self._host} sent more than 128 MB.", sent=True)
        return b"".join(pieces)

    def abort(self) -> None:
        """Close the connection, so that the provider can stop working."""
        self._response.close()

    def done(self) -> None:
        """Return the connection to the pool."""
        self._response.release()


def _without_secret(headers: Mapping[str, str], secret: str) -> Mapping[str, str]:
    """Return the headers with the secret removed; they rarely contain it."""
    values = "".join(f"{value}\n" for value in headers.values()).encode("utf-8", "surrogateescape")
    clean = StreamScrubber(secret).feed(values)
    if clean == values:
        return headers
    return CIMultiDict(zip(headers, clean.decode("utf-8", "surrogateescape").split("\n"), strict=False))


class _Connector(aiohttp.TCPConnector):
    """Notes for each request when it has got a connection, whether that was used before, and how long it has rested.

    aiohttp knows this and does not report it, so this overrides three of its own methods.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._rests_since: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    async def connect(self, req: Any, traces: Any, timeout: Any) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        _is_connected.set(True)
        return connection

    async def _get(self, key: Any, traces: Any) -> aiohttp.connector.Connection | None:
        found = await super()._get(key, traces)
        if found is not None:
            since = self._rests_since.pop(found.protocol, None)
            _rest.set(None if since is None else monotonic() - since)
        return found

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        self._rests_since[protocol] = monotonic()
        super()._release(key, protocol, should_close=should_close)


# For how many seconds the connection of this task's request had rested; None if it is a new one.
_rest: ContextVar[float | None] = ContextVar("rest", default=None)
# Whether this task's request has got its connection, through any proxy and after any handshake.
_is_connected: ContextVar[bool] = ContextVar("is_connected", default=False)


def may_be_sent() -> bool:
    """Return whether the provider may have received something of the last request of this task."""
    return _is_connected.get()


def begin() -> None:
    """Forget what an earlier request of this task has sent."""
    _is_connected.set(False)


class Pool:
    """The connections of one event loop; must be opened and closed on it."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=0, keepalive_timeout=IDLE_SECONDS, ssl=_tls_context()),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,  # it would read .netrc
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self,
        key: SecretHolder,
        call: Callable[[str], tuple[str, Mapping[str, str]]],
        body: bytes,
        *,
        answer_seconds: float,
    ) -> OpenAnswer:
        """Send a request with the key's secret and return the open answer once its headers have arrived.

        `call` makes the address and headers from the plaintext secret. Raises TransportError (its `sent` is False if
        certainly nothing of the request was sent), SecretMissing, WrongEncryptionKey and DataDirectoryProblem.
        """
        begin()
        secret = await _secret_of(key)
        url, headers = call(secret)
        host = urlsplit(url).hostname or "the provider"
        given = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Accept": "*/*", **headers}
        if not all(map(_can_be_sent, given.values())):
            raise SecretMissing("The key contains characters that no HTTP header can carry: replace its secret.")
        connect, proxy = min(settings.TIMEOUT_SECONDS, answer_seconds), _proxy(url)
        began = monotonic()
        _rest.set(None)
        try:
            async with asyncio.timeout(answer_seconds):
                response = await self._session.post(
                    url,
                    data=body,
                    headers=given,
                    allow_redirects=False,
                    proxy=proxy,
                    timeout=aiohttp.ClientTimeout(total=None, connect=connect),
                )
        except TimeoutError:
            raise _timed_out(host, connect, monotonic() - began) from None
        except aiohttp.ClientError as error:
            ended_at_once = monotonic() - began < AT_ONCE_SECONDS
            rest = _rest.get()
            has_rested = rest is not None and rest >= RESTED_SECONDS
            if has_rested and ended_at_once and _brought_nothing(error):
                words = f"{host} closed an idle connection just as a request was to be sent on it."
                raise TransportError(words, sent=False) from None
            raise _transport_error(error, host, secret, proxy) from None
        except (OSError, ValueError) as error:
            raise TransportError(f"The request to {host} failed: {type(error).__name__}.", sent=may_be_sent()) from None
        return OpenAnswer(response, host, secret)


def _brought_nothing(error: aiohttp.ClientError) -> bool:
    """Return whether the connection ended, or was reset, before the first byte of an answer."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # otherwise it is the part of the headers that arrived
    return isinstance(error, aiohttp.ClientOSError) and not isinstance(error, aiohttp.ClientConnectorError)


async def _secret_of(key: SecretHolder) -> str:
    try:
        return keyring.open_secret(key)
    except SynchronousOnlyOperation:  # the key file is missing, so the database has to be asked
        return await asyncio.to_thread(keyring.open_secret, key)


def _timed_out(host: str, connect: float, waited: float) -> TransportError:
    if not may_be_sent():
        return TransportError(f"{host} could not be reached within {connect:.0f} s.", sent=False, timed_out=True)
    return TransportError(f"{host} did not answer within {waited:.0f} s.", sent=True, timed_out=True)


def _transport_error(error: aiohttp.ClientError, host: str, secret: str, proxy: str | None) -> TransportError:
    """Return the error, whose `sent` is False only if the provider cannot have received the request."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
        return TransportError(scrub(f"TLS with {host} failed: {cause}", secrets=(secret,)), sent=False)
    if isinstance(error, aiohttp.InvalidURL):
        return TransportError(f"The address of {host} cannot be used.", sent=False)
    if may_be_sent():
        return TransportError(f"{host} closed the connection without an answer.", sent=True)
    if proxy:
        return TransportError(f"The proxy on the way to {host} failed.", sent=False)
    return TransportError(f"{host} refused the connection or could not be found.", sent=False)


def _can_be_sent(value: str) -> bool:
    """Return whether an HTTP header can carry the value: visible characters of Latin-1, spaces and tabs."""
    return (value.isascii() and value.replace("\t", "").isprintable()) or _is_latin(value)


def _is_latin(value: str) -> bool:
    return all(character == "\t" or (" " <= character <= "\xff" and character != "\x7f") for character in value)


def _decoder(encoding: str) -> Callable[[bytes], bytes]:
    """Return the function that decodes a Content-Encoding that we did not ask for."""
    if encoding.strip().lower() in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress
    return lambda piece: piece


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Return the TLS context, with the CA bundle that `requests` uses, so that both trust the same servers."""
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    is_directory = os.path.isdir(bundle)  # noqa: PTH112
    return ssl.create_default_context(cafile=None if is_directory else bundle, capath=bundle if is_directory else None)


def _proxy(url: str) -> str | None:
    return _proxy_of(url.split("/", 3)[2], url)


@lru_cache(maxsize=64)
def _proxy_of(_host: str, url: str) -> str | None:
    """Return the proxy that the environment names for an address, looked up once per host."""
    return select_proxy(url, get_environ_proxies(url)) or None


_pools: dict[int, Pool] = {}


def pool() -> Pool:
    """Return the pool of the running event loop. Raises ServerStopping."""
    found = _pools.get(id(asyncio.get_running_loop()))
    if found is None:
        raise ServerStopping("The server is stopping. Try again in a second.")
    return found


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Pool]:
    """Open the pool of the running event loop, and close it at the end."""
    key = id(asyncio.get_running_loop())
    _pools[key] = Pool()
    try:
        yield _pools[key]
    finally:
        await _pools.pop(key).close()
