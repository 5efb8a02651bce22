"""The access tokens: which of them cannot be used, and which will expire soon."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from datetime import timedelta

from llmkeys.doctor.finding import WARN, About, Finding, count, good, listed
from llmkeys.key_state import LIMIT_REACHED
from llmkeys.models import AccessToken
from llmkeys.tokens.rights import senders

SOON = timedelta(days=7)


def usable_tokens(about: About) -> Iterable[Finding]:
    found = AccessToken.objects.live(about.at).with_status(about.at)
    total, full = found.count(), list(found.filter(status=LIMIT_REACHED))
    if total:
        yield good("Access tokens", f"{total - len(full)} of {count(total, 'token')} can be used now.")
    for token in full:
        remedy = f"Raise its limit: ./manage.py tokens edit {_named(token)} --daily-limit USD, or wait for the window."
        yield Finding(WARN, f"Token “{token.name}”", f"{LIMIT_REACHED}.", remedy)


def gateway_users(about: About) -> Iterable[Finding]:
    """Warn of tokens for the gateway whose users may not use it: each of their requests gets a 403."""
    live = AccessToken.objects.live(about.at).select_related("user")
    tokens = [token for token in live.filter(user__is_superuser=False) if "gateway" in token.scopes]
    may_send = senders({token.user_id for token in tokens})
    idle: dict[str, list[str]] = {}
    for token in tokens:
        if token.user_id not in may_send:
            idle.setdefault(token.user.get_username(), []).append(f"“{token.name}”")
    for name, tokens in sorted(idle.items()):
        words = f"They may not send requests, so {listed(tokens)} cannot either."
        yield Finding(
            WARN, f"User “{name}”", words, "Give them the permission llmkeys.use_gateway in the admin (Users)."
        )


def expiring_tokens(about: About) -> Iterable[Finding]:
    soon = AccessToken.objects.live(about.at).filter(expires_at__lte=about.at + SOON)
    for token in soon:
        if token.expires_at is not None and token.created_at < token.expires_at - SOON:
            words = f"It expires on {token.expires_at:%Y-%m-%d %H:%M} UTC."
            command = f"./manage.py tokens edit {_named(token)} --expires DATE"
            remedy = f"Change its expiry date: {command}, or create a replacement."
            yield Finding(WARN, f"Token “{token.name}”", words, remedy)


def _named(token: AccessToken) -> str:
    return shlex.quote(token.name)


CHECKS = (usable_tokens, gateway_users, expiring_tokens)
