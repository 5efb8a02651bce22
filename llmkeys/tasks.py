"""What the scheduler calls: no arguments, no secrets, results that are plain numbers (django-q2 pickles both).

Each may be delivered twice or days late: the services behind them are idempotent, and no budget depends on them.
"""

from __future__ import annotations

from django.utils import timezone

from llmkeys import ledger, writer
from llmkeys.services import resets


def reset_daily_costs() -> int:
    """Close the days that have ended; return the number of events."""
    return resets.close_windows(timezone.now())


def reset_monthly_costs() -> int:
    """Close the months that have ended; return the number of events. At midnight of the 1st both run, in any order."""
    return resets.close_windows(timezone.now())


def check_expired_keys() -> int:
    """Tell of the keys that expired and hand the default mark on; return the number of events."""
    return resets.expire_keys(timezone.now())


def settle_lost_holds() -> int:
    """Declare lost what no process renews any more; return how many holds that were."""
    return writer.run(lambda cursor: ledger.settle_dead_leases(cursor, timezone.now()))
