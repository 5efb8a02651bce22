"""`make bench`: the product beside a bare forwarder and the provider itself, in one run, on SQLite and PostgreSQL.

The product twice: for a token without limits, and for one with a budget in each window and requests per minute. Prints
requests a second, latency and CPU a request at 1, 16 and 64 connections, whole and streamed, each as the median
of rounds in which all take turns; then what many open streams cost, and the memory of the whole tree at rest. Only
ratios of one run mean anything: everything shares the machine, the load and the simulated provider included.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.bench import load, servers, streams
from tests.bench.load import Target
from tests.bench.servers import Server
from tests.postgres import Unavailable, new_database, private_server

MODEL = "openai/gpt-4o-mini"
CHAT = "/v1/chat/completions"


def main() -> None:
    options = _options()
    _allow_many_connections()
    for name in options.databases:
        try:
            with _database(name) as url:
                _measure_all(options, name, url)
        except Unavailable as reason:
            print(f"\n{name}: not measured: {reason}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--workers", type=int, default=2, help="web processes of the product")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--requests", type=int, default=1500, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=int, default=0, help="what the simulated provider takes")
    parser.add_argument("--open-streams", type=int, default=1000, help="0: leave this part out")
    parser.add_argument("--stream-seconds", type=int, default=30, help="how long each open stream lasts")
    return parser.parse_args()


def _allow_many_connections() -> None:
    """Each open stream takes a descriptor here, in the product, twice, and in the simulated provider."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _database(name: str) -> Iterator[str]:
    if name == "sqlite":
        yield ""
        return
    with private_server() as server, new_database(server.url) as url:
        yield url


def _measure_all(options: argparse.Namespace, name: str, url: str) -> None:
    print(f"\n=== {name}: {options.workers} web processes, the provider takes {options.latency_ms} ms")
    with ExitStack() as stack:
        given = servers.environment(Path(stack.enter_context(tempfile.TemporaryDirectory())), url)
        provider = stack.enter_context(servers.simulator(given, options.latency_ms))
        upstream = given["OPENROUTER_BASE_URL"] = f"http://127.0.0.1:{provider.port}/api/v1"
        token, limited = servers.prepare(given)
        forwarder = stack.enter_context(servers.bare(given, upstream))
        product = stack.enter_context(servers.product(given, options.workers))
        of_product = Target(product.port, CHAT, token)
        measured = {
            "provider": (provider, Target(provider.port, "/api/v1/chat/completions", servers.SECRET)),
            "bare": (forwarder, Target(forwarder.port, CHAT, token)),
            "product": (product, of_product),
            "limited": (product, Target(product.port, CHAT, limited)),
        }
        load.run(of_product, connections=4, requests=40, body=_body(streamed=True))
        at_rest = product.memory() / 1024
        for streamed in (False, True):
            _table(options, measured, streamed)
        print(f"\nmemory of the product's whole tree: {at_rest:.0f} MB at rest, {product.memory() / 1024:.0f} MB after "
              "the load (proportional set size)")  # fmt: skip
        if options.open_streams:
            _open_streams(options, product, of_product)
        print(f"audit: {servers.manage(given, 'audit').strip()}")


def _body(*, streamed: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello you"}]
    return {"model": MODEL, "max_tokens": 100, "stream": streamed, "messages": messages}


def _table(options: argparse.Namespace, measured: dict[str, tuple[Server, Target]], streamed: bool) -> None:
    print(f"\n{'whole streams' if streamed else 'whole answers'}")
    print(f"{'connections':>11}  {'':9} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms':>8} {'load CPU':>9}"
          "   product : bare, limited : product")  # fmt: skip
    body = _body(streamed=streamed)
    for connections in options.connections:
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in measured}
        for _, target in measured.values():
            load.run(target, connections=connections, requests=connections * 4, body=body)
        for _ in range(options.rounds):
            for name, (server, target) in measured.items():
                rounds[name].append(_measure(server, target, connections, options.requests, body))
        _rows(connections, rounds)


def _measure(server: Server, target: Target, connections: int, requests: int, body: dict[str, Any]) -> dict[str, float]:
    before = server.cpu_seconds()
    result = load.run(target, connections=connections, requests=requests, body=body)
    if set(result.statuses) != {200}:
        raise SystemExit(f"Not every request was served: {result.statuses}")
    return {
        "rate": result.per_second,
        "p50": result.percentile(0.50),
        "p99": result.percentile(0.99),
        "cpu": 1000 * (server.cpu_seconds() - before) / requests,
        "load": 1000 * result.own_cpu_seconds / requests,
    }


def _rows(connections: int, rounds: dict[str, list[dict[str, float]]]) -> None:
    for name, many in rounds.items():
        figures = {key: statistics.median(one[key] for one in many) for key in many[0]}
        beside = rounds[{"product": "bare", "limited": "product"}.get(name, name)]
        ratios = [one["rate"] / other["rate"] for one, other in zip(many, beside, strict=True)]
        ratio = "" if beside is many else f"{statistics.median(ratios):14.2f}"
        print(
            f"{connections:>11}  {name:9} {figures['rate']:>10.0f} {figures['p50']:>8.1f} {figures['p99']:>8.1f} "
            f"{figures['cpu']:>8.2f} {figures['load']:>9.2f} {ratio}"
        )


def _open_streams(options: argparse.Namespace, product: Server, target: Target) -> None:
    count = options.open_streams
    seconds = options.stream_seconds + count // streams.OPENED_PER_SECOND  # so that the first outlasts the last's start
    small = _body(streamed=True)
    found = streams.hold_open(
        target, count=count, seconds=seconds, model=MODEL, page="/login", small=small, memory=product.memory
    )
    print("\nopen streams")
    for line in streams.report(found, count):
        print(f"  {line}")


if __name__ == "__main__":
    main()
