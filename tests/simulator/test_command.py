"""`manage.py simulator`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from llmkeys.simulator import SimulatorThread
from tests.simulator.helpers import ROOT, body_of

# Bare settings: the command must work before there is a database, a secret or any other part of the product.
RUN = """
import sys
from django.conf import settings
settings.configure()
import django
django.setup()
from llmkeys.management.commands.simulator import Command
Command().run_from_argv(["manage.py", "simulator", *sys.argv[1:]])
"""


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class TestCommand:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_runs_until_a_signal(self, number: signal.Signals, tmp_path: Path) -> None:
        file = tmp_path / "journal.jsonl"
        with command("--bind", "127.0.0.1:0", "--latency-ms", "50", "--journal", str(file)) as process:
            assert process.stdout is not None
            greeting = [process.stdout.readline() for _ in range(5)]
            assert greeting[0].startswith("SIMULATOR of OpenRouter, OpenAI, Anthropic and Google on http://127.0.0.1:")
            url = re.search(r"OPENROUTER_BASE_URL=(\S+)", "".join(greeting))[1]
            begin = time.monotonic()
            headers = {"Authorization": "Bearer sk-or-v1-x-ok"}
            body = {"model": "openai/gpt-6-luna", **body_of()}
            assert requests.post(f"{url}/chat/completions", json=body, headers=headers, timeout=10).ok
            assert time.monotonic() - begin >= 0.05
            process.send_signal(number)
            output, errors = process.communicate(timeout=10)
            assert (process.returncode, errors) == (0, "")
            assert "has stopped" in output
        assert len(file.read_text().splitlines()) == 1

    def test_it_says_that_the_port_is_in_use(self, simulator: SimulatorThread) -> None:
        with command("--bind", f"127.0.0.1:{simulator.port}") as process:
            _, errors = process.communicate(timeout=10)
        assert process.returncode == 1
        assert "already in use" in errors
        assert len(errors.splitlines()) == 1

    @pytest.mark.parametrize("address", ["9900", "127.0.0.1:", "127.0.0.1:99999", ":1"])
    def test_it_refuses_an_address_that_is_none(self, address: str) -> None:
        with command("--bind", address) as process:
            _, errors = process.communicate(timeout=10)
        assert (process.returncode, len(errors.splitlines())) == (1, 1)
        assert "HOST:PORT" in errors

    def test_it_helps_with_an_example(self) -> None:
        with command("--help") as process:
            output, _ = process.communicate(timeout=10)
        assert process.returncode == 0
        assert "example:\n  ./manage.py simulator --bind 127.0.0.1:9900" in output
        assert "-429x2" in output
        assert "[[prompt_tokens=1000" in output
        assert "[[tool=NAME" in output
        assert all(dialect in output for dialect in ("responses", "embeddings", "messages", "generateContent"))
