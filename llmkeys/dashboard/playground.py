"""The playground: one question to a model through the stored keys, to see what it answers, costs and who serves."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe

from llmkeys.dashboard import playground_models, playground_run
from llmkeys.relay import ChatRequest

LINES = "application/x-ndjson"  # what the page's script asks for, and gets


class PlaygroundForm(forms.Form):
    model = forms.CharField(required=False, max_length=200, widget=forms.TextInput)
    system = forms.CharField(required=False, strip=False, widget=forms.Textarea)
    prompt = forms.CharField(strip=False, error_messages={"required": "Write a prompt first."}, widget=forms.Textarea)
    max_tokens = forms.IntegerField(required=False, min_value=1, max_value=10_000_000, widget=forms.NumberInput)

    model.widget.attrs = {
        "class": "input mono", "list": "models", "autocomplete": "off", "spellcheck": "false", "placeholder": "auto",
    }  # fmt: skip
    system.widget.attrs = {"class": "input", "rows": 2}
    prompt.widget.attrs = {"class": "input", "rows": 8}
    max_tokens.widget.attrs |= {"class": "input", "inputmode": "numeric", "placeholder": "16,384"}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["max_tokens"].label = "Longest answer, tokens"
        self.fields["system"].label = "System prompt"


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_apikey", raise_exception=True)
def playground(request: HttpRequest) -> HttpResponse:
    """Show the form. `?models=ask` asks the providers for their model lists; `?model=` chooses one."""
    form = PlaygroundForm(initial={"model": request.GET.get("model", "")[:200]})
    return _page(request, form, ask=request.GET.get("models") == "ask")


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@sensitive_post_parameters()
@login_required
@permission_required("llmkeys.change_apikey", raise_exception=True)
def run(request: HttpRequest) -> HttpResponseBase:
    """Ask the model. The script gets lines as they come; a plain form gets the page with the whole answer.

    GET `?request=ID` tells what became of a request that was stopped.
    """
    if request.method != "POST":
        return _what_became(request)
    form, by_script = PlaygroundForm(request.POST), request.headers.get("Accept") == LINES
    if not form.is_valid():
        words = " ".join(str(error) for errors in form.errors.values() for error in errors)
        return JsonResponse({"error": words}, content_type=LINES) if by_script else _page(request, form)
    chat = playground_run.chat_request(form.cleaned_data, user_name=request.user.get_username(), stream=by_script)
    if by_script:
        return _streamed(chat)
    whole = playground_run.ask(chat)
    return _page(request, form, whole=whole, facts=playground_run.facts_of(whole.request_id))


def _streamed(chat: ChatRequest) -> StreamingHttpResponse:
    response = StreamingHttpResponse(playground_run.Told(chat), content_type=LINES)
    response["X-Accel-Buffering"] = "no"  # a proxy in front must not collect the stream
    return response


def _what_became(request: HttpRequest) -> HttpResponse:
    if "request" not in request.GET:
        return redirect("playground")  # after a login in between, or a page that was loaded again
    facts = playground_run.facts_of(request.GET["request"][:40])
    if facts is None or facts.is_open:
        return HttpResponse(status=HTTPStatus.NO_CONTENT)
    return render(request, "dashboard/_playground_facts.html", {"facts": facts})


def _page(request: HttpRequest, form: PlaygroundForm, *, ask: bool = False, **more: Any) -> HttpResponse:
    at = timezone.now()
    choices = playground_models.choices(at=at, ask=ask)
    name = form["model"].value() or ""
    context = {
        "form": form,
        "choices": choices,
        "asked": ask,
        "chosen": playground_models.find(name, choices, at=at) if name not in ("", playground_models.AUTO) else None,
        "name": name,
        "auto": playground_models.auto_words(at),
        **more,
    }
    template = "dashboard/_playground_models.html" if request.headers.get("Accept") == "text/fragment" else None
    return render(request, template or "dashboard/playground.html", context)
