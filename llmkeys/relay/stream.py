"""A relayed stream: held back until content arrives, then forwarded, and settled before the client sees its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from django.conf import settings
from django.utils import timezone

from llmkeys import providers
from llmkeys.dialects import Seen, Usage
from llmkeys.dialects.bounds import estimate_tokens
from llmkeys.exceptions import RecordingUnavailable
from llmkeys.lib.sse import data_lines
from llmkeys.providers.base import Failure
from llmkeys.providers.scrub import scrub_body
from llmkeys.relay.ending import Ending
from llmkeys.relay.requests import Client
from llmkeys.upstream.asked import TransportError
from llmkeys.upstream.relayed import OpenAnswer

DRAIN_SECONDS = 30.0  # how long to wait for the usage after the client has gone
LONGEST_STREAM_SECONDS = 3600.0  # a stream without an end is cut here
AFTER_END_SECONDS = 1.0  # how long a provider may take to close a stream that it has ended
MOST_HELD_BACK = 1_000_000  # bytes of events without content; beyond that the answer counts as begun
CUT = "The stream was cut; the provider may have billed it."
GONE = "The client went away in the middle of the stream."


class RelayedStream:
    """One provider's stream for one client: `begin` reads until content arrives, `run` forwards it to the end."""

    def __init__(
        self,
        ending: Ending,
        opened: OpenAnswer,
        client: Client,
        first: bytes,
        *,
        asked_for_usage: bool,
        report: Callable[[Failure], Awaitable[None]],
    ):
        self._ending, self._opened, self._client = ending, opened, client
        self._asked_for_usage, self._report = asked_for_usage, report
        self._request, self._provider = ending.request.request, providers.get(ending.candidate.provider)
        self._dialect = self._request.dialect
        self._events = self._dialect.events(self._request)
        self._first = first
        self._held: list[bytes] = []  # read, but not yet sent to the client
        now = asyncio.get_running_loop().time()
        self._last_piece, self._cut_at, self._drain_until = now, now + LONGEST_STREAM_SECONDS, float("inf")
        self.usage: Usage | None = None
        self.error_body = b""  # the failure that came instead of content, without secrets
        self._failure: Failure | None = None
        self._count = self._content_bytes = self._envelope = self._held_bytes = 0
        self._has_content = self._is_finished = self._is_end = self._is_over = self._is_running_total = False
        self._may_lower_hold = self._provider.reports_input_first
        client.when_gone(self._leave)

    # --- before the client has content -------------------------------------------------------------------------------

    async def begin(self) -> Failure | None:
        """Read until content or the end arrives; return the failure if one came instead, for which nothing is billed.

        Raises TransportError if the stream breaks off before that.
        """
        await self._take(self._first)
        while not self._has_begun and not self._is_over:
            if self._failure is not None:
                self._opened.abort()
                return self._failure
            await self._read_on()
        if self._failure is not None and not self._has_content:
            self._opened.abort()
            return self._failure
        return None

    @property
    def _has_begun(self) -> bool:
        """True once there is output, the answer has ended without any, or too much has been held back."""
        return self._has_content or self._is_end or self._is_finished or self._held_bytes > MOST_HELD_BACK

    @property
    def is_empty(self) -> bool:
        """True if the provider ended the stream before it sent anything meaningful."""
        return self._is_over and not (self._has_begun or self.has_final_usage or self._failure is not None)

    @property
    def has_final_usage(self) -> bool:
        """True if the usage reported so far covers the whole answer."""
        return Seen(
            usage=self.usage,
            is_running_total=self._is_running_total,
            is_end=self._is_end,
            is_finished=self._is_finished,
        ).has_final_usage

    # --- to the client ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Forward the stream to its end and end the attempt; after the client has gone, read on for the usage."""
        try:
            while True:
                await self._hand_out()
                if self._is_over:
                    break
                await self._read_on()
            if self._has_no_end():
                await self._break_off("The provider ended the stream without an end marker.")
            await self._settle()
            self._opened.done()
        except TransportError as error:
            await self._break_off(str(error))
        except BaseException:
            self._opened.abort()
            await self._ending.lose(CUT, status=200)
            await self._client.write(self._dialect.error_event(502, "upstream_error", CUT, self._request))
            raise

    async def _hand_out(self) -> None:
        if self._is_end and not self._ending.ended:
            await self._settle()  # a client that has seen the end finds the cost recorded
        if self._held:
            ready, self._held = b"".join(self._held), []
            await self._client.write(ready)

    async def _read_on(self) -> None:
        """Read one piece. Raises TransportError if the provider breaks off or falls silent."""
        loop = asyncio.get_running_loop()
        idle = AFTER_END_SECONDS if self._is_end else float(settings.STREAM_IDLE_SECONDS)
        deadline = min(self._last_piece + idle, self._cut_at, self._drain_until)
        try:
            piece = await self._opened.next_piece(deadline, silent_seconds=idle)
        except TransportError as error:
            if self._is_end:
                piece = b""
            elif error.timed_out and loop.time() >= self._cut_at:
                raise TransportError("The stream had no end; it was cut after an hour.", sent=True) from None
            else:
                raise
        if piece:
            self._last_piece = loop.time()
            await self._take(piece)
            return
        self._is_over = True
        if rest := self._events.rest():
            self._keep(rest)

    def _leave(self) -> None:
        """Read on for DRAIN_SECONDS after the client has gone: the provider's usage may still arrive."""
        self._drain_until = asyncio.get_running_loop().time() + DRAIN_SECONDS
        self._opened.hurry(self._drain_until)

    async def _break_off(self, error: str) -> None:
        """End a stream that broke off: charge it and send an error event to the client."""
        self._is_over = True
        self._opened.abort()
        if self._client.has_gone:
            error = GONE if asyncio.get_running_loop().time() >= self._drain_until else f"{GONE} {error}"
            await self._end_for_nobody(error)
        elif self.has_final_usage:
            await self._settle(success=False, error=error)
        else:
            await self._ending.lose(f"{error} It may have been billed.", status=200)
        await self._client.write(self._dialect.error_event(502, "upstream_error", error, self._request))

    async def _end_for_nobody(self, words: str) -> None:
        """Charge a stream whose client has gone: its usage, else an estimate, or the hold if it may have reasoned."""
        if not self.has_final_usage and self._ending.may_reason_unseen:
            await self._ending.lose(f"{words} The model may have produced hidden reasoning.", status=200)
        else:
            await self._settle(success=self.has_final_usage, error=words)

    # --- looking into it ---------------------------------------------------------------------------------------------

    async def _take(self, piece: bytes) -> None:
        comments: list[bytes] = []
        for event in self._events.feed(piece):
            self._keep(event)
            is_comment = event.lstrip(b"\r\n").startswith(b":") and not data_lines(event)
            if is_comment and self._client.has_begun and not self._has_begun:
                comments.append(self._held.pop())
        if self._may_lower_hold and self.usage is not None and self.usage.input_tokens and not self._is_finished:
            self._may_lower_hold = False
            await self._ending.lower_hold(self.usage)
        if comments:  # the status was sent already, so the provider's own keep-alives are forwarded at once
            await self._client.write(b"".join(comments))

    def _keep(self, event: bytes) -> None:
        kept = self._look(event)
        if kept:
            self._held.append(kept)
            self._held_bytes += len(kept)

    def _look(self, event: bytes) -> bytes:
        """Return the event as the client gets it; after the first plain one, only those that may matter are parsed."""
        telling = self._dialect.telling
        is_plain = telling is not None and not telling.search(event)
        if is_plain and self._envelope:
            self._content_bytes += max(0, len(event) - self._envelope)
            self._count += 1
            return event
        seen = self._dialect.see_event(event, self._request)
        if is_plain and seen.content_bytes:
            self._envelope = max(1, len(event) - seen.content_bytes)
        return self._note(event, seen)

    def _note(self, event: bytes, seen: Seen) -> bytes:
        if seen.body is not None:
            self._count += 1
            self._ending.note_id(seen.id)
            self._ending.sealed = seen.sealed or self._ending.sealed
        if seen.usage is not None:
            self.usage = self.usage.merged(seen.usage) if self.usage else seen.usage
            self._is_running_total = seen.is_running_total
        self._content_bytes += seen.content_bytes
        self._has_content = self._has_content or seen.has_content
        self._is_finished = self._is_finished or seen.is_finished
        self._is_end = self._is_end or seen.is_end
        if seen.error is not None:
            failure = self._provider.failure_in_body(seen.error, at=timezone.now())
            if failure is not None:
                self._failure = self._failure or failure
                clean = scrub_body(self._opened.without_secret(event))
                self.error_body = self.error_body or b"\n".join(data_lines(clean)) or clean.strip(b" ,[]\r\n\t")
                return clean
        return b"" if seen.is_usage_only and self._asked_for_usage else event

    # --- the end -----------------------------------------------------------------------------------------------------

    def _has_no_end(self) -> bool:
        """Return whether the stream stopped without any kind of end."""
        return not (
            self._ending.ended or self._is_end or self._is_finished or self.has_final_usage or self._failure is not None
        )

    async def _settle(self, *, success: bool = True, error: str = "") -> None:
        if self._ending.ended:
            return
        if self._client.has_gone and not error:
            success, error = self.has_final_usage, GONE
        if self._failure is not None:
            success, error = False, self._failure.message
            with contextlib.suppress(RecordingUnavailable):  # the next request will meet the same failure
                await self._report(self._failure)
            if not self.has_final_usage:
                await self._ending.lose(f"{error} It may have been billed.", status=200)
                return
        await self._ending.settle(
            self.usage,
            status=200,
            output_tokens_seen=max(self._count, estimate_tokens(self._content_bytes)),
            saw_content=self._has_content,
            is_whole=self.has_final_usage,
            success=success,
            error=error,
        )
