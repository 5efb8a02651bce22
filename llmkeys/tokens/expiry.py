"""Events and alerts when an access token expires, or is about to.

An expired token is refused from the very instant on; none of this is needed for that.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import connection, transaction

from llmkeys import ledger
from llmkeys.models import AccessToken

WARN_BEFORE = (timedelta(days=1), timedelta(days=7))


def expire_tokens(at: datetime) -> int:
    """Write one event for each token whose expiry date has passed; return how many.

    None if it expired so long ago that its event may have been deleted.
    """
    expired = AccessToken.objects.filter(
        expires_at__gt=at - ledger.KEEP_EVENTS, expires_at__lte=at, revoked_at__isnull=True, user__is_active=True
    )
    return sum(
        _add_event(
            token,
            "expired",
            f"The access token “{token.name}” expired on {_when(token)}: its requests are refused. Change its expiry "
            "date, or create another one.",
            f"expired token {token.pk} {_date(token)}",
            at,
        )
        for token in expired
    )


def warn_of_expiry(at: datetime) -> int:
    """Warn 7 days and 1 day before a token expires, once for each token, date and threshold; return how many.

    Only the nearest threshold counts, and none that had passed when the token was created, since that was intended.
    """
    events = 0
    for token in AccessToken.objects.live(at).filter(expires_at__lte=at + max(WARN_BEFORE)):
        assert token.expires_at is not None
        threshold = next(before for before in WARN_BEFORE if token.expires_at <= at + before)
        if token.created_at < token.expires_at - threshold:
            words = (
                f"The access token “{token.name}” expires on {_when(token)}. "
                "Change its expiry date, or create another one."
            )
            once = f"expiring token {token.pk} {_date(token)} {threshold.days}"
            events += _add_event(token, "expiring", words, once, at)
    return events


def _add_event(token: AccessToken, kind: str, message: str, once: str, at: datetime) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        return int(ledger.add_event(cursor, kind, None, message, at, token_id=token.pk, once=once))


def _when(token: AccessToken) -> str:
    return f"{token.expires_at:%Y-%m-%d %H:%M} UTC"


def _date(token: AccessToken) -> str:
    assert token.expires_at is not None
    return token.expires_at.isoformat()
