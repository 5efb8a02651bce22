"""What a person does to a key. Each verb is one service call, answered by a message on the dashboard."""

from __future__ import annotations

from functools import wraps

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from llmkeys.dashboard.forms import AddKeyForm
from llmkeys.exceptions import DuplicateSecret, InvalidInput, LLMKeysError
from llmkeys.models import ApiKey
from llmkeys.services import keys


def _back_to(key: ApiKey) -> HttpResponse:
    """Return to the key's card: with many keys a person stays where they were."""
    return redirect(f"{reverse('dashboard')}#{key.pk}")


def _action(permission: str):
    """Make a view of a verb: POST only, with the right it needs, the key looked up, a refusal told as a message."""

    def decorate(verb):
        @require_POST
        @login_required
        @permission_required(permission, raise_exception=True)
        @wraps(verb)
        def view(request: HttpRequest, key_id: str) -> HttpResponse:
            key = get_object_or_404(ApiKey.objects.stored(), pk=key_id)
            try:
                verb(request, key)
            except LLMKeysError as error:
                messages.error(request, str(error))
            return _back_to(key)

        return view

    return decorate


@_action("llmkeys.change_apikey")
def test(request: HttpRequest, key: ApiKey) -> None:
    """Ask the provider with a call that costs nothing, and say what it answered."""
    result = keys.test_key(key, at=timezone.now(), actor=request.user.get_username())
    if result.ok:
        messages.success(request, f"“{key.name}”: {result.message} ({result.latency_ms} ms).")
    else:
        messages.error(request, f"“{key.name}”: {result.message}")


test.__test__ = False  # no test function, whatever pytest thinks of the name


@_action("llmkeys.change_apikey")
def set_default(request: HttpRequest, key: ApiKey) -> None:
    keys.set_default(key, at=timezone.now(), actor=request.user.get_username())
    messages.success(request, f"“{key.name}” is the default key now.")


@_action("llmkeys.change_apikey")
def toggle(request: HttpRequest, key: ApiKey) -> None:
    """Switch on or off as the button said, so that pressing it twice is harmless."""
    active = request.POST.get("active") == "true"
    key = keys.toggle(key, active=active, at=timezone.now(), actor=request.user.get_username())
    messages.success(request, f"“{key.name}” is switched {'on' if key.enabled else 'off'}.")
    if active and key.rejected_at:
        messages.warning(
            request, "Its provider has rejected it: only a successful test or a new secret brings it back."
        )


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@login_required
@permission_required("llmkeys.delete_apikey", raise_exception=True)
def delete(request: HttpRequest, key_id: str) -> HttpResponse:
    """Ask first, saying what it means; then wipe the secret and keep the history."""
    key = get_object_or_404(ApiKey.objects.stored(), pk=key_id)
    if request.method != "POST":
        return render(request, "dashboard/key_delete.html", {"key": key})
    try:
        keys.delete_key(key, at=timezone.now(), actor=request.user.get_username())
    except LLMKeysError as error:
        messages.error(request, str(error))
        return _back_to(key)
    messages.success(request, f"“{key.name}” was deleted. Its secret is wiped; its usage stays in the sums.")
    return redirect("dashboard")


@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@login_required
@permission_required("llmkeys.add_apikey", raise_exception=True)
def add(request: HttpRequest) -> HttpResponse:
    """Show the form, or store the key; the secret is never sent back."""
    form = AddKeyForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        key = _store(request, form)
        if key is not None:
            messages.success(request, f"“{key.name}” was added. Test it to see whether its provider accepts it.")
            return _back_to(key)
    return render(request, "dashboard/key_add.html", {"form": form})


def _store(request: HttpRequest, form: AddKeyForm) -> ApiKey | None:
    try:
        return keys.add_key(values=form.values(), at=timezone.now(), actor=request.user.get_username())
    except InvalidInput as error:
        form.take_errors(error.errors)
    except DuplicateSecret as error:
        form.add_error("apiKey", str(error))
    except LLMKeysError as error:
        form.add_error(None, str(error))
    return None
