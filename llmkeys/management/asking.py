"""What commands ask a person on the terminal, and what they read from stdin."""

from __future__ import annotations

import contextlib
import sys

from django.core.management.base import CommandError


def confirm(question: str, refused: str) -> None:
    """Ask a yes-or-no question. Raises CommandError with `refused` unless the answer is yes."""
    if sys.stdin is None or not sys.stdin.isatty():
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
