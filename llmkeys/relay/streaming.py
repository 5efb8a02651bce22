"""A stream on its way: passed on piece by piece, watched for usage and errors, settled before its end is seen."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from django.utils import timezone

from llmkeys.database import sql
from llmkeys.dialects import bounds
from llmkeys.dialects.base import Usage
from llmkeys.dialects.usage import read_openai_usage
from llmkeys.exceptions import RecordingUnavailable
from llmkeys.lib.sse import EventSplitter, data_of, is_done, load_json
from llmkeys.providers.base import Failure
from llmkeys.providers.scrub import scrub_body
from llmkeys.upstream import asked

if TYPE_CHECKING:
    from llmkeys.relay.endings import Attempt

FIRST_EVENT_SECONDS = 15.0  # how long comments alone are kept back from the client, waiting for the first event
DRAIN_SECONDS = 30.0  # how long the usage is waited for after the client has gone
LONGEST_STREAM_SECONDS = 3600.0  # a stream without an end is cut here

_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_EMPTY_USAGE = re.compile(rb'"usage"\s*:\s*null')


class RelayedStream:
    """An iterator of pieces for the web server, which calls `close` at the end and when the client has gone.

    No generator: one that was never started runs no `finally`, and its hold would stay open.
    """

    def __init__(self, attempt: Attempt, stream: asked.Stream):
        self._attempt, self._stream = attempt, stream
        self._pieces = stream.pieces()
        self._splitter = EventSplitter()
        self._ready: list[bytes] = []  # read, and not yet given to the client
        self._started = time.monotonic()
        self._usage: Usage | None = None
        self._failure: Failure | None = None
        self._events = 0
        self._content_bytes = 0
        self._envelope: int | None = None  # the size of the smallest event: what is not content
        self._finished = self._done = self._over = self._left = False
        self.refusal = b""  # the provider's error, as JSON, where the first event is one

    # --- before the client sees anything -------------------------------------------------------------------------

    def begin(self) -> Failure | None:
        """Read up to the first event; return the failure it carries, with the hold released.

        Raises TransportError where the stream breaks before.
        """
        for piece in self._pieces:
            self._attempt.first_byte()
            self._take(piece)
            if self._failure is not None and self._usage is None:
                self._attempt.release(sent=True, status=200, failure=self._failure)
                self._stream.abort()
                return self._failure
            if self._events or time.monotonic() - self._started > FIRST_EVENT_SECONDS:
                break
        else:
            raise asked.TransportError(
                f"{self._attempt.provider.label} ended the stream before its first event.", sent=True
            )
        return None

    # --- towards the client --------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while True:
            if self._ready:
                return self._hand_out()
            if self._over:
                raise StopIteration
            try:
                self._read_on()
            except asked.TransportError as error:
                self._break_off(str(error))

    def close(self) -> None:
        """Settle where the end was not reached: the client has gone, the provider may still be at work."""
        if self._attempt.ended or self._left:  # a server may close more than once
            return
        self._left = True
        threading.Thread(target=self._drain, name="llmkeys-drain", daemon=True).start()

    def __del__(self) -> None:
        self.close()

    def _hand_out(self) -> bytes:
        if self._done and not self._attempt.ended:
            self._settle()  # the client that has seen the end finds the cost recorded
        ready, self._ready = b"".join(self._ready), []
        return ready

    def _read_on(self) -> None:
        if time.monotonic() - self._started > LONGEST_STREAM_SECONDS:
            raise asked.TransportError("The stream had no end; it was cut after an hour.", sent=True)
        piece = next(self._pieces, None)
        if piece is not None:
            self._take(piece)
            return
        self._over = True
        rest = self._splitter.rest()
        if rest:
            self._ready.append(self._look(rest))
        if not (self._done or self._finished or self._usage or self._failure):
            raise asked.TransportError("The provider ended the stream without an end marker.", sent=True)
        self._settle()
        self._stream.done()

    def _break_off(self, error: str) -> None:
        """The answer broke in the middle: charge it, tell the client in the stream, and end."""
        self._over = True
        self._stream.abort()
        if self._usage is not None and self._usage.is_known:
            self._settle(success=False, error=error)
        else:
            self._attempt.lose(f"{error} It may have been billed.", status=200)
        self._ready.append(_error_event(error))

    # --- looking into it -----------------------------------------------------------------------------------------

    def _take(self, piece: bytes) -> None:
        for event in self._splitter.feed(piece):
            kept = self._look(event)
            if kept:
                self._ready.append(kept)

    def _look(self, event: bytes) -> bytes:
        """Return the event as the client gets it; parse it only where usage or an error may be inside."""
        if event.startswith(b":"):
            return event
        if is_done(event):
            self._done = True
            return event
        self._count(event)
        has_usage = b'"usage"' in event and not _EMPTY_USAGE.search(event)
        if not has_usage and b'"error"' not in event:
            return event
        return self._look_inside(event)

    def _count(self, event: bytes) -> None:
        if not self._events and not self._attempt.upstream_id:  # no header told it
            first = load_json(data_of(event) or b"")
            self._attempt.note_id(first.get("id") if isinstance(first, dict) else None)
        size = len(event)
        self._envelope = size if self._envelope is None else min(self._envelope, size)
        self._events += 1
        self._content_bytes += size
        if b'"finish_reason"' in event and _FINISHED.search(event):
            self._finished = True

    def _look_inside(self, event: bytes) -> bytes:
        body = load_json(data_of(event) or b"")
        if not isinstance(body, dict):
            return event
        provider = self._attempt.provider
        told = read_openai_usage(body)
        self._usage = self._usage.merged(told) if self._usage else told
        failure = provider.failure_in_body(body, at=timezone.now())
        if failure is not None:
            self._failure = failure
            event = scrub_body(event)
            self.refusal = data_of(event) or b""
            return event
        if body.get("usage") and not body.get("choices") and provider.vendor and not self._attempt.request.wants_usage:
            return b""  # the chunk that we asked for and the client did not
        return event

    # --- the end -------------------------------------------------------------------------------------------------

    def _settle(self, *, success: bool = True, error: str = "") -> None:
        if self._failure is not None and not self._attempt.ended:
            success, error = False, self._failure.message
            with contextlib.suppress(RecordingUnavailable):  # the next request will meet the same failure
                self._attempt.report(self._failure)
            if self._usage is None or not self._usage.is_known:
                self._attempt.lose(f"{error} It may have been billed.", status=200)
                return
        self._attempt.settle(
            self._usage, status=200, output_tokens_seen=self._tokens_seen(), success=success, error=error
        )

    def _tokens_seen(self) -> int:
        content = self._content_bytes - (self._envelope or 0) * self._events
        return max(self._events, bounds.estimate_tokens(max(0, content)))

    def _drain(self) -> None:
        """Read on for the provider's own usage; after 30 s close the connection and charge an estimate."""
        deadline = time.monotonic() + DRAIN_SECONDS
        gone = "The client went away in the middle of the stream."
        try:
            while not self._done and (left := deadline - time.monotonic()) > 0:
                self._stream.silence_after(left)
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._take(piece)
        except asked.TransportError as error:
            gone = f"{gone} {error}"
        finally:
            self._settle(success=self._usage is not None, error=gone)
            self._stream.abort()
            sql.release()  # a thread that ends would take its connection with it


def _error_event(message: str) -> bytes:
    import json

    body = {"error": {"message": message, "type": "upstream_error", "code": "upstream_error", "param": None}}
    return b"data: " + json.dumps(body).encode() + b"\n\n"
