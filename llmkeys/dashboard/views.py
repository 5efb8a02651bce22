"""The dashboard, and what it asks every few seconds to stay fresh."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from llmkeys.alerts.outbox import put_away
from llmkeys.dashboard.banners import Banner, banners
from llmkeys.dashboard.buttons import button_on
from llmkeys.dashboard.figures import figures
from llmkeys.dashboard.key_list import SEARCHED_FROM, Wanted, key_list
from llmkeys.dashboard.live import Region, answer, digests, for_the_page, listing, region
from llmkeys.dashboard.overview import Overview, overview, turns
from llmkeys.dashboard.spending import spend_chart
from llmkeys.key_state import STATUSES
from llmkeys.models import ProviderName


def home(request: HttpRequest) -> HttpResponse:
    return redirect("dashboard")


def favicon(request: HttpRequest) -> HttpResponse:
    """Answer what browsers ask for on pages that name no icon."""
    return redirect(static("img/favicon.svg"))


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_apikey", raise_exception=True)
def dashboard(request: HttpRequest) -> HttpResponse:
    """Show the sums, who serves, and the keys that are asked for."""
    context = _context(request)
    regions = _regions(request, context)
    context |= {"regions": {one.name: one.markup for one in regions}, "seen": digests(regions)}
    return render(request, "dashboard/dashboard.html", context)


@require_safe
@never_cache
@for_the_page
def live(request: HttpRequest) -> HttpResponse:
    """Answer the dashboard's question: what changed since it last looked."""
    context = _context(request)
    return answer(request, _regions(request, context), context)


@button_on("dashboard")
@login_required
@permission_required("llmkeys.change_apikey", raise_exception=True)
def alert_away(request: HttpRequest, alert_id: int) -> HttpResponse:
    """Take an alert off the dashboard, which stays as it was; pressing twice is harmless."""
    put_away(alert_id, timezone.now())
    return redirect(f"{reverse('dashboard')}?{asked}" if (asked := _asked(request)) else "dashboard")


def _context(request: HttpRequest) -> dict[str, Any]:
    view = overview(at=timezone.now())
    wanted, notices = Wanted.of(request.GET), banners(view)
    return {
        "view": view,
        "banners": notices,
        "keys": key_list(view.cards, wanted),
        "wanted": wanted,
        "title": _title(view, notices),
        "is_wrong": bool(view.attention or any(banner.is_urgent or banner.alert_id for banner in notices)),
        "asked": _asked(request),
        "live_url": f"{reverse('live')}?{_asked(request)}",
        "gateway_url": request.build_absolute_uri("/v1"),
        "searchable": len(view.cards) >= SEARCHED_FROM or wanted.is_filtered,
        "provider_choices": ProviderName.choices,
        "statuses": STATUSES,
    }


def _asked(request: HttpRequest) -> str:
    """Return the page's own query without what the refresh adds to it."""
    query = request.GET.copy()
    query.pop("seen", None)
    return query.urlencode()


def _title(view: Overview, notices: list[Banner]) -> str:
    """Return what the tab says: the worst first."""
    urgent = next((banner.title for banner in notices if banner.is_urgent), "")
    if urgent:
        return urgent.rstrip(".").removesuffix(" right now").partition(":")[0]
    if view.attention:
        number = len(view.attention)
        return f"{number} key{'s' if number > 1 else ''} need{'' if number > 1 else 's'} attention"
    return "Dashboard"


def _regions(request: HttpRequest, context: dict[str, Any]) -> list[Region]:
    """Return the page's parts in their order; each is drawn from what was read once."""
    view = context["view"]
    parts = {"head": "_top.html", "said": "_said.html", "banners": "_banners.html", "figures": "_figures.html"}
    more: dict[str, Any] = {"figures": figures(view)}
    if view.cards:
        parts |= {"turns": "_turns.html", "spend": "_spend.html", "keys": "_keys.html"}
        more |= {"turns": turns(view), "chart": spend_chart(view, context["wanted"].by or "key")}
    found = [region(request, name, f"dashboard/{file}", {**context, **more}) for name, file in parts.items()]
    cards = ((f"card-{card.key.id}", {"card": card}) for card in context["keys"].cards)
    return [*found, listing(request, "cards", "dashboard/_card.html", cards)]
