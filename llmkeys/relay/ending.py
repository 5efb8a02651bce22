"""How one attempt ends: its hold is released, lost or settled exactly once, with what its usage row has to know."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import Any

from django.utils import timezone

from llmkeys import ledger, providers
from llmkeys.alerts import outbox
from llmkeys.database import writer
from llmkeys.dialects import Usage
from llmkeys.dialects.bounds import may_reason_unseen
from llmkeys.exceptions import RecordingUnavailable
from llmkeys.keys.failures import asked_elsewhere
from llmkeys.ledger import Finished, Outcome, coolings, leases
from llmkeys.prices import cost
from llmkeys.prices.cost import Charge
from llmkeys.prices.worst_case import WorstCase, shrunk_hold
from llmkeys.providers.base import Failure, FailureKind
from llmkeys.relay import background, conversations
from llmkeys.relay.candidates import Candidate
from llmkeys.relay.requests import RelayRequest

# A client's own mistake, or a model that is gone, is not a failure of the key.
_NOT_THE_KEYS_FAULT = {FailureKind.CLIENT_ERROR, FailureKind.MODEL_UNAVAILABLE}
# Failures after which the key cools down again: no other request may try it before that is recorded.
_REPORTED_NEXT = {FailureKind.RATE_LIMITED, FailureKind.EXHAUSTED, FailureKind.REJECTED}

_COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


@dataclass
class Ending:
    """The end of one hold. Whatever happens, exactly one of `release`, `lose` and `settle` brings it."""

    request: RelayRequest
    candidate: Candidate
    hold: ledger.Hold
    worst: WorstCase
    model: str  # as the client named it, or the fallback model being tried
    started: float = field(default_factory=time.monotonic)
    first_byte_ms: int | None = None
    ended: bool = False
    upstream_id: str = ""
    sealed: str = ""  # what binds the conversation to the organisation that answered
    service_tier: str = ""

    @property
    def may_reason_unseen(self) -> bool:
        models = (self.candidate.model, *self.worst.other_models)
        return any(may_reason_unseen(model, self.worst.bound) for model in models)

    @property
    def speaks_for_key(self) -> bool:
        """False in a command whose shell names another address than the server's for the provider."""
        return self.candidate.provider not in asked_elsewhere

    # --- notes -------------------------------------------------------------------------------------------------------

    def note_id(self, found: Any) -> None:
        """Keep the first id that the provider gives the answer: OpenRouter's later report of the cost needs it."""
        if not self.upstream_id and isinstance(found, str) and found.isascii() and found.isprintable():
            self.upstream_id = found

    def first_byte(self) -> None:
        if self.first_byte_ms is None:
            self.first_byte_ms = self._milliseconds()

    async def serves_again(self) -> None:
        """End the coolings of a key that is serving: other requests need not wait for the end of a long stream."""
        if self.hold.probe is not None and self.speaks_for_key:
            at, key = timezone.now(), self.candidate
            with contextlib.suppress(RecordingUnavailable):  # the end of the attempt does it again
                await writer.run(
                    lambda cursor: coolings.forgive(cursor, key.id, key.scopes, key.model, at),
                    accounts=self.hold.locks,
                )

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
        if usage is not None and self.service_tier and not usage.service_tier:
            usage = replace(usage, service_tier=self.service_tier)
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
                cooled_scopes=candidate.scopes if candidate.was_cooling and self.speaks_for_key else (),
                model=candidate.model,
                # A conversation that stays with its key says nothing about which key is serving.
                serves=providers.common_name(self.model) if self.speaks_for_key and not candidate.preferred_to else "",
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


def _tokens(usage: Usage | None) -> dict[str, Any]:
    return {} if usage is None else {kind: usage.total(kind) for kind in _COUNTS}
