"""The errors, with figures, of requests that no key serves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from django.conf import settings

from llmkeys.exceptions import (
    AllKeysAtLimit,
    AllKeysCooling,
    BudgetBusy,
    ModelNotAllowed,
    ModelNotAvailable,
    NoKeyAvailable,
    RequestExceedsBudget,
    TokenAtLimit,
    TooManyRequests,
)
from llmkeys.key_state import current_windows
from llmkeys.ledger import Refusal
from llmkeys.ledger.accounts import Pace
from llmkeys.lib.money import format_usd
from llmkeys.lib.windows import DAY, MONTH, day_end, month_end


def cooling(until: datetime, count: int) -> AllKeysCooling:
    return AllKeysCooling(
        f"All keys are cooling down or spent ({count} for this model). The earliest may serve again at "
        f"{until:%Y-%m-%d %H:%M:%S} UTC.",
        retry_at=until,
    )


def busy(refusals: Sequence[Refusal]) -> BudgetBusy:
    need = min(refusal.need_nano for refusal in refusals if refusal.only_holds)
    return BudgetBusy(
        f"Other requests in progress hold what is left of the budgets; this one needs up to {format_usd(need)}. "
        "Try again in a second."
    )


def unusable(model: str, obstacles: Sequence[str]) -> NoKeyAvailable:
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(obstacles).items())
    return NoKeyAvailable(
        f"No API key available for “{model}”: of {len(obstacles)} stored, {reasons}. Enable, test or replace a key "
        "on the dashboard (/llm-settings), or add another."
    )


def model_unavailable(model: str, words: str) -> ModelNotAvailable:
    return ModelNotAvailable(f"No stored key can serve model “{model}”: {words}")


def beyond_balance(words: str) -> AllKeysAtLimit:
    return AllKeysAtLimit(
        "All keys have reached their limits: what is left in the account does not cover what this request may cost "
        f"({words.rstrip('.')}). Lower max_tokens, shorten the prompt, or add credit at the provider."
    )


def beyond_rate(words: str) -> AllKeysAtLimit:
    return AllKeysAtLimit(
        "All keys have reached their limits: this request is larger than the account's limit per minute "
        f"({words.rstrip('.')}). Shorten it, lower max_tokens, or add a key of an account with a higher limit."
    )


def too_expensive(refusals: Sequence[Refusal], names: Mapping[str, str]) -> RequestExceedsBudget:
    largest = max(refusals, key=lambda refusal: refusal.limit_nano)
    need = min(refusal.need_nano for refusal in refusals)
    return RequestExceedsBudget(
        f"This request may cost {format_usd(need)}, more than any key's whole limit (the largest is "
        f"{format_usd(largest.limit_nano)}, {_window_words(largest)} of “{names.get(largest.key_id, '')}”). "
        "Lower max_tokens, shorten the prompt, or raise the limit."
    )


def at_limit(refusals: Sequence[Refusal], names: Mapping[str, str], at: datetime) -> AllKeysAtLimit:
    best = max(refusals, key=lambda refusal: refusal.room_nano)
    need = min(refusal.need_nano for refusal in refusals)
    resets = [reset for refusal in refusals if not refusal.never_fits and (reset := _resets_at(refusal, at))]
    when = min(resets, default=None)
    ending = f"The earliest reset is at {when:%Y-%m-%d %H:%M} UTC." if when else "No limit resets by itself: raise one."
    return AllKeysAtLimit(
        f"All keys have reached their limits: this request needs up to {format_usd(need)}, and the most that is left "
        f"is {format_usd(best.room_nano)} ({_window_words(best)} of “{names.get(best.key_id, '')}”). {ending}",
        retry_at=when,
    )


def token_at_limit(refusals: Sequence[Refusal], at: datetime) -> TokenAtLimit | RequestExceedsBudget:
    """Return the error for a limit of the access token itself, which no key can help with."""
    least = min(refusals, key=lambda refusal: (refusal.never_fits, refusal.need_nano))  # with the cheapest key
    need = format_usd(least.need_nano)
    if least.never_fits:
        return RequestExceedsBudget(
            f"This request may cost {need}, more than this token's whole limit "
            f"({format_usd(least.limit_nano)}, its {_window_words(least)}). Lower max_tokens, shorten the prompt, or "
            "ask the person who manages the token to raise its limit."
        )
    when = _resets_at(least, at)
    ending = f"It resets at {when:%Y-%m-%d %H:%M} UTC." if when else "It does not reset by itself."
    return TokenAtLimit(
        f"This token has reached its limit: this request needs up to {need}, and {format_usd(least.room_nano)} is "
        f"left of its {_window_words(least)}. {ending}",
        retry_at=when,
    )


def too_many_requests(pace: Pace) -> TooManyRequests:
    requests = "request" if pace.requests_per_minute == 1 else "requests"
    return TooManyRequests(
        f"This token has used up its {pace.requests_per_minute:,} {requests} for this minute. The next minute begins "
        f"at {pace.ends_at:%H:%M} UTC.",
        retry_at=pace.ends_at,
    )


def model_not_allowed(model: str, patterns: Sequence[str]) -> ModelNotAllowed:
    return ModelNotAllowed(
        f"This token may not use model “{model[:200]}”. It may use: {', '.join(patterns)}. GET /v1/models lists what "
        "of these can be served."
    )


def drawing_not_allowed(model: str, patterns: Sequence[str]) -> ModelNotAllowed:
    return ModelNotAllowed(
        f"This token may not use model “{model[:200]}”, with which an image tool of this request or of its stored "
        f"prompt may draw. It may use: {', '.join(patterns)}. Leave the tool or the prompt out, set "
        "max_tool_calls to 0 if it needs no tools, or ask the person who manages the token to allow that model."
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
