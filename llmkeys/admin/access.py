"""Failed logins and lockouts of django-axes in readable form, with an action that ends a lockout."""

from __future__ import annotations

from axes import admin as stock  # importing it registers pages that are replaced here
from axes.helpers import get_cool_off
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from axes.utils import reset
from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from llmkeys.admin.facts import FactAdmin
from llmkeys.templatetags.llmkeys_format import moment

for _model in (AccessAttempt, AccessLog, AccessFailureLog):
    admin.site.unregister(_model)
apps.get_app_config("axes").verbose_name = "Logins"


@admin.register(AccessAttempt)
class AccessAttemptAdmin(FactAdmin):
    """Failed logins; submitted values are never shown, even if they are not passwords."""

    list_display = ("username", "ip_address", "failures_since_start", "locked_until", "attempt_time")
    list_filter = (stock.IsLockedOutFilter,)
    search_fields = ("username", "ip_address")
    fields = (*list_display, "path_info", "user_agent")
    ordering = ("-attempt_time",)
    actions = ("unlock",)

    @admin.display(description="locked until")
    def locked_until(self, attempt: AccessAttempt) -> str:
        until = attempt.attempt_time + get_cool_off()
        locked = attempt.failures_since_start >= settings.AXES_FAILURE_LIMIT and until > timezone.now()
        return moment(until) if locked else "–"

    def has_reset_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("axes.delete_accessattempt")

    @admin.action(description="End the lockout", permissions=["reset"])
    def unlock(self, request: HttpRequest, queryset: QuerySet) -> None:
        attempts = list(queryset)
        for attempt in attempts:
            reset(username=attempt.username, ip=attempt.ip_address)
        self.message_user(request, f"Ended {len(attempts)} lockout{'' if len(attempts) == 1 else 's'}.")


@admin.register(AccessLog)
class AccessLogAdmin(FactAdmin):
    list_display = ("attempt_time", "username", "ip_address", "logout_time", "user_agent")
    search_fields = ("username", "ip_address")
    fields = list_display
    ordering = ("-attempt_time",)
