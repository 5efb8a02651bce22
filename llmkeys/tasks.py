"""The functions that the scheduler calls: no arguments, no secrets, plain numbers as results (django-q2 pickles both).

Each may be delivered twice or days late: the services behind them are idempotent, and no budget depends on them.
"""

from __future__ import annotations

from django.utils import timezone
from django_q.exceptions import TimeoutException

from llmkeys import backup, scheduling
from llmkeys.alerts import outbox
from llmkeys.backup.errors import BackupFailed
from llmkeys.exceptions import LLMKeysError
from llmkeys.keys import checking, resets
from llmkeys.ledger import leases
from llmkeys.tokens import expiry
from llmkeys.usage import pruning, reconciling


class TaskFailed(LLMKeysError):
    """Marks a run that could not do its work as failed; the health page shows the message."""


def reset_daily_costs() -> int:
    """Close the days that have ended; return the number of events."""
    return resets.close_windows(timezone.now())


def reset_monthly_costs() -> int:
    """Close the months that have ended; return the number of events. At midnight of the 1st both run, in any order."""
    return resets.close_windows(timezone.now())


def check_expired_keys() -> int:
    """Report keys and tokens that have expired or are about to, and replace the default key; return how many events."""
    at = timezone.now()
    of_keys = resets.expire_keys(at) + resets.warn_of_expiry(at)
    return of_keys + expiry.expire_tokens(at) + expiry.warn_of_expiry(at)


def settle_lost_holds() -> int:
    """Declare lost the holds that no process renews any more, and test rejected keys; return the number of holds.

    The tests come last, because a provider may let them wait.
    """
    at = timezone.now()
    lost = leases.settle_dead(at)
    checking.check_rejected_keys(at)
    return lost


def send_alerts() -> int:
    """Deliver the alerts that are due; return how many reached every target."""
    return outbox.send_due_alerts(timezone.now())


def check_keys() -> dict[str, int]:
    """Test every key with the free call; return the counts."""
    checked = checking.check_keys(timezone.now())
    if checked.failed:
        raise TaskFailed(
            f"{checked.failed} of {checked.good + checked.bad + checked.failed} keys could not be tested: their "
            "secrets do not decrypt. `./manage.py doctor` says which."
        )
    return checked.as_json()


def reconcile_costs() -> dict[str, object]:
    """Fetch the true cost of estimated OpenRouter requests; return the counts."""
    reconciled = reconciling.reconcile_costs(timezone.now())
    if reconciled.faults:
        raise TaskFailed(" ".join(reconciled.faults))
    return reconciled.as_json()


def prune_usage() -> dict[str, object]:
    """Delete usage rows, events and the like that are past their retention period; return the counts."""
    pruned = pruning.prune_usage(timezone.now())
    if pruned.refused:
        raise TaskFailed(" ".join(pruned.refused))
    return pruned.as_json()


def backup_database() -> int:
    """Make the daily backup; return its size in bytes. A failure is an alert, with the same message as the task's."""
    at = timezone.now()
    try:
        made = backup.automatic_backup(at=at)
    except BackupFailed as error:
        outbox.backup_failed(str(error), at=at)
        raise
    except TimeoutException:
        words = (
            f"it was ended because it was not finished after {scheduling.BACKUP_SECONDS // 60} minutes. Check how fast "
            "the disk is; `./manage.py backup FILE` has no time limit."
        )
        outbox.backup_failed(words, at=at)
        raise
    if made.manifest.differences:
        found = f"{made.manifest.differences:,} difference{'' if made.manifest.differences == 1 else 's'}"
        words = f"its audit found {found}: run `./manage.py audit`."
        outbox.backup_failed(words, at=at)
        raise TaskFailed(f"The backup {made.path.name} was taken, but {words}")
    return made.bytes
