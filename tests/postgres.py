"""A PostgreSQL server for tests: the one that `DATABASE_URL` names, else a private one that goes when the tests end.

`initdb` and the server refuse to run as root, so that they run as the user `postgres` there.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serving import free_port

START_SECONDS = 120
CONNECTIONS = 300
USER = "postgres"
NOT_DURABLE = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


class Unavailable(Exception):
    """Why no server can be had here, in words for the person who reads what was skipped."""


def binaries() -> Path:
    """Return the newest directory with `initdb` and `postgres`: Debian's, else the one on the PATH."""

    def version(directory: Path) -> float:
        try:
            return float(directory.parent.name)
        except ValueError:
            return 0.0

    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=version)
    on_path = shutil.which("initdb")
    candidates = [*reversed(found), *([Path(on_path).parent] if on_path else [])]
    for directory in candidates:
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    raise Unavailable("PostgreSQL is not installed (on Debian: the package postgresql)")


@contextmanager
def private_server(*, durable: bool = True) -> Iterator[Server]:
    """Run a server of our own on a free loopback port. Raises Unavailable.

    Durable commits stay on, as in production, unless nobody cuts the power: each waits for the disk.
    """
    programs, account = binaries(), _account()
    home = Path(tempfile.mkdtemp(prefix="llmkeys-postgres-"))
    try:
        if account:
            os.chown(home, account.pw_uid, account.pw_gid)
        _run(programs / "initdb", "-D", home / "data", "-A", "trust", "-U", USER, "--no-sync", account=account)
        server = Server(programs / "postgres", home, account, *(() if durable else NOT_DURABLE))
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    """Return the account that the server runs under, None for our own. Raises Unavailable."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        raise Unavailable("PostgreSQL does not run as root, and there is no user postgres") from None


def _as(account: pwd.struct_passwd | None) -> dict:
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}


def _run(*command: object, account: pwd.struct_passwd | None) -> None:
    done = subprocess.run([str(word) for word in command], cwd="/", capture_output=True, text=True, **_as(account))
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {done.stderr.strip()}")


class Server:
    """A server in its directory, on a port of its own."""

    def __init__(self, program: Path, home: Path, account: pwd.struct_passwd | None, *options: str) -> None:
        self._home, self._account, port = home, account, free_port()
        command = [program, "-D", home / "data", "-p", port, "-k", home, "-h", "127.0.0.1", "-N", CONNECTIONS, *options]
        self._command = [str(word) for word in command]
        self.url = f"postgres://{USER}@127.0.0.1:{port}"

    def start(self) -> None:
        """Start it and wait until it answers. Raises Unavailable."""
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd="/", stdout=log, stderr=log, start_new_session=True, **_as(self._account)
            )
        _wait_until_up(self._process, f"{self.url}/postgres", self._home / "log")

    def stop(self, how: int = signal.SIGINT) -> None:
        """End it with everything that is still connected: SIGINT in order, SIGQUIT as a crash would."""
        self._process.send_signal(how)
        self._process.wait(30)


def _wait_until_up(server: subprocess.Popen, url: str, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise Unavailable(f"the PostgreSQL server ended at once: {log.read_text()[-500:]}")
        try:
            psycopg.connect(url, connect_timeout=1).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise Unavailable(f"the PostgreSQL server did not answer within {START_SECONDS} s")


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    """Create an empty database on the server and yield its address for `DATABASE_URL`; drop it in the end."""
    import psycopg
    from psycopg import sql

    name = f"llmkeys_test_{secrets.token_hex(6)}"
    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield f"{server_url}/{name}"
    finally:
        with psycopg.connect(f"{server_url}/postgres", autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a server, without a database's name; the test is skipped, with the reason, where none is."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    given = os.environ.get("DATABASE_URL", "")
    if given.startswith(("postgres://", "postgresql://")):
        yield given.rpartition("/")[0]
        return
    try:
        with private_server() as server:
            yield server.url
    except Unavailable as reason:
        pytest.skip(f"no PostgreSQL: {reason}")


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The address of an empty database of one test."""
    with new_database(postgres_server) as url:
        yield url


def main(command: list[str]) -> int:
    """Run a command with `DATABASE_URL` set to a new database: `python -m tests.postgres COMMAND …`.

    For tests in one process: nothing there kills the server, so that commits need not wait for the disk.

    Fails where there is no server: whoever asks for PostgreSQL must not be told that all is well without it.
    """
    try:
        with private_server(durable=False) as server, new_database(server.url) as url:
            return subprocess.run(command, env=os.environ | {"DATABASE_URL": url}).returncode
    except Unavailable as error:
        print(f"{error}.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
