"""The processes that are measured, each on a loopback port of its own, and what the kernel says of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.serving import ROOT, START_SECONDS, free_port

STOP_SECONDS = 60
SECRET = "sk-or-v1-benchmark-0123456789abcdef-ok"


@dataclass(frozen=True)
class Server:
    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Return what the process and all that it started have used."""
        ticks = 0
        for one in self._tree():
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Return the proportional set size of the whole tree in kB."""
        total = 0
        for one in self._tree():
            with suppress(OSError):
                for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                    total += int(line.split()[1]) if line.startswith("Pss:") else 0
        return total

    def _tree(self) -> list[int]:
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.pid]
        for one in found:
            found += parents.get(one, [])
        return found


def environment(data_dir: Path, database: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    given = {"REFACTAI_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT), "HOME": str(data_dir)}
    return kept | given | ({"DATABASE_URL": database} if database else {})


def manage(given: dict[str, str], *words: str, stdin: str | None = None, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *words],
        env=given | more,
        input=stdin,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"manage.py {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def prepare(given: dict[str, str]) -> tuple[str, str]:
    """Create the database, one key and two tokens; return the tokens, the second one with every limit."""
    manage(given, "migrate", "--verbosity", "0")
    who = {"DJANGO_SUPERUSER_USERNAME": "bench", "DJANGO_SUPERUSER_PASSWORD": "bench-password-1"}
    manage(given, "createsuperuser", "--noinput", "--email", "", **who)
    limits = ["--daily-limit", "1000000", "--monthly-limit", "1000000", "--total-limit", "1000000"]
    manage(given, "keys", "add", "--provider", "openrouter", "--name", "bench", *limits, stdin=SECRET)
    more = ["--rpm", "1000000", "--model", "openai/*"]
    plain = manage(given, "tokens", "create", "bench").strip()
    return plain, manage(given, "tokens", "create", "limited", *limits, *more).strip()


@contextmanager
def simulator(given: dict[str, str], latency_ms: int) -> Iterator[Server]:
    port = free_port()
    words = ["manage.py", "simulator", "--bind", f"127.0.0.1:{port}", "--latency-ms", str(latency_ms)]
    with _running([sys.executable, *words], given, port) as server:
        yield server


@contextmanager
def bare(given: dict[str, str], upstream: str) -> Iterator[Server]:
    """The bare forwarder: granian WSGI, 2 workers of 16 threads, a pooled `requests.Session`."""
    port = free_port()
    granian = shutil.which("granian", path=str(Path(sys.executable).parent)) or "granian"
    words = [granian, "--interface", "wsgi", "--no-ws", "--port", str(port), "--workers", "2"]
    words += ["--blocking-threads", "16", "--backpressure", "1024", "tests.bench.bare:application"]
    with _running(words, given | {"BENCH_UPSTREAM": upstream, "BENCH_SECRET": SECRET}, port) as server:
        yield server


@contextmanager
def product(given: dict[str, str], workers: int) -> Iterator[Server]:
    port = free_port()
    words = ["manage.py", "serve", "--bind", f"127.0.0.1:{port}", "--workers", str(workers)]
    with _running([sys.executable, *words], given, port) as server:
        yield server


@contextmanager
def _running(words: list[str], given: dict[str, str], port: int) -> Iterator[Server]:
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(words, env=given, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(port, child, log)
            yield Server(port, child.pid)
        finally:
            child.terminate()
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)


def _wait_for(port: int, child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    import socket

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    log.seek(0)
    raise SystemExit(f"A server did not start:\n{log.read().decode()}")
