"""Every test runs in a throw-away data directory, without the surrounding environment, and reaches loopback alone."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

# How long an example takes says more of the machine than of the product.
hypothesis_settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("ours")
# --hypothesis-profile=long: the tests that say so in their module run 20,000 examples instead of hundreds.
hypothesis_settings.register_profile("long", hypothesis_settings.get_profile("ours"))

_NOT_INHERITED = (
    "OPENROUTER_",
    "OPENAI_",
    "ANTHROPIC_",
    "GOOGLE_",
    "GEMINI_",
    "REFACTAI_",
    "DJANGO_SUPERUSER_",
)
_ROOM_BYTES = 256 * 1024 * 1024
_DATA_DIR = Path(tempfile.mkdtemp(prefix="llmkeys-tests-"))
(_DATA_DIR / "static").mkdir()
atexit.register(shutil.rmtree, _DATA_DIR, ignore_errors=True)


def _database_directory() -> Path:
    """Where the test database lies: in memory where the system offers that, for each commit waits for the disk, and
    tests that go through a server commit thousands of times."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM_BYTES):
        return _DATA_DIR
    directory = Path(tempfile.mkdtemp(prefix="llmkeys-tests-", dir=memory))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _clean_environment() -> None:
    for name in [name for name in os.environ if name.startswith(_NOT_INHERITED)]:
        del os.environ[name]
    os.environ["REFACTAI_DATA_DIR"] = str(_DATA_DIR)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "refactai_site.settings")


def _read_settings() -> None:
    """Read the settings, for the first time, in the clean environment."""
    if os.environ["DJANGO_SETTINGS_MODULE"] in sys.modules:
        pytest.exit("DJANGO_SETTINGS_MODULE is set, so that your own settings were read: unset it for the tests.", 4)
    from django.conf import settings

    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    # A file, because the writer has a connection of its own: both must see one database.
    if settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        settings.DATABASES["default"]["TEST"] = {"NAME": str(_database_directory() / "tests.sqlite3")}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let each process of pytest-xdist read the settings for itself, in an environment that it has cleaned."""
    os.environ.pop("DJANGO_SETTINGS_MODULE")


_clean_environment()
_read_settings()


# --- what is left out -------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that would be skipped fails: for the gate")
    parser.addoption("--only-with-database", action="store_true", help="leave out what asks no database")


@pytest.hookimpl(trylast=True)  # after those that add marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about the other database, for on this one there is nothing to say of it; and what asks none
    where that was tested elsewhere."""
    left_out = {item for item in items if _is_of_another_database(item)}
    if config.getoption("only_with_database"):
        left_out |= {item for item in items if not _asks_a_database(item)}
    items.sort(key=lambda item: item.get_closest_marker("long_wait") is None)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _is_of_another_database(item: pytest.Item) -> bool:
    from django.db import connection

    mark = item.get_closest_marker("only_on")
    return mark is not None and mark.args != (connection.vendor,)


def _asks_a_database(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    return item.get_closest_marker("django_db") is not None or not fixtures.isdisjoint(("db", "transactional_db"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure, with its reason, where nothing may be skipped."""
    report = yield
    if report.skipped and item.config.getoption("no_skips"):
        report.outcome, report.longrepr = "failed", f"Skipped, but with --no-skips nothing may be: {report.longrepr}"
    return report


# --- the network ------------------------------------------------------------------------------------------------------


class NetworkForbidden(RuntimeError):
    """A test tried to reach another machine. No OSError: the product would take that for a provider that is down."""


def _is_here(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = address[0].decode() if isinstance(address[0], bytes) else address[0]
    return host is None or host in ("", "localhost", "::1", "0.0.0.0") or host.startswith("127.")


def _refuse(address: Any) -> NoReturn:
    raise NetworkForbidden(f"A test may not reach {address!r}: have the fixture `provider` answer the call.")


_spoken_for: dict[str, int] = {}  # names of providers whom a script speaks for, and the port it listens on


def _find(getaddrinfo: Any, host: Any, *arguments: Any, **options: Any) -> Any:
    """Resolve a name: a scripted provider is on this machine, on its own port, whatever port was asked for."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in _spoken_for:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", _spoken_for[name]))]
    return getaddrinfo(host, *arguments, **options) if _is_here((host,)) else _refuse(host)


@pytest.fixture(scope="session", autouse=True)
def _loopback_only() -> Iterator[None]:
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda s, to: connect(s, to) if _is_here(to) else _refuse(to))
        patch.setattr(socket.socket, "connect_ex", lambda s, to: connect_ex(s, to) if _is_here(to) else _refuse(to))
        patch.setattr(socket, "getaddrinfo", lambda host, *a, **k: _find(getaddrinfo, host, *a, **k))
        yield


@pytest.fixture(scope="session", autouse=True)
def _authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """The authority whose certificates the product trusts in tests, and one that it does not.

    For the whole session and from its start: the product looks up its bundle once per address.
    """
    from tests.tls import Authority

    directory = tmp_path_factory.mktemp("authorities")
    trusted, foreign = Authority(directory, "trusted"), Authority(directory, "foreign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(trusted.file))
        yield trusted, foreign


@pytest.fixture(scope="session")
def provider_server(_authorities: tuple[Any, Any]) -> Iterator[Any]:
    from tests.provider import ScriptedProvider

    server = ScriptedProvider(*_authorities)
    yield server
    server.stop()
    assert not server.strays, f"a provider was asked while no test had a script: {server.strays}"


@pytest.fixture
def provider(provider_server: Any) -> Iterator[Any]:
    """What the providers say in this test, at their own addresses. Asked for anything else, the test fails; so it
    does where something that it scripted was never asked for."""
    from tests.provider import Script
    from tests.tls import PROVIDER_HOSTS

    script = Script()
    provider_server.play(script)
    _spoken_for.update(dict.fromkeys(PROVIDER_HOSTS, provider_server.tls_port))
    yield script
    _spoken_for.clear()
    provider_server.end()
    script.check()


@pytest.fixture
def simulator(settings: Any) -> Iterator[Any]:
    """Four simulated providers behind a real socket."""
    from llmkeys.simulator.thread import SimulatorThread

    with SimulatorThread() as running:
        settings.PROVIDER_BASE_URLS = running.urls
        yield running


@pytest.fixture(scope="session", autouse=True)
def _no_beat_between_tests() -> Iterator[None]:
    """The thread that renews leases outlives the test that began it: left alone it would write in another test, or
    fail where that one may not use the database, and its traceback disturbs whoever parses Python at that moment."""
    from llmkeys.ledger import leases

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "RENEW_SECONDS", 86_400.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _patient_sums() -> Iterator[None]:
    """How many days one summary closes depends on how busy the machine is; here it closes all that there are."""
    from llmkeys.usage import closed_days

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_days, "PATIENCE_SECONDS", 60.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_clock() -> Iterator[None]:
    """Leases go by the clock of PostgreSQL's server, which no test can stop."""
    from llmkeys.database import sql

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "server_clock", lambda cursor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _deletes_rather_than_truncates() -> Iterator[None]:
    """After a test that commits, empty the tables by DELETE: on PostgreSQL a TRUNCATE makes each of forty tables, and
    each of its indexes, a new file, which takes longer than the test. Sequences go on in both."""
    from django.db import connection

    truncate = type(connection.ops).sql_flush

    def sql_flush(self: Any, style: Any, tables: Any, *, reset_sequences: bool = False, **options: Any) -> list[str]:
        if reset_sequences:
            return truncate(self, style, tables, reset_sequences=True, **options)
        return [f"DELETE FROM {self.quote_name(table)}" for table in tables]

    with pytest.MonkeyPatch.context() as patch:
        if connection.vendor == "postgresql":  # on SQLite it is DELETE anyhow
            patch.setattr(type(connection.ops), "sql_flush", sql_flush)
        yield


@pytest.fixture(scope="session", autouse=True)
def _accounts_are_declared() -> Iterator[None]:
    """A job that locks an account which it did not declare may meet another in a deadlock: here it fails at once."""
    from llmkeys.database import writer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "checks_accounts", True)
        yield


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """Stop the web server and close the writer's connection before the databases go: PostgreSQL drops none that is
    in use."""
    from llmkeys.database import reader, writer
    from tests import web

    yield
    web.stop()
    writer.forget()
    reader.forget()


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: Any) -> None:
    """Prices, aliases, model lists and sums are cached in the process: no test sees those of the one before.

    And none reads them a second time because the machine was slow.
    """
    from django.core.cache import cache

    from llmkeys.prices import catalogue

    monkeypatch.setattr(catalogue, "TABLES_SECONDS", 3600.0)
    catalogue.forget()
    cache.clear()


@pytest.fixture
def frozen() -> Iterator[Any]:
    """Stop the clock at `helpers.NOW`; the value moves it: `frozen.move_to(later)`."""
    import time_machine

    from tests.helpers import NOW

    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


@pytest.fixture
def administrator(db: None) -> Any:
    from tests.helpers import make_user

    return make_user("admin", is_superuser=True, is_staff=True)


@pytest.fixture
def api(administrator: Any) -> Any:
    """A program with the administrator's access token, scope `manage`."""
    from tests.helpers import JsonClient, make_token

    return JsonClient(make_token(administrator, "manage"))


@pytest.fixture
def anonymous(db: None) -> Any:
    from tests.helpers import JsonClient

    return JsonClient()
