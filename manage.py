#!/usr/bin/env python3
"""The door to every command: `./manage.py help` lists them."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"


def run_inside_the_environment() -> None:
    """Run this again with the Python of `.venv` where another one runs it, and `.venv` is there."""
    python = ENVIRONMENT / "bin" / "python"
    try:
        is_whole = python.exists() and (ENVIRONMENT / "pyvenv.cfg").exists()  # else it would lead back here for ever
    except PermissionError:
        sys.exit(f"{ENVIRONMENT} cannot be read by this user; run the command as the user that the product belongs to.")
    if is_whole and Path(sys.prefix).resolve() != ENVIRONMENT.resolve():
        os.execv(python, [str(python), *sys.argv])  # noqa: S606  (ours, with what the user typed)
    if find_spec("django") is None:
        sys.exit(
            f"The product's packages are not installed for {sys.executable}. Run `make run` once: it creates .venv "
            "with everything that is needed, and this command then uses it."
        )


def words_for(error: Exception) -> str:
    """Return a sentence for what fails before a command of ours begins, or inside one of Django's; else nothing."""
    if isinstance(error, ModuleNotFoundError) and error.name and not (ROOT / error.name.partition(".")[0]).exists():
        return (
            f"The product's packages are not all installed for {sys.executable}: {error.name} is missing. "
            "Run `make run` once: it installs them."
        )
    if "django.db" in sys.modules:
        from django.db import DatabaseError

        if isinstance(error, DatabaseError):
            from llmkeys.management.base import database_words

            return database_words(error)
    if "django.core.exceptions" in sys.modules:
        from django.core.exceptions import ImproperlyConfigured

        if isinstance(error, ImproperlyConfigured):
            from llmkeys.management.base import settings_words

            return settings_words(error)
    return ""


def open_streams() -> None:
    """Have streams that take every character; a closed one is as good as none, and nothing can be read from it."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115  (open to the end of the process)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115  (open to the end of the process)
        getattr(sys, name).reconfigure(errors="backslashreplace")


def main() -> None:
    if sys.argv[1:] in (["version"], ["--version"]):
        from refactai_site import VERSION

        sys.stdout.write(f"{VERSION}\n")
        return
    if sys.argv[1:2] == ["serve"]:
        # Until `serve` has handlers of its own: stopped while it still imports, it has nothing to clean up.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "refactai_site.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


def run() -> None:
    """Run a command; what a person does to a terminal or a pipe ends without a traceback."""
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except EOFError:
        sys.exit("Nothing was entered.")
    except OSError as error:
        if "--traceback" in sys.argv:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered would fail again
        where = f"{error.filename}: " if error.filename else "The output could not be written: "
        sys.exit(1 if isinstance(error, BrokenPipeError) else f"{where}{error.strerror or error}.")
    except Exception as error:
        words = "" if "--traceback" in sys.argv else words_for(error)
        if not words:
            raise
        sys.exit(words)


if __name__ == "__main__":
    run_inside_the_environment()
    open_streams()
    run()
