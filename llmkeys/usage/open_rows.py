"""The few rows among millions that are not finished business: open holds, and lost requests that stay charged.

Hand-written: SQLite finds them by their partial indexes only where the state stands in the statement itself.
"""

from __future__ import annotations

from collections import Counter

from django.db import connection

# Not grouped there: the planner would walk the index by key, ten million rows, to be spared the sorting of a few.
_OPEN = "SELECT key_id FROM llmkeys_usagerecord WHERE state = 'HELD' AND lease_until IS NOT NULL"
_LOST = """SELECT u.id FROM llmkeys_usagerecord u WHERE u.state = 'LOST' AND u.key_id = %s AND u.cost_nano > 0
   AND NOT EXISTS (SELECT 1 FROM llmkeys_adjustment a WHERE a.usage_id = u.id) ORDER BY u.id DESC LIMIT %s"""


def open_requests() -> Counter[str]:
    """Return how many requests are open on each key that has any."""
    with connection.cursor() as cursor:
        cursor.execute(_OPEN)
        return Counter(key_id for (key_id,) in cursor.fetchall())


def charged_lost_ids(key_id: str, *, most: int) -> list[int]:
    """Return the newest lost usage rows of a key whose charge nobody has taken back or corrected."""
    with connection.cursor() as cursor:
        cursor.execute(_LOST, [key_id, most])
        return [usage_id for (usage_id,) in cursor.fetchall()]
