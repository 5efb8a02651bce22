"""What all threads of the process send to the database."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created


@contextmanager
def watched() -> Iterator[list[str]]:
    """Note every statement on every connection, those of other threads and those that are yet to be opened too."""
    seen: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    def watch(connection: BaseDatabaseWrapper, **_: Any) -> None:
        if note not in connection.execute_wrappers:
            connection.execute_wrappers.append(note)

    def every_connection() -> list[BaseDatabaseWrapper]:
        return [found for found in gc.get_objects() if issubclass(type(found), BaseDatabaseWrapper)]

    for connection in every_connection():
        watch(connection)
    connection_created.connect(watch)
    try:
        yield seen
    finally:
        connection_created.disconnect(watch)
        for connection in every_connection():
            if note in connection.execute_wrappers:
                connection.execute_wrappers.remove(note)
