"""PostgreSQL: a dump and an audit of the same snapshot, and swapping a restored database in.

`pg_dump` and `pg_restore` get the password through the environment, never as an argument.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db import DatabaseError, connection
from django.db.backends.utils import CursorWrapper

from llmkeys.backup.errors import BackupFailed, CannotRestore
from llmkeys.database.outages import first_line
from llmkeys.ledger.audit import Report, audit_through

_VARIABLES = {"HOST": "PGHOST", "PORT": "PGPORT", "USER": "PGUSER", "PASSWORD": "PGPASSWORD"}
_OPTIONS = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"}
_MISSING = "The program {name} is not installed (on Debian: the package postgresql-client)."


@contextmanager
def snapshot() -> Iterator[tuple[CursorWrapper, str]]:
    """Open a transaction with a snapshot; yield its cursor and the name by which others can share the snapshot."""
    own = connection.copy()
    try:
        with own.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute("SELECT pg_export_snapshot()")
            yield cursor, cursor.fetchone()[0]
            cursor.execute("ROLLBACK")
    finally:
        own.close()


def dump(target: Path, shared: str) -> None:
    """Dump the database as of a shared snapshot. Raises BackupFailed."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    options = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={shared}", f"--file={target}"]
    problem = _run("pg_dump", *options, database=connection.settings_dict["NAME"])
    if problem:
        raise BackupFailed(f"The database could not be dumped: {problem}")


def unreadable(file: Path) -> str:
    """Return why a dump cannot be read, or ""."""
    return _run("pg_restore", "--list", str(file), database="")


def _run(program: str, *arguments: str, database: str) -> str:
    """Run one of PostgreSQL's programs; return the first line of its error, "" for success."""
    settings = connection.settings_dict
    given = {name: str(settings.get(key) or "") for key, name in _VARIABLES.items()}
    given |= {name: str(settings.get("OPTIONS", {}).get(key) or "") for key, name in _OPTIONS.items()}
    environment = os.environ | {name: value for name, value in given.items() if value}
    if database:
        environment["PGDATABASE"] = database
    try:
        done = subprocess.run(  # noqa: S603  (a fixed program, without any user input)
            [program, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        return _MISSING.format(name=program)
    if done.returncode == 0:
        return ""
    return next(iter(done.stderr.strip().splitlines()), f"{program} ended with code {done.returncode}")


# --- restoring --------------------------------------------------------------------------------------------------------


@contextmanager
def server() -> Iterator[CursorWrapper]:
    """Yield a cursor on the server's `postgres` database, outside any transaction."""
    own = connection.copy()
    own.settings_dict["NAME"] = "postgres"
    try:
        with own.cursor() as cursor:
            yield cursor
    finally:
        own.close()


@contextmanager
def looking_into(name: str) -> Iterator[CursorWrapper]:
    """Yield a cursor on another database of the same server."""
    own = connection.copy()
    own.settings_dict["NAME"] = name
    try:
        with own.cursor() as cursor:
            yield cursor
    finally:
        own.close()


def refuse_while_used(cursor: CursorWrapper) -> None:
    """Raise CannotRestore if another process is connected to the database; the server's own vacuuming has no user.

    The cursor's own connection does not count, whatever database it is on.
    """
    cursor.execute(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = %s AND usesysid IS NOT NULL AND pid <> pg_backend_pid()",
        [connection.settings_dict["NAME"]],
    )
    others = cursor.fetchone()[0]
    if others:
        used = "1 connection uses" if others == 1 else f"{others} connections use"
        raise CannotRestore(
            f"{used} the database. Stop every `serve` and all other programs that use it, then run this again. "
            "Nothing was changed."
        )


def load(file: Path, name: str) -> None:
    """Create the database `name` and load a dump into it. Raises CannotRestore, with the database dropped again."""
    with server() as cursor:
        cursor.execute(f"CREATE DATABASE {_quoted(name)}")
    options = ["--no-owner", "--no-privileges", "--exit-on-error", f"--dbname={name}", str(file)]
    problem = _run("pg_restore", *options, database=name)
    if problem:
        drop(name)
        raise CannotRestore(f"The dump could not be loaded: {problem}")


def drop(name: str) -> None:
    with server() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {_quoted(name)}")


def audited(name: str) -> Report:
    with looking_into(name) as cursor:
        return audit_through(cursor)


def rows_of(name: str, query: str) -> list[tuple[Any, ...]]:
    with looking_into(name) as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def swap_in(new: str, keep: str) -> None:
    """Rename the old database to `keep` and the restored one into its place, or neither. Raises CannotRestore."""
    name = connection.settings_dict["NAME"]
    connection.close()
    try:
        with server() as cursor:
            refuse_while_used(cursor)  # again, because loading the dump may have taken minutes
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            if cursor.fetchone():
                cursor.execute(f"ALTER DATABASE {_quoted(name)} RENAME TO {_quoted(keep)}")
            cursor.execute(f"ALTER DATABASE {_quoted(new)} RENAME TO {_quoted(name)}")
            cursor.execute("COMMIT")
    except DatabaseError as error:
        raise CannotRestore(f"The database could not be replaced: {first_line(error)}. Nothing was changed.") from None


def _quoted(name: str) -> str:
    return connection.ops.quote_name(name)
