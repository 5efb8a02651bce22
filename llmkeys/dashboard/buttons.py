"""Views of buttons, which act only on POST; a GET is redirected to the page that has the button."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods


def button_on(page: str, *names: str) -> Callable:
    """Return a decorator for views that accept POST; a GET, such as after a login, is redirected to `page`.

    `names` are the view's arguments that the page's URL needs too. Other methods get a 405.
    """

    def decorate(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        @require_http_methods(["POST", "GET", "HEAD"])
        @wraps(view)
        def pressed(request: HttpRequest, **given: Any) -> HttpResponse:
            if request.method == "POST":
                return view(request, **given)
            return redirect(page, *(given[name] for name in names))

        return pressed

    return decorate
