"""What the web child runs: the web server's main process and its workers, on the sockets that `serve` opened."""

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
    """Load all that a worker needs into the parent, so that its children share the memory."""
    import_string(settings.ASGI_APPLICATION)
    _ = get_resolver().url_patterns
    for provider in PROVIDERS:
        data.listed_windows(provider, settings.PRIMARY_MODEL)  # reads the price data
    gc.collect()
    gc.freeze()  # the collector then leaves the shared pages alone


def run(listeners: list[socket.socket], *, threads: int, shared: Shared) -> int:
    """Serve until SIGTERM; return the exit code."""
    _pool_connections()
    _allow_many_files()
    engines.run_web_server(listeners, threads=threads, shared=shared)
    return 0


def _pool_connections() -> None:
    """Let the threads of a worker share a few connections to PostgreSQL instead of keeping one each.

    Done here, in the process of which only the workers are forked: a pool has threads, which no fork survives, and
    a process with one thread needs none.
    """
    database = connections[DEFAULT_DB_ALIAS]
    if not is_sqlite():
        database.settings_dict["CONN_MAX_AGE"] = 0  # back to the pool at the end of a request
        database.settings_dict["OPTIONS"]["pool"] = settings.POSTGRES_POOL


def _allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may: each open stream takes two, and 1,024 is usual."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS says “no limit”, and takes no such value
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
