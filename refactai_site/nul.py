"""No address, filter or form field holds a NUL: PostgreSQL cannot store one, and nobody means one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse

NUL = "\0"
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class RefuseNul:
    """Answer 400 to a NUL in the path, the query or a field of a form, in whatever way it is written there."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if NUL in request.path_info or NUL in unquote(request.META.get("QUERY_STRING", "")):
            raise BadRequest("The address holds a NUL character.")
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *_: Any) -> None:
        """Look into the fields here, where the CSRF check has read them already."""
        if request.content_type in FORMS and any(
            NUL in text for name, values in request.POST.lists() for text in (name, *values)
        ):
            raise BadRequest("A field of the form holds a NUL character.")
