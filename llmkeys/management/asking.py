"""Confirmation on the terminal before something that cannot be undone."""

from __future__ import annotations

import sys

from django.core.management.base import CommandError


def confirm(question: str, refused: str) -> None:
    """Ask a yes-or-no question. Raises CommandError with `refused` unless the answer is yes."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise CommandError(f"{refused} There is no terminal to ask on: repeat with --yes.")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise CommandError(refused)
