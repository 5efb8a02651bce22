"""Everything that depends on internals of granian and django-q2: look here first when one of them is updated."""

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

# The request line and headers together. The web server reads bodies through the same buffer.
HEADERS_BYTES = 65_536
# Connections of one worker, idle ones included; an open stream is one of them.
CONNECTIONS = 4096
# A worker ends what is still in progress after `REFACTAI_STOP_SECONDS`; this long after that it is killed.
KILL_SECONDS = 5
REFUSE_SECONDS = 0.05

# A worker that dies sooner than this may be unable to start.
YOUNG_SECONDS = 0.5
YOUNG_DEATHS = 10


def choose_start_method() -> None:
    """Fork workers on Linux, which is not the default from Python 3.14 on, so that they share the loaded code."""
    if sys.platform == "linux" and multiprocessing.get_start_method(allow_none=True) is None:
        multiprocessing.set_start_method("fork")


# --- granian ----------------------------------------------------------------------------------------------------------


class Server(MPServer):
    """granian's server, but on existing listening sockets, one for each worker.

    It also keeps replacing workers that are killed: the stock server gives up when one dies twice within 5.5 s, which
    happens soon on a machine that is short of memory, and cuts off everything in progress in the other workers.
    """

    listeners: list[socket.socket]
    threads: int
    shared: Shared
    young_deaths = 0
    _shd: Any
    _sfd: Any

    def _init_shared_socket(self) -> None:
        # Kept, because a holder that is garbage-collected closes its socket.
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
        """Do nothing: workers are forked from what was loaded, so a new one would be the same."""

    def _respawn_workers(self, workers: list[int], *arguments: Any, **options: Any) -> None:
        """Replace these workers; after ten early deaths in a row, give up, so that `serve` notices."""
        young = all(time.monotonic() - self.wrks[index].birth < YOUNG_SECONDS for index in workers)
        self.young_deaths = self.young_deaths + 1 if young else 0
        super()._respawn_workers(workers, *arguments, **options)
        if self.young_deaths < YOUNG_DEATHS:
            self.respawned_wrks.clear()  # granian's record of workers that die repeatedly


def load(threads: int, shared: Shared, place: int) -> Any:
    """Return the application, in a worker. It is at module level because spawned workers import it by name."""
    application = import_string(settings.ASGI_APPLICATION)
    application.configure(threads=threads, in_progress=shared.in_progress, place=place)
    return application


def run_worker(number: int, name: str, loader: Any, sockets: Any, *others: Any) -> None:
    """Run granian's own worker, but with additional steps when it is asked to stop.

    The application is notified at once; granian does so only through the end of its lifespan, after the last request.
    And if `serve` as a whole stops, the socket is shut down, so that new connections are refused instead of left
    waiting. That must be after granian has stopped accepting, because otherwise it would not end.
    """
    listener = sockets[1].dup()  # granian closes its own copy once it has stopped accepting
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
        return  # only this worker was asked to stop: the next one will listen on the same socket
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
    """Return the product's logging configuration, because granian's own would write to stdout."""
    ours: dict[str, Any] = settings.LOGGING
    own = {name: {"handlers": ["stderr"], "propagate": False} for name in ("_granian", "granian.access")}
    return {**ours, "loggers": {**ours["loggers"], **own}}


# --- django-q2 --------------------------------------------------------------------------------------------------------

SUDDEN_DEATH = 70


class Sentinel(cluster.Sentinel):
    """django-q2's guard, except that a sudden death ends the whole cluster, which `serve` then restarts.

    A process that is killed while it waits for a queue keeps that queue's lock forever. The stock guard replaces it
    with another that waits for the same lock, and no task ever runs again. Only new queues help.
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
    """Run the cluster until SIGTERM; return 0 after a requested stop, otherwise the guard's exit code."""
    cluster.Sentinel = Sentinel
    main = cluster.Cluster()
    try:
        main.start()
    except RuntimeError:  # the guard ended immediately, and has logged why
        return 1
    while main.sentinel.is_alive():
        main.sentinel.join(1)
    return abs(main.sentinel.exitcode or 0)
