"""The demo's environment: a temporary data directory, the simulator and the server, and stopping all three."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from django.conf import settings

from llmkeys.exceptions import LLMKeysError
from llmkeys.simulator.thread import SimulatorThread
from llmkeys.supervisor.address import Address
from llmkeys.supervisor.processes import PR_SET_PDEATHSIG

START_SECONDS = 60
STOP_SECONDS = 20
USER = "admin"
# The demo must not see the user's own keys, database and settings, except these, which say how it is reached.
_KEPT = ("REFACTAI_TIME_ZONE", "REFACTAI_ALLOWED_HOSTS", "REFACTAI_CSRF_TRUSTED_ORIGINS")
_FOREIGN = ("REFACTAI_", "OPENROUTER_", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "DJANGO_SUPERUSER_", "DATABASE_")


_libc = ctypes.CDLL(None)


def _stop_with_parent() -> None:
    """Let this process get SIGTERM when the demo dies, however it dies (only on Linux)."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class DemoFailed(LLMKeysError):
    """The demo could not be started; the message says why."""


class Stage:
    """Everything that is removed afterwards. Use it as `with Stage(address) as stage:`."""

    def __init__(self, where: Address) -> None:
        self.where = where
        self.password = secrets.token_urlsafe(12)
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Stage:
        self.directory = Path(tempfile.mkdtemp(prefix="refactai-demo-"))
        try:
            self.simulator = SimulatorThread().start()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._stop_server()
            self.simulator.stop()
        finally:
            self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name in _KEPT or not name.startswith(_FOREIGN)}
        urls = {f"{provider.upper()}_BASE_URL": url for provider, url in self.simulator.urls.items()}
        direct = dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")  # not by the user's proxy
        return own | urls | direct | {
            **self._hosts,
            "REFACTAI_DATA_DIR": str(self.directory),
            "REFACTAI_PRIMARY_MODEL": "openai/gpt-6.1-sol",
            "DJANGO_SUPERUSER_USERNAME": USER,
            "DJANGO_SUPERUSER_PASSWORD": self.password,
        }  # fmt: skip

    @property
    def _hosts(self) -> dict[str, str]:
        """The user's host names, and those of this machine, under which the demo asks its server and shows its URL."""
        given = os.environ.get("REFACTAI_ALLOWED_HOSTS", "").strip()
        return {"REFACTAI_ALLOWED_HOSTS": f"{given},localhost,127.0.0.1,[::1]"} if given else {}

    # --- the product's own commands, in the demo's environment --------------------------------------------------------

    def run(self, *arguments: str) -> str:
        """Run `manage.py …` and return its output. Raises DemoFailed."""
        with self._process(*arguments, stdout=subprocess.PIPE, stderr=None) as running:
            out, _ = running.communicate()
        if running.returncode:
            raise DemoFailed(f"The demo could not be prepared: `./manage.py {arguments[0]}` failed.")
        return out.decode()

    @property
    def log(self) -> Path:
        """The server's log, which is not shown on the terminal because of the intended failures."""
        return self.directory / "serve.log"

    def serve(self) -> None:
        """Start the server and wait until it answers. Raises DemoFailed with the server's own message."""
        with self.log.open("wb") as log:
            self._server = self._process("serve", "--bind", str(self.where), stdout=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self.is_serving():
                raise DemoFailed(self.log.read_text(errors="replace").strip() or "The demo's server did not start.")
            if time.monotonic() > deadline:
                raise DemoFailed(f"The demo's server did not answer within {START_SECONDS} s.")
            time.sleep(0.1)

    def is_serving(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def tokens(self, names: Iterable[str]) -> dict[str, str]:
        """Create an access token with its own budgets for each program."""
        manager = self.run("tokens", "create", "demo", "--scope", "manage").strip()
        return {name: self._token(manager, name) for name in names}

    def _token(self, manager: str, name: str) -> str:
        headers = {"Authorization": f"Bearer {manager}", "Content-Type": "application/json"}
        values = {"name": name, "scopes": ["gateway"], "dailyLimit": 25, "monthlyLimit": 500}
        status, body = self._call("POST", "/api/llm/tokens", json.dumps(values), headers)
        if status != 201:
            raise DemoFailed(f"The demo's server made no access token (HTTP {status}).")
        return json.loads(body)["token"]

    def _answers(self) -> bool:
        try:
            return self._call("GET", "/healthz", None, {})[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _call(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.local_host, self.where.port, timeout=5)
        try:
            connection.request(method, path, body, headers | {"Host": "localhost"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    @property
    def local_host(self) -> str:
        """The host by which this machine reaches the server, even if it listens on a wildcard address."""
        return self.where.url.removeprefix("http://").rpartition(":")[0].strip("[]")

    def _process(self, *arguments: str, stdout: int, stderr: IO[bytes] | None) -> subprocess.Popen[bytes]:
        """Start a command in its own session, so that Ctrl-C only reaches the demo, which then stops it properly."""
        return subprocess.Popen(  # noqa: S603  (our own program)
            [sys.executable, str(settings.BASE_DIR / "manage.py"), *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_stop_with_parent,
        )

    def _stop_server(self) -> None:
        if self._server is None or not self.is_serving():
            return
        self._server.send_signal(signal.SIGTERM)
        try:
            self._server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
