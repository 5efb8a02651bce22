"""The schedules, what each one does, and their state, read from the scheduler's own tables.

The dashboard's health page, the admin and the doctor show them. One line here and one function in `tasks.py` make a
schedule, which is created idempotently under its name. Only `serve` does that, and not `post_migrate`: without `serve`
there is no cluster to run them, a management command or a test database should not fill up with schedules, and `serve`
migrates first anyway. An operator's change of `next_run` ("run it now") and a pause are kept; a change of the cron text
by an upgrade moves `next_run` along.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, Max, Q, QuerySet, Subquery
from django_q.models import OrmQ, Schedule, Task

from llmkeys.database import postgresql

LATE = timedelta(minutes=3)  # the tick is 30 s; the watchdog of `serve` ends a stall within two minutes
STUCK = timedelta(minutes=5)  # longer than any two of our tasks take, unless one is a backup
BACKUP_SECONDS = 3_600  # a backup of a large database takes more than the five minutes that other tasks may
_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Planned:
    """A schedule, with cron text in the operator's time zone (django-q2's own MONTHLY drifts east of UTC)."""

    name: str
    cron: str
    words: str
    timeout_seconds: int | None = None  # None: the one of Q_CLUSTER

    @property
    def kwargs(self) -> str | None:
        """How a django-q2 schedule expresses the timeout of its tasks."""
        return repr({"q_options": {"timeout": self.timeout_seconds}}) if self.timeout_seconds else None

    @property
    def func(self) -> str:
        return f"llmkeys.tasks.{self.name}"


PLANNED = (
    Planned(
        "reset_daily_costs",
        "0 0 * * *",
        "Closes the day: sets the stored daily costs to zero and writes an event for each key.",
    ),
    Planned("reset_monthly_costs", "0 0 1 * *", "Closes the month: sets the stored monthly costs to zero."),
    Planned(
        "check_expired_keys",
        "0 * * * *",
        "Warns of keys that have expired or are about to, and chooses another default key.",
    ),
    Planned("settle_lost_holds", "* * * * *", "Charges requests whose process died; tests rejected keys again."),
    Planned("send_alerts", "* * * * *", "Sends alerts to the notification targets."),
    Planned("check_keys", "20 */6 * * *", "Asks each provider with a free call whether it still accepts each key."),
    Planned("reconcile_costs", "*/15 * * * *", "Asks OpenRouter for the true cost of requests that were estimated."),
    Planned("prune_usage", "40 3 * * *", "Deletes old single usage rows after their day's totals were verified."),
    Planned(  # at a time that no zone skips or repeats
        "backup_database", "10 4 * * *", "Writes a checked backup to backups/ in the data directory.", BACKUP_SECONDS
    ),
)
WORDS = {planned.name: planned.words for planned in PLANNED}


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """The state of a schedule. Datetimes are aware, None for never; `failure` is one line, without a traceback."""

    name: str
    words: str
    cron: str
    next_run: datetime | None
    is_paused: bool
    is_late: bool
    last_run: datetime | None
    last_success: datetime | None
    last_failure: datetime | None
    failure: str  # why the latest failed run failed, even if a later one succeeded

    @property
    def has_failed(self) -> bool:
        """True if the latest finished run failed."""
        if self.last_failure is None:
            return False
        return self.last_success is None or self.last_success < self.last_failure


@dataclass(frozen=True, slots=True)
class SchedulerRan:
    """When any schedule last finished, and whether the scheduler has stopped although there are schedules."""

    at: datetime | None
    is_stalled: bool


def schedule_states(now: datetime) -> list[ScheduleState]:
    """Return the product's schedules in a fixed order, then those that people created; three queries."""
    schedules = {schedule.name: schedule for schedule in Schedule.objects.order_by("name", "pk")}
    runs = {run["group"]: run for run in _runs(schedules)}
    reasons = _failure_reasons(runs.values())
    order = [name for name in WORDS if name in schedules] + [name for name in schedules if name not in WORDS]
    return [_state(schedules[name], runs.get(name, {}), reasons.get(name, ""), now) for name in order]


def scheduler_last_ran(now: datetime) -> SchedulerRan:
    """Return whether schedules make progress, with one query.

    Stalled means that a schedule is three minutes overdue, or that a task has waited five minutes although no running
    task may legitimately take that long. More queries are made only if a task seems to be waiting.
    """
    newest = Task.objects.order_by("-stopped").values("stopped")[:1]
    active = Schedule.objects.exclude(repeats=0).filter(next_run__isnull=False).order_by("next_run")
    first = active.values_list("next_run", Subquery(newest), Exists(_waiting(now - STUCK, now))).first()
    if first is None:
        return SchedulerRan(at=None, is_stalled=False)
    due, ran, is_stuck = first
    return SchedulerRan(at=ran, is_stalled=due < now - LATE or (is_stuck and not _first_are_in_time(now)))


def _waiting(since: datetime, now: datetime) -> QuerySet[OrmQ]:
    """Return the tasks that have waited since then, and those that were queued after `now`, which look alike.

    `lock` is when one was queued or, once a worker has claimed it, when the claim ends.
    """
    claim = timedelta(seconds=settings.Q_CLUSTER["retry"])
    return OrmQ.objects.filter(Q(lock__lte=since) | Q(lock__gt=now, lock__lte=since + claim))


def first_tasks() -> QuerySet[OrmQ]:
    """Return the tasks that a healthy cluster is running: the first in the queue, one per worker."""
    return OrmQ.objects.order_by("pk")[: settings.Q_CLUSTER["workers"]]


def _first_are_in_time(now: datetime) -> bool:
    """Return whether each task that the others wait for was queued or claimed recently, or may take longer."""
    return all(_is_in_time(task, now) for task in first_tasks())


def _is_in_time(first: OrmQ, now: datetime) -> bool:
    if first.task.get("started", now) > now:  # it was not in the queue at that time
        return True
    if first.lock <= now:  # not claimed, or no longer
        return not OrmQ.objects.filter(lock__lte=now - STUCK).exists()
    claimed_at = first.lock - timedelta(seconds=settings.Q_CLUSTER["retry"])
    return now - claimed_at < STUCK or now - claimed_at <= timedelta(seconds=first.task.get("timeout", 0))


def _state(schedule: Schedule, run: dict, reason: str, now: datetime) -> ScheduleState:
    is_paused = schedule.repeats == 0
    return ScheduleState(
        name=schedule.name or schedule.func,
        words=WORDS.get(schedule.name, ""),
        cron=schedule.cron or schedule.get_schedule_type_display(),
        next_run=None if is_paused else schedule.next_run,
        is_paused=is_paused,
        is_late=not is_paused and schedule.next_run is not None and schedule.next_run < now - LATE,
        last_run=run.get("latest"),
        last_success=run.get("good"),
        last_failure=run.get("bad"),
        failure=reason,
    )


def _runs(names: Iterable[str]) -> list[dict]:
    """Return for each schedule when it last started, and when it last succeeded and failed."""
    of_schedules = Task.objects.filter(group__in=list(names)).order_by().values("group")
    return list(
        of_schedules.annotate(
            latest=Max("started"),
            good=Max("stopped", filter=Q(success=True)),
            bad=Max("stopped", filter=Q(success=False)),
        )
    )


def _failure_reasons(runs: Iterable[dict]) -> dict[str, str]:
    latest = Q(pk__in=[])
    for run in runs:
        if run["bad"] is not None:
            latest |= Q(group=run["group"], stopped=run["bad"], success=False)
    return {
        group: failure_words(result) for group, result in Task.objects.filter(latest).values_list("group", "result")
    }


def failure_words(result: object) -> str:
    """Return why a task failed, in one line; django-q2 stores `message : traceback`."""
    text = str(result or "")
    words, _, trace = text.partition(" : Traceback (most recent call last):")
    lines = [line.strip() for line in (words, *reversed(trace.splitlines())) if line.strip()]
    return lines[0].splitlines()[0][:_LONGEST_REASON] if lines else "It failed and left no reason."


# --- creating them ---------------------------------------------------------------------------------------------------

_AHEAD = timedelta(minutes=2)  # clocks of several machines may differ by less


def ensure_schedules() -> None:
    """Create or update every schedule in one transaction; schedules of other names are left alone."""
    with transaction.atomic():
        _lock()
        for planned in PLANNED:
            _ensure(planned)


def plan_again(at: datetime) -> None:
    """Bring forward schedules whose next run was set by a clock that has since been set back.

    Task runs dated in the future show this; without it, the schedules would wait until that date.
    """
    newest = Task.objects.aggregate(started=Max("started"))["started"]
    if newest is None or newest <= at + _AHEAD:
        return
    for schedule in Schedule.objects.filter(name__in=[planned.name for planned in PLANNED]):
        due = schedule.calculate_next_run()
        if schedule.next_run > due:
            Schedule.objects.filter(pk=schedule.pk, next_run=schedule.next_run).update(next_run=due)


def _lock() -> None:
    """Let servers that start at the same time take turns, because names of schedules are not unique in the database."""
    with connection.cursor() as cursor:
        postgresql.lock_table(cursor, "django_q_schedule", "SHARE ROW EXCLUSIVE")


def _ensure(planned: Planned) -> None:
    schedule, *twins = Schedule.objects.filter(name=planned.name).order_by("pk") or [Schedule(name=planned.name)]
    for twin in twins:
        twin.delete()
    wanted = {"func": planned.func, "schedule_type": Schedule.CRON, "cron": planned.cron, "kwargs": planned.kwargs}
    changed = [name for name, value in wanted.items() if getattr(schedule, name) != value]
    if not changed and schedule.pk:
        return
    for name in changed:
        setattr(schedule, name, wanted[name])
    if schedule.pk is None or {"cron", "schedule_type"} & set(changed) or schedule.next_run is None:
        schedule.next_run = schedule.calculate_next_run()
    schedule.save()
