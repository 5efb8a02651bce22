"""Is the scheduler wedged? Read from the database, because a wedged cluster answers nothing and looks alive.

While it is, nobody else sends alerts: `serve` does so itself, in a process of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta

from django.conf import settings
from django.db import Error, connections
from django.db.models import Min
from django.utils import timezone
from django_q.models import OrmQ, Schedule

from llmkeys.alerts import outbox
from llmkeys.exceptions import LLMKeysError

LOOK_SECONDS = 20
OVERDUE_SECONDS = 90  # the tick is 30 s: three were missed
STUCK_SECONDS = settings.Q_CLUSTER["timeout"] + 30  # no task may run longer than the timeout
UNLOCKS_OF_ONE_TASK = 3  # a task that kills its worker every time must not keep all others waiting for ever


class Watchdog:
    """Looks now and then; remembers which task stands first in the queue and since when.

    `stall` names the stall that lasts, empty if there is none: it begins with a fault and ends with the first look
    that finds a grown-up cluster without one, however often the cluster is restarted in between.
    """

    def __init__(self) -> None:
        self.stall = ""
        self._looked = time.monotonic()
        self._first_task: int | None = None
        self._first_since = 0.0
        self._unlocked: Counter[int] = Counter()

    def fault(self, *, cluster_age_seconds: float) -> str:
        """Say in words why the cluster must be restarted, or return an empty string.

        The database may be locked or gone: then nothing can be said, and the next look comes in its time.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return ""
        try:
            fault = self._overdue(cluster_age_seconds) or self._stuck()
            if not fault and cluster_age_seconds >= OVERDUE_SECONDS:
                self.stall = ""
            return fault
        except Error:
            return ""
        finally:
            self._looked = time.monotonic()
            connections.close_all()

    def _overdue(self, cluster_age_seconds: float) -> str:
        if cluster_age_seconds < OVERDUE_SECONDS:
            return ""  # after a long downtime everything is overdue: it gets its first ticks
        limit = timezone.now() - timedelta(seconds=OVERDUE_SECONDS)
        late = Schedule.objects.exclude(repeats=0).filter(next_run__lt=limit, cluster=None)
        since = late.aggregate(since=Min("next_run"))["since"]
        if since is None:
            return ""
        self.stall = self.stall or f"since {since:%Y-%m-%d %H:%M:%S}"
        return f"no schedule was started for {OVERDUE_SECONDS} seconds"

    def _stuck(self) -> str:
        first = OrmQ.objects.order_by("pk").values_list("pk", flat=True).first()
        if first != self._first_task:
            self._first_task, self._first_since = first, time.monotonic()
        if first is None or time.monotonic() - self._first_since <= STUCK_SECONDS:
            return ""
        self.stall = self.stall or f"at task {first}"
        return f"a task was not finished within {STUCK_SECONDS} seconds"

    def cannot_start(self) -> None:
        """The cluster ends again and again as soon as it is started: a stall too, told at most once an hour."""
        self.stall = self.stall or f"at the start {timezone.now():%Y-%m-%d %H}"

    def unlock_tasks(self) -> str:
        """Give the tasks that the dead cluster had claimed to the next one; say in words which were given up.

        Called while no cluster runs. Each task is idempotent, so one that was half done is simply done again.
        """
        self._first_task = None
        try:
            return self._unlock()
        except Error:
            return ""  # they unlock by themselves after the retry time
        finally:
            connections.close_all()

    def _unlock(self) -> str:
        claimed = list(OrmQ.objects.filter(lock__gt=timezone.now()).values_list("pk", flat=True))
        self._unlocked.update(claimed)
        hopeless = [pk for pk in claimed if self._unlocked[pk] > UNLOCKS_OF_ONE_TASK]
        OrmQ.objects.filter(pk__in=hopeless).delete()
        OrmQ.objects.filter(pk__in=claimed).update(lock=timezone.now())
        return f"{len(hopeless)} task(s) that ended the scheduler every time were given up" if hopeless else ""


def alert(reason: str, stall: str) -> int:
    """Write the alert of a stall, once, and deliver what is due in the scheduler's place; return an exit code."""
    now = timezone.now()
    try:
        if reason:
            outbox.scheduler_stalled(reason, stall=stall, at=now)
        outbox.send_due_alerts(now)
    except (Error, LLMKeysError):
        return 1  # the database does not answer: told at the next look
    return 0
