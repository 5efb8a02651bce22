"""The page of an access token, and its buttons and forms. What it shares with a key's page is in `accounts.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from hashlib import blake2s
from typing import Any, cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from llmkeys.account_fields import show_refusal
from llmkeys.dashboard.accounts import PARTS, account_parts
from llmkeys.dashboard.buttons import button_on
from llmkeys.dashboard.forms import OVERLAPS, Choice, EditTokenForm
from llmkeys.dashboard.live import Region, answer, digests, for_the_page, region
from llmkeys.dashboard.tokens_page import TokenCard, UserRequest, show_once, token_cards, with_keys
from llmkeys.exceptions import LLMKeysError
from llmkeys.key_state import AccessTokenQuerySet
from llmkeys.keys.resets import reset_costs
from llmkeys.models import AccessToken
from llmkeys.presentation import csv_file
from llmkeys.templatetags.llmkeys_format import usd
from llmkeys.tokens.making import change_token, revoke_token, rotate_token, visible_tokens
from llmkeys.usage import filters
from llmkeys.usage.statements import Statement, months_of, statement_of

_PARTS = {"top": "_token_top.html", **PARTS, "about": "_token_about.html"}
_HIGHEST = 2**63


def _token(request: UserRequest, token_id: int) -> AccessToken:
    """Return a token that this user may see: their own, or any for an administrator. Raises Http404."""
    visible = cast(AccessTokenQuerySet, visible_tokens(request.user))
    token = with_keys(visible).filter(pk=token_id).first() if token_id < _HIGHEST else None
    if token is None:
        raise Http404
    return token


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_accesstoken", raise_exception=True)
def token_page(request: UserRequest, token_id: int) -> HttpResponse:
    """Show a token; the number of queries does not grow with its usage."""
    return _show(request, _token(request, token_id))


@require_safe
@never_cache
@for_the_page("llmkeys.view_accesstoken")
def live(request: UserRequest, token_id: int) -> HttpResponse:
    """Return what has changed since the page was last refreshed."""
    context = _context(_token(request, token_id))
    return answer(request, _regions(request, context), context)


def _show(request: UserRequest, token: AccessToken, form: EditTokenForm | None = None) -> HttpResponse:
    context = _context(token)
    regions = _regions(request, context)
    may_change = request.user.has_perm("llmkeys.change_accesstoken") and token.revoked_at is None
    context |= {
        "regions": {one.name: one.markup for one in regions},
        "seen": digests(regions),
        "form": (form or EditTokenForm(token, token.keys.all())) if may_change else None,
    }
    return render(request, "dashboard/token_page.html", context)


def _regions(request: HttpRequest, context: Mapping[str, Any]) -> list[Region]:
    return [region(request, name, f"dashboard/{file}", context) for name, file in _PARTS.items()]


def _context(token: AccessToken) -> dict[str, Any]:
    at = timezone.now()
    card: TokenCard = token_cards([token], at=at)[0]
    return {
        **account_parts(token, "token", at),
        "token": token,
        "card": card,
        "at": at,
        "title": token.name,
        "is_wrong": card.needs_attention,
        "live_url": reverse("token-live", args=[token.pk]),
        "section": "tokens",
    }


# --- actions ----------------------------------------------------------------------------------------------------------


Verb = Callable[[UserRequest, AccessToken], HttpResponse]


def _verb(permission: str) -> Callable[[Verb], Callable[..., HttpResponse]]:
    """Return a decorator for views that ask for confirmation on GET; it checks the permission and finds the token."""

    def decorate(verb: Verb) -> Callable[..., HttpResponse]:
        @require_http_methods(["GET", "HEAD", "POST"])
        @never_cache
        @login_required
        @permission_required(permission, raise_exception=True)
        def view(request: UserRequest, token_id: int) -> HttpResponse:
            return verb(request, _token(request, token_id))

        return view

    return decorate


@button_on("token", "token_id")
@never_cache
@login_required
@permission_required("llmkeys.change_accesstoken", raise_exception=True)
def edit(request: UserRequest, token_id: int) -> HttpResponse:
    """Save the changed fields; errors are shown next to the fields, on the token's page."""
    token = _token(request, token_id)
    form = EditTokenForm(token, token.keys.all(), request.POST)
    if form.is_valid():
        at = timezone.now()
        try:
            change_token(token, values=form.values(at), at=at, actor=request.user.get_username())
        except LLMKeysError as error:
            show_refusal(form, error)
            token = _token(request, token_id)  # a refused change may have modified the object
        else:
            messages.success(request, f"“{token.name}” was saved.")
            return redirect("token", token.pk)
    return _show(request, token, form)


@_verb("llmkeys.change_accesstoken")
@sensitive_variables()
def rotate(request: UserRequest, token: AccessToken) -> HttpResponse:
    """Ask how long the old secret stays valid, then create a new one and show it once."""
    chosen, rotates = request.POST.get("overlap", "0"), _mark(token)
    if request.POST.get("rotates", rotates) != rotates:
        messages.warning(
            request,
            f"This form has already been submitted, or somebody else has rotated “{token.name}” since, so nothing was "
            "changed. The secret is shown only once; if you did not copy it, rotate the token again.",
        )
        return redirect("token", token.pk)
    error = "" if chosen in OVERLAPS else f"Choose from: {', '.join(OVERLAPS.values()).lower()}."
    if request.method == "POST" and not error:
        at = timezone.now()
        try:
            token, text = rotate_token(token, overlap_seconds=int(chosen), at=at, actor=request.user.get_username())
        except LLMKeysError as refused:
            error = str(refused)
        else:
            return show_once(request, token, text, rotated=True)
    choices = [Choice(name, word, name == chosen) for name, word in OVERLAPS.items()]
    context = {"token": token, "rotates": rotates, "choices": choices, "error": error, "section": "tokens"}
    return render(request, "dashboard/token_rotate.html", context)


def _mark(token: AccessToken) -> str:
    """Return a value that changes with the secret without revealing it, so that a resubmitted form is recognised."""
    return blake2s(token.digest.encode(), digest_size=8).hexdigest()


@_verb("llmkeys.change_accesstoken")
def reset(request: UserRequest, token: AccessToken) -> HttpResponse:
    """Ask which costs to reset, then set them to zero."""
    at = timezone.now()
    chosen = {window: window in request.POST for window in ("daily", "monthly", "total")}
    if request.method == "POST" and any(chosen.values()):
        done = reset_costs([token], **chosen, at=at, actor=request.user.get_username())
        if not done:
            messages.info(request, "There was nothing to reset: these costs are already 0.")
        for one in done:
            taken = max(one.day_nano, one.month_nano, one.total_nano)
            words = ", ".join(window for window, wanted in chosen.items() if wanted)
            messages.success(request, f"The {words} costs of “{token.name}” were reset: up to {usd(taken)}.")
        return redirect("token", token.pk)
    context = {
        "token": token,
        "budgets": list(zip(chosen, token_cards([token], at=at)[0].budgets, strict=True)),
        "error": "Choose at least one." if request.method == "POST" else "",
        "section": "tokens",
    }
    return render(request, "dashboard/token_reset.html", context)


@_verb("llmkeys.delete_accesstoken")
def revoke(request: UserRequest, token: AccessToken) -> HttpResponse:
    """Ask for confirmation, then revoke the token and those that it created."""
    if request.method != "POST":
        return render(request, "dashboard/token_revoke.html", {"token": token, "section": "tokens"})
    revoke_token(token, at=timezone.now(), actor=request.user.get_username())
    messages.success(request, f"“{token.name}” was revoked: requests with it are refused from now on.")
    return redirect("tokens")


# --- the statement of a month -----------------------------------------------------------------------------------------


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_accesstoken", raise_exception=True)
def statement(request: UserRequest, token_id: int) -> HttpResponse:
    """Show what the token cost in a month, on a printable page."""
    at = timezone.now()
    found, months = _statement(request, token_id, at)
    context = {"statement": found, "token": found.token, "months": months, "at": at, "section": "tokens"}
    return render(request, "dashboard/token_statement.html", context)


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_accesstoken", raise_exception=True)
def statement_csv(request: UserRequest, token_id: int) -> StreamingHttpResponse:
    """Return the statement as CSV."""
    found, _ = _statement(request, token_id, timezone.now())
    return csv_file(f"statement-{found.token.pk}-{found.month:%Y-%m}", found.csv_lines())


def _statement(request: UserRequest, token_id: int, at: datetime) -> tuple[Statement, list[date]]:
    """Return the statement of the requested month (default: this one), and all months. Raises Http404 for others."""
    token = _token(request, token_id)
    months = months_of(token, at=at)
    try:
        month = filters.month(request.GET["month"]) if request.GET.get("month") else months[0]
    except ValueError as error:
        raise Http404(str(error)) from None
    if month not in months:
        raise Http404(f"There is no statement of {month:%Y-%m}.")
    return statement_of(token, month, at=at), months
