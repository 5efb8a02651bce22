"""What the web child runs: the web server's main process and its workers, on sockets that `serve` opened."""

from __future__ import annotations

import gc
import resource
import socket
from contextlib import suppress

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.urls import get_resolver
from django.utils.module_loading import import_string

from llmkeys.database.sql import is_sqlite
from llmkeys.prices import data
from llmkeys.providers import PROVIDERS
from llmkeys.supervisor import engines
from llmkeys.supervisor.shared import Shared


def preload() -> None:
    """Load everything that a worker needs in the parent, so that its children share the memory."""
    import_string(settings.ASGI_APPLICATION)
    _ = get_resolver().url_patterns
    for provider in PROVIDERS:
        data.listed_windows(provider, settings.PRIMARY_MODEL)  # reads the price data
    gc.collect()
    gc.freeze()  # so that the garbage collector does not touch the shared pages


def run(listeners: list[socket.socket], *, threads: int, shared: Shared) -> int:
    """Serve until SIGTERM; return the exit code."""
    _pool_connections()
    _allow_many_files()
    engines.run_web_server(listeners, threads=threads, shared=shared)
    return 0


def _pool_connections() -> None:
    """Let the threads of a worker share a few connections to PostgreSQL instead of keeping one each.

    This is done in the process that only forks workers, because a pool has threads, which do not survive a fork.
    """
    database = connections[DEFAULT_DB_ALIAS]
    if not is_sqlite():
        database.settings_dict["CONN_MAX_AGE"] = 0  # connections return to the pool at the end of a request
        database.settings_dict["OPTIONS"]["pool"] = settings.POSTGRES_POOL


def _allow_many_files() -> None:
    """Raise this process's limit of open files to the maximum: a stream takes two, and the default is often 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS reports “unlimited” but does not accept that value
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
