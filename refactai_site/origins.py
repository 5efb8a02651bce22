"""Explains why a request was refused for its host or origin: what was seen, and the setting to change."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.http.request import split_domain_port

_OF_ORIGINS = ("Origin checking failed", "Referer checking failed")
_POLICY = (
    "Usually a proxy in front of this server sets “Referrer-Policy: no-referrer”: let it set “same-origin” or not set "
    "that header."
)


def about_host(request: HttpRequest) -> str:
    """Return why the Host of the request was refused."""
    host = _shown(request.META.get("HTTP_HOST", ""))
    if not host:
        return "The request has no host. Send a “Host” header."
    name = split_domain_port(host)[0] or host  # the setting has no ports
    return (
        f"This server does not answer under the name “{host}”. If the name is right, add {name} to "
        f"REFACTAI_ALLOWED_HOSTS (now {', '.join(settings.ALLOWED_HOSTS)}) and restart the server."
    )


def about_origin(request: HttpRequest, reason: str) -> str:
    """Return why a form was refused, if its origin is the reason, or an empty string."""
    if not reason.startswith(_OF_ORIGINS):
        return ""
    origin = request.META.get("HTTP_ORIGIN", "")
    if origin == "null":
        return f"The browser did not say which site the form comes from (“Origin: null”). {_POLICY}"
    origin = origin or "://".join(_parts(request.META.get("HTTP_REFERER", "")))
    if not origin:
        return f"The browser did not say which site the form comes from: it sent no usable “Referer”. {_POLICY}"
    return _about_foreign(origin, request)


def _about_foreign(origin: str, request: HttpRequest) -> str:
    own = f"{request.scheme}://{request.get_host()}"
    seen = f"The form comes from “{_shown(origin)}”, but this server’s own address is “{own}”."
    if request.scheme == "http" and _parts(origin) == ("https", request.get_host()):
        if settings.REFACTAI_HTTPS:
            return f"{seen} Let the proxy in front of this server send “X-Forwarded-Proto: https”."
        return (
            f"{seen} If a proxy in front of this server speaks HTTPS, set REFACTAI_HTTPS=true and restart the server."
        )
    return (
        f"{seen} If you opened the page at that address, let the proxy in front of this server forward the "
        "“Host” header, or add the address to REFACTAI_CSRF_TRUSTED_ORIGINS and restart the server."
    )


def _parts(url: str) -> tuple[str, ...]:
    """Return scheme and host; nothing for what is not a URL, which a header may contain."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ()
    return (parts.scheme, parts.netloc) if parts.scheme and parts.netloc else ()


def _shown(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:100]
