"""How an attempt ends: what is written on its row, in one place for streams and complete answers."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone

from llmkeys import ledger, providers
from llmkeys.alerts import outbox
from llmkeys.database import writer
from llmkeys.dialects.base import Usage
from llmkeys.exceptions import RecordingUnavailable
from llmkeys.keys.failures import report_failure
from llmkeys.ledger import Finished, Outcome, coolings, leases
from llmkeys.prices import costing
from llmkeys.providers.base import Failure, FailureKind, Provider
from llmkeys.relay.candidates import Candidate
from llmkeys.relay.requests import ChatRequest

# A client's own mistake, or a model that is gone, is no failure of the key.
_NOT_THE_KEYS_FAULT = {FailureKind.CLIENT_ERROR, FailureKind.MODEL_UNAVAILABLE}
# What is reported right after: the key rests again, and nobody may ask it in between.
_REPORTED_NEXT = {FailureKind.RATE_LIMITED, FailureKind.EXHAUSTED, FailureKind.REJECTED}


@dataclass
class Attempt:
    """One hold on its way to its end. Whatever happens, exactly one of the verbs below is called once."""

    request: ChatRequest
    candidate: Candidate
    hold: ledger.Hold
    number: int
    model: str  # as the client named it, or the one of the fallbacks whose turn it is
    started: float = field(default_factory=time.monotonic)
    first_byte_ms: int | None = None
    ended: bool = False
    upstream_id: str = ""

    @property
    def provider(self) -> Provider:
        return providers.get(self.candidate.provider)

    def serves_again(self) -> None:
        """The key that rested is at work: the others need not wait for the end of a long stream."""
        if self.hold.probe is not None:
            at = timezone.now()
            with contextlib.suppress(RecordingUnavailable):  # the end of the attempt says it again
                candidate = self.candidate
                writer.run_now(
                    lambda cursor: coolings.forgive(cursor, candidate.id, candidate.scopes, candidate.model, at),
                    accounts=self.hold.locks,
                )

    def report(self, failure: Failure) -> None:
        """Store what the failure means for the key. Raises RecordingUnavailable."""
        report_failure(self.candidate, failure, at=timezone.now(), probe=self.hold.probe)

    def note_id(self, found: Any) -> None:
        """Keep the provider's own id of the answer, the first that is told: by it OpenRouter tells the cost later."""
        if not self.upstream_id and isinstance(found, str) and found.isascii() and found.isprintable():
            self.upstream_id = found

    def first_byte(self) -> None:
        if self.first_byte_ms is None:
            self.first_byte_ms = self._milliseconds()

    def release(
        self, *, sent: bool, status: int | None = None, failure: Failure | None = None, error: str = ""
    ) -> None:
        """Give the hold back: the provider did not work, and bills nothing."""
        blame = failure is None or failure.kind not in _NOT_THE_KEYS_FAULT
        success = False if blame else None
        message = failure.message if failure else error
        keeps_probe = failure is not None and failure.kind in _REPORTED_NEXT
        self._end(
            state="RELEASED", success=success, sent=sent, http_status=status, error=message, keeps_probe=keeps_probe
        )

    def lose(self, error: str, *, status: int | None = None) -> None:
        """Charge the hold: the request was sent, and nobody knows whether it is billed."""
        source = "estimated" if self.hold.amount_nano else ""
        self._end(
            state="LOST", success=False, http_status=status, error=error, cost_nano=self.hold.amount_nano,
            cost_source=source,
        )  # fmt: skip

    def settle(
        self, usage: Usage | None, *, status: int, output_tokens_seen: int, success: bool = True, error: str = ""
    ) -> tuple[costing.Charge, Finished | None]:
        """Charge what the usage costs; without one, a flagged estimate from what was seen."""
        charge = self._charge(usage, output_tokens_seen)
        finished = self._end(
            state="SETTLED", success=success, http_status=status, error=error, cost_nano=charge.nano,
            cost_source=charge.source, **_tokens(usage),
        )  # fmt: skip
        return charge, finished

    def _charge(self, usage: Usage | None, output_tokens_seen: int) -> costing.Charge:
        key, now = self.candidate, timezone.now()
        known = costing.charge(usage, key.provider, key.model, at=now) if usage is not None else None
        return known or costing.estimate(
            key.provider,
            key.model,
            input_bytes=len(self.request.raw),
            output_tokens=output_tokens_seen,
            bound=self.request.bound,
            hold_nano=self.hold.amount_nano,
            at=now,
        )

    def _end(self, *, keeps_probe: bool = False, **values: Any) -> Finished | None:
        if self.ended:
            return None
        self.ended = True
        outcome = Outcome(
            at=timezone.now(),
            latency_ms=self._milliseconds(),
            first_byte_ms=self.first_byte_ms,
            upstream_id=self.upstream_id,
            **values,
        )
        candidate = self.candidate
        finished = leases.finish_now(
            ledger.End(
                self.hold,
                outcome,
                rested=candidate.scopes if candidate.has_rested else (),
                model=candidate.model,
                serves=_common_name(self.model),
                keeps_probe=keeps_probe,
            )
        )
        if outcome.cost_source == "fallback" and outcome.cost_nano:
            outbox.fallback_price_used(self.candidate.provider, self.candidate.model, at=outcome.at)
        return finished

    def _milliseconds(self) -> int:
        return int((time.monotonic() - self.started) * 1000)


def _common_name(model: str) -> str:
    """Return one name for all spellings of a model, so that a rotation from provider to provider is one."""
    return providers.get("openrouter").model_name(model) or model


def _tokens(usage: Usage | None) -> dict[str, int | None]:
    if usage is None:
        return {}
    return {
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }
