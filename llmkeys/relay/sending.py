"""One attempt: send it, read or open the answer, end the hold. Returns an answer for the client, or the failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils import timezone

from llmkeys.dialects import bounds
from llmkeys.dialects.base import Usage
from llmkeys.dialects.usage import read_openai_usage
from llmkeys.exceptions import (
    DataDirectoryProblem,
    InvalidInput,
    SecretMissing,
    UnreadableAnswer,
    UpstreamFailed,
    UpstreamTimeout,
    WrongEncryptionKey,
)
from llmkeys.ledger import Finished
from llmkeys.lib.sse import load_json
from llmkeys.prices import catalogue
from llmkeys.prices.cost import Charge
from llmkeys.providers.base import Failure, FailureKind
from llmkeys.providers.scrub import scrub_body
from llmkeys.relay.endings import Attempt
from llmkeys.relay.requests import Answer
from llmkeys.relay.streaming import RelayedStream
from llmkeys.upstream import asked

_PASSED_ON = ("x-request-id", "request-id", "x-generation-id")
_BUG = "The relay failed while this request was under way; the provider may have billed it."


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that brought no answer; `lost` where the provider may have billed it all the same."""

    failure: Failure
    lost: bool = False
    timed_out: bool = False


def send(attempt: Attempt, *, output_limit: int | None, answer_seconds: float) -> Answer | Failed:
    """Make one attempt. Its hold is ended on every way out, or handed to the stream that is returned.

    Raises UpstreamTimeout and UpstreamFailed where nothing may be tried after this, WrongEncryptionKey,
    DataDirectoryProblem, and InvalidInput for a body that cannot be written.
    """
    try:
        stream = _open(attempt, output_limit, answer_seconds)
        if isinstance(stream, Failed):
            return stream
        answer = _read(attempt, stream, answer_seconds)
        if not isinstance(answer, Answer) or not answer.is_stream:
            stream.done()
        return answer
    except BaseException:
        attempt.lose(_BUG)  # nothing where it ended already
        raise


def _open(attempt: Attempt, output_limit: int | None, answer_seconds: float) -> asked.Stream | Failed:
    request, provider = attempt.request, attempt.provider
    try:
        body = request.body_for(
            provider,
            attempt.candidate.model,
            output_limit=output_limit,
            own_base_url=not catalogue.is_local(provider),
        )
        return asked.send_chat(
            attempt.candidate,
            body,
            extra_headers=request.extra_headers,
            answer_seconds=answer_seconds,
            request_id=request.id,
        )
    except asked.TransportError as error:
        return _broken(attempt, error)
    except SecretMissing as error:
        attempt.release(sent=False, error=str(error))
        return Failed(Failure(FailureKind.FORBIDDEN_HERE, str(error)))
    except (WrongEncryptionKey, DataDirectoryProblem) as error:
        attempt.release(sent=False, error=str(error))
        raise
    except RecursionError:  # it could just be read, and cannot be written again
        attempt.release(sent=False, error="The body is nested too deeply.")
        raise InvalidInput({"body": ["The body is nested too deeply."]}) from None


def _broken(attempt: Attempt, error: asked.TransportError) -> Failed:
    """Tell apart what never reached the provider from what it may have billed."""
    failure = Failure(FailureKind.RETRY, str(error))
    if not error.sent:
        attempt.release(sent=False, error=str(error))
        return Failed(failure, timed_out=error.timed_out)
    attempt.lose(f"{error} It may have been billed.")
    if error.timed_out:
        raise UpstreamTimeout(str(error))
    return Failed(failure, lost=True)


def _read(attempt: Attempt, stream: asked.Stream, answer_seconds: float) -> Answer | Failed:
    headers = stream.headers
    for name in reversed(_PASSED_ON):
        attempt.note_id(headers.get(name))
    if stream.status >= 400:
        return _refused(attempt, stream)
    if stream.status != 200:
        error = f"{attempt.provider.label} answered with status {stream.status}, which no answer has."
        if stream.status < 300:
            attempt.lose(f"{error} It may have been billed.", status=stream.status)
            raise UnreadableAnswer(error)
        attempt.release(sent=True, status=stream.status, error=error)
        raise UpstreamFailed(error)
    # Some local servers ignore `stream` and answer at once, in plain JSON.
    streamed = attempt.request.streamed and "json" not in headers.get("content-type", "")
    stream.silence_after(max(settings.STREAM_IDLE_SECONDS, 1 if streamed else answer_seconds))
    try:
        return _begin_stream(attempt, stream) if streamed else _complete(attempt, stream)
    except asked.TransportError as error:
        return _broken(attempt, error)


def _refused(attempt: Attempt, stream: asked.Stream) -> Answer | Failed:
    """Classify an error status; the client's own mistake goes back to it unchanged."""
    try:
        body = stream.read()
    except asked.TransportError:
        body = b""
    failure = attempt.provider.classify(status=stream.status, headers=stream.headers, body=body, at=timezone.now())
    attempt.release(sent=True, status=stream.status, failure=failure)
    if failure.kind is FailureKind.CLIENT_ERROR:
        return _clients_own(attempt, stream.status, stream.headers, body)
    return Failed(failure)


def _clients_own(attempt: Attempt, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    return _answer(attempt, status, headers, scrub_body(body))


def _complete(attempt: Attempt, stream: asked.Stream) -> Answer | Failed:
    raw = stream.read()
    attempt.first_byte()
    body = load_json(raw)
    if not isinstance(body, dict):
        what = "an empty answer" if not raw.strip() else "an answer that is no JSON"
        attempt.lose(f"{attempt.provider.label} sent {what}. It may have been billed.", status=stream.status)
        raise UnreadableAnswer(f"{attempt.provider.label} sent {what}.")
    attempt.note_id(body.get("id"))
    usage = read_openai_usage(body)
    failure = attempt.provider.failure_in_body(body, at=timezone.now())
    if failure is not None:
        return _failed_inside(attempt, stream, raw, usage, failure)
    charge, finished = attempt.settle(usage, status=200, output_tokens_seen=bounds.estimate_tokens(len(raw)))
    return _answer(attempt, 200, stream.headers, raw, charge, finished)


def _failed_inside(
    attempt: Attempt, stream: asked.Stream, raw: bytes, usage: Usage | None, failure: Failure
) -> Answer | Failed:
    """A failure under status 200: billed only where the provider says so."""
    if usage is not None and usage.cost_usd:
        attempt.settle(usage, status=200, output_tokens_seen=0, success=False, error=failure.message)
    else:
        attempt.release(sent=True, status=200, failure=failure)
    if failure.kind is FailureKind.CLIENT_ERROR:
        return _clients_own(attempt, failure.status or 400, stream.headers, raw)
    return Failed(failure)


def _begin_stream(attempt: Attempt, stream: asked.Stream) -> Answer | Failed:
    """Wait for the first event: until it has gone to the client, another key may still serve."""
    relayed = RelayedStream(attempt, stream)
    failure = relayed.begin()
    if failure is None:
        attempt.serves_again()
        return _answer(attempt, 200, stream.headers, relayed)
    if failure.kind is FailureKind.CLIENT_ERROR:
        headers = {**stream.headers, "content-type": "application/json"}
        return _answer(attempt, failure.status or 400, headers, relayed.refusal)
    return Failed(failure)


def _answer(
    attempt: Attempt,
    status: int,
    headers: Mapping[str, str],
    content: Any,
    charge: Charge | None = None,
    finished: Finished | None = None,
) -> Answer:
    return Answer(
        status=status,
        content_type=headers.get("content-type", "application/json"),
        content=content,
        request_id=attempt.request.id,
        key_id=attempt.candidate.id,
        attempts=attempt.number,
        headers={name: headers[name] for name in _PASSED_ON if headers.get(name)},
        cost_nano=charge.nano if charge else None,
        remaining_day_nano=finished.remaining_day_nano if finished else None,
    )
