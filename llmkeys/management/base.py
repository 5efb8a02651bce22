"""The base of the commands: errors as one sentence, `--json`, an example in `--help`."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from django.conf import settings
from django.core.checks.registry import registry
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter
from django.core.management.color import no_style
from django.db import DEFAULT_DB_ALIAS, DatabaseError
from django.db.utils import OperationalError, ProgrammingError

from llmkeys import checks, providers
from llmkeys.exceptions import InvalidInput, LLMKeysError
from llmkeys.keys import failures
from llmkeys.management import printing
from llmkeys.vault import keys_in_use
from refactai_site import VERSION, settings_file

OUR_CHECKS = "llmkeys.checks"
NO_TABLES = (
    "The database does not have the tables of this version yet. Start the product once (make run), or run: "
    "./manage.py migrate"
)


class HelpFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples."""


class Command(BaseCommand):
    """Base of the commands: errors raise CommandError in Python; in a shell, one sentence on stderr and exit code 1."""

    requires_system_checks = []  # only ours are run, below: the others would load all of the product's pages
    needs_database = True  # False: also works without a database
    example = ""
    arguments: Mapping[str, str] = {}  # fields given by an argument rather than an option → its name in --help

    def get_version(self) -> str:
        return VERSION

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name, subcommand, epilog=examples(self.example), formatter_class=HelpFormatter, **kwargs
        )

    def execute(self, *args: Any, **options: Any) -> Any:
        try:
            if self._is_from_command_line and self.needs_database:
                self._compare_with_server()  # first, because a setting that differs may be why a check fails
            _run_our_checks([DEFAULT_DB_ALIAS] if self.needs_database else None)
            result = super().execute(*args, **options)
            self.stdout.flush()  # a full device or a closed pipe can be reported here, but not at exit
            return result
        except CommandError as error:
            self._refuse(str(error), error.returncode)
        except InvalidInput as error:
            self._refuse(_input_words(error, self.arguments))
        except LLMKeysError as error:
            self._refuse(str(error))
        except DatabaseError as error:
            self._refuse(database_words(error))
        except ImproperlyConfigured as error:
            self._refuse(settings_words(error))
        except KeyboardInterrupt:
            self._refuse("Stopped.", 130)
        except EOFError:
            self._refuse("Nothing was entered, so nothing was changed.")
        except UnicodeError:
            self._refuse("An argument is not valid UTF-8.")
        except BrokenPipeError:  # such as from `| head`
            if not getattr(self, "_called_from_command_line", False):
                raise
            forget_stdout()
            sys.exit(1)
        except OSError as error:
            if getattr(self, "_called_from_command_line", False) and error.filename is None:
                forget_stdout()
            self._refuse(_file_words(error))

    def _compare_with_server(self) -> None:
        """Report on stderr which settings are ignored, and which differ from those of a running server.

        What a provider says at an address that is not the server's is not stored: the server's key would be disabled
        for want of a variable in this shell.
        """
        different = keys_in_use.different_settings()
        names = {name for _, names in different for name in names}
        failures.asked_elsewhere.update(name for name in providers.PROVIDERS if f"{name.upper()}_BASE_URL" in names)
        with suppress(OSError):
            self.write_error([*checks.warnings(), *_differences(different)])

    @property
    def _is_from_command_line(self) -> bool:
        return getattr(self, "_called_from_command_line", False)

    def _refuse(self, sentence: str, code: int = 1) -> NoReturn:
        if not self._is_from_command_line:
            raise CommandError(sentence, returncode=code) from None
        with suppress(OSError):  # if stderr is on a full device, there is still the exit code
            self.stderr.write(sentence)
        sys.exit(code)

    def write_lines(self, lines: list[str]) -> None:
        for line in lines:
            self.stdout.write(line)

    def write_error(self, lines: list[str]) -> None:
        """Write what is not the command's output to stderr, without colours."""
        for line in lines:
            self.stderr.write(line, lambda text: text)

    def write_json(self, data: Any) -> None:
        printing.write_json(cast(TextIO, self.stdout), data)

    @property
    def paint(self) -> Any:
        """Django's styles if stdout is a terminal, otherwise none."""
        return self.style if self.stdout.isatty() else no_style()


def examples(text: str) -> str:
    return f"example:\n  ./manage.py {text}" if text else ""


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def add_verb(verbs: Any, name: str, words: str, example: str, *, json: bool = True) -> argparse.ArgumentParser:
    """Add a subcommand with its example; `verbs` is what `add_subparsers` returned."""
    parser = verbs.add_parser(
        name, help=words, description=words, epilog=examples(example), formatter_class=HelpFormatter
    )
    if json:
        add_json_option(parser)
    return parser


def in_home(file: Path) -> Path:
    """Return the file with a leading `~` or `~user` replaced. Raises CommandError."""
    try:
        return file.expanduser()
    except RuntimeError:
        raise CommandError(f"{file} is in a home directory that does not exist.") from None


def count(number: int, word: str, plural: str = "") -> str:
    """Return `1 key`, `2 keys`, `1,204 keys`."""
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def actor() -> str:
    """Return who is running the command, for events."""
    try:
        return f"manage.py ({getpass.getuser()})"
    except (KeyError, OSError):  # a container whose user has no name
        return "manage.py"


def _run_our_checks(databases: list[str] | None) -> None:
    problems = [
        message
        for check in registry.get_checks()
        if check.__module__ == OUR_CHECKS
        for message in check(app_configs=None, databases=databases)
        if message.is_serious() and not message.is_silenced()
    ]
    if problems:
        raise CommandError("\n".join(map(checks.in_one_line, problems)))


def _differences(different: list[tuple[int, list[str]]]) -> list[str]:
    file = settings.DATA_DIR / settings_file.NAME
    return [
        f"The running server (process {pid}) has different values for {', '.join(names)}; this command uses "
        f"its own. Settings in {file} apply to both."
        for pid, names in different
    ]


def forget_stdout() -> None:
    """Discard what is still buffered, so that the process does not fail again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _file_words(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}." if error.filename else f"The output could not be written: {reason}."


def _input_words(error: InvalidInput, arguments: Mapping[str, str]) -> str:
    """Return the errors by argument or option name: `--daily-limit: must not be negative`."""
    return "\n".join(
        f"{arguments.get(field) or _option(field)}: {' '.join(texts)}" for field, texts in error.errors.items()
    )


def _option(field: str) -> str:
    if field in ("apiKey", "body"):
        return {"apiKey": "API key", "body": "The request"}[field]
    known = {
        "expiresAt": "--expires", "keyIds": "--key", "scopes": "--scope", "models": "--model",
        "requestsPerMinute": "--rpm", "overlapSeconds": "--overlap",
    }  # fmt: skip
    return known.get(field) or "--" + re.sub(r"(?<!^)(?=[A-Z])", "-", field).lower()


def settings_words(error: ImproperlyConfigured) -> str:
    """Return what Django finds wrong with a setting that our own checks let through, such as an option of a URL."""
    return f"A setting cannot be used: {' '.join(str(error).split()).rstrip('.')}. Correct it, and run this again."


def database_words(error: DatabaseError) -> str:
    """Return what is wrong with the database, or with its settings, and what to do."""
    try:
        _run_our_checks([DEFAULT_DB_ALIAS])
    except CommandError as problem:
        return str(problem)
    text = str(error).lower()
    if isinstance(error, OperationalError | ProgrammingError) and ("no such" in text or "does not exist" in text):
        return keys_in_use.another_database() or NO_TABLES
    from llmkeys.supervisor.prepare import explain

    return explain(error)
