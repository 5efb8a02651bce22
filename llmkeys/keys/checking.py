"""The regular free test of the stored keys, which finds rejected keys before a request meets them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from django.db.models import F, Q, QuerySet

from llmkeys.exceptions import LLMKeysError
from llmkeys.keys import testing
from llmkeys.models import ApiKey

logger = logging.getLogger(__name__)

AT_MOST_SECONDS = 120  # the worker has other schedules to run
PAUSE_SECONDS = 1.0
_PAUSES_SECONDS = 60  # all pauses of a run together

AFTER_REJECTION = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15))
REJECTED_SECONDS = 30  # the schedule for rejected keys runs every minute


@dataclass(slots=True)
class Checked:
    """How many keys were good or bad, how many could not be tested, and how many are left for the next run."""

    good: int = 0
    bad: int = 0
    failed: int = 0
    left: int = 0

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def check_keys(at: datetime, *, pause: Callable[[float], None] = time.sleep) -> Checked:
    """Test every key that may serve, and the rejected ones, one after the other; return the counts.

    Those tested longest ago come first, so that keys left out after two minutes have their turn in the next run. A
    provider that fails does not stop the others. The test itself sets and clears rejections, and counts as no request.
    """
    waiting, done = list(_to_test(at).values_list("pk", flat=True)), Checked()
    deadline = time.monotonic() + AT_MOST_SECONDS
    gap = min(PAUSE_SECONDS, _PAUSES_SECONDS / max(1, len(waiting)))
    for number, key_id in enumerate(waiting):
        if number:
            pause(gap)
        if time.monotonic() > deadline:
            done.left = len(waiting) - number
            break
        key = _to_test(at).filter(pk=key_id).first()  # read only now: it may have been changed since the run began
        if key is not None:
            _check(key, at, done)
    return done


def check_rejected_keys(at: datetime) -> Checked:
    """Test the rejected keys that have served before, 1, 5 and 15 minutes after their rejection.

    Providers sometimes reject good keys by mistake for some minutes. Tests that are overdue are made only once.
    """
    done, deadline = Checked(), time.monotonic() + REJECTED_SECONDS
    for key_id in list(_rejected(at).values_list("pk", flat=True)):
        key = _rejected(at).filter(pk=key_id).first()  # read only now: it may have been changed since the run began
        if key is None or not _is_due(key, at):
            continue
        if time.monotonic() > deadline:
            done.left += 1
            continue
        _check(key, at, done)
    return done


def _rejected(at: datetime) -> QuerySet[ApiKey]:
    served = ApiKey.objects.stored().filter(enabled=True, secret_missing=False, successful_requests__gt=0)
    return served.filter(Q(expires_at=None) | Q(expires_at__gt=at), rejected_at__isnull=False).order_by("rejected_at")


def _is_due(key: ApiKey, at: datetime) -> bool:
    """Return whether a deadline has passed since the rejection and there was no test after that deadline."""
    assert key.rejected_at is not None
    deadlines = [due for after in AFTER_REJECTION if (due := key.rejected_at + after) <= at]
    return bool(deadlines) and (key.last_test_at is None or key.last_test_at < deadlines[-1])


def _to_test(at: datetime) -> QuerySet[ApiKey]:
    longest_untested_first = F("last_test_at").asc(nulls_first=True)
    usable = ApiKey.objects.stored().filter(enabled=True, secret_missing=False)
    return usable.filter(Q(expires_at=None) | Q(expires_at__gt=at)).order_by(longest_untested_first, "created_at", "id")


def _check(key: ApiKey, at: datetime, done: Checked) -> None:
    try:
        result = testing.test_key(key, at=at)
    except LLMKeysError as error:  # the secret does not decrypt, but others may
        logger.warning("The key %s could not be tested: %s", key.id, error)
        done.failed += 1
        return
    if result.ok:
        done.good += 1
    else:
        done.bad += 1
