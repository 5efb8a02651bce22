"""The dashboard, log in and log out: pages for people, without any script."""

from __future__ import annotations

from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from llmkeys import vault
from llmkeys.dashboard import overview
from llmkeys.dashboard.forms import LoginForm
from llmkeys.exceptions import LLMKeysError


class Login(LoginView):
    template_name = "registration/login.html"
    authentication_form = LoginForm

    def get_context_data(self, **kwargs) -> dict:
        nobody_yet = not get_user_model().objects.filter(last_login__isnull=False).exists()
        return super().get_context_data(**kwargs, first_run=nobody_yet)


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
    """Show the sums, who serves, and every key."""
    view = overview.overview(at=timezone.now())
    show = request.GET.get("show", "")
    shown = {"available": view.available, "attention": view.attention}.get(show, view.cards)
    context = {
        "view": view,
        "shown": shown,
        "show": show if show in ("available", "attention") else "",
        "figures": overview.figures(view),
        "turns": overview.turns(view),
        "trouble": overview.trouble(view),
        "sealed": _sealed(),
        "gateway_url": request.build_absolute_uri("/v1"),
    }
    return render(request, "dashboard/dashboard.html", context)


def _sealed() -> str:
    """Return why the stored secrets cannot be read, an empty string where they can."""
    try:
        vault.verify()
    except LLMKeysError as error:
        return str(error)
    return ""
