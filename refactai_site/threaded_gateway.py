"""The gateway on threads, until `llmkeys.gateway.app` takes its place: then this file goes."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.exception import convert_exception_to_response
from django.http.response import HttpResponseBase

from refactai_site.pages import Handler, Pages


class _GatewayHandler(Handler):
    """Django without middleware: a program with an access token has no session, no cookies and no pages to protect."""

    def load_middleware(self, is_async: bool = False) -> None:
        self._view_middleware = []
        self._template_response_middleware = []
        self._exception_middleware = []
        self._middleware_chain = convert_exception_to_response(self._get_response)

    def get_response(self, request: ASGIRequest) -> HttpResponseBase:
        response = self._middleware_chain(request)
        response._resource_closers.append(request.close)
        return response


class ThreadedGateway(Pages):
    def __init__(self) -> None:
        limit = settings.MAX_BODY_MB * 1024 * 1024
        super().__init__(_GatewayHandler, name="gateway", limit=limit, room=max(256 * 1024 * 1024, 2 * limit))
        self.threads = 64

    def _next(self, pieces: Iterator[bytes]) -> bytes:
        return next(pieces, b"")
