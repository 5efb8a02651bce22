"""The usage page, its CSV, a request's page, and taking a lost charge back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from llmkeys.dashboard import request_page
from llmkeys.dashboard.buttons import button_on
from llmkeys.dashboard.usage_filters import RANGES, RESULTS, STACKS, STATES, UsageFilters, read_filters
from llmkeys.dashboard.usage_rows import Page, matching_rows, page_of
from llmkeys.dashboard.usage_totals import totals_of
from llmkeys.exceptions import LLMKeysError
from llmkeys.models import AccessToken, ApiKey, ProviderName, UsageRecord
from llmkeys.templatetags.llmkeys_format import usd
from llmkeys.usage.rows import csv_lines, in_chunks
from llmkeys.usage.voiding import void_usage

_LONGEST_REASON = 400


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_usagerecord", raise_exception=True)
def usage(request: HttpRequest) -> HttpResponse:
    """Show what the filters leave: numbers and chart from the daily totals, and the rows themselves."""
    at = timezone.now()
    filters = read_filters(request.GET, at=at)
    keys = list(ApiKey.objects.order_by("deleted_at", "name", "id").values("id", "name", "deleted_at"))
    names = {key["id"]: key["name"] for key in keys}
    totals = totals_of(filters, names=names, at=at)
    page = page_of(
        filters, before=request.GET.get("before", ""), after=request.GET.get("after", ""), names=names
    )  # fmt: skip
    context = {
        "at": at,
        "filters": filters,
        "ranges": _links(filters, "range", RANGES, chosen=filters.range, since="", until=""),
        "stacks": _links(filters, "by", STACKS, chosen=filters.stack),
        "chips": _chips(filters, names),
        "form": _form(filters, keys, page, totals.models),
        "totals": totals,
        "page": page,
        "zone": settings.TIME_ZONE,
    }
    return render(request, "dashboard/usage.html", context)


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_usagerecord", raise_exception=True)
def csv(request: HttpRequest) -> StreamingHttpResponse:
    """Stream every row that the filters leave, in the columns of the REST API."""
    rows = matching_rows(read_filters(request.GET, at=timezone.now()))
    return StreamingHttpResponse(
        csv_lines(in_chunks(rows)),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="usage.csv"'},
    )


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_usagerecord", raise_exception=True)
def request(http: HttpRequest, request_id: str) -> HttpResponse:
    """Show every attempt of one request."""
    found = request_page.told(request_id)
    if found is None:
        return render(http, "dashboard/request_unknown.html", {"request_id": request_id[:100]}, status=404)
    return render(http, "dashboard/request.html", {"told": found, "section": "usage"})


@button_on("usage")
@login_required
@permission_required("llmkeys.change_usagerecord", raise_exception=True)
def void(request: HttpRequest, usage_id: int) -> HttpResponse:
    """Take the charge of a lost attempt back, with who and why."""
    if usage_id >= 2**63:
        raise Http404
    row = get_object_or_404(UsageRecord.objects.only("request_id"), pk=usage_id)
    reason = "".join(letter for letter in request.POST.get("reason", "") if letter.isprintable())
    try:
        amount = void_usage(
            row.pk, at=timezone.now(), actor=request.user.get_username(), reason=reason.strip()[:_LONGEST_REASON]
        )
        messages.success(request, f"{usd(amount)} were taken back; the key has them again.")
    except LLMKeysError as error:
        messages.error(request, str(error))
    return redirect("request", row.request_id)


# --- the filters as links, chips and fields ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    word: str
    query: str
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that is on, with the query that takes it off."""

    name: str
    value: str
    without: str


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the filter form: a choice where `options` are given, else free text with suggestions."""

    name: str
    label: str
    value: str
    options: Iterable[tuple[str, str]] = ()
    suggestions: Iterable[str] = ()
    type: str = "text"


def _links(filters: UsageFilters, name: str, words: dict[str, str], *, chosen: str, **changes: str) -> list[Link]:
    return [Link(word, filters.query(**{name: value}, **changes), value == chosen) for value, word in words.items()]


def _chips(filters: UsageFilters, names: dict[str, str]) -> list[Chip]:
    words = {
        "since": ("From", filters.get("since")),
        "until": ("Until", filters.get("until")),
        "key": ("Key", names.get(filters.get("key"), filters.get("key"))),
        "provider": ("Provider", dict(ProviderName.choices).get(filters.get("provider"), "")),
        "model": ("Model", filters.get("model")),
        "token": ("Token", filters.get("token")),
        "state": ("Status", STATES.get(filters.get("state"), "")),
        "success": ("Result", RESULTS.get(filters.get("success"), "")),
    }
    return [
        Chip(word, value, filters.query(**{name: ""})) for name, (word, value) in words.items() if filters.get(name)
    ]


def _form(filters: UsageFilters, keys: Sequence[Mapping[str, Any]], page: Page, models: list[str]) -> list[Field]:
    key_options = [(key["id"], key["name"] + (" (deleted)" if key["deleted_at"] else "")) for key in keys]
    tokens = {line.row.token_name for line in page.lines} | set(_token_names())
    in_sight = {line.row.model for line in page.lines} | set(models)
    return [
        Field("key", "Key", filters.get("key"), _with_given(key_options, filters.get("key"))),
        Field("provider", "Provider", filters.get("provider"), ProviderName.choices),
        Field("model", "Model", filters.get("model"), suggestions=sorted(in_sight)),
        Field("token", "Token", filters.get("token"), suggestions=sorted(filter(None, tokens))),
        Field("state", "Status", filters.get("state"), STATES.items()),
        Field("success", "Result", filters.get("success"), RESULTS.items()),
        Field("since", "From", filters.get("since"), type="date"),
        Field("until", "Until", filters.get("until"), type="date"),
    ]


def _with_given(options: list[tuple[str, str]], given: str) -> list[tuple[str, str]]:
    """Keep a key that is unknown among the options, so that applying the form does not drop its filter."""
    return options if not given or any(value == given for value, _ in options) else [*options, (given, given)]


def _token_names() -> Iterable[str]:
    return AccessToken.objects.order_by("-id").values_list("name", flat=True)[:200]
