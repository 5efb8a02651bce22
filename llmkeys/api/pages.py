"""Pages of 50 rows, newest first, by cursor, so that new rows do not shift the pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response

from llmkeys.exceptions import InvalidInput


class Pages(CursorPagination):
    page_size = 50
    ordering = "-id"

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Read `?cursor=`. Raises InvalidInput for one that did not come from us."""
        try:
            cursor = super().decode_cursor(request)
        except NotFound:
            raise _bad_cursor() from None
        # The base class passes the position to the database unchecked.
        if (
            cursor is not None
            and cursor.position is not None
            and not re.fullmatch(r"[0-9]{1,18}", str(cursor.position))
        ):
            raise _bad_cursor()
        return cursor


def _bad_cursor() -> InvalidInput:
    return InvalidInput({"cursor": ["This is not a cursor. Use “next” and “previous” from a response unchanged."]})


def page(request: Request, rows: QuerySet, to_json: Callable[[Any], dict[str, Any]]) -> Response:
    """Return the response with the page of `rows` that the request asks for."""
    pages = Pages()
    found = pages.paginate_queryset(rows, request) or []
    return Response(
        {
            "results": [to_json(row) for row in found],
            "next": pages.get_next_link(),
            "previous": pages.get_previous_link(),
        }
    )
