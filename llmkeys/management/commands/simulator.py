"""`manage.py simulator`: the four providers, simulated on one local port."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import signal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter

from llmkeys.simulator import behaviour
from llmkeys.simulator.server import Simulator

EXAMPLE = f"""
example:
  ./manage.py simulator --bind 127.0.0.1:9900 --latency-ms 200 --journal journal.jsonl

  curl http://127.0.0.1:9900/api/v1/chat/completions -H "Authorization: Bearer sk-or-v1-simulated-key-ok" \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "openai/gpt-6.1-terra", "messages": [{{"role": "user", "content": "hello"}}]}}'

  GET /_journal, GET /_journal?after=N and GET /_journal/summary show what was billed, POST /_reset clears it.

{behaviour.__doc__}"""


class _HelpFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the example."""


class Command(BaseCommand):
    help = (
        "A local stand-in for OpenRouter, OpenAI, Anthropic and Google, for trying the product without spending money. "
        "It speaks every dialect that the gateway serves: OpenAI chat, responses and embeddings, Anthropic messages, "
        "Google generateContent. Every answer says that it is simulated."
    )
    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, formatter_class=_HelpFormatter, epilog=EXAMPLE, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--bind", default="127.0.0.1:9900", metavar="HOST:PORT", help="default: 127.0.0.1:9900")
        parser.add_argument(
            "--latency-ms", type=_milliseconds, default=0, help="wait before the first byte of an answer"
        )
        parser.add_argument(
            "--chunk-delay-ms", type=_milliseconds, default=0, help="wait between two chunks of a stream"
        )
        parser.add_argument(
            "--journal", type=Path, metavar="FILE", help="append one JSON line for each request to a model"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        host, port = _address(options["bind"])
        simulator = self._simulator(options)
        # A second Ctrl-C while stopping must not cause a traceback either.
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(self._serve(simulator, host, port))

    def _simulator(self, options: dict[str, Any]) -> Simulator:
        try:
            return Simulator(
                latency_ms=options["latency_ms"],
                chunk_delay_ms=options["chunk_delay_ms"],
                journal_file=options["journal"],
            )
        except OSError as error:
            raise CommandError(f"The journal {options['journal']} cannot be written: {error.strerror}.") from error

    async def _serve(self, simulator: Simulator, host: str, port: int) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        try:
            port = await simulator.start(host, port)
        except OSError as error:
            words = f"The simulator cannot listen on {_shown(host)}:{port}: {_reason(error)}."
            raise CommandError(f"{words} Choose another address with --bind.") from error
        self._greet(f"http://{_shown(host)}:{port}")
        await stop.wait()
        await simulator.stop()
        self.stdout.write("The simulator has stopped.")

    def _greet(self, url: str) -> None:
        self.stdout.write(f"SIMULATOR of OpenRouter, OpenAI, Anthropic and Google on {url} (no real provider)")
        self.stdout.write("Start the product with these, and store keys such as sk-or-v1-simulated-key-ok:")
        self.stdout.write(f"  OPENROUTER_BASE_URL={url}/api/v1 OPENAI_BASE_URL={url}/openai/v1 \\")
        self.stdout.write(f"  ANTHROPIC_BASE_URL={url}/anthropic GOOGLE_BASE_URL={url}/google")
        self.stdout.write(f"Billed so far: {url}/_journal/summary    Ctrl-C stops.")
        self.stdout.flush()


def _milliseconds(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 600_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of milliseconds (0 to 600000)")
    return int(text)


def _address(text: str) -> tuple[str, int]:
    """Parse HOST:PORT, with an IPv6 address in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65_535:
        raise CommandError(f"--bind must be HOST:PORT, for example 127.0.0.1:9900, not {text!r}.")
    return host.strip("[]"), int(port)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reason(error: OSError) -> str:
    # For some failures asyncio puts the address into the message and sets no strerror.
    return "the address is already in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
