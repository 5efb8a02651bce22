"""The playground: sends a prompt to a model through the stored keys; shows the answer, its cost and the key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any

from django import forms
from django.conf import settings
from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe

from llmkeys import providers
from llmkeys.dashboard import playground_run
from llmkeys.exceptions import InvalidInput, NoKey
from llmkeys.lib.money import plain_usd
from llmkeys.models import AUTO
from llmkeys.prices import catalogue, limits
from llmkeys.relay import candidates
from llmkeys.relay.candidates import Candidate
from llmkeys.relay.models import models_to_choose
from llmkeys.relay.requests import RelayRequest
from llmkeys.tokens.rights import Caller

LINES = "application/x-ndjson"  # requested by the page's script


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
    max_tokens.widget.attrs |= {"class": "input", "inputmode": "numeric"}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["max_tokens"].widget.attrs["placeholder"] = f"{settings.DEFAULT_MAX_TOKENS:,}"
        self.fields["max_tokens"].label = "Longest answer, tokens"
        self.fields["system"].label = "System prompt"


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_apikey", raise_exception=True)
def playground(request: HttpRequest) -> HttpResponse:
    """Show the form. `?models=ask` fetches the providers' model lists; `?model=` chooses one."""
    form = PlaygroundForm(initial={"model": request.GET.get("model", "")[:200]})
    return _page(request, form, ask=request.GET.get("models") == "ask")


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@sensitive_post_parameters()
@login_required
@permission_required("llmkeys.use_gateway", raise_exception=True)
def run(request: HttpRequest) -> HttpResponseBase:
    """Send the prompt. The script gets lines as they arrive; a plain form gets the page with the whole answer.

    GET `?request=ID` returns the facts of a request that was stopped.
    """
    if request.method != "POST":
        return _what_became(request)
    form, by_script = PlaygroundForm(request.POST), request.headers.get("Accept") == LINES
    if not form.is_valid():
        words = " ".join(str(error) for errors in form.errors.values() for error in errors)
        return JsonResponse({"error": words}, content_type=LINES) if by_script else _page(request, form)
    try:
        chat = playground_run.request_of(form.cleaned_data, user_name=request.user.get_username(), stream=by_script)
    except InvalidInput as error:
        words = playground_run.error_words(error)
        if by_script:
            return JsonResponse({"error": words}, content_type=LINES)
        return _page(request, form, whole=playground_run.WholeAnswer("", error=words))
    if by_script:
        return _streamed(chat)
    whole = playground_run.ask(chat)
    return _page(request, form, whole=whole, facts=playground_run.facts_of(whole.request_id))


def _streamed(chat: RelayRequest) -> StreamingHttpResponse:
    response = StreamingHttpResponse(playground_run.StreamedAnswer(chat), content_type=LINES)
    response["X-Accel-Buffering"] = "no"  # a proxy in front must not buffer the stream
    return response


def _what_became(request: HttpRequest) -> HttpResponse:
    if "request" not in request.GET:
        return redirect("playground")  # after a login, or a reload
    facts = playground_run.facts_of(request.GET["request"][:40])
    if facts is None or facts.is_open:
        return HttpResponse(status=HTTPStatus.NO_CONTENT)
    return render(request, "dashboard/_playground_facts.html", {"facts": facts})


def _page(request: HttpRequest, form: PlaygroundForm, *, ask: bool = False, **more: Any) -> HttpResponse:
    at = timezone.now()
    known = choices(at=at, ask=ask)
    name = form["model"].value() or ""
    context = {
        "form": form,
        "choices": known,
        "asked": ask,
        "chosen": find(name, known, at=at) if name not in ("", AUTO) else None,
        "name": name,
        "auto": auto_words(at),
        **more,
    }
    template = "dashboard/_playground_models.html" if request.headers.get("Accept") == "text/fragment" else None
    return render(request, template or "dashboard/playground.html", context)


# --- the models to choose from ----------------------------------------------------------------------------------------


_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Choice:
    """A model, by the name to request it; prices in USD per million tokens, None if unknown."""

    id: str
    provider: str
    input: Decimal | None
    output: Decimal | None
    context_tokens: int | None = None

    @property
    def is_priced(self) -> bool:
        return self.input is not None and self.output is not None

    @property
    def input_words(self) -> str:
        return plain_usd(self.input)

    @property
    def output_words(self) -> str:
        return plain_usd(self.output)

    @property
    def prices(self) -> str:
        if not self.is_priced:
            per_token = f"{settings.FALLBACK_USD_PER_TOKEN.normalize():f}"
            return f"no price known: ${per_token} per token is charged, unless the provider reports the cost"
        if not self.input and not self.output:
            return "free"
        return f"{plain_usd(self.input)} in, {plain_usd(self.output)} out per million tokens"

    @property
    def words(self) -> str:
        """The line below the field: who serves the model, and at what price."""
        window = f" · {self.context_tokens:,} tokens of context" if self.context_tokens else ""
        return f"{self.provider} · {self.prices}{window}"


def choices(*, at: datetime, ask: bool) -> list[Choice]:
    """Return the primary and fallback models that a key can serve, then the models that the providers list."""
    configured = [_configured(name, at) for name in dict.fromkeys(catalogue.models_to_try(""))]
    listed = [_listed(entry) for entry in models_to_choose(at=at, ask=ask)]
    found = {choice.id: choice for choice in listed}
    first = [found.get(choice.id, choice) for choice in configured if choice is not None]
    return list(dict.fromkeys([*first, *listed]))


def find(name: str, known: list[Choice], *, at: datetime) -> Choice | None:
    """Return a model of the list, or another one that a stored key can serve by this name."""
    return next((choice for choice in known if choice.id == name), None) or _configured(name, at)


def _configured(name: str, at: datetime) -> Choice | None:
    candidate = first_candidate(name, at)
    if candidate is None:
        return None
    price = catalogue.price_list().shown(candidate.provider, candidate.model, at)
    return Choice(
        id=name,
        provider=_label(candidate.provider),
        input=price.input if price else None,
        output=price.output if price else None,
        context_tokens=limits.shown_window(candidate.provider, candidate.model),
    )


def first_candidate(name: str, at: datetime) -> Candidate | None:
    """Return the key that would be tried first for a model, without contacting a provider."""
    try:
        pool = candidates.find_now(name, caller=Caller(), at=at)
    except NoKey:
        return None
    return next((candidate for candidate in pool if not candidate.obstacle), None)


def _listed(entry: dict[str, Any]) -> Choice:
    pricing = entry["pricing"] or {}
    return Choice(
        id=entry["id"],
        provider=_label(entry["providers"][0]),
        input=_per_million(pricing.get("prompt")),
        output=_per_million(pricing.get("completion")),
        context_tokens=entry["context_length"],
    )


def _per_million(per_token: str | None) -> Decimal | None:
    return None if per_token is None else Decimal(per_token) * _MILLION


def _label(provider: str) -> str:
    return providers.get(provider).label


def auto_words(at: datetime) -> str:
    """Return which models are tried if none is named."""
    names = [name for name in catalogue.models_to_try("") if first_candidate(name, at)]
    if not names:
        return "no stored key can serve the primary model or a fallback now"
    return ", then ".join(names)
