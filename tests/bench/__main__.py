"""`make bench`: the product beside a bare forwarder, same server, workers and threads, in one run.

Prints requests per second, latency and CPU per request at 1, 16 and 64 connections, each as the median of rounds in
which the two take turns, and the proportional memory of the product's web processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.bench import load

ROOT = Path(__file__).resolve().parents[2]
SECRET = "sk-or-v1-benchmark-0123456789abcdef-ok"
MODEL = "openai/gpt-4o-mini"


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = _environment(data_dir)
        simulator = stack.enter_context(_simulator(environment, options.latency_ms))
        environment["OPENROUTER_BASE_URL"] = f"http://127.0.0.1:{simulator}/api/v1"
        environment["BENCH_UPSTREAM"], environment["BENCH_SECRET"] = environment["OPENROUTER_BASE_URL"], SECRET
        token = _prepare(environment)
        bare = stack.enter_context(_bare(environment, options))
        product = stack.enter_context(_product(environment, options))
        for streamed in (False, True):
            _table(options, bare, product, token, streamed)
        memory = _pss(product.pid) / 1024
        print(f"\nMemory of web processes and scheduler together: {memory:.0f} MB (proportional set size)")
        _audit(environment)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--requests", type=int, default=1500, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=int, default=0, help="what the simulated provider takes")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    return parser.parse_args()


def _environment(data_dir: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "DATABASE_URL") if name in os.environ}
    return kept | {"REFACTAI_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT), "HOME": str(data_dir)}


def _prepare(environment: dict[str, str]) -> str:
    """Create the database, one key and a token; return the token."""
    manage = [sys.executable, str(ROOT / "manage.py")]
    run = lambda *words, **more: subprocess.run(  # noqa: E731
        [*manage, *words], env=environment | more.pop("extra", {}), check=True, capture_output=True, text=True, **more
    )
    run("migrate", "--verbosity", "0")
    run("createsuperuser", "--noinput", "--email", "", extra={
        "DJANGO_SUPERUSER_USERNAME": "bench", "DJANGO_SUPERUSER_PASSWORD": "bench-password-1"})  # fmt: skip
    run("keys", "add", "--provider", "openrouter", "--name", "bench", "--daily-limit", "1000000", "--monthly-limit",
        "1000000", "--total-limit", "1000000", input=SECRET)  # fmt: skip
    return run("tokens", "create", "bench").stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class _Server:
    def __init__(self, port: int, pid: int):
        self.port, self.pid = port, pid


@contextmanager
def _process(words: list[str], environment: dict[str, str], port: int):
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(port, child, log)
            yield _Server(port, child.pid)
        finally:
            _stop(child)


def _stop(child: subprocess.Popen) -> None:
    child.terminate()
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)


def _wait_for(port: int, child: subprocess.Popen, log) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    log.seek(0)
    raise SystemExit(f"A server did not start:\n{log.read().decode()}")


@contextmanager
def _simulator(environment: dict[str, str], latency_ms: int):
    port = _free_port()
    words = [sys.executable, str(ROOT / "manage.py"), "simulator", "--bind", f"127.0.0.1:{port}"]
    with _process([*words, "--latency-ms", str(latency_ms)], environment, port):
        yield port


@contextmanager
def _bare(environment: dict[str, str], options: argparse.Namespace):
    port = _free_port()
    granian = shutil.which("granian", path=str(Path(sys.executable).parent))
    words = [granian, "--interface", "wsgi", "--no-ws", "--port", str(port), "--workers", str(options.workers)]
    words += ["--blocking-threads", str(options.threads), "--backpressure", "1024", "tests.bench.bare:application"]
    with _process(words, environment, port) as server:
        yield server


@contextmanager
def _product(environment: dict[str, str], options: argparse.Namespace):
    port = _free_port()
    words = [sys.executable, str(ROOT / "manage.py"), "serve", "--bind", f"127.0.0.1:{port}"]
    words += ["--workers", str(options.workers), "--threads", str(options.threads)]
    with _process(words, environment, port) as server:
        yield server


# --- measuring -------------------------------------------------------------------------------------------------------


def _table(options: argparse.Namespace, bare: _Server, product: _Server, token: str, streamed: bool) -> None:
    body = {
        "model": MODEL,
        "max_tokens": 100,
        "stream": streamed,
        "messages": [{"role": "user", "content": "Hello you"}],
    }
    message = json.dumps(body).encode()
    print(f"\n{'streamed' if streamed else 'not streamed'}, {options.workers} workers x {options.threads} threads, "
          f"provider takes {options.latency_ms} ms")  # fmt: skip
    print(f"{'connections':>11}  {'':9} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms':>8}   product : bare")
    for connections in options.connections:
        rounds = {"bare": [], "product": []}
        for server in (bare, product):
            load.run(server.port, connections=connections, requests=connections * 4, body=message, token=token)
        for _ in range(options.rounds):
            for name, server in (("bare", bare), ("product", product)):
                rounds[name].append(_measure(server, connections, options.requests, message, token))
        _rows(connections, rounds)


def _measure(server: _Server, connections: int, requests: int, body: bytes, token: str) -> dict[str, float]:
    before = _cpu_seconds(server.pid)
    result = load.run(server.port, connections=connections, requests=requests, body=body, token=token)
    if set(result.statuses) != {200}:
        raise SystemExit(f"Not every request was served: {result.statuses}")
    return {
        "rate": result.per_second,
        "p50": result.percentile(0.50),
        "p99": result.percentile(0.99),
        "cpu": 1000 * (_cpu_seconds(server.pid) - before) / requests,
    }


def _rows(connections: int, rounds: dict[str, list[dict[str, float]]]) -> None:
    middle = {
        name: {key: statistics.median(one[key] for one in many) for key in many[0]} for name, many in rounds.items()
    }
    ratios = [product["rate"] / bare["rate"] for bare, product in zip(rounds["bare"], rounds["product"], strict=True)]
    for name, figures in middle.items():
        ratio = f"{statistics.median(ratios):14.2f}" if name == "product" else ""
        print(
            f"{connections:>11}  {name:9} {figures['rate']:>10.0f} {figures['p50']:>8.1f} {figures['p99']:>8.1f} "
            f"{figures['cpu']:>8.2f} {ratio}"
        )


def _tree(pid: int) -> list[int]:
    """Return a process and all that it started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def _cpu_seconds(pid: int) -> float:
    ticks = 0
    for one in _tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _pss(pid: int) -> int:
    """Return kB."""
    total = 0
    for one in _tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def _audit(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "audit"], env=environment, capture_output=True, text=True
    )
    print(f"audit: exit {done.returncode}: {(done.stdout + done.stderr).strip()}")


if __name__ == "__main__":
    main()
