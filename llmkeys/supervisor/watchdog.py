"""Detects a scheduler that hangs, from the database, because a cluster that hangs still looks alive.

While it hangs, `serve` sends the alerts itself, in a separate process.
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

from llmkeys import scheduling
from llmkeys.alerts import outbox
from llmkeys.exceptions import LLMKeysError

LOOK_SECONDS = 20
OVERDUE_SECONDS = 60  # two missed ticks of 30 s; with the confirmation a stall still ends within two minutes
CONFIRM_SECONDS = 35  # a tick: after a sleep, or a clock that jumped ahead, everything is overdue until the next one
STUCK_SECONDS = 30  # after a task's timeout, when the cluster itself should have ended it
UNLOCKS_OF_ONE_TASK = 3  # a task that kills its worker every time must not block all others forever


class Watchdog:
    """Checks now and then, and remembers since when a schedule is late, and since when each task runs.

    `stall` identifies the present stall, or is empty. A stall begins with a fault and ends when a check finds no fault
    in a cluster that has run for a while, however often the cluster is restarted in between.
    """

    def __init__(self) -> None:
        self.stall = ""
        self._looked = time.monotonic()
        self._late_since: float | None = None
        self._running_since: dict[int, float] = {}
        self._unlocked: Counter[int] = Counter()

    def fault(self, *, cluster_age_seconds: float) -> str:
        """Return why the cluster must be restarted, or an empty string.

        If the database cannot be read, nothing is known until the next check.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return ""
        try:
            scheduling.plan_again(timezone.now())
            fault = self._overdue(cluster_age_seconds) or self._stuck()
            if not fault and cluster_age_seconds >= OVERDUE_SECONDS and self._late_since is None:
                self.stall = ""
            return fault
        except Error:
            return ""
        finally:
            self._looked = time.monotonic()
            connections.close_all()

    def _overdue(self, cluster_age_seconds: float) -> str:
        if cluster_age_seconds < OVERDUE_SECONDS:
            self._late_since = None
            return ""  # after a long downtime everything is overdue, so give it some time
        limit = timezone.now() - timedelta(seconds=OVERDUE_SECONDS)
        late = Schedule.objects.exclude(repeats=0).filter(next_run__lt=limit, cluster=None)
        since = late.aggregate(since=Min("next_run"))["since"]
        if since is None:
            self._late_since = None
            return ""
        if self._late_since is None:
            self._late_since = time.monotonic()
        if time.monotonic() - self._late_since < CONFIRM_SECONDS:
            return ""
        self.stall = self.stall or f"since {since:%Y-%m-%d %H:%M:%S}"
        return f"no schedule was started for {OVERDUE_SECONDS} seconds"

    def _stuck(self) -> str:
        now, running = time.monotonic(), list(scheduling.first_tasks())
        self._running_since = {task.pk: self._running_since.get(task.pk, now) for task in running}
        for task in running:
            longest = (task.task.get("timeout") or settings.Q_CLUSTER["timeout"]) + STUCK_SECONDS
            if now - self._running_since[task.pk] > longest:
                self.stall = self.stall or f"at task {task.pk}"
                return f"a task was not finished within {longest} seconds"
        return ""

    def cannot_start(self) -> None:
        """Record that the cluster keeps ending right after its start: a stall too, reported at most once an hour."""
        self.stall = self.stall or f"at the start {timezone.now():%Y-%m-%d %H}"

    def unlock_tasks(self) -> str:
        """Release the tasks that the dead cluster had claimed; return a message about those that were given up, or "".

        Called while no cluster is running. Tasks are idempotent, so one that was half done is simply done again.
        """
        self._running_since = {}
        try:
            return self._unlock()
        except Error:
            return ""  # they are released after the retry time anyway
        finally:
            connections.close_all()

    def _unlock(self) -> str:
        claimed = list(OrmQ.objects.filter(lock__gt=timezone.now()).values_list("pk", flat=True))
        self._unlocked.update(claimed)
        hopeless = [pk for pk in claimed if self._unlocked[pk] > UNLOCKS_OF_ONE_TASK]
        OrmQ.objects.filter(pk__in=hopeless).delete()
        OrmQ.objects.filter(pk__in=claimed).update(lock=timezone.now())
        if not hopeless:
            return ""
        tasks, were = ("task", "was") if len(hopeless) == 1 else ("tasks", "were")
        return f"{len(hopeless)} {tasks} that ended the scheduler every time {were} given up"


def alert(reason: str, stall: str) -> int:
    """Write the alert of a stall, once, and deliver what is due in place of the scheduler; return an exit code."""
    now = timezone.now()
    try:
        if reason:
            outbox.scheduler_stalled(reason, stall=stall, at=now)
        outbox.send_due_alerts(now)
    except (Error, LLMKeysError):
        return 1  # the database does not answer: tried again at the next check
    return 0
