"""The schedules of the product, created idempotently under their names.

Only `serve` calls this, and not `post_migrate`: without `serve` there is no cluster to run them, a management command
or a test database should not fill up with schedules, and `serve` migrates first anyway. An operator's change of
`next_run` ("run it now") and a pause are kept; a change of the cron text by an upgrade moves `next_run` along.
`scheduling.py` lists them: a schedule is one line there and one function in `tasks.py`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import Max
from django_q.models import Schedule, Task

from llmkeys.database import postgresql
from llmkeys.scheduling import PLANNED, Planned

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
