"""Error pages: an outage, a lost race, a host or origin that is refused. Also the filter of error reports, which hides
anything that could be a secret, whether DEBUG is on or off."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import ItemsView
from typing import Any

from django.core.exceptions import DisallowedHost
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.debug import SafeExceptionReporterFilter
from django.views.defaults import server_error

from llmkeys.database import outages
from refactai_site import origins

logger = logging.getLogger(__name__)


def failed(request: HttpRequest) -> HttpResponse:
    """Return the response of a page that failed: 409 after a lost race, 503 if the database does not answer, or 500."""
    error = sys.exc_info()[1]
    if isinstance(error, IntegrityError):
        return render(request, "409.html", status=409)
    if error is None or not outages.is_outage(error):
        return server_error(request)
    outages.note(error)
    response = render(request, "503.html", status=503)
    response["Retry-After"] = str(outages.RETRY_SECONDS)
    response._has_been_logged = True  # type: ignore[attr-defined]  # by `outages.note`, which says what to do
    return response


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Return a 400: for a Host that is not allowed, with the setting to change, or a request that cannot be read."""
    words = origins.about_host(request) if isinstance(exception, DisallowedHost) else ""
    if words:
        logger.warning("A request was refused. %s", words)  # instead of Django's own entry, which has a traceback
    return _refused(request, "400.html", words or "The request cannot be read.", words, 400)


def csrf_failed(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Return a 403 for a form that is too old or comes from another origin."""
    words = origins.about_origin(request, reason)
    if words:
        logger.warning("A form was refused. %s", words)
    return _refused(request, "403_csrf.html", words or "The CSRF token is missing or too old.", words, 403)


def _refused(request: HttpRequest, template: str, detail: str, words: str, status: int) -> HttpResponse:
    response: HttpResponse
    if request.path.startswith("/api/") or request.path == "/metrics":
        response = JsonResponse({"detail": detail}, status=status)
    else:  # without the request, because templates might need its host
        response = render(None, template, {"words": words}, status=status)
    response._has_been_logged = bool(words)  # type: ignore[attr-defined]
    return response


class SecretsFilter(SafeExceptionReporterFilter):
    """Hides all local variables, and headers that may contain a key; Django's own list of names is too short."""

    hidden_settings = re.compile(
        "API|AUTH|TOKEN|KEY|SECRET|PASS|SIGNATURE|HTTP_COOKIE|CREDENTIAL|DATABASE_URL|ALERT_URLS", flags=re.IGNORECASE
    )

    def is_active(self, request: Any) -> bool:
        return True

    def get_traceback_frame_variables(self, request: Any, tb_frame: Any) -> ItemsView[str, Any]:
        """Return names only: any local variable may contain a plaintext secret, a body or a header."""
        return dict.fromkeys(tb_frame.f_locals, self.cleansed_substitute).items()

    def get_post_parameters(self, request: Any) -> dict[str, Any]:
        if request is None or not hasattr(request, "POST"):
            return {}
        return dict.fromkeys(request.POST, self.cleansed_substitute)
