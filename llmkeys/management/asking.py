"""What commands ask a person on the terminal, and what they read from stdin."""

from __future__ import annotations

import contextlib
import sys

from django.core.management.base import CommandError

# In the help of commands that take it for consent if a script names what they are to change. What is piped in is not
# read: in `while read id; do ./manage.py void $id; done` it is the list of the next ids.
ASKS_ON_A_TERMINAL = "It asks first if stdin is a terminal; otherwise it does not ask, and ignores what is piped in."


def is_possible() -> bool:
    """Return whether stdin is a terminal, at which a person can answer."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm(question: str, refused: str) -> None:
    """Ask a yes-or-no question. Raises CommandError with `refused` unless the answer is yes."""
    if not is_possible():
        raise CommandError(f"{refused} There is no terminal to ask on: repeat with --yes.")
    with contextlib.redirect_stdout(sys.stderr):  # stdout may be a file, which gets the output only
        answer = input(f"{question} [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandError(refused)


def piped_in() -> str:
    """Return what was piped in. Raises CommandError if it is not UTF-8."""
    try:
        text = sys.stdin.read()
        text.encode()  # in the locale C Python lets everything pass
    except UnicodeError:
        raise CommandError("What was piped in is not valid UTF-8.") from None
    return text
