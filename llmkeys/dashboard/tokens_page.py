"""The page of the access tokens: list, create, show once, revoke; and the lines to paste into a program."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, cast

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.models import User
from django.db.models import Prefetch
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.text import capfirst
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe
from starlette.routing import compile_path

from llmkeys.dashboard.usage_words import Badge
from llmkeys.dialects import DIALECTS
from llmkeys.exceptions import InvalidInput
from llmkeys.lib.windows import day_end
from llmkeys.models import AccessToken, ApiKey
from llmkeys.tokens.fields import SCOPES
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
        return create_token(user=request.user, values=form.values(at), at=at, actor=request.user.get_username())
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
    revoke_token(token, at=timezone.now(), actor=request.user.get_username())
    messages.success(request, f"“{token.name}” is revoked: requests with it are refused from now on.")
    return redirect("tokens")


# --- the form ---------------------------------------------------------------------------------------------------------


SCOPE_WORDS = {
    "gateway": ("Send requests", "Spends money: requests to the models at /v1."),
    "read": ("Read", "Looks at keys, usage and statistics by the REST API; sees no secret."),
    "manage": ("Manage", "All of it: sends, reads, and adds, changes and deletes keys and tokens."),
}
_TOO_FAR = 2200  # beyond it a zone's midnight cannot be told
EXPIRIES = {"7": "7 days", "30": "30 days", "90": "90 days", "365": "1 year", "never": "Never", "date": "Until a day"}


class TokenForm(forms.Form):
    """A new token; fields have the contract's names, so that a service's errors find their place."""

    use_required_attribute = False

    name = forms.CharField(
        required=False,
        max_length=100,
        widget=forms.TextInput({"class": "input", "autocomplete": "off", "maxlength": 100}),
        help_text="Which program, machine or person holds it. Usage is shown under this name.",
    )
    scopes = forms.MultipleChoiceField(choices=[(scope, scope) for scope in SCOPES], required=False)
    expiry = forms.ChoiceField(choices=list(EXPIRIES.items()), required=False)
    expiresAt = forms.DateField(
        label="Last day",
        required=False,
        widget=forms.DateInput({"class": "input", "type": "date"}, format="%Y-%m-%d"),
        error_messages={"invalid": "Must be a day such as 2026-12-31."},
    )
    keyIds = forms.MultipleChoiceField(required=False)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.initial = {"scopes": ["gateway"], "expiry": "90", **(self.initial or {})}
        self.stored = list(ApiKey.objects.stored().in_serving_order().only("id", "name", "provider"))
        cast(forms.MultipleChoiceField, self.fields["keyIds"]).choices = [(key.id, key.name) for key in self.stored]
        self.fields["expiresAt"].help_text = f"Ends with this day, in the zone {settings.TIME_ZONE}."

    @property
    def scope_choices(self) -> list[dict[str, Any]]:
        chosen = self["scopes"].value() or []
        return [
            {"name": name, "word": word, "hint": hint, "chosen": name in chosen}
            for name, (word, hint) in SCOPE_WORDS.items()
        ]

    @property
    def expiry_choices(self) -> list[dict[str, Any]]:
        chosen = self["expiry"].value()
        return [{"name": name, "word": word, "chosen": name == chosen} for name, word in EXPIRIES.items()]

    @property
    def key_choices(self) -> list[dict[str, Any]]:
        chosen = self["keyIds"].value() or []
        return [{"key": key, "chosen": key.id in chosen} for key in self.stored]

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("expiry") == "date" and "expiresAt" not in self.errors:
            self._check_last_day(given.get("expiresAt"))
        return given

    def _check_last_day(self, day: date | None) -> None:
        if day is None:
            self.add_error("expiresAt", "Give the last day, or choose another expiry.")
        elif day.year >= _TOO_FAR:
            self.add_error("expiresAt", f"The last day must lie before the year {_TOO_FAR}.")

    def values(self, at: datetime) -> dict[str, Any]:
        """Return what the service takes; a number of days counts from `at`, a day ends with itself."""
        given = self.cleaned_data
        return {
            "name": given["name"],
            "scopes": given["scopes"],
            "expiresAt": _expiry(given, at),
            "keyIds": given["keyIds"] or None,
        }

    def take_errors(self, errors: dict[str, list[str]]) -> None:
        """Put a service's sentences beside their fields."""
        for name, sentences in errors.items():
            for sentence in sentences:
                self.add_error(name if name in self.fields else None, capfirst(sentence))


def _expiry(given: dict[str, Any], at: datetime) -> datetime | None:
    """Return when the token ends; where nothing was chosen it does not."""
    if given["expiry"] == "date":
        return day_end(given["expiresAt"], settings.TIME_ZONE)
    return at + timedelta(days=int(given["expiry"])) if given["expiry"].isdigit() else None


# --- the lines to paste -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snippet:
    """Lines for one client. `needs` is the address that must be served, `scope` what the token must be allowed."""

    id: str
    title: str
    text: str
    needs: str = "/v1/chat/completions"
    scope: str = "gateway"


_CURL = """curl {base}/v1/chat/completions \\
  -H "Authorization: Bearer {token}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""

_OPENAI = """from openai import OpenAI

client = OpenAI(base_url="{base}/v1", api_key="{token}")
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)"""

_ANTHROPIC = """from anthropic import Anthropic

client = Anthropic(base_url="{base}", api_key="{token}")
answer = client.messages.create(
    model="{anthropic_model}",
    max_tokens=1024,
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.content[0].text)"""

_GOOGLE = """from google import genai

client = genai.Client(api_key="{token}", http_options={{"base_url": "{base}"}})
answer = client.models.generate_content(model="{google_model}", contents="Hello")
print(answer.text)"""

_LANGCHAIN = """from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url="{base}/v1", api_key="{token}", model="{model}")
print(model.invoke("Hello").content)"""

_ENVIRONMENT = """export OPENAI_BASE_URL="{base}/v1"
export OPENAI_API_KEY="{token}\""""

_ENVIRONMENT_ANTHROPIC = """export ANTHROPIC_BASE_URL="{base}"
export ANTHROPIC_API_KEY="{token}\""""

_ENVIRONMENT_GOOGLE = """export GOOGLE_GEMINI_BASE_URL="{base}"
export GEMINI_API_KEY="{token}\""""

_REST = """curl {base}/api/llm/keys/statistics \\
  -H "Authorization: Bearer {token}\""""

_MESSAGES = "/v1/messages"
_GENERATE = "/v1beta/models/gemini:generateContent"
_ALL = (
    Snippet("curl", "curl", _CURL),
    Snippet("openai", "openai (Python)", _OPENAI),
    Snippet("anthropic", "anthropic (Python)", _ANTHROPIC, needs=_MESSAGES),
    Snippet("google-genai", "google-genai (Python)", _GOOGLE, needs=_GENERATE),
    Snippet("langchain", "LangChain", _LANGCHAIN),
    Snippet("environment", "Environment variables", _ENVIRONMENT),
    Snippet("environment-anthropic", "Environment variables, Anthropic clients", _ENVIRONMENT_ANTHROPIC, _MESSAGES),
    Snippet("environment-google", "Environment variables, Google clients", _ENVIRONMENT_GOOGLE, _GENERATE),
    Snippet("rest", "REST API, with curl", _REST, needs="/api/llm/keys/statistics", scope="read"),
)


def snippets_for(token: str, *, base: str, scopes: list[str]) -> list[Snippet]:
    """Return the snippets for a token with these scopes; `base` is this product's address without a path."""
    words = {
        "base": base.rstrip("/"),
        "token": token,
        "model": settings.PRIMARY_MODEL,
        "anthropic_model": _bare_name("anthropic", "claude-sonnet-5.5"),
        "google_model": _bare_name("google", "gemini-3.8-flash"),
    }
    return [
        Snippet(each.id, each.title, each.text.format(**words), each.needs, each.scope)
        for each in _ALL
        if each.scope in scopes and is_served(each.needs)
    ]


def is_served(path: str) -> bool:
    """Tell whether a dialect of the gateway, or the REST API, has this address."""
    doors = [door for dialect in DIALECTS for door in dialect.doors]
    return path.startswith("/api/") or any(compile_path(door.path)[0].match(path) for door in doors)


def _bare_name(vendor: str, otherwise: str) -> str:
    """Return the vendor's first model among the primary and the fallbacks, as the vendor's own clients name it."""
    names = (settings.PRIMARY_MODEL, *settings.FALLBACK_MODELS)
    found = (name.partition("/")[2] for name in names if name.startswith(f"{vendor}/"))
    return next(found, otherwise)
