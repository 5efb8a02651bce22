"""NUL characters in addresses, filters or fields, which SQLite accepts and PostgreSQL refuses."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from django.core.exceptions import BadRequest
from django.db import DataError
from django.http import HttpRequest, HttpResponse

NUL = "\0"
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class RefuseNul:
    """Middleware that answers 400 if a view passed a NUL from the request to the database."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        if isinstance(exception, ValueError | DataError) and NUL in _sent_with(request):
            raise BadRequest("The request contains a NUL character.") from exception


def _sent_with(request: HttpRequest) -> str:
    texts = [request.path_info, unquote(request.META.get("QUERY_STRING", ""))]
    if request.content_type in FORMS:
        texts += [text for name, values in request.POST.lists() for text in (name, *map(str, values))]
    return "\n".join(texts)
