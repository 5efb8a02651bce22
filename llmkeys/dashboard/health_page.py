"""The health page: schedules, alerts, what is wrong and how to fix it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django_q.models import Failure

from llmkeys import doctor, scheduling
from llmkeys.alerts import outbox
from llmkeys.dashboard.buttons import button_on
from llmkeys.database.sql import is_sqlite
from llmkeys.doctor import Finding
from llmkeys.models import Alert
from llmkeys.scheduling import ScheduleState
from refactai_site import VERSION

ALERTS_SHOWN = 50
FAILURES_SHOWN = 10
GRAVE = {"limit_reached", "key_rejected", "key_exhausted", "no_key_left", "scheduler_stalled", "backup_failed"}


@dataclass(frozen=True, slots=True)
class Mark:
    """A state as a word, with a colour and a shape."""

    word: str
    tone: str
    shape: str


OK, LATE = Mark("On time", "ok", "s-disc"), Mark("Late", "full", "s-square")
FAILED, PAUSED = Mark("Failed", "bad", "s-cross"), Mark("Paused", "", "s-diamond")
WAITING = Mark("Not yet run", "", "s-half")


@dataclass(frozen=True, slots=True)
class ScheduleLine:
    state: ScheduleState

    @property
    def mark(self) -> Mark:
        if self.state.is_paused:
            return PAUSED
        if self.state.has_failed:
            return FAILED
        if self.state.is_late:
            return LATE
        return OK if self.state.last_run else WAITING


@dataclass(frozen=True, slots=True)
class AlertLine:
    alert: Alert

    @property
    def tone(self) -> str:
        return "bad" if self.alert.kind in GRAVE else "full"

    @property
    def delivery(self) -> str:
        return outbox.delivery_words(self.alert)


@dataclass(frozen=True, slots=True)
class Findings:
    """What the doctor found; `asked` says whether the providers were contacted as well."""

    every: list[Finding]
    asked: bool

    @property
    def faults(self) -> list[Finding]:
        """Problems, the worst first."""
        return sorted((one for one in self.every if one.level != doctor.PASS), key=lambda one: one.level != doctor.FAIL)

    @property
    def good(self) -> list[Finding]:
        return [one for one in self.every if one.level == doctor.PASS]

    @property
    def is_grave(self) -> bool:
        return any(one.level == doctor.FAIL for one in self.every)


@dataclass(frozen=True, slots=True)
class FailureLine:
    name: str
    at: datetime
    reason: str


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_apikey", raise_exception=True)
def health(request: HttpRequest) -> HttpResponse:
    """Show the page. With `?providers=ask` the doctor contacts the providers too, which takes a moment."""
    at, asked = timezone.now(), request.GET.get("providers") == "ask"
    schedules = [ScheduleLine(state) for state in scheduling.schedule_states(at)]
    unseen = [AlertLine(alert) for alert in outbox.open_alerts(ALERTS_SHOWN)]
    ran = scheduling.scheduler_last_ran(at)
    context = {
        "at": at,
        "schedules": schedules,
        "ran": ran,
        "alerts": unseen,
        "newest_alert": unseen[0].alert.pk if unseen else 0,
        "undelivered": [AlertLine(alert) for alert in outbox.undelivered_alerts() if alert.seen_at],
        "targets": outbox.target_names(),
        "findings": Findings(doctor.examine(at, offline=not asked), asked),
        "failures": failures(),
        "facts": facts(),
    }
    return render(request, "dashboard/health.html", context)


def failures() -> list[FailureLine]:
    """Return the latest failed tasks, each with its reason in one line."""
    found = Failure.objects.order_by("-stopped").values_list("group", "name", "stopped", "result")[:FAILURES_SHOWN]
    return [
        FailureLine(group or name, stopped, scheduling.failure_words(result)) for group, name, stopped, result in found
    ]


def _change(view: Callable[[HttpRequest], None]) -> Callable[..., HttpResponse]:
    """Return a view of a button, which redirects back to the page."""

    @button_on("health")
    @login_required
    @permission_required("llmkeys.change_apikey", raise_exception=True)
    def guarded(request: HttpRequest) -> HttpResponse:
        view(request)
        return redirect("health")

    return guarded


@_change
def alert_test(request: HttpRequest) -> None:
    """Send a test alert to every target, and report the results."""
    deliveries = outbox.send_test_alert(timezone.now(), by=request.user.get_username())
    if not deliveries:
        messages.warning(
            request, "No target is configured, so nothing was sent: set REFACTAI_ALERT_URLS and restart the server."
        )
    for delivery in deliveries:
        if delivery.delivered:
            messages.success(request, f"{delivery.target}: the test alert was delivered.")
        else:
            messages.error(request, f"{delivery.target}: not delivered. {delivery.words}")


@_change
def alert_seen(request: HttpRequest) -> None:
    """Dismiss one alert, or all up to the newest that the page showed."""
    at, one, up_to = timezone.now(), _id(request, "alert"), _id(request, "up_to")
    done = outbox.dismiss_all(at, up_to=up_to) if up_to else int(outbox.dismiss(one, at))
    if done != 1:
        messages.info(request, f"{done} alerts dismissed." if done else "It was dismissed before.")


def _id(request: HttpRequest, name: str) -> int:
    given = request.POST.get(name, "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else 0


# --- versions and settings --------------------------------------------------------------------------------------------


def facts() -> list[tuple[str, str]]:
    """Return facts about the installation as pairs of label and value, with at most two cheap queries."""
    return [
        ("Product", f"RefactAI LLM key management {VERSION}"),
        ("Database", _database()),
        ("Kept in", _place()),
        ("Python", platform.python_version()),
        ("Django", f"{metadata.version('django')}, django-q2 {metadata.version('django-q2')}"),
        ("Web server", f"granian {metadata.version('granian')}"),
        ("Price data", f"genai-prices {metadata.version('genai-prices')}"),
        ("Time zone", f"{settings.TIME_ZONE}: budget days and months begin at its midnight"),
        ("Budgets", _budgets()),
    ]


def _database() -> str:
    if is_sqlite():
        size = _value("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        return f"SQLite {_value('SELECT sqlite_version()')}, {_size(size)}"
    version = int(_value("SHOW server_version_num"))
    size = _value("SELECT pg_database_size(current_database())")
    return f"PostgreSQL {version // 10_000}.{version % 10_000}, {_size(size)}"


def _size(size: int) -> str:
    return filesizeformat(size).replace("\xa0", " ")


def _place() -> str:
    """Return where the data is stored, without a user or password."""
    if is_sqlite():
        return str(connection.settings_dict["NAME"])
    given = connection.settings_dict
    return f"database {given['NAME']} at {given['HOST'] or 'the local socket'}"


def _value(query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def _budgets() -> str:
    if not settings.COST_TRACKING:
        return "cost tracking is off: requests are counted, costs and budgets are not"
    if settings.BUDGET_MODE == "strict":
        return "strict: a request is sent only if the most it can cost fits, unless its key or token is set to soft"
    return "soft: checked before a request, charged after it"
