"""Token creation forms: submitting one twice, by reloading the page with the secret, creates no second token."""

from __future__ import annotations

from functools import partial

from django import forms
from django.contrib import messages
from django.http import HttpRequest
from django.utils.crypto import get_random_string

from llmkeys.models import AccessToken

_SENT = "token_forms_sent"  # in the session: the nonce of a form → the token that it created
_MOST_SENT = 20
_NONCE_LENGTH = 12


class CreatingForm(forms.Form):
    """The form of a new token, which is recognised by its nonce when it is submitted again."""

    nonce = forms.CharField(required=False, widget=forms.HiddenInput, initial=partial(get_random_string, _NONCE_LENGTH))


def created_before(request: HttpRequest) -> int | None:
    """Return the id of the token that this form has already created, and tell the user; None if it has created none."""
    token_id = request.session.get(_SENT, {}).get(_nonce(request))
    if token_id is not None:
        messages.warning(
            request,
            "This form has already been submitted and created this token, so no second one was created. The secret is "
            "shown only once; if you did not copy it, rotate the token.",
        )
    return token_id


def remember_created(request: HttpRequest, token: AccessToken) -> None:
    if nonce := _nonce(request):
        sent = request.session.get(_SENT, {})
        request.session[_SENT] = dict([*sent.items(), (nonce, token.pk)][-_MOST_SENT:])


def _nonce(request: HttpRequest) -> str:
    return request.POST.get("nonce", "")[:_NONCE_LENGTH]
