"""The Django admin: read-only history, editable prices and aliases, and keys and tokens through the services."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from llmkeys.admin import access, facts, keys, prices, scheduler, tokens, usage  # noqa: F401  (registers them)

admin.site.site_header = "RefactAI LLM key management"
admin.site.site_title = "RefactAI LLM key management"
admin.site.index_title = "Administration"
admin.site.site_url = "/llm-settings"
admin.site.enable_nav_sidebar = False  # wide tables need the space; the index page links to everything


def _log_in(request: HttpRequest, extra_context: dict | None = None) -> HttpResponse:
    """Redirect to the product's login page, which validates `next`."""
    return redirect_to_login(request.GET.get(REDIRECT_FIELD_NAME) or reverse("admin:index"))


admin.site.login = _log_in  # type: ignore[method-assign]
