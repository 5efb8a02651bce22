"""Pages that refresh themselves: they consist of regions, and only regions that have changed are sent again.

A page renders its regions with `region`; its element `#live` (`_live.html`) has their digests and polls every few
seconds. The response is empty (204), or has the changed regions, which htmx swaps by id, and the new digests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from hashlib import blake2s
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django_htmx.http import HttpResponseClientRefresh

_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="[^"]*"')  # different in each response, but equivalent
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a page that has its own id; `children` are compared individually."""

    name: str
    html: SafeString
    children: tuple[Region, ...] = ()

    @property
    def digest(self) -> str:
        if self.children:
            return _digest(" ".join(child.name for child in self.children))  # which children, in which order
        return _digest(_SPACE.sub(" ", _TOKEN.sub("", self.html)))

    @property
    def markup(self) -> SafeString:
        return format_html('<div class="region" id="r-{}">{}</div>', self.name, self.html)

    @property
    def swap(self) -> SafeString:
        """The markup with which htmx replaces the element of the same id."""
        return format_html('<div class="region" id="r-{}" hx-swap-oob="true">{}</div>', self.name, self.html)


def _digest(text: str) -> str:
    return blake2s(text.encode(), digest_size=4).hexdigest()


def region(request: HttpRequest, name: str, template: str, context: Mapping[str, Any]) -> Region:
    return Region(name, render_to_string(template, dict(context), request))


def listing(
    request: HttpRequest, name: str, template: str, contexts: Iterable[tuple[str, Mapping[str, Any]]]
) -> Region:
    """Return a region whose children, each with its own name and context, are replaced individually."""
    children = tuple(region(request, child, template, context) for child, context in contexts)
    return Region(name, format_html_join("", "{}", ((child.markup,) for child in children)), children)


def digests(regions: Iterable[Region]) -> str:
    """Return the digests of regions and children, which the page sends back: `a-b-c.child-child`."""
    regions = list(regions)
    groups = [regions, *(found.children for found in regions if found.children)]
    return ".".join("-".join(one.digest for one in group) for group in groups)


def changed(regions: Sequence[Region], seen: str) -> list[Region] | None:
    """Return the regions whose digests differ from those in `seen`; None if the page has other regions."""
    heads, *lists = (group.split("-") for group in seen.split("."))
    if len(heads) != len(regions):
        return None
    news, waiting = [], iter(lists)
    for found, old in zip(regions, heads, strict=True):
        before = next(waiting, []) if found.children else []
        if found.digest != old:
            news.append(found)
        else:
            news += [child for child, known in zip(found.children, before, strict=False) if child.digest != known]
    return news


def answer(request: HttpRequest, regions: Sequence[Region], context: Mapping[str, Any]) -> HttpResponse:
    """Return the regions that have changed since `?seen=`, or a 204 if none has."""
    news = changed(regions, request.GET.get("seen", ""))
    if news is None:
        return HttpResponseClientRefresh()
    if not news:
        return HttpResponse(status=204)
    whole = {**context, "news": news, "seen": digests(regions)}
    return HttpResponse(render_to_string("dashboard/_news.html", whole, request))


def asked(request: HttpRequest) -> str:
    """Return the page's own query string, without what the refresh adds to it."""
    query = request.GET.copy()
    query.pop("seen", None)
    return query.urlencode()


def for_the_page(permission: str) -> Callable[[Callable[..., HttpResponse]], Callable[..., HttpResponse]]:
    """Guard a polled view: if the user is logged out, the whole page is reloaded, which leads to the login."""

    def decorate(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not request.user.is_authenticated or not request.user.has_perm(permission):
                return HttpResponseClientRefresh()
            return view(request, *args, **kwargs)

        return guarded

    return decorate
