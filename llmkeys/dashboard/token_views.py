"""Access tokens: the list, a new one (shown once, in the answer to its making and nowhere else), revoking."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.models import User
from django.db.models import Prefetch
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from llmkeys.dashboard.snippets import snippets_for
from llmkeys.dashboard.token_forms import SCOPE_WORDS, TokenForm
from llmkeys.dashboard.usage_words import Badge
from llmkeys.exceptions import InvalidInput
from llmkeys.models import AccessToken, ApiKey
from llmkeys.tokens.making import create_token, revoke_token, visible_tokens

_PLACEHOLDER = "rfk_YOUR_TOKEN"
_MOST = 500


class UserRequest(HttpRequest):
    """One that passed `login_required`."""

    user: User


@dataclass(frozen=True, slots=True)
class TokenLine:
    """One token of the list."""

    token: AccessToken
    badge: Badge
    keys: list[ApiKey]
    is_open: bool

    @property
    def scope_words(self) -> list[str]:
        return ["manage"] if self.token.scope_manage else self.token.scopes

    @property
    def key_words(self) -> str:
        if not self.token.limited_to_keys:
            return "every key"
        return ", ".join(key.name for key in self.keys) or "none: its keys are deleted"


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_accesstoken", raise_exception=True)
def tokens(request: UserRequest) -> HttpResponse:
    """Show the tokens that hold first, then those that ended, newest first."""
    at = timezone.now()
    keys = Prefetch("keys", queryset=ApiKey.objects.stored().only("id", "name").order_by("name"))
    rows = visible_tokens(request.user).prefetch_related(keys).order_by("-created_at", "-id")
    lines = [_line(token, at) for token in rows[: _MOST + 1]]
    context = {
        "lines": sorted(lines[:_MOST], key=lambda line: not line.is_open),
        "open": sum(line.is_open for line in lines[:_MOST]),
        "most": _MOST if len(lines) > _MOST else 0,
        "snippets": snippets_for(_PLACEHOLDER, base=_base(request), scopes=["gateway", "read"]),
    }
    return render(request, "dashboard/tokens.html", context)


def _line(token: AccessToken, at: datetime) -> TokenLine:
    badge = _badge(token, at)
    return TokenLine(token, badge, list(token.keys.all()), is_open=badge.word == "Valid")


def _badge(token: AccessToken, at: datetime) -> Badge:
    if token.revoked_at:
        return Badge("Revoked", "", "s-cross")
    if not token.user.is_active:
        return Badge("Ended with its user", "", "s-cross")
    if token.expires_at and token.expires_at <= at:
        return Badge("Expired", "", "s-diamond")
    return Badge("Valid", "ok", "s-disc")


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@login_required
@permission_required("llmkeys.add_accesstoken", raise_exception=True)
@sensitive_variables()
def create(request: UserRequest) -> HttpResponse:
    """Show the form, or make the token and show its text: in this answer alone, which nothing may store."""
    form = TokenForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        made = _make(request, form)
        if made is not None:
            token, text = made
            shown = snippets_for(text, base=_base(request), scopes=token.scopes)
            context = {"token": token, "text": text, "snippets": shown, "scopes": _scopes_in_words(token)}
            return render(request, "dashboard/token_created.html", context)
    return render(request, "dashboard/token_create.html", {"form": form})


def _make(request: UserRequest, form: TokenForm) -> tuple[AccessToken, str] | None:
    at = timezone.now()
    try:
        return create_token(user=request.user, at=at, **form.values(at))
    except InvalidInput as error:
        form.take_errors(error.errors)
    return None


def _scopes_in_words(token: AccessToken) -> str:
    return ", ".join(SCOPE_WORDS[scope][0].lower() for scope in token.scopes)


def _base(request: HttpRequest) -> str:
    return request.build_absolute_uri("/")


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@login_required
@permission_required("llmkeys.delete_accesstoken", raise_exception=True)
def revoke(request: UserRequest, token_id: int) -> HttpResponse:
    """Ask first, saying what it means; then end the token."""
    if token_id >= 2**63:
        raise Http404
    token = get_object_or_404(visible_tokens(request.user), pk=token_id)
    if request.method != "POST":
        return render(request, "dashboard/token_revoke.html", {"token": token})
    revoke_token(token, at=timezone.now())
    messages.success(request, f"“{token.name}” is revoked: requests with it are refused from now on.")
    return redirect("tokens")
