"""What an error report may show: nothing that could be a secret, with DEBUG on and off. And the page of an outage."""

from __future__ import annotations

import re
import sys
from collections.abc import ItemsView
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.debug import SafeExceptionReporterFilter
from django.views.defaults import server_error

from llmkeys.database import outages

RETRY_SECONDS = "10"


def failed(request: HttpRequest) -> HttpResponse:
    """Answer a page that failed: 503 where the database does not answer, else 500."""
    error = sys.exc_info()[1]
    if error is None or not outages.is_outage(error):
        return server_error(request)
    outages.note(error)
    response = render(request, "503.html", status=503)
    response["Retry-After"] = RETRY_SECONDS
    response._has_been_logged = True  # type: ignore[attr-defined]  # by the line above, which says what to do
    return response


class SecretsFilter(SafeExceptionReporterFilter):
    """Hide every local variable and header that can carry a key; Django's own list of names is too short for us."""

    hidden_settings = re.compile(
        "API|AUTH|TOKEN|KEY|SECRET|PASS|SIGNATURE|HTTP_COOKIE|CREDENTIAL|DATABASE_URL|ALERT_URLS", flags=re.IGNORECASE
    )

    def is_active(self, request: Any) -> bool:
        return True

    def get_traceback_frame_variables(self, request: Any, tb_frame: Any) -> ItemsView[str, Any]:
        """Show names only: a secret in clear, a body or a header may stand in any local variable."""
        return dict.fromkeys(tb_frame.f_locals, self.cleansed_substitute).items()

    def get_post_parameters(self, request: Any) -> dict[str, Any]:
        if request is None or not hasattr(request, "POST"):
            return {}
        return dict.fromkeys(request.POST, self.cleansed_substitute)
