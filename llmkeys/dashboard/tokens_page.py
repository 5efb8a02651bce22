"""The list of access tokens, creating one, and the snippets for programs. A token's own page is in `token_page.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.models import User
from django.db.models import Case, Prefetch, Q, Value, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe
from starlette.routing import compile_path

from llmkeys.account_fields import show_refusal
from llmkeys.dashboard.accounts import AccountCard, Note, expired_note, refused_note, room_words, spent_note
from llmkeys.dashboard.forms import SCOPE_WORDS, AddTokenForm
from llmkeys.dialects import DIALECTS
from llmkeys.exceptions import LLMKeysError
from llmkeys.key_state import ACTIVE, LIMIT_REACHED, TOKEN_STATUSES, AccessTokenQuerySet
from llmkeys.models import AUTO, AccessToken, ApiKey
from llmkeys.presentation import Projections
from llmkeys.providers import PROVIDERS
from llmkeys.templatetags.llmkeys_format import when
from llmkeys.tokens.making import create_token, visible_tokens
from llmkeys.tokens.rights import senders
from llmkeys.tokens.sent_forms import created_before, remember_created
from llmkeys.usage.rows import open_requests

_PLACEHOLDER = "rfk_YOUR_TOKEN"
PAGE = 30  # cards; for the rest, a search is quicker than a longer page
SEARCHED_FROM = 10  # fewer tokens need no search
_VALID = (ACTIVE, LIMIT_REACHED)
_ENDED = tuple(status for status in TOKEN_STATUSES if status not in _VALID)


class UserRequest(HttpRequest):
    """A request of a logged-in user."""

    user: User


# --- one token's card -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class TokenCard(AccountCard):
    """A token's card: `keys` are those that may serve it, `may_send` says whether its user has the permission."""

    token: AccessToken
    at: datetime
    status: str
    keys: list[ApiKey]
    may_send: bool
    open_requests: int = 0
    projected: int | None = None

    @property
    def account(self) -> AccessToken:
        return self.token

    @property
    def holds(self) -> bool:
        return self.status in _VALID

    @property
    def needs_attention(self) -> bool:
        return self.note.tone in ("full", "bad")

    @property
    def scope_words(self) -> list[str]:
        return ["manage"] if self.token.scope_manage else self.token.scopes

    @property
    def key_words(self) -> str:
        if not self.token.limited_to_keys:
            return "every key"
        return ", ".join(key.name for key in self.keys) or "none: its keys are deleted"

    @property
    def model_words(self) -> str:
        models = self.token.allowed_models
        return "every model" if models is None else ", ".join(models)

    @property
    def pace_words(self) -> str:
        pace = self.token.requests_per_minute
        return f"{pace:,} request{'' if pace == 1 else 's'} per minute" if pace else ""

    @cached_property
    def note(self) -> Note:
        """The first note that applies, in the order of the status."""
        return (
            self._ended()
            or expired_note(self.token, self.at)
            or self._cannot_send()
            or spent_note(self.token, self.at, again=_again)
            or refused_note(self.token, self.at, again=_again)
            or self._ready()
        )

    def _ended(self) -> Note | None:
        if self.token.revoked_at is not None:
            text = format_html("{}. Requests with it are refused, for good.", when(self.token.revoked_at))
            return Note("", "i-power", "Revoked", text)
        if not self.token.user.is_active:
            name = self.token.user.get_username()
            return Note(
                "",
                "i-power",
                "Ended with its user.",
                f"{name} is disabled; the token will be valid again once the user is enabled.",
            )
        return None

    def _cannot_send(self) -> Note | None:
        if "gateway" not in self.token.scopes:
            return None
        if not self.may_send:
            words = (
                f"Its user {self.token.user.get_username()} lacks the permission to send requests through the gateway "
                "(use_gateway). An administrator can give it."
            )
            return Note("full", "i-alert", "It may not send requests.", words)
        if self.token.limited_to_keys and not self.keys:
            return Note("bad", "i-alert", "No key serves it.", "Its keys are deleted.", remedy="Choose others")
        return None

    def _ready(self) -> Note:
        if "gateway" not in self.token.scopes:
            return Note("", "i-route", "Reads.", "It sends no requests, so it spends nothing.")
        room = room_words(self.room)
        pace = f", {self.pace_words} at most" if self.pace_words else ""
        return Note("", "i-route", "Ready.", f"{room[0].upper()}{room[1:]}{pace}.")


def _again(until: SafeString | str) -> SafeString | str:
    return format_html("Requests with it are served again {}.", until)


def token_cards(tokens: Iterable[AccessToken], *, at: datetime) -> list[TokenCard]:
    """Return the cards of tokens with related users and prefetched keys; three queries at most."""
    tokens = list(tokens)
    opened = open_requests("token_id") if any(token.held_nano for token in tokens) else {}
    may_send = senders({token.user_id for token in tokens})
    paces = Projections(at, "token_id", only=[token.pk for token in tokens])
    return [
        TokenCard(
            token,
            at,
            token.status_at(at),
            list(token.keys.all()),
            may_send=token.user_id in may_send,
            open_requests=opened.get(token.pk, 0),
            projected=paces.of(token),
        )
        for token in tokens
    ]


def with_keys(tokens: AccessTokenQuerySet) -> AccessTokenQuerySet:
    """Prefetch the keys that may serve each token, without their secrets."""
    keys = ApiKey.objects.stored().only("id", "name", "provider").order_by("name")
    return tokens.prefetch_related(Prefetch("keys", queryset=keys))


# --- the list ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the query string asks for; invalid values are ignored."""

    show: str = ""
    words: str = ""
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wanted:
        show, page = query.get("show", ""), query.get("page", "")
        words = "".join(letter for letter in query.get("q", "") if letter.isprintable())
        return cls(
            show=show if show in ("holding", "ended") else "",
            words=words.strip()[:100],
            page=int(page) if page.isascii() and page.isdecimal() and len(page) < 6 and int(page) else 1,
        )

    def address(self, **changes: str | int) -> str:
        """Return the URL with `changes`, which also go back to the first page."""
        now = {"show": self.show, "q": self.words}
        asked = {name: value for name, value in {**now, **changes}.items() if value and (name, value) != ("page", 1)}
        return reverse("tokens") + ("?" + urlencode(asked) if asked else "")

    def found(self, tokens: AccessTokenQuerySet, at: datetime) -> AccessTokenQuerySet:
        """Return the matching tokens: valid ones first, then the others, the newest first."""
        rows = tokens.with_status(at)
        if self.show:
            rows = rows.filter(status__in=_VALID if self.show == "holding" else _ENDED)
        if self.words:
            rows = rows.filter(Q(name__icontains=self.words) | Q(user__username__icontains=self.words))
        ended = Case(When(status__in=_ENDED, then=Value(1)), default=Value(0))
        return rows.order_by(ended, "-created_at", "-id")


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_accesstoken", raise_exception=True)
def tokens(request: UserRequest) -> HttpResponse:
    """Show a page of the matching tokens; the number of queries does not grow with the number of tokens."""
    at, wanted = timezone.now(), Wanted.of(request.GET)
    visible = cast(AccessTokenQuerySet, visible_tokens(request.user))
    total, holding = visible.count(), visible.with_status(at).filter(status__in=_VALID).count()
    found = wanted.found(visible, at)
    number = found.count() if wanted.show or wanted.words else total
    pages = max(1, -(-number // PAGE))
    page = min(wanted.page, pages)
    first = (page - 1) * PAGE
    cards = token_cards(with_keys(found)[first : first + PAGE], at=at)
    context = {
        "cards": cards,
        "wanted": wanted,
        "total": total,
        "holding": holding,
        "shows": [
            ("All", total, wanted.address(show=""), wanted.show == ""),
            ("Valid", holding, wanted.address(show="holding"), wanted.show == "holding"),
            ("Ended", total - holding, wanted.address(show="ended"), wanted.show == "ended"),
        ],
        "searchable": total >= SEARCHED_FROM or wanted.words,
        "found": number,
        "first": first + 1,
        "last": first + len(cards),
        "before": wanted.address(page=page - 1) if page > 1 else "",
        "after": wanted.address(page=page + 1) if page < pages else "",
        "snippets": snippets_for(_PLACEHOLDER, base=base_of(request), scopes=["gateway", "read"]),
    }
    return render(request, "dashboard/tokens.html", context)


# --- creating one -----------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@login_required
@permission_required("llmkeys.add_accesstoken", raise_exception=True)
@sensitive_variables()
def create(request: UserRequest) -> HttpResponse:
    """Show the form, or create the token and show its secret, only in this response, which must not be stored."""
    if (token_id := created_before(request)) is not None:
        return redirect("token", token_id)
    form = AddTokenForm(request.user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        at = timezone.now()
        try:
            made = create_token(user=request.user, values=form.values(at), at=at, actor=request.user.get_username())
        except LLMKeysError as error:
            show_refusal(form, error)
        else:
            remember_created(request, made[0])
            return show_once(request, *made)
    return render(request, "dashboard/token_create.html", {"form": form, "section": "tokens"})


@sensitive_variables()
def show_once(request: UserRequest, token: AccessToken, text: str, *, rotated: bool = False) -> HttpResponse:
    """Show the secret of a new or rotated token, with snippets, only in this response."""
    context = {
        "token": token,
        "text": text,
        "rotated": rotated,
        "section": "tokens",
        "scopes": ", ".join(SCOPE_WORDS[scope][0].lower() for scope in token.scopes),
        "snippets": snippets_for(text, base=base_of(request), scopes=token.scopes),
    }
    return render(request, "dashboard/token_created.html", context)


def base_of(request: HttpRequest) -> str:
    return request.build_absolute_uri("/")


# --- snippets ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snippet:
    """Lines to paste for one client. `needs` is an address that must be served, `scope` the scope that is required."""

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
    """Return the snippets for a token with these scopes; `base` is this product's URL without a path."""
    words = {
        "base": base.rstrip("/"),
        "token": token,
        "model": AUTO,  # whatever the provider of the keys that are stored
        "anthropic_model": _bare_name("anthropic-messages"),
        "google_model": _bare_name("google-generate"),
    }
    return [
        Snippet(each.id, each.title, each.text.format(**words), each.needs, each.scope)
        for each in _ALL
        if each.scope in scopes and is_served(each.needs)
    ]


def is_served(path: str) -> bool:
    """Return whether a dialect of the gateway, or the REST API, has this address."""
    doors = [door for dialect in DIALECTS for door in dialect.doors]
    return path.startswith("/api/") or any(compile_path(door.path)[0].match(path) for door in doors)


def _bare_name(dialect: str) -> str:
    """Return a configured model of the dialect's vendor, or else its example, by the vendor's own name."""
    vendor = next(provider for provider in PROVIDERS.values() if provider.vendor and provider.serves(dialect))
    names = (settings.PRIMARY_MODEL, *settings.FALLBACK_MODELS)
    found = (name.partition("/")[2] for name in names if name.startswith(f"{vendor.vendor}/"))
    return next(found, vendor.example_model)
