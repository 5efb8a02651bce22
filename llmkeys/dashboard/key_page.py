"""The page of a key, and its buttons and forms. Every button is a POST, and shows a message about its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.text import capfirst
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe
from django_htmx.http import HttpResponseClientRefresh
from django_htmx.middleware import HtmxDetails

from llmkeys.account_fields import show_refusal
from llmkeys.dashboard.accounts import PARTS, account_parts
from llmkeys.dashboard.buttons import button_on
from llmkeys.dashboard.forms import AddKeyForm, EditKeyForm, KeyForm
from llmkeys.dashboard.live import Region, answer, digests, for_the_page, region
from llmkeys.dashboard.overview import Card, cooling_of, coolings_at
from llmkeys.exceptions import DuplicateSecret, InvalidInput, LLMKeysError
from llmkeys.key_state import ACTIVE
from llmkeys.keys import adding, testing
from llmkeys.lib.money import usd_to_nano
from llmkeys.models import ApiKey
from llmkeys.presentation import Projections
from llmkeys.relay.serving import serving_order
from llmkeys.templatetags.llmkeys_format import usd
from llmkeys.usage.rows import open_requests

_PARTS = {"top": "_key_top.html", **PARTS, "about": "_key_about.html", "own": "_key_own.html"}


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_apikey", raise_exception=True)
def key_page(request: HttpRequest, key_id: str) -> HttpResponse:
    """Show a key; the number of queries does not grow with its usage."""
    context = _context(key_id)
    regions = _regions(request, context)
    context |= {"regions": {one.name: one.markup for one in regions}, "seen": digests(regions)}
    return render(request, "dashboard/key_page.html", context)


@require_safe
@never_cache
@for_the_page("llmkeys.view_apikey")
def live(request: HttpRequest, key_id: str) -> HttpResponse:
    """Return what has changed since the page was last refreshed."""
    context = _context(key_id)
    return answer(request, _regions(request, context), context)


def _regions(request: HttpRequest, context: Mapping[str, Any]) -> list[Region]:
    return [region(request, name, f"dashboard/{file}", context) for name, file in _PARTS.items()]


def _context(key_id: str) -> dict[str, Any]:
    at = timezone.now()
    key = get_object_or_404(ApiKey.objects.stored().defer("secret", "fingerprint"), pk=key_id)
    card = _card(key, at)
    return {
        **account_parts(key, "key", at),
        "key": key,
        "card": card,
        "at": at,
        "title": key.name,
        "is_wrong": card.needs_attention,
        "own": own_figures(key),
        "live_url": reverse("key-live", args=[key.pk]),
    }


def _card(key: ApiKey, at: datetime) -> Card:
    status, opened = key.status_at(at), open_requests() if key.held_nano else {}
    rank = _rank(key, at) if status == ACTIVE else None
    projected = Projections(at, only=[key.pk]).of(key)
    return Card(key, at, status, cooling_of(key, coolings_at(at)), opened.get(key.pk, 0), rank, projected)


def _rank(key: ApiKey, at: datetime) -> int | None:
    """Return the key's place in the serving order; the other keys' statuses are read in one query."""
    active = set(ApiKey.objects.stored().with_status(at).filter(status=ACTIVE).values_list("pk", flat=True))
    _, order = serving_order(active, at=at)
    return order.index(key.pk) if key.pk in order else None


# --- what the provider says, and what happened ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fact:
    word: str
    value: str


# Labels of the providers' figures; amounts are in USD.
_AMOUNTS = {
    "limitRemaining": "Credit left",
    "limit": "Limit there",
    "usage": "Used, all time",
    "usageDaily": "Used today",
    "usageMonthly": "Used this month",
}
_OTHERS = {"limitReset": "Limit resets", "expiresAt": "Expires there", "modelsListed": "Models listed"}


def own_figures(key: ApiKey) -> list[Fact]:
    """Return the figures that the provider gave in the key's last test."""
    details = key.last_test.get("details") if isinstance(key.last_test, dict) else None
    if not isinstance(details, dict):
        return []
    facts = [Fact(word, usd(nano)) for name, word in _AMOUNTS.items() if (nano := _nano(details.get(name))) is not None]
    facts += [Fact(word, str(details[name])[:60]) for name, word in _OTHERS.items() if details.get(name)]
    used = _nano(details.get("usage"))
    if used is not None:
        facts.append(Fact("Difference to ours", usd(used - key.spent_total_nano)))
    return facts


def _nano(value: Any) -> int | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return usd_to_nano(Decimal(str(value)))
    except (ValueError, InvalidOperation):
        return None


# --- forms and buttons ------------------------------------------------------------------------------------------------


Verb = Callable[[HttpRequest, ApiKey], HttpResponse | None]


def _back_to(key: ApiKey, request: HttpRequest) -> HttpResponse:
    """Redirect to the key's page if the button was there, otherwise to its card, in the list as it was filtered."""
    if request.POST.get("from") == "key":
        return redirect("key", key.pk)
    return redirect(f"{_list_url(request)}#{key.pk}")


def _list_url(request: HttpRequest) -> str:
    """Return the URL of the list, as it was filtered where the link or button was."""
    query = _asked_of_list(request)
    return reverse("dashboard") + (f"?{query}" if query else "")


def _asked_of_list(request: HttpRequest) -> str:
    """Return the query of the list, without `field`, which a card's remedy link adds for the form."""
    query = request.GET.copy()
    query.pop("field", None)
    return query.urlencode()


def _action(permission: str) -> Callable[[Verb], Callable[..., HttpResponse]]:
    """Return a decorator for button views, which checks the permission, finds the key and shows errors as messages."""

    def decorate(verb: Verb) -> Callable[..., HttpResponse]:
        @button_on("key", "key_id")
        @login_required
        @permission_required(permission, raise_exception=True)
        @wraps(verb)
        def view(request: HttpRequest, key_id: str) -> HttpResponse:
            key = get_object_or_404(ApiKey.objects.stored(), pk=key_id)
            try:
                verb(request, key)
            except LLMKeysError as error:
                messages.error(request, str(error))
            return _back_to(key, request)

        return view

    return decorate


@_action("llmkeys.change_apikey")
def test(request: HttpRequest, key: ApiKey) -> None:
    """Test the key with a free call to its provider, and show the result."""
    result = testing.test_key(key, at=timezone.now(), actor=request.user.get_username())
    if result.ok:
        messages.success(request, f"“{key.name}”: {result.message} ({result.latency_ms} ms).")
    else:
        messages.error(request, f"“{key.name}”: {result.message}")


test.__test__ = False  # type: ignore[attr-defined]  # not a test function, despite the name


@_action("llmkeys.change_apikey")
def set_default(request: HttpRequest, key: ApiKey) -> None:
    adding.set_default(key, at=timezone.now(), actor=request.user.get_username())
    messages.success(request, f"“{key.name}” is the default key now.")


@_action("llmkeys.change_apikey")
def toggle(request: HttpRequest, key: ApiKey) -> None:
    """Enable or disable the key as the button said, so that pressing it twice does no harm."""
    active = request.POST.get("active") == "true"
    key = adding.toggle(key, active=active, at=timezone.now(), actor=request.user.get_username())
    messages.success(request, f"“{key.name}” is switched {'on' if key.enabled else 'off'}.")
    if active and key.rejected_at:
        messages.warning(
            request, "Its provider has rejected it: it needs a successful test or a new secret to serve again."
        )


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@login_required
@permission_required("llmkeys.delete_apikey", raise_exception=True)
def delete(request: HttpRequest, key_id: str) -> HttpResponse:
    """Ask for confirmation, then delete the key; its history stays."""
    key = get_object_or_404(ApiKey.objects.stored(), pk=key_id)
    if request.method != "POST":
        return render(request, "dashboard/key_delete.html", {"key": key, "asked": _asked_of_list(request)})
    try:
        adding.delete_key(key, at=timezone.now(), actor=request.user.get_username())
    except LLMKeysError as error:
        messages.error(request, str(error))
        return _back_to(key, request)
    messages.success(request, f"“{key.name}” was deleted. Its secret is wiped; its usage stays in all totals.")
    return redirect(_list_url(request))


# --- the form of a key: a page, or inside a dialog, where htmx fetches it ------------------------------------------


class HtmxRequest(HttpRequest):
    htmx: HtmxDetails


@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@login_required
@permission_required("llmkeys.add_apikey", raise_exception=True)
def add(request: HtmxRequest) -> HttpResponse:
    """Show the form, or store the key; the secret is never sent back."""
    form = AddKeyForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        key = _saved(form, lambda values: adding.add_key(values=values, at=timezone.now(), actor=_who(request)))
        if key is not None:
            messages.success(request, f"“{key.name}” was added. Test it to see whether its provider accepts it.")
            return _done(request, key)
    form.focus_on(request.GET.get("field", "name"))
    return _show(request, form)


@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@login_required
@permission_required("llmkeys.change_apikey", raise_exception=True)
def edit(request: HtmxRequest, key_id: str) -> HttpResponse:
    """Show the form, or change the key; an empty secret keeps the stored one."""
    key = get_object_or_404(ApiKey.objects.stored(), pk=key_id)
    form, old_secret = EditKeyForm(key, request.POST or None), key.fingerprint
    if request.method == "POST" and form.is_valid():
        changed = _saved(
            form, lambda values: adding.update_key(key, values=values, at=timezone.now(), actor=_who(request))
        )
        if changed is not None:
            replaced = changed.fingerprint != old_secret
            messages.success(request, f"“{changed.name}” was saved{', with its new API key' if replaced else ''}.")
            return _done(request, changed)
        key.refresh_from_db()  # a refused change may have modified the object, which the page shows
    form.focus_on(request.GET.get("field", "name"))
    return _show(request, form, key)


@sensitive_post_parameters()
@button_on("key-add")
@never_cache
@login_required
@permission_required("llmkeys.add_apikey", raise_exception=True)
def try_secret(request: HtmxRequest) -> HttpResponse:
    """Test the secret in the form without storing it."""
    form = AddKeyForm(request.POST)
    return _show_result(request, form, _tried(form, form.data.get("provider", "")))


@sensitive_post_parameters()
@button_on("key-edit", "key_id")
@never_cache
@login_required
@permission_required("llmkeys.change_apikey", raise_exception=True)
def try_again(request: HtmxRequest, key_id: str) -> HttpResponse:
    """Test the secret in the form without storing it, or the stored one if there is none in the form."""
    key = get_object_or_404(ApiKey.objects.stored(), pk=key_id)
    form = EditKeyForm(key, request.POST)
    if request.POST.get("apiKey", "").strip() and "apiKey" in form.fields:
        return _show_result(request, form, _tried(form, key.provider), key)
    try:
        result = testing.test_key(key, at=timezone.now(), actor=_who(request))
    except LLMKeysError as error:
        result = testing.TestResult(False, str(error), 0)
    return _show_result(request, form, result, key)


def _tried(form: KeyForm, provider: str) -> testing.TestResult:
    names = ("apiKey", "workspaceId")
    values = {"provider": provider, **{name: form.data.get(name, "") for name in names}}
    try:
        return testing.try_secret(values=values, at=timezone.now())
    except InvalidInput as error:
        words = " ".join(capfirst(sentence) for sentences in error.errors.values() for sentence in sentences)
        return testing.TestResult(False, words, 0)
    except LLMKeysError as error:
        return testing.TestResult(False, str(error), 0)


def _saved(form: KeyForm, verb: Callable[[dict[str, Any]], ApiKey]) -> ApiKey | None:
    """Save the form with `verb`; return None if it was refused, with the errors added to the form."""
    try:
        return verb(form.values(at=timezone.now()))
    except DuplicateSecret as error:
        form.add_error("apiKey", str(error))
    except LLMKeysError as error:
        show_refusal(form, error)
    return None


def _who(request: HttpRequest) -> str:
    return request.user.get_username()


def _done(request: HtmxRequest, key: ApiKey) -> HttpResponse:
    """Redirect to the key's card; the page behind a dialog is reloaded, on the dashboard at the card."""
    if not request.htmx:
        return _back_to(key, request)
    answer = HttpResponseClientRefresh()
    if urlsplit(request.htmx.current_url or "").path == reverse("dashboard"):
        answer["HX-Redirect"] = f"#{key.pk}"  # jumps there before it reloads, and keeps the page's filters
    return answer


def _show(request: HtmxRequest, form: KeyForm, key: ApiKey | None = None, **more: Any) -> HttpResponse:
    template = "dashboard/_key_form.html" if request.htmx else "dashboard/key_form.html"
    return render(request, template, {"form": form, "key": key, "asked": _asked_of_list(request), **more})


def _show_result(
    request: HtmxRequest, form: KeyForm, result: testing.TestResult, key: ApiKey | None = None
) -> HttpResponse:
    if request.htmx:
        return render(request, "dashboard/_tried.html", {"result": result})
    return _show(request, form, key, result=result)
