"""Invalid access tokens, counted per address in the database, so that all processes count together.

Valid tokens need no query here and are never throttled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from ipaddress import ip_address

from django.conf import settings
from django.db.backends.utils import CursorWrapper

from llmkeys.database import writer
from llmkeys.database.sql import as_instant, instant
from llmkeys.exceptions import RecordingUnavailable, TooManyFailures
from llmkeys.models import FailedAuthentication

MOST_FAILURES = 20
PERIOD = timedelta(seconds=60)


def address_of(environ: Mapping[str, str]) -> str:
    """Return the client's address; with HTTPS, the one that our proxy saw (the last in X-Forwarded-For)."""
    forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip() if settings.REFACTAI_HTTPS else ""
    try:
        return str(ip_address(forwarded))[:45]
    except ValueError:
        return environ.get("REMOTE_ADDR", "")[:45]


def note_failure(address: str, *, at: datetime) -> None:
    """Count an invalid token. Raises TooManyFailures, without counting it, if its address sent 20 in the last 60 s.

    A failure that cannot be recorded is ignored: the answer to an invalid token must not depend on a writable database.
    """
    recent = FailedAuthentication.objects.filter(address=address, at__gt=at - PERIOD, at__lte=at + PERIOD)
    _refuse_after(list(recent.order_by("-at").values_list("at", flat=True)[:MOST_FAILURES]), at)
    try:
        before = writer.run_now(lambda cursor: _record(cursor, address, at))
    except RecordingUnavailable:
        return
    _refuse_after(before, at)


def _record(cursor: CursorWrapper, address: str, at: datetime) -> list[datetime]:
    """Record the failure unless the limit is reached; return the times of the earlier ones, newest first.

    Those of the future, from before a clock was set back, would otherwise count until their time has come.
    """
    since = instant(at - PERIOD)
    cursor.execute("DELETE FROM llmkeys_failedauthentication WHERE at <= %s OR at > %s", [since, instant(at + PERIOD)])
    cursor.execute(
        "SELECT at FROM llmkeys_failedauthentication WHERE address = %s AND at > %s ORDER BY at DESC LIMIT %s",
        [address, since, MOST_FAILURES],
    )
    before = [as_instant(row[0]) for row in cursor.fetchall()]
    if len(before) < MOST_FAILURES:
        cursor.execute("INSERT INTO llmkeys_failedauthentication (address, at) VALUES (%s, %s)", [address, instant(at)])
    return before


def _refuse_after(before: list[datetime], at: datetime) -> None:
    if len(before) >= MOST_FAILURES:
        wait = (before[-1] + PERIOD - at).total_seconds()
        raise TooManyFailures(min(int(PERIOD.total_seconds()), max(1, math.ceil(wait))))
