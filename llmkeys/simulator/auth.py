"""Finds the provider of a request, from its path and headers, and the key."""

from __future__ import annotations

from dataclasses import dataclass, field

from .http import Request

PROVIDERS = ("openrouter", "openai", "anthropic", "google")


@dataclass(frozen=True, slots=True)
class Caller:
    """The provider and key of a request; `path` has no provider prefix; `refusal` is a kind of refusals.py or empty."""

    provider: str
    path: str
    key: str = field(repr=False)
    refusal: str

    @property
    def native(self) -> bool:
        """True on Google's own paths, where errors are not wrapped in a list."""
        return self.provider == "google" and not self.path.startswith("/v1beta/openai/")


def identify(request: Request) -> Caller | None:
    """Return the provider and key of a request, or None if the path belongs to no provider."""
    found = _provider_of(request)
    if found is None:
        return None
    provider, path = found
    if provider == "google" and path.startswith("/v1/"):  # Google serves both versions
        path = path.replace("/v1/", "/v1beta/", 1)
    keys = _keys(provider, request)
    key = keys[0] if keys else ""
    refusal = "" if key else "missing"
    if len(keys) > 1 and provider == "google":
        refusal = "twice"
    return Caller(provider, path, key, refusal)


def _provider_of(request: Request) -> tuple[str, str] | None:
    """Return provider and path, from the start of the path; a bare /v1 is Anthropic's with its headers or key."""
    first, _, rest = request.path[1:].partition("/")
    if first in PROVIDERS:
        return first, f"/{rest}"
    if request.path.startswith("/api/v1/"):
        return "openrouter", request.path
    if request.path.startswith("/v1beta/"):
        return "google", request.path
    if request.path.startswith("/v1/"):
        return "anthropic" if _looks_anthropic(request) else "openai", request.path
    return None


def _looks_anthropic(request: Request) -> bool:
    headers = request.headers
    return "x-api-key" in headers or "anthropic-version" in headers or _bearer(request).startswith("sk-ant-")


def _bearer(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _keys(provider: str, request: Request) -> list[str]:
    """Return all keys that were sent in the places where this provider accepts one."""
    own = {"anthropic": "x-api-key", "google": "x-goog-api-key"}.get(provider)
    found = [request.headers.get(own, "") if own else "", _bearer(request)]
    if provider == "google":
        found.append(request.parameter("key") or "" if request.query else "")
    return [key for key in found if key]
