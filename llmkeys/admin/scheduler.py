"""The scheduler's tables in readable form: when each schedule ran and will run, and why a task failed."""

from __future__ import annotations

from datetime import timedelta

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django_q import admin as stock  # registers its own pages, which are replaced here
from django_q.models import Failure, OrmQ, Schedule, Success, Task

from llmkeys import scheduling
from llmkeys.admin.facts import FactAdmin
from llmkeys.templatetags.llmkeys_format import relative, span

for _model in (Schedule, Success, Failure, OrmQ):
    admin.site.unregister(_model)


@admin.register(Schedule)
class ScheduleAdmin(FactAdmin):
    """Schedules can be run now, paused and resumed; what runs when is set by the product and cannot be edited."""

    list_display = ("name", "what", "cron", "result", "last_run_", "next_run_")
    fields = ("name", "what", "func", "cron", "result", "last_run_", "next_run")
    ordering = ("name",)
    actions = ("run_now", "pause", "resume")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        latest = Task.objects.filter(group=OuterRef("name")).order_by("-started")
        return (
            super()
            .get_queryset(request)
            .annotate(
                last_started=Subquery(latest.values("started")[:1]), last_success=Subquery(latest.values("success")[:1])
            )
        )

    @admin.display(description="does")
    def what(self, schedule: Schedule) -> str:
        return scheduling.WORDS.get(schedule.name, schedule.func)

    @admin.display(description="last run", ordering="last_started")
    def last_run_(self, schedule: Schedule) -> str:
        return relative(schedule.last_started)

    @admin.display(description="next run", ordering="next_run")
    def next_run_(self, schedule: Schedule) -> str:
        return "paused" if schedule.repeats == 0 else relative(schedule.next_run)

    @admin.display(description="state")
    def result(self, schedule: Schedule) -> str:
        word, css = self._state(schedule)
        return format_html('<span class="key-status {}">{}</span>', css, word)

    @staticmethod
    def _state(schedule: Schedule) -> tuple[str, str]:
        if schedule.repeats == 0:
            return "Paused", "disabled"
        if schedule.last_success is False:
            return "Failed", "rejected"
        if schedule.next_run and schedule.next_run < timezone.now() - scheduling.LATE:
            return "Late", "limit_reached"
        return ("Not yet run", "") if schedule.last_started is None else ("On time", "active")

    def has_steer_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("django_q.change_schedule")

    @admin.action(description="Run now", permissions=["steer"])
    def run_now(self, request: HttpRequest, queryset: QuerySet) -> None:
        count = queryset.exclude(repeats=0).update(next_run=timezone.now())
        self.message_user(request, f"{count} schedule{'' if count == 1 else 's'} due now; they start shortly.")

    @admin.action(description="Pause", permissions=["steer"])
    def pause(self, request: HttpRequest, queryset: QuerySet) -> None:
        self.message_user(request, f"Paused: {queryset.update(repeats=0)}. Budgets do not depend on them.")

    @admin.action(description="Resume", permissions=["steer"])
    def resume(self, request: HttpRequest, queryset: QuerySet) -> None:
        self.message_user(request, f"Resumed: {queryset.update(repeats=-1)}.")


class _TaskAdmin(FactAdmin):
    ordering = ("-started",)
    search_fields = ("group", "name", "func")

    @admin.display(description="task", ordering="group")
    def task(self, task: Task) -> str:
        return task.group or task.name

    @admin.display(description="took")
    def took(self, task: Task) -> str:
        seconds = task.time_taken()
        return span(timedelta(seconds=seconds)) if seconds >= 1 else f"{round(seconds * 1000)} ms"


@admin.register(Success)
class SuccessAdmin(_TaskAdmin):
    list_display = ("task", "started", "took")
    fields = ("task", "func", "started", "stopped", "took")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).filter(success=True).defer("result", "args", "kwargs")


@admin.register(Failure)
class FailureAdmin(_TaskAdmin):
    """Failed tasks can be queued again or deleted; they are not part of the accounting."""

    list_display = ("task", "started", "took", "reason")
    fields = ("task", "func", "started", "stopped", "took", "reason", "result_in_full")
    actions = ("run_again",)

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).filter(success=False)

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return request.user.has_perm("django_q.delete_failure")

    def has_steer_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("django_q.change_schedule")

    @admin.display(description="reason")
    def reason(self, task: Task) -> str:
        return scheduling.failure_words(task.result)

    @admin.display(description="result")
    def result_in_full(self, task: Task) -> str:
        return format_html("<pre>{}</pre>", task.result or "")

    @admin.action(description="Run again", permissions=["steer"])
    def run_again(self, request: HttpRequest, queryset: QuerySet) -> None:
        count = queryset.count()
        for task in queryset:
            stock.async_task(task.func, *task.args or (), group=task.group, **task.kwargs or {})
            task.delete()
        self.message_user(request, f"{count} task{'' if count == 1 else 's'} queued again.")


@admin.register(OrmQ)
class QueueAdmin(FactAdmin):
    list_display = ("name", "func", "lock")
    fields = list_display
    ordering = ("pk",)
