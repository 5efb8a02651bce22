"""The API's documentation, for authenticated users: /api/schema for programs, /api/docs for people."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.views import redirect_to_login
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiJsonRenderer2, OpenApiYamlRenderer
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.exceptions import NotAuthenticated


class SchemaView(SpectacularAPIView):
    """GET /api/schema: JSON, or YAML where the client asks for it."""

    renderer_classes = [OpenApiJsonRenderer, OpenApiJsonRenderer2, OpenApiYamlRenderer]


class DocsView(SpectacularSwaggerSplitView):
    """GET /api/docs: Swagger UI from our own static files; anonymous visitors are redirected to the login."""

    url_name = "schema"
    template_name = "api/docs.html"

    def handle_exception(self, error: Exception) -> Any:
        if isinstance(error, NotAuthenticated):
            return redirect_to_login(self.request.get_full_path())
        return super().handle_exception(error)

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        response.headers["Cache-Control"] = "no-store"  # the script contains the session's CSRF token
        return super().finalize_response(request, response, *args, **kwargs)
