"""Every test runs in a throw-away data directory, without the surrounding environment, and reaches loopback alone."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

_NOT_INHERITED = (
    "OPENROUTER_",
    "OPENAI_",
    "ANTHROPIC_",
    "GOOGLE_",
    "GEMINI_",
    "REFACTAI_",
    "DJANGO_SUPERUSER_",
)
_DATA_DIR = Path(tempfile.mkdtemp(prefix="llmkeys-tests-"))
(_DATA_DIR / "static").mkdir()
atexit.register(shutil.rmtree, _DATA_DIR, ignore_errors=True)


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
        settings.DATABASES["default"]["TEST"] = {"NAME": str(_DATA_DIR / "tests.sqlite3")}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let each process of pytest-xdist read the settings for itself, in an environment that it has cleaned."""
    os.environ.pop("DJANGO_SETTINGS_MODULE")


_clean_environment()
_read_settings()


class NetworkForbidden(RuntimeError):
    """A test tried to reach another machine. No OSError: the product would take that for a provider that is down."""


def _is_here(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = address[0].decode() if isinstance(address[0], bytes) else address[0]
    return host is None or host in ("", "localhost", "::1", "0.0.0.0") or host.startswith("127.")


def _refuse(address: Any) -> NoReturn:
    raise NetworkForbidden(f"A test may not reach {address!r}: answer the call with `responses`.")


@pytest.fixture(scope="session", autouse=True)
def _loopback_only() -> Iterator[None]:
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda s, to: connect(s, to) if _is_here(to) else _refuse(to))
        patch.setattr(socket.socket, "connect_ex", lambda s, to: connect_ex(s, to) if _is_here(to) else _refuse(to))
        patch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *a, **k: getaddrinfo(host, *a, **k) if _is_here((host,)) else _refuse(host),
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_beat_between_tests() -> Iterator[None]:
    """The thread that renews leases outlives the test that began it: left alone it would write in another test, or
    fail where that one may not use the database, and its traceback disturbs whoever parses Python at that moment."""
    from llmkeys.ledger import leases

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "RENEW_SECONDS", 86_400.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_clock() -> Iterator[None]:
    """Leases go by the clock of PostgreSQL's server, which no test can stop."""
    from llmkeys.database import sql

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "server_clock", lambda cursor: None)
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
    """Close the writer's and the reader's connection before the databases go: PostgreSQL drops none that is in use."""
    from llmkeys.database import reader, writer

    yield
    writer.forget()
    reader.forget()


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    """Prices, aliases, model lists and sums are cached in the process: no test sees those of the one before."""
    from django.core.cache import cache

    from llmkeys.prices import catalogue
    from llmkeys.relay import model_lists

    catalogue.forget()
    model_lists.forget()
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
