"""`manage.py demo`: the product with three simulated keys, live traffic and a full dashboard, removed afterwards."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from tqdm import tqdm

from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.demo import history
from llmkeys.management.demo.stage import USER, DemoFailed, Stage
from llmkeys.management.demo.traffic import Traffic
from llmkeys.supervisor import address

LOOK_SECONDS = 0.5


class StopRequested(BaseException):
    """Ctrl-C or SIGTERM; a BaseException, so that no `except Exception` swallows it."""


class Command(BaseCommand):
    help = (
        "Show the product at work without keys and without money: a throw-away data directory, a local SIMULATOR of "
        "the providers, three keys with small budgets, programs that use them (some requests fail on purpose) and the "
        "dashboard. The first key is spent within a minute, and the next one takes over. Ctrl-C stops "
        "everything and removes the directory."
    )
    example = "demo --history 30"

    needs_database = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--bind", default="127.0.0.1:8080", help="address and port (default: %(default)s)")
        parser.add_argument("--seconds", type=_positive, metavar="N", help="stop by itself after N seconds")
        parser.add_argument(
            "--history", type=_days, default=14, metavar="DAYS", help="days of history for the charts (default: 14)"
        )
        parser.add_argument("--fill", type=_days, help=argparse.SUPPRESS)  # used by the demo itself

    def handle(self, *, bind: str, seconds: int | None, history: int, fill: int | None, **_: Any) -> None:
        if fill is not None:
            _fill(fill)
            return
        where = address.parse(bind)
        address.listen(where, 1)[0].close()  # fails at once if the port is in use
        try:
            with _stop_signals(), Stage(where) as stage:
                self._show(stage, history, seconds)
        except StopRequested:
            pass
        except DemoFailed as error:
            raise CommandError(str(error)) from None
        self.stdout.write("The demo has stopped; its directory was removed.")

    def _show(self, stage: Stage, days: int, seconds: int | None) -> None:
        self._say(f"Preparing a demo with {days} days of history …")
        stage.run("demo", "--fill", str(days))
        stage.serve()
        tokens = stage.tokens(history.PROGRAMS)
        self._say("DEMO: every provider is a local SIMULATOR; nothing here costs money or reaches another machine.")
        self._say(f"Dashboard: {stage.where.url}/llm-settings")
        self._say(f"User:      {USER}")
        self._say(f"Password:  {stage.password}")
        self._say(f"Simulator: {stage.simulator.base_url}/_journal/summary (what it would have billed)")
        self._say("Watch “Production” being spent and “Backup” taking over. Ctrl-C stops and removes everything.")
        with Traffic(stage.local_host, stage.where.port, tokens):
            _wait(stage, seconds)

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _wait(stage: Stage, seconds: int | None) -> None:
    deadline = time.monotonic() + seconds if seconds else float("inf")
    while time.monotonic() < deadline:
        if not stage.is_serving():
            raise DemoFailed("The demo's server has stopped unexpectedly.")
        time.sleep(LOOK_SECONDS)


@contextlib.contextmanager
def _stop_signals() -> Iterator[None]:
    """Let the first signal end the demo properly, and ignore further ones."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise StopRequested

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fill(days: int) -> None:
    call_command("migrate", interactive=False, verbosity=0, skip_checks=True)
    with tqdm(total=days, unit="day", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:
        history.fill(days=days, at=timezone.now(), on_each_day=bar.update)


def _days(text: str) -> int:
    return _whole(text, least=0, most=1000, what="days")


def _positive(text: str) -> int:
    return _whole(text, least=1, most=10_000_000, what="seconds")


def _whole(text: str, *, least: int, most: int, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what} from {least} to {most}")
    return int(text)
