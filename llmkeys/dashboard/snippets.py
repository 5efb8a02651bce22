"""Ready-made lines that make a client use this product: only those whose address the gateway serves today."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.urls import resolve

_NO_ADDRESS = "/v1/no-such-address"


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
    """Tell whether an address has a view of its own: what the gateway does not know goes to one that says so."""
    return resolve(path).func is not resolve(_NO_ADDRESS).func


def _bare_name(vendor: str, otherwise: str) -> str:
    """Return the vendor's first model among the primary and the fallbacks, as the vendor's own clients name it."""
    names = (settings.PRIMARY_MODEL, *settings.FALLBACK_MODELS)
    found = (name.partition("/")[2] for name in names if name.startswith(f"{vendor}/"))
    return next(found, otherwise)
