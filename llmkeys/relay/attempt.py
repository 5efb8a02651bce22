"""One attempt: send it under its hold, read or open the answer, and let the hold end exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import InitVar, dataclass
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from llmkeys import ledger, providers
from llmkeys.dialects import Usage
from llmkeys.dialects.bounds import estimate_tokens
from llmkeys.exceptions import (
    DataDirectoryProblem,
    InvalidInput,
    RecordingUnavailable,
    SecretMissing,
    ServerStopping,
    WrongEncryptionKey,
)
from llmkeys.keys.failures import confirm_rejection, report_failure
from llmkeys.ledger import Finished
from llmkeys.prices.cost import Charge
from llmkeys.prices.worst_case import WorstCase
from llmkeys.providers.base import Failure, FailureKind, Provider
from llmkeys.providers.scrub import scrub_body
from llmkeys.relay import background, stream, whole
from llmkeys.relay.candidates import Candidate
from llmkeys.relay.ending import Ending
from llmkeys.relay.outgoing import Outgoing
from llmkeys.relay.requests import Answer, Client, RelayRequest
from llmkeys.relay.stream import RelayedStream
from llmkeys.upstream import relayed
from llmkeys.upstream.asked import TransportError
from llmkeys.upstream.relayed import OpenAnswer

_PASSED_ON = ("x-request-id", "request-id", "x-generation-id")
STOPPED = "The server was stopped before the answer came; the provider may have billed it."
_BUG = "The relay failed while this request was in progress; the provider may have billed it."


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that got no answer; `lost` if the provider may have billed it nevertheless."""

    failure: Failure
    lost: bool = False
    timed_out: bool = False


@dataclass
class Attempt:
    """One attempt under one hold, which `ending` ends."""

    request: RelayRequest
    client: Client
    candidate: Candidate
    number: int
    hold: InitVar[ledger.Hold]
    worst: InitVar[WorstCase]
    model: InitVar[str]  # as the client named it, or the fallback model being tried

    def __post_init__(self, hold: ledger.Hold, worst: WorstCase, model: str) -> None:
        self.outgoing = Outgoing(self.request, self.candidate, worst)
        self.ending = Ending(self.request, self.candidate, hold, worst, model)

    @property
    def provider(self) -> Provider:
        return providers.get(self.candidate.provider)

    # --- sending -----------------------------------------------------------------------------------------------------

    async def send(self, *, answer_seconds: float) -> Answer | Failed:
        """Make the attempt; its hold is ended on every way out, or passed to the stream that is returned.

        Raises WrongEncryptionKey, DataDirectoryProblem, ServerStopping if this worker has stopped or its stop cuts the
        answer off, and InvalidInput for a body that cannot be written.
        """
        deadline = time.monotonic() + answer_seconds
        relayed.begin()
        try:
            opened = await self._open(answer_seconds)
            return opened if isinstance(opened, Failed) else await self._read(opened, deadline)
        except TransportError as error:
            return await self._broken(error)
        except asyncio.CancelledError:
            if not relayed.may_be_sent():
                await self.ending.release(sent=False, error="The server was stopped before the request was sent.")
                raise
            await self.ending.lose(STOPPED)
            stopped = ServerStopping(STOPPED)
            stopped.may_be_billed = True
            raise stopped from None
        except BaseException:
            await self.ending.lose(_BUG)  # does nothing if the attempt has ended
            raise

    async def _open(self, answer_seconds: float) -> OpenAnswer | Failed:
        try:
            body = await self.outgoing.body()
            async with self._while_awaited():
                return await relayed.pool().send(
                    self.candidate, self.outgoing.call, body, answer_seconds=answer_seconds
                )
        except SecretMissing as error:
            await self.ending.release(sent=False, error=str(error))
            return Failed(Failure(FailureKind.FORBIDDEN_HERE, str(error)))
        except (WrongEncryptionKey, DataDirectoryProblem, ServerStopping) as error:
            await self.ending.release(sent=False, error=str(error))
            raise
        except RecursionError:  # shallow enough to be parsed, but too deep to be serialised again
            await self.ending.release(sent=False, error="The body is nested too deeply.")
            raise InvalidInput({"body": ["The body is nested too deeply."]}) from None

    @contextlib.asynccontextmanager
    async def _while_awaited(self) -> AsyncIterator[None]:
        """Stop waiting for a stream to begin DRAIN_SECONDS after its client has gone; until then its cost may arrive.

        Raises TransportError.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as waiting:

                def leave() -> None:
                    with contextlib.suppress(RuntimeError):  # the wait has ended
                        waiting.reschedule(loop.time() + stream.DRAIN_SECONDS)

                if self.request.streamed:
                    self.client.when_gone(leave)
                yield
        except TimeoutError:
            words = "The client went away before the stream began."
            raise TransportError(words, sent=relayed.may_be_sent(), timed_out=True) from None

    async def _broken(self, error: TransportError) -> Failed:
        """Release a request that never reached the provider; charge the hold for one that it may have billed."""
        failure = Failure(FailureKind.RETRY, str(error))
        if not error.sent:
            await self.ending.release(sent=False, error=str(error))
            return Failed(failure, timed_out=error.timed_out)
        await self.ending.lose(f"{error} It may have been billed.")
        return Failed(failure, lost=True, timed_out=error.timed_out)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _read(self, opened: OpenAnswer, deadline: float) -> Answer | Failed:
        for name in reversed(_PASSED_ON):
            self.ending.note_id(opened.headers.get(name))
        self.ending.service_tier = (
            opened.headers.get(self.provider.tier_header, "") if self.provider.tier_header else ""
        )
        if opened.status >= 300:  # a redirect too, which is never followed: the base URL is wrong
            return await self._refused(opened, deadline)
        if opened.status != 200:
            return await self._strange(opened)
        if self.request.streamed:
            return await self._begin_stream(opened, deadline)
        answer = await self._complete(opened, await opened.read(_seconds_until(deadline)))
        opened.done()
        return answer

    async def _strange(self, opened: OpenAnswer) -> Failed:
        error = f"{self.provider.label} answered with the unexpected status {opened.status}."
        opened.abort()
        await self.ending.lose(f"{error} It may have been billed.", status=opened.status)
        return Failed(Failure(FailureKind.RETRY, error), lost=True)

    async def _refused(self, opened: OpenAnswer, deadline: float) -> Answer | Failed:
        """Classify a status other than 2xx; a client's own mistake is returned to the client unchanged."""
        try:
            seconds = min(_seconds_until(deadline), settings.STREAM_IDLE_SECONDS)
            body = opened.without_secret(await opened.read(seconds))
            opened.done()
        except TransportError:
            body = b""
        failure = self.provider.classify(status=opened.status, headers=opened.headers, body=body, at=timezone.now())
        if failure.kind is FailureKind.CLIENT_ERROR and self.outgoing.learns_from(body):
            # under the same hold: nothing was billed
            self.ending.upstream_id = ""
            return await self.send(answer_seconds=_seconds_until(deadline))
        await self.ending.release(sent=True, status=opened.status, failure=failure)
        if failure.kind is FailureKind.CLIENT_ERROR:
            return self._answer(opened.status, opened.headers, scrub_body(body))
        return Failed(failure)

    async def _begin_stream(self, opened: OpenAnswer, deadline: float) -> Answer | Failed:
        """Wait for the first content; until some was sent to the client, another key may still serve."""
        first, deadline = b"", time.monotonic() + _seconds_until(deadline)
        while not first.strip():
            seconds = deadline - time.monotonic()
            if first:  # from the first byte on, what counts is how long the provider is silent
                seconds = min(seconds, settings.STREAM_IDLE_SECONDS)
            async with self._while_awaited():
                piece = await opened.read_some(seconds)
            if not piece:
                break
            self.ending.first_byte()
            first += piece
        if not first.strip():
            raise TransportError(f"{self.provider.label} ended the stream before its first event.", sent=True)
        # Look at the bytes, not at the Content-Type: some servers ignore `stream`, or announce what they do not send.
        if (
            first.lstrip()[:1] in (b"{", b"[", b"<")
            and self.request.dialect.stream_type(self.request.request) == "text/event-stream"
        ):
            rest = await opened.read(_seconds_until(deadline))
            answer = await self._complete(opened, first + rest)
            opened.done()
            return answer
        begun = RelayedStream(
            self.ending, opened, self.client, first, asked_for_usage=self.outgoing.asked_for_usage, report=self.report
        )
        failure = await begun.begin()
        if failure is None and begun.is_empty:
            raise TransportError(f"{self.provider.label} ended the stream before its first event.", sent=True)
        if failure is None:
            await self.ending.serves_again()
            content_type = self.request.dialect.stream_type(self.request.request)
            return self._answer(200, opened.headers, begun, content_type=content_type)
        return await self._failed_inside(opened, failure, begun.usage, begun.error_body, is_whole=begun.has_final_usage)

    async def _complete(self, opened: OpenAnswer, raw: bytes) -> Answer | Failed:
        self.ending.first_byte()
        if len(raw) > background.LARGE_BYTES:
            seen = await background.in_parser(whole.look, self.request.request, raw)
        else:
            seen = whole.look(self.request.request, raw)
        if seen is None:
            return await self._unreadable(opened, raw)
        self.ending.note_id(seen.id)
        self.ending.sealed = seen.sealed
        if seen.error is not None:
            failure = self.provider.failure_in_body(seen.error, at=timezone.now())
            if failure is not None:
                clean = whole.error_body(self.request.request, scrub_body(opened.without_secret(raw)))
                made = estimate_tokens(seen.content_bytes) if seen.has_content else None
                return await self._failed_inside(
                    opened, failure, seen.usage, clean, output_tokens_seen=made, is_whole=seen.has_final_usage
                )
        charge, finished = await self.ending.settle(
            seen.usage,
            status=200,
            output_tokens_seen=estimate_tokens(seen.content_bytes or len(raw)),
            saw_content=seen.has_content,
        )
        announced = opened.headers.get("content-type", "")
        return self._answer(200, opened.headers, raw, charge, finished, content_type=whole.content_type(raw, announced))

    async def _unreadable(self, opened: OpenAnswer, raw: bytes) -> Failed:
        what = "an event stream without an end" if whole.is_stream(raw) else "an answer that is not JSON"
        what = what if raw.strip() else "an empty answer"
        words = f"{self.provider.label} sent {what}."
        if raw.lstrip()[:1] == b"<":
            words = (
                f"{self.provider.label} sent a web page instead of an answer: check {self.provider.base_url_variable}."
            )
        await self.ending.lose(f"{words} It may have been billed.", status=opened.status)
        return Failed(Failure(FailureKind.RETRY, words), lost=True)

    async def _failed_inside(
        self,
        opened: OpenAnswer,
        failure: Failure,
        usage: Usage | None,
        body: bytes,
        *,
        is_whole: bool,
        output_tokens_seen: int | None = None,
    ) -> Answer | Failed:
        """Handle a failure under status 200. It is charged if output was seen, or if output or a cost was reported.

        Without final usage, the charge is an estimate, or the hold if the model may have reasoned unseen.
        """
        made_output, lost = output_tokens_seen is not None, False
        if made_output or (usage is not None and (usage.cost_usd or usage.output_tokens)):
            lost = not is_whole and self.ending.may_reason_unseen
            if lost:
                await self.ending.lose(f"{failure.message} It may have been billed.", status=200)
            else:
                await self.ending.settle(
                    usage,
                    status=200,
                    output_tokens_seen=output_tokens_seen or 1,
                    saw_content=made_output,
                    is_whole=is_whole,
                    success=False,
                    error=failure.message,
                )
        else:
            await self.ending.release(sent=True, status=200, failure=failure)
        if failure.kind is FailureKind.CLIENT_ERROR:
            return self._answer(failure.status or 400, opened.headers, body, content_type="application/json")
        return Failed(failure, lost=lost)

    def _answer(
        self,
        status: int,
        headers: Mapping[str, str],
        content: bytes | RelayedStream,
        charge: Charge | None = None,
        finished: Finished | None = None,
        *,
        content_type: str = "",
    ) -> Answer:
        return Answer(
            status=status,
            content_type=content_type or headers.get("content-type", "application/json"),
            content=content,
            request_id=self.request.id,
            key_id=self.candidate.id,
            attempts=self.number,
            headers={name: headers[name] for name in _PASSED_ON if headers.get(name)},
            cost_nano=charge.nano if charge else None,
            remaining_day_nano=finished.remaining_day_nano if finished else None,
        )

    # --- what a failure means ----------------------------------------------------------------------------------------

    async def report(self, failure: Failure) -> None:
        """Store what the failure means for the key; a rejection is confirmed in the background, which takes a while.

        Raises RecordingUnavailable.
        """
        at = timezone.now()
        if await background.in_thread(report_failure, self.candidate, failure, at=at, probe=self.ending.hold.probe):
            background.start(self._confirm(failure, at))

    async def _confirm(self, failure: Failure, at: datetime) -> None:
        with contextlib.suppress(RecordingUnavailable):  # the next request will meet the same failure
            await background.in_asker(confirm_rejection, self.candidate, failure, at=at)


def _seconds_until(deadline: float) -> float:
    return max(1.0, deadline - time.monotonic())
