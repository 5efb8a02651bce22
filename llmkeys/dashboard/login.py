"""Login, with a limit on failed attempts, and changing the password."""

from __future__ import annotations

from typing import Any

from axes.handlers.proxy import AxesProxyHandler
from axes.helpers import get_cool_off, get_failure_limit
from django import forms
from django.contrib import messages
from django.contrib.auth import get_user_model
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.auth.views import LoginView, PasswordChangeView
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from llmkeys.templatetags.llmkeys_format import span
from llmkeys.tokens.throttle import address_of

# The pages on which a person may begin, and the right to see each; `base.html` and `403.html` offer the same.
_FIRST_PAGES = {
    "dashboard": "llmkeys.view_apikey",
    "usage": "llmkeys.view_usagerecord",
    "tokens": "llmkeys.view_accesstoken",
}


def first_page(user: User | AnonymousUser) -> str:
    """Return the URL of the first page that a user may see; if there is none, that of the dashboard, which says so."""
    return reverse(next((page for page, right in _FIRST_PAGES.items() if user.has_perm(right)), "dashboard"))


def _house_style(form: forms.Form) -> None:
    """Set the CSS class of each field."""
    for field in form.fields.values():
        field.widget.attrs["class"] = "input"


class LoginForm(AuthenticationForm):
    error_messages = {**AuthenticationForm.error_messages, "inactive": "This user is disabled."}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        _house_style(self)
        self.fields["username"].label = "User name"

    def get_invalid_login_error(self) -> ValidationError:
        """Return an error that says how many attempts are left; the same for users who do not exist."""
        for field in self.fields.values():
            field.widget.attrs |= {"aria-describedby": "login-error", "aria-invalid": "true"}
        return ValidationError(f"User name and password do not match. {self._what_is_left()}", code="invalid_login")

    def _what_is_left(self) -> str:
        credentials = {"username": self.cleaned_data.get("username")}
        limit, wait = get_failure_limit(self.request, credentials), span(get_cool_off(self.request))
        left = limit - AxesProxyHandler.get_failures(self.request, credentials)
        attempts = "One attempt is left" if left == 1 else f"{left} attempts are left"
        return f"{attempts}; after that, this user name is locked for your address for {wait}."


class Login(LoginView):
    """The login page. `next` only redirects within this site; a logged-in user may log in as someone else."""

    template_name = "registration/login.html"
    authentication_form = LoginForm

    def get_success_url(self) -> str:
        """Return the requested page; the dashboard, to which the bare address leads, only for those who may see it."""
        asked = self.get_redirect_url()
        return first_page(self.request.user) if asked in ("", reverse("dashboard")) else asked

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        nobody_yet = not get_user_model().objects.filter(last_login__isnull=False).exists()
        return super().get_context_data(**kwargs, first_run=nobody_yet)


def locked_out(request: HttpRequest, _response: HttpResponse | None, credentials: dict | None) -> HttpResponse:
    """Return a 429 with the time to wait, also in `Retry-After`. Each attempt starts the wait again (django-axes)."""
    wait = get_cool_off(request)
    context = {"wait": wait, "again": timezone.now() + wait, "limit": get_failure_limit(request, credentials)}
    response = render(request, "locked_out.html", context, status=429)
    response["Retry-After"] = str(int(wait.total_seconds()))
    return response


def client_address(request: HttpRequest) -> str:
    """Return the address for which failures are counted; with HTTPS, the one that our proxy saw."""
    return address_of(request.META)


class NewPasswordForm(PasswordChangeForm):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        _house_style(self)
        self.fields["old_password"].label = "Current password"
        self.fields["new_password1"].label = "New password"
        self.fields["new_password1"].help_text = "At least 8 characters; not a common password, and not only digits."
        self.fields["new_password2"].label = "New password again"
        self.fields["new_password2"].help_text = ""


class Password(PasswordChangeView):
    """Changing the password, which ends all other sessions of the user, because sessions depend on it."""

    template_name = "registration/account_password.html"
    form_class = NewPasswordForm

    def get_success_url(self) -> str:
        return first_page(self.request.user)

    def form_valid(self, form: PasswordChangeForm) -> HttpResponse:
        response = super().form_valid(form)
        messages.success(self.request, "Your password was changed. You are logged out everywhere else.")
        return response
