"""One attempt: send it under its hold, read or open the answer, and end the hold exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from llmkeys import ledger, providers
from llmkeys.alerts import outbox
from llmkeys.database import writer
from llmkeys.dialects import Usage
from llmkeys.dialects.bounds import estimate_tokens, may_reason_unseen
from llmkeys.exceptions import (
    DataDirectoryProblem,
    InvalidInput,
    RecordingUnavailable,
    SecretMissing,
    ServerStopping,
    WrongEncryptionKey,
)
from llmkeys.keys.failures import confirm_rejection, report_failure
from llmkeys.ledger import Finished, Outcome, coolings, leases
from llmkeys.prices import cost
from llmkeys.prices.cost import Charge
from llmkeys.prices.worst_case import WorstCase, shrunk_hold
from llmkeys.providers.base import Failure, FailureKind, Provider
from llmkeys.providers.scrub import scrub_body
from llmkeys.relay import background, conversations, stream, whole
from llmkeys.relay.candidates import Candidate
from llmkeys.relay.outgoing import Outgoing
from llmkeys.relay.requests import Answer, Client, RelayRequest
from llmkeys.relay.stream import RelayedStream
from llmkeys.upstream import relayed
from llmkeys.upstream.asked import TransportError
from llmkeys.upstream.relayed import OpenAnswer

_PASSED_ON = ("x-request-id", "request-id", "x-generation-id")
STOPPED = "The server was stopped before the answer came; the provider may have billed it."
_BUG = "The relay failed while this request was in progress; the provider may have billed it."
# A client's own mistake, or a model that is gone, is not a failure of the key.
_NOT_THE_KEYS_FAULT = {FailureKind.CLIENT_ERROR, FailureKind.MODEL_UNAVAILABLE}
# Failures after which the key cools down again: no other request may try it before that is recorded.
_REPORTED_NEXT = {FailureKind.RATE_LIMITED, FailureKind.EXHAUSTED, FailureKind.REJECTED}


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that got no answer; `lost` if the provider may have billed it nevertheless."""

    failure: Failure
    lost: bool = False
    timed_out: bool = False


@dataclass
class Attempt:
    """One attempt under one hold. Whatever happens, exactly one of `release`, `lose` and `settle` ends it."""

    request: RelayRequest
    client: Client
    candidate: Candidate
    hold: ledger.Hold
    worst: WorstCase
    number: int
    model: str  # as the client named it, or the fallback model being tried
    started: float = field(default_factory=time.monotonic)
    first_byte_ms: int | None = None
    ended: bool = False
    upstream_id: str = ""
    sealed: str = ""  # what binds the conversation to the organisation that answered
    _service_tier: str = ""

    def __post_init__(self) -> None:
        self.outgoing = Outgoing(self.request, self.candidate, self.worst)

    @property
    def provider(self) -> Provider:
        return providers.get(self.candidate.provider)

    @property
    def may_reason_unseen(self) -> bool:
        models, bound = (self.candidate.model, *self.worst.other_models), self.request.request.bound
        return any(may_reason_unseen(model, bound) for model in models)

    # --- sending -----------------------------------------------------------------------------------------------------

    async def send(self, *, answer_seconds: float) -> Answer | Failed:
        """Make the attempt; its hold is ended on every way out, or passed to the stream that is returned.

        Raises WrongEncryptionKey, DataDirectoryProblem, ServerStopping if this worker has stopped, and InvalidInput for
        a body that cannot be written.
        """
        deadline = time.monotonic() + answer_seconds
        try:
            opened = await self._open(answer_seconds)
            return opened if isinstance(opened, Failed) else await self._read(opened, deadline)
        except TransportError as error:
            return await self._broken(error)
        except asyncio.CancelledError:
            if relayed.may_be_sent():
                await self.lose(STOPPED)
            else:
                await self.release(sent=False, error="The server was stopped before the request was sent.")
            raise
        except BaseException:
            await self.lose(_BUG)  # does nothing if the attempt has ended
            raise

    async def _open(self, answer_seconds: float) -> OpenAnswer | Failed:
        try:
            body = await self.outgoing.body()
            async with self._while_awaited():
                return await relayed.pool().send(
                    self.candidate, self.outgoing.call, body, answer_seconds=answer_seconds
                )
        except SecretMissing as error:
            await self.release(sent=False, error=str(error))
            return Failed(Failure(FailureKind.FORBIDDEN_HERE, str(error)))
        except (WrongEncryptionKey, DataDirectoryProblem, ServerStopping) as error:
            await self.release(sent=False, error=str(error))
            raise
        except RecursionError:  # shallow enough to be parsed, but too deep to be serialised again
            await self.release(sent=False, error="The body is nested too deeply.")
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
            await self.release(sent=False, error=str(error))
            return Failed(failure, timed_out=error.timed_out)
        await self.lose(f"{error} It may have been billed.")
        return Failed(failure, lost=True, timed_out=error.timed_out)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _read(self, opened: OpenAnswer, deadline: float) -> Answer | Failed:
        for name in reversed(_PASSED_ON):
            self.note_id(opened.headers.get(name))
        self._service_tier = opened.headers.get(self.provider.tier_header, "") if self.provider.tier_header else ""
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
        await self.lose(f"{error} It may have been billed.", status=opened.status)
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
            self.upstream_id = ""
            return await self.send(answer_seconds=_seconds_until(deadline))
        await self.release(sent=True, status=opened.status, failure=failure)
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
            self.first_byte()
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
        begun = RelayedStream(self, opened, self.client, first)
        failure = await begun.begin()
        if failure is None and begun.is_empty:
            raise TransportError(f"{self.provider.label} ended the stream before its first event.", sent=True)
        if failure is None:
            await self._serves_again()
            content_type = self.request.dialect.stream_type(self.request.request)
            return self._answer(200, opened.headers, begun, content_type=content_type)
        return await self._failed_inside(opened, failure, begun.usage, begun.error_body, is_whole=begun.has_final_usage)

    async def _complete(self, opened: OpenAnswer, raw: bytes) -> Answer | Failed:
        self.first_byte()
        if len(raw) > background.LARGE_BYTES:
            seen = await background.in_parser(whole.look, self.request.request, raw)
        else:
            seen = whole.look(self.request.request, raw)
        if seen is None:
            return await self._unreadable(opened, raw)
        self.note_id(seen.id)
        self.sealed = seen.sealed
        if seen.error is not None:
            failure = self.provider.failure_in_body(seen.error, at=timezone.now())
            if failure is not None:
                clean = whole.error_body(self.request.request, scrub_body(opened.without_secret(raw)))
                made = estimate_tokens(seen.content_bytes) if seen.has_content else None
                return await self._failed_inside(
                    opened, failure, seen.usage, clean, output_tokens_seen=made, is_whole=seen.has_final_usage
                )
        charge, finished = await self.settle(
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
        await self.lose(f"{words} It may have been billed.", status=opened.status)
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
            lost = not is_whole and self.may_reason_unseen
            if lost:
                await self.lose(f"{failure.message} It may have been billed.", status=200)
            else:
                await self.settle(
                    usage,
                    status=200,
                    output_tokens_seen=output_tokens_seen or 1,
                    saw_content=made_output,
                    is_whole=is_whole,
                    success=False,
                    error=failure.message,
                )
        else:
            await self.release(sent=True, status=200, failure=failure)
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

    # --- notes -------------------------------------------------------------------------------------------------------

    def note_id(self, found: Any) -> None:
        """Keep the first id that the provider gives the answer: OpenRouter's later report of the cost needs it."""
        if not self.upstream_id and isinstance(found, str) and found.isascii() and found.isprintable():
            self.upstream_id = found

    def first_byte(self) -> None:
        if self.first_byte_ms is None:
            self.first_byte_ms = self._milliseconds()

    async def _serves_again(self) -> None:
        """End the coolings of a key that is serving: other requests need not wait for the end of a long stream."""
        if self.hold.probe is not None:
            at, key = timezone.now(), self.candidate
            with contextlib.suppress(RecordingUnavailable):  # the end of the attempt does it again
                await writer.run(
                    lambda cursor: coolings.forgive(cursor, key.id, key.scopes, key.model, at),
                    accounts=self.hold.locks,
                )

    async def report(self, failure: Failure) -> None:
        """Store what the failure means for the key; a rejection is confirmed in the background, which takes a while.

        Raises RecordingUnavailable.
        """
        at = timezone.now()
        if await background.in_thread(report_failure, self.candidate, failure, at=at, probe=self.hold.probe):
            background.start(self._confirm(failure, at))

    async def _confirm(self, failure: Failure, at: datetime) -> None:
        with contextlib.suppress(RecordingUnavailable):  # the next request will meet the same failure
            await background.in_asker(confirm_rejection, self.candidate, failure, at=at)

    async def lower_hold(self, usage: Usage) -> None:
        """Lower the hold to what the rest of the answer can cost, now that the input is known.

        From here on the attempt counts on the smaller amount only, even if it cannot be written.
        """
        nano = shrunk_hold(self.worst, usage, self.hold.amount_nano)
        if not self.ended and nano < self.hold.amount_nano:
            before, self.hold = self.hold, replace(self.hold, amount_nano=nano)
            await leases.lower(before, nano)

    # --- ends --------------------------------------------------------------------------------------------------------

    async def release(
        self, *, sent: bool, status: int | None = None, failure: Failure | None = None, error: str = ""
    ) -> None:
        """Give the hold back: the provider did nothing and bills nothing."""
        blame = failure is None or failure.kind not in _NOT_THE_KEYS_FAULT
        await self._end(
            state="RELEASED",
            success=False if blame else None,
            sent=sent,
            http_status=status,
            error=failure.message if failure else error,
            keeps_probe=failure is not None and failure.kind in _REPORTED_NEXT,
        )

    async def lose(self, error: str, *, status: int | None = None) -> None:
        """Charge the hold: the request was sent, and it is unknown whether the provider billed it."""
        await self._end(
            state="LOST",
            success=False,
            http_status=status,
            error=error,
            cost_nano=self.hold.amount_nano,
            cost_source="estimated" if self.hold.amount_nano else "",
        )

    async def settle(
        self,
        usage: Usage | None,
        *,
        status: int,
        output_tokens_seen: int,
        saw_content: bool = False,
        is_whole: bool = True,
        success: bool = True,
        error: str = "",
    ) -> tuple[Charge, Finished | None]:
        """Charge what the usage costs, or without a plausible usage an estimate from what was seen, marked as such.

        Usage that does not cover the whole answer is a lower bound for the estimate.
        """
        charge = self._charge(usage, output_tokens_seen, saw_content, is_whole)
        finished = await self._end(
            state="SETTLED", success=success, http_status=status, error=error, cost_nano=charge.nano,
            cost_source=charge.source, **_tokens(usage),
        )  # fmt: skip
        return charge, finished

    def _charge(self, usage: Usage | None, output_tokens_seen: int, saw_content: bool, is_whole: bool) -> Charge:
        """Return the price of the usage as of admission, or an estimate if there is no plausible usage."""
        if usage is not None and self._service_tier and not usage.service_tier:
            usage = replace(usage, service_tier=self._service_tier)
        known = cost.charge(usage, self.worst, saw_content=saw_content) if usage is not None and is_whole else None
        return known or cost.estimate(
            self.worst,
            input_bytes=self.request.request.size,
            output_tokens=output_tokens_seen,
            hold_nano=self.hold.amount_nano,
            usage=usage,
        )

    async def _end(self, *, keeps_probe: bool = False, **values: Any) -> Finished | None:
        if self.ended:
            return None
        self.ended = True
        outcome = Outcome(
            at=timezone.now(),
            latency_ms=self._milliseconds(),
            first_byte_ms=self.first_byte_ms,
            upstream_id=self.upstream_id,
            sealed_thought=conversations.digest(self.sealed) if self.sealed else None,
            **values,
        )
        candidate = self.candidate
        finished = await leases.finish(
            ledger.End(
                self.hold,
                outcome,
                cooled_scopes=candidate.scopes if candidate.was_cooling else (),
                model=candidate.model,
                # A conversation that stays with its key says nothing about which key is serving.
                serves="" if candidate.preferred_to else providers.common_name(self.model),
                keeps_probe=keeps_probe,
            )
        )
        if outcome.cost_source == "fallback" and outcome.cost_nano:
            background.start(
                background.in_thread(
                    outbox.fallback_price_used, self.candidate.provider, self.candidate.model, at=outcome.at
                )
            )
        return finished

    def _milliseconds(self) -> int:
        return int((time.monotonic() - self.started) * 1000)


def _seconds_until(deadline: float) -> float:
    return max(1.0, deadline - time.monotonic())


def _tokens(usage: Usage | None) -> dict[str, Any]:
    if usage is None:
        return {}
    return {
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }
