"""The URLs that `asgi.py` passes to Django."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from llmkeys.api.docs import DocsView, SchemaView
from llmkeys.api.metrics import MetricsViewSet

handler400 = "llmkeys.dashboard.error_pages.bad_request"
handler500 = "llmkeys.dashboard.error_pages.failed"

urlpatterns = [
    path("metrics", MetricsViewSet.as_view({"get": "list"}), name="metrics"),
    path("api/schema", SchemaView.as_view(), name="schema"),
    path("api/docs", DocsView.as_view(), name="docs"),
    path("api/llm/", include("llmkeys.api.urls")),
    path("admin/", admin.site.urls),
    path("", include("llmkeys.dashboard.urls")),
]
