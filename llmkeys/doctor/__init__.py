"""What is wrong with this installation, and what to do about it: `manage.py doctor` and the health page.

Each check is a function that yields findings. If a check itself fails, that is a finding too, and the others still run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from django.db import DatabaseError

from llmkeys.doctor import database, files, keys, outside, settings, tokens, work
from llmkeys.doctor.finding import FAIL, PASS, WARN, About, Finding

__all__ = ["FAIL", "PASS", "WARN", "Finding", "examine"]

logger = logging.getLogger(__name__)

Check = Callable[[About], Iterable[Finding]]
CHECKS: tuple[Check, ...] = (
    *database.CHECKS,
    *files.CHECKS,
    *keys.CHECKS,
    *tokens.CHECKS,
    *work.CHECKS,
    *settings.CHECKS,
    *outside.CHECKS,
)


def examine(at: datetime, *, offline: bool = False, thorough: bool = False) -> list[Finding]:
    """Return what every check found, in a fixed order.

    Nothing is changed. With `offline` no provider is contacted; `thorough` checks the integrity of the whole database,
    which takes long if it is large.
    """
    about = About(at=at, offline=offline, thorough=thorough)
    found: list[Finding] = []
    for check in CHECKS:
        found += _findings(check, about, found)
    return found


def _findings(check: Check, about: About, so_far: list[Finding]) -> list[Finding]:
    title = check.__name__.replace("_", " ").capitalize()
    try:
        return list(check(about))
    except DatabaseError as error:
        if any(finding.level == FAIL and finding.title in ("Database", "Migrations") for finding in so_far):
            return []  # the cause has been reported already
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return [Finding(FAIL, title, f"The database did not answer: {first_line}", "Try again; then see its log.")]
    except Exception as error:  # a check that fails must not stop the others
        logger.exception("The check “%s” failed", title)
        words = f"This check itself failed ({type(error).__name__})."
        return [Finding(FAIL, title, words, "See the log of this process.")]
