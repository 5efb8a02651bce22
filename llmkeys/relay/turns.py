"""Which key and which model serve next: holds, retries and rotation.

Rotation is not retrying. A key that is refused for a reason of its own is passed over and uses up no retry; what counts
is an attempt in which the provider failed, or which it may have billed.
"""

from __future__ import annotations

import asyncio
import random
import time
from asyncio import sleep as pause
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from llmkeys import ledger
from llmkeys.database import reader
from llmkeys.dialects import Bound
from llmkeys.exceptions import (
    AllKeysAtLimit,
    AllKeysCooling,
    BudgetBusy,
    ClientGone,
    InvalidInput,
    LLMKeysError,
    ModelNotAvailable,
    NoKeyAvailable,
    RequestExceedsBudget,
    ServerStopping,
    TokenAtLimit,
    UpstreamFailed,
    UpstreamTimeout,
)
from llmkeys.ledger import Bid, Placed, Refusal, accounts, leases
from llmkeys.prices import catalogue
from llmkeys.prices.tariffs import PriceList
from llmkeys.prices.worst_case import WorstCase, fitted, worst_case
from llmkeys.providers.base import Failure, FailureKind, Scope
from llmkeys.relay import background, candidates, conversations, refusals
from llmkeys.relay.attempt import STOPPED, Attempt, Failed
from llmkeys.relay.candidates import Candidate, Stored
from llmkeys.relay.requests import Answer, Client, RelayRequest, Tracked

ROOM_SECONDS = 2.0  # how long a request waits for open holds, or for the probe of a key that was cooling
LOOK_AGAIN_SECONDS = 0.05  # other processes do not notify us when they give room back
LONGEST_PAUSE_SECONDS = 8.0
TRIES_ON_ONE_KEY = 2
MOST_FITS = 3  # tries to lower the output limit of a request to the room that is left
MOST_REFUSALS = 20  # keys that may refuse one request

_NO_MODEL = "its provider does not have the model"
_WRONG_ADDRESS = "its provider's address is wrong"
_PROVIDER_FAILED = "its provider failed"
_HOPELESS = {FailureKind.REJECTED.value, _NO_MODEL, _WRONG_ADDRESS}
# Of several errors the client gets the most hopeful one: the first in this order.
_HOPE = (
    BudgetBusy, AllKeysCooling, UpstreamTimeout, UpstreamFailed, TokenAtLimit, AllKeysAtLimit, RequestExceedsBudget,
    ModelNotAvailable, NoKeyAvailable,
)  # fmt: skip


@dataclass
class Turns:
    """The attempts for one request: model after model."""

    request: RelayRequest
    client: Client
    tracked: Tracked
    stored: Stored | None = None  # used once: after that the keys are read again, to see changes
    attempts: int = 0
    failures: int = 0  # attempts that count against REFACTAI_MAX_RETRIES
    refused: int = 0  # keys that were refused for a reason of their own
    lost: int = 0  # attempts that may have been billed without an answer
    deadline: float = field(default_factory=lambda: time.monotonic() + settings.ANSWER_TIMEOUT_SECONDS)

    async def run(self) -> Answer:
        try:
            return await self._run()
        except LLMKeysError as error:
            error.may_be_billed = error.may_be_billed or self.lost > 0
            raise
        except asyncio.CancelledError:  # the worker stops now: its last act is to say so
            stopped = ServerStopping(STOPPED if self.lost else "The server is stopping. Try again in a second.")
            stopped.may_be_billed = self.lost > 0
            raise stopped from None

    async def _run(self) -> Answer:
        dead_ends: list[LLMKeysError] = []
        await candidates.refresh_catalogue()
        for model in self.request.models:
            if dead_ends and self.is_spent:
                break
            try:
                return await _ModelTurn(self, model).run()
            except _HOPE as error:
                dead_ends.append(error)
                if isinstance(error, UpstreamFailed):
                    error.attempts = self.attempts
                    if error.final:
                        break
        raise min(dead_ends, key=lambda error: (_HOPE.index(type(error)), error.is_lasting))

    @property
    def is_spent(self) -> bool:
        """True if nothing more may be tried for this request."""
        return (
            self.failures > settings.MAX_RETRIES
            or self.lost > 1
            or self.refused >= MOST_REFUSALS
            or time.monotonic() >= self.deadline
        )


@dataclass
class _ModelTurn:
    """The attempts for one model."""

    turns: Turns
    model: str
    passed: dict[str, str] = field(default_factory=dict)  # keys that this request no longer tries, and why
    tries: dict[str, int] = field(default_factory=dict)
    worst: dict[str, WorstCase] = field(default_factory=dict)
    fitted: dict[str, int] = field(default_factory=dict)  # output limits that were lowered, by key
    bids: list[Bid] = field(default_factory=list)
    last: Failed | None = None

    @property
    def request(self) -> RelayRequest:
        return self.turns.request

    async def run(self) -> Answer:
        while not self._is_for_nobody():
            candidate, placed = await self._hold()
            assert placed.hold is not None
            self.turns.attempts += 1
            self.turns.tracked.key_id, self.turns.tracked.attempts = candidate.id, self.turns.attempts
            attempt = Attempt(
                request=self.request,
                client=self.turns.client,
                candidate=candidate,
                hold=placed.hold,
                worst=self.worst[candidate.id],
                number=self.turns.attempts,
                model=self.model,
            )
            if self._is_for_nobody():  # while it waited for room or for the database: nothing was sent
                await attempt.ending.release(sent=False, error="The client went away before the request was sent.")
                break
            answer = await attempt.send(answer_seconds=max(1.0, self.turns.deadline - time.monotonic()))
            if isinstance(answer, Answer):
                return answer
            await self._react(attempt, answer)
        raise ClientGone

    def _is_for_nobody(self) -> bool:
        return self.turns.client.has_gone

    # --- hold --------------------------------------------------------------------------------------------------------

    async def _hold(self) -> tuple[Candidate, Placed]:
        """Place a hold on the first key with room, waiting a little if only open holds are in the way."""
        pool = await self._pool()
        self.fitted.clear()
        waited_until = time.monotonic() + ROOM_SECONDS
        prices = catalogue.price_list()  # here: a thread that parses bodies must not ask the database
        bids, tightened = await self._first_bids(pool, prices), False
        while True:
            placed = await self._place(bids, last_try=tightened)
            if placed.hold is None:
                self._keep_the_pace(placed.refusals)
                left = waited_until - time.monotonic()
                if self._may_pass_soon(placed.refusals, tightened) and left > 0:
                    await leases.wait_for_room(min(LOOK_AGAIN_SECONDS, left))
                    continue
                if not tightened:
                    bids = await background.in_parser(self._bids, pool, self._tighter_bound, prices)
                    tightened = True
                    continue
                placed = await self._fit(placed)
            if placed.hold is None:
                raise self._refused(pool, placed.refusals)
            chosen = next(candidate for candidate in pool if candidate.id == placed.hold.key_id)
            self.turns.tracked.max_tokens = self.fitted.get(chosen.id)
            return chosen, placed

    @staticmethod
    def _keep_the_pace(found: list[Refusal]) -> None:
        """Raise TooManyRequests if this minute's requests are used up: neither waiting nor another key would help."""
        for refusal in found:
            if refusal.pace is not None:
                raise refusals.too_many_requests(refusal.pace)

    async def _fit(self, placed: Placed) -> Placed:
        """Lower the output limit to what the largest room pays for and try again; return `placed` if none is enough.

        Each account refuses separately: when the key has room, its token may not, and vice versa.
        """
        refused = placed
        for _ in range(MOST_FITS if settings.FIT_OUTPUT else 0):
            bids = self._fitted_bids(refused.refusals)
            if not bids:
                break
            refused = await self._place(bids, last_try=False)
            if refused.hold is not None:
                return refused
        self.fitted.clear()
        return placed

    def _fitted_bids(self, refused: list[Refusal]) -> list[Bid]:
        """Return a bid for each key whose room pays for enough output, the one with the most output first."""
        bids: list[Bid] = []
        for refusal in refused:
            if refusal.fits_nano is None or (worst := fitted(self.worst[refusal.key_id], refusal.fits_nano)) is None:
                continue
            self.worst[refusal.key_id] = worst
            self.fitted[refusal.key_id] = worst.asked_output
            cooled_scopes = next(bid.cooled_scopes for bid in self.bids if bid.key_id == refusal.key_id)
            others = tuple({"keyId": other.key_id, "reason": other.reason} for other in refused if other is not refusal)
            bids.append(
                Bid(
                    refusal.key_id, worst.provider, worst.model, worst.nano, others, cooled_scopes,
                    max_tokens=worst.asked_output,
                )
            )  # fmt: skip
        return sorted(bids, key=lambda bid: bid.max_tokens or 0, reverse=True)

    def _may_pass_soon(self, found: list[Refusal], tightened: bool) -> bool:
        """Return whether waiting may help: for holds to end, or for another request to find out if a key works."""
        if any(refusal.only_holds for refusal in found):
            return True
        asked = [refusal for refusal in found if refusal.is_asked]
        return bool(asked) and (tightened or len(asked) == len(found))

    async def _found(self) -> list[Candidate]:
        request, stored, self.turns.stored = self.request, self.turns.stored, None
        found = await candidates.find(
            self.model,
            door=request.request.door,
            dialect=request.dialect.name,
            caller=request.caller,
            at=timezone.now(),
            stored=stored,
        )
        sealed = request.request.sealed
        if not sealed or len(found) < 2:
            return found
        author = await reader.run(lambda cursor: conversations.find_author(cursor, sealed))
        return conversations.prefer(found, author) if author is not None else found

    async def _pool(self) -> list[Candidate]:
        """Return the candidates, with those that failed this request marked. Raises if none can serve."""
        pool = self._marked(await self._found())
        if all(candidate.obstacle for candidate in pool):
            raise self._nobody(pool)
        return pool

    def _marked(self, found: list[Candidate]) -> list[Candidate]:
        return [
            replace(candidate, obstacle=self.passed[candidate.id]) if candidate.id in self.passed else candidate
            for candidate in found
        ]

    def _bids(self, pool: list[Candidate], bound_of: Callable[[Candidate], Bound], prices: PriceList) -> list[Bid]:
        at, passed_over, bids = timezone.now(), [], []
        cases: dict[tuple[str, str, bool], WorstCase] = {}
        unlimited = self.request.request.bound.unlimited_field  # its value is -1: only for free models
        for candidate in pool:
            if candidate.obstacle:
                passed_over.append({"keyId": candidate.id, "reason": candidate.obstacle})
                continue
            where, is_strict = (
                (candidate.provider, candidate.model),
                candidate.is_strict or self.request.caller.is_strict,
            )
            worst = cases.get((*where, is_strict))
            if worst is None:
                may_choose = candidate.chooses_model or self.request.dialect.names_models_everywhere
                others = self.request.request.other_models if may_choose else ()
                worst = worst_case(
                    *where, bound_of(candidate), at=at, other_models=others, strict=is_strict, prices=prices
                )
                cases[*where, is_strict] = worst
            self.worst[candidate.id] = worst
            if unlimited and worst.nano:
                passed_over.append({"keyId": candidate.id, "reason": f"the model costs money and {unlimited} is -1"})
                continue
            cooled_scopes = candidate.scopes if candidate.was_cooling else ()
            before = (*passed_over, *candidate.preferred_to)
            bids.append(Bid(candidate.id, *where, worst.nano, before, cooled_scopes))
        if unlimited and cases and not bids:
            raise InvalidInput({unlimited: ["must be at least 1: -1 is for models that cost nothing."]})
        self.bids = bids
        return bids

    async def _first_bids(self, pool: list[Candidate], prices: PriceList) -> list[Bid]:
        """Return the bids from bounds by bytes; a large body that has to be read again is read in a thread."""
        request = self.request.request
        if request.size > background.LARGE_BYTES and not all(request.knows_bound_for(each.model) for each in pool):
            return await background.in_parser(self._bids, pool, self._bound, prices)
        return self._bids(pool, self._bound, prices)

    def _bound(self, candidate: Candidate) -> Bound:
        return self.request.request.bound_for(candidate.model)

    def _tighter_bound(self, candidate: Candidate) -> Bound:
        """Return a bound from counted tokens, for when the bound from bytes fits no key."""
        return self.request.dialect.tighter_bound(self.request.request, candidate.model)

    async def _place(self, bids: list[Bid], *, last_try: bool) -> Placed:
        attempt = ledger.Attempt(
            request_id=self.request.id,
            number=self.turns.attempts + 1,
            at=timezone.now(),
            dialect=self.request.dialect.name,
            requested_model=self.request.request.model,
            token_name=self.request.caller.name,
            streamed=self.request.streamed,
            lease_owner=leases.owner(),
            token_id=self.request.caller.token_id,
            leased_at=leases.now(),
        )
        return await leases.place(bids, attempt, last_try=last_try)

    # --- after a failure ---------------------------------------------------------------------------------------------

    async def _react(self, attempt: Attempt, failed: Failed) -> None:
        """Store what the failure means for the key and decide what comes next. Raises if nothing more may be tried."""
        self.last = failed
        candidate, failure = attempt.candidate, failed.failure
        self.turns.lost += failed.lost  # a refusal too: inside a 200 it may come after output
        self.turns.tracked.may_be_billed = self.turns.lost > 0
        await attempt.report(failure)
        if failure.is_refusal:
            self.turns.refused += 1
        else:
            self.turns.failures += 1
        if failed.lost and failed.timed_out:
            raise UpstreamTimeout(failure.message)
        if failure.kind in (FailureKind.MODEL_UNAVAILABLE, FailureKind.WRONG_ADDRESS):
            await self._pass_all(candidate, failure)
        elif failure.kind is not FailureKind.RETRY:
            self.passed[candidate.id] = failure.kind.value.replace("_", " ")
        if self.turns.is_spent:
            raise await self._gave_up(failure)
        if failure.kind is FailureKind.RETRY:
            await self._try_again(candidate, failure)

    async def _pass_all(self, candidate: Candidate, failure: Failure) -> None:
        """Pass over every key for which the provider would answer the same."""
        words = _WRONG_ADDRESS if failure.kind is FailureKind.WRONG_ADDRESS else _NO_MODEL
        self.passed[candidate.id] = words
        for other in await self._found():
            same_account = other.billing_group == candidate.billing_group != ""
            concerned = {Scope.PROVIDER: True, Scope.ACCOUNT: same_account, Scope.KEY: False}[failure.scope]
            if other.provider == candidate.provider and concerned:
                self.passed[other.id] = words

    async def _try_again(self, candidate: Candidate, failure: Failure) -> None:
        """Retry: the same key once more after a pause, then one other key, then the next model."""
        tries = self.tries[candidate.id] = self.tries.get(candidate.id, 0) + 1
        seconds = failure.retry_after_seconds
        if seconds is None:
            seconds = 0.5 * 2 ** (tries - 1) * random.uniform(0.75, 1.25)  # noqa: S311  (spreads retries, guards nothing)
        in_time = seconds <= LONGEST_PAUSE_SECONDS and time.monotonic() + seconds < self.turns.deadline
        if tries < TRIES_ON_ONE_KEY and in_time:
            await pause(seconds)
            return
        self.passed[candidate.id] = _PROVIDER_FAILED
        if list(self.passed.values()).count(_PROVIDER_FAILED) > 1:
            raise await self._gave_up(failure)

    async def _gave_up(self, failure: Failure) -> LLMKeysError:
        if failure.is_refusal and failure.kind is not FailureKind.MODEL_UNAVAILABLE:
            pool = self._marked(await self._found())
            return self._nobody([candidate for candidate in pool if candidate.obstacle])
        if failure.kind is FailureKind.MODEL_UNAVAILABLE:
            return refusals.model_unavailable(self.model, failure.message)
        return self._upstream_error(self._marked(await self._found()))

    def _upstream_error(self, pool: list[Candidate]) -> UpstreamFailed:
        assert self.last is not None
        kind = UpstreamTimeout if self.last.timed_out else UpstreamFailed
        error = kind(f"{self.last.failure.message} (after {self.turns.attempts} attempts)")
        error.retry_after_seconds = self.last.failure.retry_after_seconds
        is_hopeless = not self._fresh(pool) and all(candidate.obstacle for candidate in pool)
        error.is_lasting = is_hopeless and self.last.failure.kind is FailureKind.WRONG_ADDRESS
        # Another model may be tried, but not after two attempts that may both be billed.
        error.final = self.turns.lost > 1
        return error

    # --- when nobody is left -----------------------------------------------------------------------------------------

    def _nobody(self, pool: list[Candidate]) -> LLMKeysError:
        cooling = [until for candidate in self._fresh(pool) if (until := candidate.cooling_until)]
        if cooling:
            return refusals.cooling(min(cooling), len(pool))
        if self.last is not None and self.last.failure.kind is FailureKind.TOO_EXPENSIVE:
            return refusals.beyond_balance(self.last.failure.message)
        if self.last is not None and self.last.failure.kind is FailureKind.TOO_LARGE:
            return refusals.beyond_rate(self.last.failure.message)
        if self.last is not None and self.last.failure.kind is FailureKind.MODEL_UNAVAILABLE:
            return refusals.model_unavailable(self.model, self.last.failure.message)
        if self.last is not None and not self.last.failure.is_refusal:
            return self._upstream_error(pool)
        return refusals.unusable(self.model, [candidate.obstacle for candidate in pool])

    def _fresh(self, pool: list[Candidate]) -> list[Candidate]:
        """Return the candidates without those that have no chance of serving this request after their cooling."""
        return [
            candidate
            for candidate in pool
            if candidate.obstacle == "cooling" or self.passed.get(candidate.id, _NO_MODEL) not in _HOPELESS
        ]

    def _refused(self, pool: list[Candidate], found: list[Refusal]) -> LLMKeysError:
        if any(refusal.only_holds for refusal in found):
            return refusals.busy(found)
        cooling: list[datetime] = [until for candidate in self._fresh(pool) if (until := candidate.cooling_until)]
        cooling += [refusal.cooling_until for refusal in found if refusal.cooling_until]
        if cooling:
            return refusals.cooling(min(cooling), len(pool))
        if self.last is not None and self.last.failure.kind is FailureKind.RETRY:
            return self._upstream_error(pool)  # the other keys are full, but this failure is why none serves
        lacking = [refusal for refusal in found if refusal.window]
        of_token = [refusal for refusal in lacking if refusal.account.of is accounts.TOKENS]
        if of_token:  # a key may have room, but the token has none
            return refusals.token_at_limit(of_token, timezone.now())
        if not lacking:
            return NoKeyAvailable("No API key available: the last one was switched off a moment ago.")
        names = {candidate.id: candidate.name for candidate in pool}
        if all(refusal.never_fits for refusal in lacking):
            return refusals.too_expensive(lacking, names)
        return refusals.at_limit(lacking, names, timezone.now())
