"""Which key and which model serve next: holds, retries, rotation, and the words when nobody is left."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from llmkeys import ledger
from llmkeys.database import sql
from llmkeys.dialects import bounds
from llmkeys.exceptions import (
    AllKeysAtLimit,
    AllKeysCooling,
    BudgetBusy,
    LLMKeysError,
    ModelNotAvailable,
    NoKeyAvailable,
    RequestExceedsBudget,
    UnreadableAnswer,
    UpstreamFailed,
    UpstreamTimeout,
)
from llmkeys.key_state import current_windows
from llmkeys.ledger import Bid, Placed, Refusal, leases
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import DAY, MONTH, day_end, month_end
from llmkeys.prices import costing
from llmkeys.prices.costing import WorstCase
from llmkeys.providers.base import Failure, FailureKind
from llmkeys.relay import candidates
from llmkeys.relay.candidates import Candidate
from llmkeys.relay.endings import Attempt
from llmkeys.relay.requests import Answer, ChatRequest
from llmkeys.relay.sending import Failed, send

ROOM_SECONDS = 2.0  # how long a request waits where only open holds, or the probe of a key that rested, are in its way
LOOK_AGAIN_SECONDS = 0.05  # other processes give no sign when they give room back
LONGEST_PAUSE_SECONDS = 8.0
TRIES_ON_ONE_KEY = 2

# The most hopeful reason is the one that the client is told.
_HOPE = (
    BudgetBusy, AllKeysCooling, UpstreamTimeout, UnreadableAnswer, UpstreamFailed, AllKeysAtLimit, RequestExceedsBudget,
    ModelNotAvailable, NoKeyAvailable,
)  # fmt: skip


def relay(request: ChatRequest) -> Answer:
    """Serve a validated request with the first key and model that can.

    Raises a NoKey, UpstreamFailed, UpstreamTimeout, WrongEncryptionKey or RecordingUnavailable, each with its words.
    """
    return _Turns(request).run()


@dataclass
class _Turns:
    request: ChatRequest
    attempts: int = 0
    resets: int = 0
    deadline: float = field(default_factory=lambda: time.monotonic() + settings.ANSWER_TIMEOUT_SECONDS)

    def run(self) -> Answer:
        dead_ends: list[LLMKeysError] = []
        for model in self.request.models:
            if self.attempts > settings.MAX_RETRIES:
                break
            try:
                return _ModelTurn(self, model).run()
            except _HOPE as error:
                dead_ends.append(error)
                if isinstance(error, UpstreamFailed):
                    error.attempts = self.attempts
                    if error.final:
                        break
        raise min(dead_ends, key=lambda error: _HOPE.index(type(error)))


@dataclass
class _ModelTurn:
    """The tries for one model."""

    turns: _Turns
    model: str
    passed: dict[str, str] = field(default_factory=dict)  # keys that are out for this request, and why
    tries: dict[str, int] = field(default_factory=dict)
    worst: dict[str, WorstCase] = field(default_factory=dict)
    last: Failed | None = None

    @property
    def request(self) -> ChatRequest:
        return self.turns.request

    def run(self) -> Answer:
        while True:
            candidate, placed = self._hold()
            self.turns.attempts += 1
            attempt = Attempt(self.request, candidate, placed.hold, self.turns.attempts, self.model)
            answer = send(
                attempt,
                output_limit=self.worst[candidate.id].output_limit,
                answer_seconds=max(1.0, self.turns.deadline - time.monotonic()),
            )
            if isinstance(answer, Answer):
                return answer
            self._react(attempt, answer)

    # --- hold ----------------------------------------------------------------------------------------------------

    def _hold(self) -> tuple[Candidate, Placed]:
        """Place a hold on the first key with room, waiting a little where only open holds stand in the way."""
        pool = self._pool()
        waited_until = time.monotonic() + ROOM_SECONDS
        bids, tightened = self._bids(pool, self._bound_of), False
        while True:
            placed = self._place(bids, last_try=tightened)
            if placed.hold is not None:
                chosen = next(candidate for candidate in pool if candidate.id == placed.hold.key_id)
                return chosen, placed
            if self._may_pass_soon(placed.refusals, tightened):
                left = waited_until - time.monotonic()
                if left <= 0:
                    raise self._refused(pool, placed.refusals)
                leases.wait_for_room_now(min(LOOK_AGAIN_SECONDS, left))
            elif not tightened:
                bids, tightened = self._bids(pool, self._tighter_bound_of), True
            else:
                raise self._refused(pool, placed.refusals)

    def _may_pass_soon(self, refusals: list[Refusal], tightened: bool) -> bool:
        """True where it is worth to wait: for holds, or for the verdict on a key that another request asks first."""
        if any(refusal.only_holds for refusal in refusals):
            return True
        asked = [refusal for refusal in refusals if refusal.is_asked]
        return bool(asked) and (tightened or len(asked) == len(refusals))

    def _pool(self) -> list[Candidate]:
        """Return the candidates with the ones that failed this request marked. Raises where none can serve."""
        at = timezone.now()
        pool = [
            replace(candidate, obstacle=self.passed[candidate.id]) if candidate.id in self.passed else candidate
            for candidate in candidates.candidates(self.model, caller=self.request.caller, at=at)
        ]
        if all(candidate.obstacle for candidate in pool):
            raise self._nobody(pool)
        return pool

    def _bids(self, pool: list[Candidate], bound_of) -> list[Bid]:
        at, passed_over, bids = timezone.now(), [], []
        for candidate in pool:
            if candidate.obstacle:
                passed_over.append({"keyId": candidate.id, "reason": candidate.obstacle})
                continue
            others = self.request.other_models if candidate.provider == "openrouter" else ()
            worst = costing.worst_case(
                candidate.provider, candidate.model, bound_of(candidate), at=at, other_models=others
            )
            self.worst[candidate.id] = worst
            bids.append(_bid(candidate, worst, passed_over))
        return bids

    def _bound_of(self, candidate: Candidate) -> bounds.Bound:
        return self.request.bound

    def _tighter_bound_of(self, candidate: Candidate) -> bounds.Bound:
        """Count the tokens where the bound by bytes fits no key."""
        bound = self.request.bound
        tokens = bounds.tighter_input_tokens(dict(self.request.body), bound, model=candidate.model)
        return replace(bound, input_tokens=tokens)

    def _place(self, bids: list[Bid], *, last_try: bool) -> Placed:
        attempt = ledger.Attempt(
            request_id=self.request.id,
            number=self.turns.attempts + 1,
            at=timezone.now(),
            dialect=self.request.dialect,
            requested_model=self.request.requested_model,
            token_name=self.request.caller.name,
            streamed=self.request.streamed,
            lease_owner=leases.owner(),
            token_id=self.request.caller.token_id,
            leased_at=leases.now(),
        )
        return leases.place_now(bids, attempt, last_try=last_try)

    # --- after a failure -----------------------------------------------------------------------------------------

    def _react(self, attempt: Attempt, failed: Failed) -> None:
        """Store what the failure means and decide who is next. Raises where nothing more may be tried."""
        self.last = failed
        candidate, failure = attempt.candidate, failed.failure
        attempt.report(failure)
        if failed.lost:
            self.turns.resets += 1
        if self.turns.attempts > settings.MAX_RETRIES or self.turns.resets > 1:
            raise self._gave_up(candidate)
        if failure.kind is FailureKind.MODEL_UNAVAILABLE:
            self._pass_provider(candidate, failure)
        elif failure.kind is FailureKind.RETRY:
            self._try_again(candidate, failed)
        else:
            self.passed[candidate.id] = failure.kind.value.replace("_", " ")

    def _pass_provider(self, candidate: Candidate, failure: Failure) -> None:
        at = timezone.now()
        for other in candidates.candidates(self.model, caller=self.request.caller, at=at):
            if other.provider == candidate.provider:
                self.passed[other.id] = "its provider does not have the model"

    def _try_again(self, candidate: Candidate, failed: Failed) -> None:
        """The same key once more after a pause, then one other key, then the next model."""
        tries = self.tries[candidate.id] = self.tries.get(candidate.id, 0) + 1
        pause = failed.failure.retry_after_seconds
        if pause is None:
            pause = 0.5 * 2 ** (tries - 1) * random.uniform(0.75, 1.25)  # noqa: S311  (spreads retries, guards nothing)
        in_time = pause <= LONGEST_PAUSE_SECONDS and time.monotonic() + pause < self.turns.deadline
        if tries < TRIES_ON_ONE_KEY and in_time:
            sql.release()
            time.sleep(pause)
            return
        self.passed[candidate.id] = "its provider failed"
        if list(self.passed.values()).count("its provider failed") > 1:
            raise self._gave_up(candidate)

    def _gave_up(self, candidate: Candidate) -> LLMKeysError:
        failure = self.last.failure
        if failure.kind in (FailureKind.RATE_LIMITED, FailureKind.EXHAUSTED, FailureKind.REJECTED):
            self.passed[candidate.id] = failure.kind.value.replace("_", " ")
            try:
                self._pool()
            except LLMKeysError as error:
                return error
        if failure.kind is FailureKind.MODEL_UNAVAILABLE:
            return ModelNotAvailable(f"No stored key can serve model “{self.model}”: {failure.message}")
        return self._upstream_error()

    def _upstream_error(self) -> UpstreamFailed:
        kind = UpstreamTimeout if self.last.timed_out else UpstreamFailed
        error = kind(f"{self.last.failure.message} (after {self.turns.attempts} attempts)")
        # Nothing is under way any more, so another model may serve; not after two requests that may both be billed.
        error.final = self.turns.resets > 1
        return error

    # --- the words when nobody is left ---------------------------------------------------------------------------

    def _nobody(self, pool: list[Candidate]) -> LLMKeysError:
        cooling = [candidate.cooling_until for candidate in self._fresh(pool) if candidate.cooling_until]
        if cooling:
            return _cooling_words(min(cooling), len(pool))
        if self.last is not None and self.last.failure.kind is FailureKind.MODEL_UNAVAILABLE:
            return ModelNotAvailable(f"No stored key can serve model “{self.model}”: {self.last.failure.message}")
        if self.last is not None and self.last.failure.kind is not FailureKind.REJECTED:
            return self._upstream_error()
        counts: dict[str, int] = {}
        for candidate in pool:
            counts[candidate.obstacle] = counts.get(candidate.obstacle, 0) + 1
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        return NoKeyAvailable(
            f"No API key available for “{self.model}”: of {len(pool)} stored, {reasons}. Enable, test or replace a key "
            "on the dashboard (/llm-settings), or add another."
        )

    def _fresh(self, pool: list[Candidate]) -> list[Candidate]:
        return [candidate for candidate in pool if candidate.obstacle == "cooling" or candidate.id in self.passed]

    def _refused(self, pool: list[Candidate], refusals: list[Refusal]) -> LLMKeysError:
        if any(refusal.only_holds for refusal in refusals):
            return BudgetBusy(_busy_words(refusals))
        cooling = [candidate.cooling_until for candidate in pool if candidate.cooling_until]
        cooling += [refusal.rests_until for refusal in refusals if refusal.rests_until]
        if cooling:
            return _cooling_words(min(cooling), len(pool))
        if self.last is not None and self.last.failure.kind is FailureKind.RETRY:
            return self._upstream_error()  # the others are full, but this is why none serves
        lacking = [refusal for refusal in refusals if refusal.window]
        if not lacking:
            return NoKeyAvailable("No API key available: the last one was switched off a moment ago.")
        names = {candidate.id: candidate.name for candidate in pool}
        if all(refusal.never_fits for refusal in lacking):
            return _too_expensive_words(lacking, names)
        return _at_limit_words(lacking, names, timezone.now())


def _bid(candidate: Candidate, worst: WorstCase, passed_over: list[dict[str, str]]) -> Bid:
    rested = candidate.scopes if candidate.has_rested else ()
    return Bid(candidate.id, candidate.provider, candidate.model, worst.nano, tuple(passed_over), rested)


def _cooling_words(until: datetime, count: int) -> AllKeysCooling:
    return AllKeysCooling(
        f"All keys are cooling down or spent ({count} for this model). The earliest may serve again at "
        f"{until:%Y-%m-%d %H:%M:%S} UTC.",
        retry_at=until,
    )


def _busy_words(refusals: list[Refusal]) -> str:
    need = min(refusal.need_nano for refusal in refusals if refusal.only_holds)
    return (
        f"The room in the budgets is held by other requests under way; this one needs {format_usd(need)} at most. "
        "Try again in a second."
    )


def _too_expensive_words(refusals: list[Refusal], names: dict[str, str]) -> RequestExceedsBudget:
    largest = max(refusals, key=lambda refusal: refusal.limit_nano)
    need = min(refusal.need_nano for refusal in refusals)
    return RequestExceedsBudget(
        f"This request may cost {format_usd(need)}, more than any key's whole limit (the largest is "
        f"{format_usd(largest.limit_nano)}, {_window_words(largest)} of “{names.get(largest.key_id, '')}”). "
        "Lower max_tokens, shorten the prompt, or raise the limit."
    )


def _at_limit_words(refusals: list[Refusal], names: dict[str, str], at: datetime) -> AllKeysAtLimit:
    best = max(refusals, key=lambda refusal: refusal.room_nano)
    need = min(refusal.need_nano for refusal in refusals)
    resets = [reset for refusal in refusals if not refusal.never_fits and (reset := _resets_at(refusal, at))]
    when = min(resets, default=None)
    ending = f"The earliest reset is at {when:%Y-%m-%d %H:%M} UTC." if when else "No limit resets by itself: raise one."
    return AllKeysAtLimit(
        f"All keys have reached their limits: this request needs {format_usd(need)} at most, and the most that is left "
        f"is {format_usd(best.room_nano)} ({_window_words(best)} of “{names.get(best.key_id, '')}”). {ending}",
        retry_at=when,
    )


def _window_words(refusal: Refusal) -> str:
    return {DAY: "daily budget", MONTH: "monthly budget"}.get(refusal.window, "total budget")


def _resets_at(refusal: Refusal, at: datetime) -> datetime | None:
    windows = current_windows(at)
    if refusal.window == DAY:
        return day_end(windows.day, settings.TIME_ZONE)
    if refusal.window == MONTH:
        return month_end(windows.month, settings.TIME_ZONE)
    return None
