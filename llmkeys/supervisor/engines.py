"""All that touches the insides of the two engines, granian and django-q2: look here first when one is updated."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import granian._signals
from django.conf import settings
from django.utils.module_loading import import_string
from django_q import cluster
from granian._granian import SocketHolder
from granian.constants import Interfaces, Loops
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from llmkeys.supervisor.address import BACKLOG
from llmkeys.supervisor.shared import Shared

# A request's line and headers, together. The web server reads bodies through the same buffer.
HEADERS_BYTES = 65_536
# Connections of one worker, idle ones included; an open stream is one of them.
CONNECTIONS = 4096
# After `REFACTAI_STOP_SECONDS` a worker ends what is still in progress by itself; this long after it is killed.
KILL_SECONDS = 5
REFUSE_SECONDS = 0.05

# A worker that dies younger than this may be one that cannot start.
YOUNG_SECONDS = 0.5
YOUNG_DEATHS = 10


def choose_start_method() -> None:
    """Fork workers on Linux, where Python 3.14 would not any more: they share the loaded product's memory."""
    if sys.platform == "linux" and multiprocessing.get_start_method(allow_none=True) is None:
        multiprocessing.set_start_method("fork")


# --- granian ----------------------------------------------------------------------------------------------------------


class Server(MPServer):
    """granian, but on sockets that are listening already, one for each worker.

    And it goes on replacing workers that are killed: the stock server gives up when one dies twice within 5.5 s,
    which a machine short of memory brings about within a minute, and everything in flight in the others is cut.
    """

    listeners: list[socket.socket]
    threads: int
    shared: Shared
    young_deaths = 0
    _shd: Any
    _sfd: Any

    def _init_shared_socket(self) -> None:
        # Kept, for a holder that is thrown away closes its socket.
        holder: Any = SocketHolder
        self.holders = [holder(listener.fileno(), False, BACKLOG) for listener in self.listeners]
        self._listen_on(0)

    def _spawn_worker(self, idx: int, target: Any, *_: Any, **__: Any) -> Any:
        self._listen_on(idx)
        return super()._spawn_worker(idx, target, partial(load, self.threads, self.shared, idx))

    def _listen_on(self, index: int) -> None:
        self._shd, self._sso = self.holders[index], self.listeners[index]
        self._sfd = self._sso.fileno()

    def signal_handler_reload(self, *_: object) -> None:
        """Not here: a worker is forked from what was loaded, so that a new one would be as the old one."""

    def _respawn_workers(self, workers: list[int], *arguments: Any, **options: Any) -> None:
        """Replace these workers; after ten deaths in a row soon after the start, tell `serve` by ending."""
        young = all(time.monotonic() - self.wrks[index].birth < YOUNG_SECONDS for index in workers)
        self.young_deaths = self.young_deaths + 1 if young else 0
        super()._respawn_workers(workers, *arguments, **options)
        if self.young_deaths < YOUNG_DEATHS:
            self.respawned_wrks.clear()  # by these granian tells that a worker dies again and again


def load(threads: int, shared: Shared, place: int) -> Any:
    """Return the application, in a worker. A module's function, because a spawned worker gets it by its name."""
    application = import_string(settings.ASGI_APPLICATION)
    application.configure(threads=threads, under_way=shared.under_way, place=place)
    return application


def run_worker(number: int, name: str, loader: Any, sockets: Any, *others: Any) -> None:
    """What a worker process runs: granian's own worker, but it does more when it is asked to stop.

    The application hears of it at once; granian tells it by the end of its lifespan, which comes when the last
    request has ended. And when all of `serve` stops, the socket is closed for every holder: who comes then is refused
    instead of left waiting. Not before granian has stopped accepting: it does not end when it meets a closed socket.
    """
    listener = sockets[1].dup()  # granian closes the other one when it has stopped accepting
    refuse = partial(_refuse_connections, listener, loader.args[1])
    granian._signals.set_loop_signals = partial(_set_loop_signals, refuse)
    MPServer._spawn_asgi_lifespan_worker(number, name, loader, sockets, *others)
    refuse()


_granians_own = granian._signals.set_loop_signals


def _set_loop_signals(refuse: Callable[[], None], loop: asyncio.AbstractEventLoop) -> Any:
    event = _granians_own(loop)

    def stop() -> None:
        import_string(settings.ASGI_APPLICATION).stop()
        event.set()
        loop.call_later(REFUSE_SECONDS, refuse)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    return event


def _refuse_connections(listener: socket.socket, shared: Shared) -> None:
    if not shared.is_stopping:
        return  # this worker alone was asked to end: the next one listens where it did
    with suppress(OSError):  # it is closed already
        listener.shutdown(socket.SHUT_RDWR)


def run_web_server(listeners: list[socket.socket], *, threads: int, shared: Shared) -> None:
    """Run granian until SIGTERM, with a worker for each of the listening sockets."""
    server = Server(
        settings.ASGI_APPLICATION,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop if sys.platform != "win32" else Loops.asyncio,
        workers=len(listeners),
        blocking_threads=1,
        backlog=BACKLOG,
        backpressure=CONNECTIONS,
        http1_settings=HTTP1Settings(max_buffer_size=HEADERS_BYTES),
        http2_settings=HTTP2Settings(max_headers_size=HEADERS_BYTES),
        websockets=False,
        log_level=LogLevels.error,
        log_dictconfig=_logging(),
        log_access=False,
        respawn_failed_workers=True,
        workers_kill_timeout=settings.STOP_SECONDS + KILL_SECONDS,
    )
    server.listeners, server.threads, server.shared = listeners, threads, shared
    server.serve(spawn_target=run_worker, target_loader=load, wrap_loader=False)


def _logging() -> dict[str, Any]:
    """Return the product's own logging, for granian sets up its own and sends it to stdout."""
    ours: dict[str, Any] = settings.LOGGING
    own = {name: {"handlers": ["stderr"], "propagate": False} for name in ("_granian", "granian.access")}
    return {**ours, "loggers": {**ours["loggers"], **own}}


# --- django-q2 --------------------------------------------------------------------------------------------------------

SUDDEN_DEATH = 70


class Sentinel(cluster.Sentinel):
    """django-q2's guard, except that a sudden death ends the whole cluster, which `serve` then restarts.

    A process that was killed while it waited at a queue keeps that queue's lock for ever. The stock guard replaces it
    by another that waits for the same lock, and no task ever runs again. New queues are the only remedy.
    """

    def reincarnate(self, process: Any) -> None:
        if self._died_suddenly(process):
            os._exit(SUDDEN_DEATH)  # its children die with it: `leave_no_orphans`
        super().reincarnate(process)

    def _died_suddenly(self, process: Any) -> bool:
        if process in (self.monitor, self.pusher):
            return True
        timed_out, recycled = process.timer.value == 0, int(process.timer.value) == -2
        return not (timed_out or recycled)


def run_cluster() -> int:
    """Run the cluster until SIGTERM; return 0 after a stop that was asked for, else the guard's exit code."""
    cluster.Sentinel = Sentinel
    main = cluster.Cluster()
    try:
        main.start()
    except RuntimeError:  # the guard ended at once; it has said why
        return 1
    while main.sentinel.is_alive():
        main.sentinel.join(1)
    return abs(main.sentinel.exitcode or 0)
