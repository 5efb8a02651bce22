"""What is wrong with this installation, and what to do about it: `manage.py doctor` and the health page.

Each check is a small function that yields findings. One that fails by itself is a finding too, and stops no other.
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

    Nothing is changed. `offline` asks no provider; `thorough` reads the whole database for its integrity, which takes
    long on a big one.
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
            return []  # the reason was reported; once is enough
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return [Finding(FAIL, title, f"The database did not answer: {first_line}", "Try again; then see its log.")]
    except Exception as error:  # a doctor that falls ill helps nobody
        logger.exception("The check “%s” failed", title)
        words = f"This check itself failed ({type(error).__name__})."
        return [Finding(FAIL, title, words, "The log of this process says why.")]
