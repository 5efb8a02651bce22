"""Helpers that start `manage.py serve` for real, in a data directory of its own, and look at its process tree."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 40
START_SECONDS = 120  # to start a product, or to migrate a new database, takes a busy machine most of a minute
WHOLE_TREE = 10  # serve; web main and 2 workers; cluster main, guard, 2 workers, monitor and pusher
# The scheduler's watchdog, in seconds rather than minutes. No schedule is due until a test says so: a minute may begin
# while the product starts.
FAST_WATCHDOG = """
django.setup()
import llmkeys.supervisor.watchdog as dog
from llmkeys import scheduling
dog.LOOK_SECONDS = 0.5; dog.OVERDUE_SECONDS = 2; dog.CONFIRM_SECONDS = 1
ensure_schedules = scheduling.ensure_schedules
def none_is_due():
    ensure_schedules()
    scheduling.Schedule.objects.update(next_run="2099-01-01T00:00Z")
scheduling.ensure_schedules = none_is_due
"""
# Below those that the kernel gives to outgoing connections, one of which might take a port between its choice and its
# use, and above 10080, which Chromium refuses.
PORTS = range(11_000, 32_000)
SLICES = 20  # one for each process of pytest-xdist
NOT_INHERITED = (
    "OPENROUTER_",
    "OPENAI_",
    "ANTHROPIC_",
    "GOOGLE_",
    "GEMINI_",
    "REFACTAI_",
    "DATABASE_URL",
    "DJANGO_SUPER",
)
# A process that a test starts reaches loopback alone, as the tests themselves: what it asks of a provider for which no
# other base URL is set goes to a proxy that is not there.
NO_WAY_OUT = {
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "localhost,127.0.0.1,127.0.0.0/8,::1",
}


def wait_for(condition: Callable[[], object], *, seconds: float = DEADLINE_SECONDS, what: str = "") -> object:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what or condition}")


def free_port() -> int:
    """Return a port that nobody has, and that this process does not choose again soon."""
    for port in _own_ports():
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable: the ports go round")


@cache
def _own_ports() -> Iterator[int]:
    """The ports of this process, round and round, from any one on: other runs of the tests may be under way."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SLICES
    own = PORTS[number::SLICES]
    begin = secrets.randbelow(len(own))
    return itertools.cycle([*own[begin:], *own[:begin]])


@cache  # servers that share a database agree on it
def far_from_midnight() -> str:
    """A zone where it is neither late nor early now, so that no budget begins anew in a test; none of them is UTC."""
    zones = ("Asia/Kolkata", "America/St_Johns", "Australia/Adelaide")
    return next(zone for zone in zones if 3 <= datetime.now(ZoneInfo(zone)).hour < 21)


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    return inherited | NO_WAY_OUT | {"REFACTAI_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"} | more


def manage(
    data_dir: Path, *arguments: str, stdin: str = "", preexec_fn: Callable[[], None] | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment(data_dir, **more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        preexec_fn=preexec_fn,
    )


def prepare(data_dir: Path) -> Path:
    """Make a data directory, or fill an empty one, with an SQLite database of the present version, and return it.

    It is the copy of one, for to migrate a new database takes longer than many a test.
    """
    shutil.copytree(_prepared(), data_dir, dirs_exist_ok=True)
    return data_dir


@cache
def _prepared() -> Path:
    home = Path(tempfile.mkdtemp(prefix="llmkeys-prepared-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    done = manage(home / "data", "migrate", "-v", "0")
    assert done.returncode == 0, done.stderr
    return home / "data"


def _stat(pid: int) -> list[str]:
    """State, parent and what else the kernel says of a process; nothing where it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def parent_of(pid: int) -> int:
    """0 where the process has ended."""
    return int((_stat(pid) or ["", "0"])[1])


def state_of(pid: int) -> str:
    return (_stat(pid) or [""])[0]


def processes_of(data_dir: Path) -> list[int]:
    """All living processes of a data directory, orphans included: they carry it in their environment."""
    mark = f"REFACTAI_DATA_DIR={data_dir}".encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            mine = mark in (directory / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mine and state_of(int(directory.name)) not in ("Z", ""):
            found.append(int(directory.name))
    return sorted(found)


class Served:
    """A running `serve`. `prelude` is Python that runs before the command, for shorter intervals."""

    def __init__(
        self, data_dir: Path, *arguments: str, prelude: str = "", pass_fds: tuple[int, ...] = (), **more: str
    ) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.log = data_dir.parent / f"{data_dir.name}-{self.port}.stderr"
        self.out = data_dir.parent / f"{data_dir.name}-{self.port}.stdout"
        argv = ["manage.py", "serve", "--bind", f"127.0.0.1:{self.port}", *arguments]
        code = f"import sys, django, manage\nsys.argv = {argv!r}\n{prelude}\nmanage.main()"
        with self.log.open("w") as log, self.out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=ROOT,
                env=environment(data_dir, **more) | {"DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"]},
                stdout=out,
                stderr=log,
                start_new_session=True,
                pass_fds=pass_fds,
            )

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):  # it ended since it was listed
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def get(self, path: str, timeout: float = 5) -> tuple[int, str]:
        """Return status and body; status 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def wait_until_up(self) -> Served:
        def up() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.get("/healthz")[0] == 200

        wait_for(up, seconds=START_SECONDS, what=f"/healthz answers; stderr: {self.log.read_text()}")
        return self

    def wait_until_complete(self, processes: int = WHOLE_TREE) -> Served:
        """Up, with every process of the tree."""
        self.wait_until_up()
        wait_for(lambda: len(self.pids()) >= processes, seconds=START_SECONDS, what=f"{processes} processes")
        return self

    def pids(self) -> list[int]:
        return processes_of(self.data_dir)

    def children_of(self, pid: int) -> list[int]:
        return [child for child in self.pids() if parent_of(child) == pid]

    def mains(self) -> tuple[int, int]:
        """The web server's main process and the cluster's, told apart by their listening socket."""
        web, cluster = sorted(self.children_of(self.process.pid), key=self._sockets, reverse=True)
        return web, cluster

    def _sockets(self, pid: int) -> int:
        return sum(link.is_socket() for link in Path(f"/proc/{pid}/fd").iterdir())

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)
