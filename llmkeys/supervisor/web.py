"""What the web child runs: granian's main process and its workers, on the socket that `serve` opened."""

from __future__ import annotations

import gc
import socket
import time
from types import SimpleNamespace
from typing import Any

import granian.wsgi
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.urls import get_resolver
from django.utils.module_loading import import_string
from granian._granian import SocketHolder
from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server.mp import MPServer

from llmkeys.prices import tariffs
from llmkeys.supervisor.address import BACKLOG

# Requests in flight get this long after SIGTERM; what still streams then is cut, and its hold becomes LOST.
GRACE_SECONDS = 8

# granian writes to stdout, which is for what the operator reads at the start; faults go to stderr.
LOGGING_TO_STDERR = {
    "handlers": {
        "console": {"formatter": "generic", "class": "logging.StreamHandler", "stream": "ext://sys.stderr"},
        "access": {"formatter": "access", "class": "logging.StreamHandler", "stream": "ext://sys.stderr"},
    }
}


# A worker that dies younger than this may be one that cannot start.
YOUNG_SECONDS = 0.5
YOUNG_DEATHS = 10


class Server(MPServer):
    """granian, but on sockets that are listening already, one for each worker.

    And it goes on replacing workers that are killed: the stock server gives up when one dies twice within 5.5 s,
    which a machine short of memory brings about within a minute, and everything in flight in the others is cut.
    """

    listeners: list[socket.socket]
    young_deaths = 0

    def _init_shared_socket(self) -> None:
        # Kept, for a holder that is thrown away closes its socket.
        self.holders = [SocketHolder(listener.fileno(), False, BACKLOG) for listener in self.listeners]
        self._listen_on(0)

    def _spawn_worker(self, idx: int, *arguments: Any, **options: Any) -> Any:
        self._listen_on(idx)
        return super()._spawn_worker(idx, *arguments, **options)

    def _listen_on(self, index: int) -> None:
        self._shd, self._sso = self.holders[index], self.listeners[index]
        self._sfd = self._sso.fileno()

    def _respawn_workers(self, workers: list[int], *arguments: Any, **options: Any) -> None:
        """Replace these workers; after ten deaths in a row soon after the start, tell `serve` by ending."""
        young = all(time.monotonic() - self.wrks[index].birth < YOUNG_SECONDS for index in workers)
        self.young_deaths = self.young_deaths + 1 if young else 0
        super()._respawn_workers(workers, *arguments, **options)
        if self.young_deaths < YOUNG_DEATHS:
            self.respawned_wrks.clear()  # by these granian tells that a worker dies again and again


def preload() -> None:
    """Load all that a worker needs into the parent, so that its children share the memory."""
    import_string(settings.WSGI_APPLICATION)
    _ = get_resolver().url_patterns
    tariffs.listed_windows("openai", settings.PRIMARY_MODEL)  # reads the price data
    gc.collect()
    gc.freeze()  # the collector then leaves the shared pages alone


def _pool_connections() -> None:
    """Let the threads of a worker share a few connections to PostgreSQL instead of keeping one each.

    Done here, in the process of which only the workers are forked: a pool has threads, which no fork survives, and
    whoever has one thread needs none.
    """
    database = connections[DEFAULT_DB_ALIAS]
    if database.vendor == "postgresql":
        database.settings_dict["CONN_MAX_AGE"] = 0  # back to the pool at the end of a request
        database.settings_dict["OPTIONS"]["pool"] = settings.POSTGRES_POOL


def run(listeners: list[socket.socket], *, threads: int) -> int:
    """Serve until SIGTERM; return the exit code.

    `backpressure` counts connections, idle ones included, so that it stays far above the number of threads: with 64
    a browser's and the programs' idle keep-alive connections would shut everybody else out.
    """
    application = import_string(settings.WSGI_APPLICATION)
    _pool_connections()
    # granian copies the whole environment, provider keys included, into every request: it gets an empty one.
    granian.wsgi.os = SimpleNamespace(environ={})
    server = Server(
        settings.WSGI_APPLICATION,
        interface=Interfaces.WSGI,
        workers=len(listeners),
        blocking_threads=threads,
        backlog=BACKLOG,
        backpressure=BACKLOG,
        websockets=False,
        log_level=LogLevels.error,
        log_dictconfig=LOGGING_TO_STDERR,
        log_access=False,
        respawn_failed_workers=True,
        workers_kill_timeout=GRACE_SECONDS,
    )
    server.listeners = listeners
    server.serve(target_loader=lambda _target: application)
    return 0
