"""`demo` from beginning to end: a key is spent within a minute, the next one serves, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from tests.serving import ROOT, START_SECONDS, environment, free_port, manage, state_of, wait_for

WITHIN_SECONDS = 60


class Demo:
    def __init__(self, directory: Path, *arguments: str, **more: str) -> None:
        directory.mkdir(exist_ok=True)
        self.directory, self.port = directory, free_port()
        self.out, self.err = directory / "out", directory / "err"
        (directory / "tmp").mkdir()
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "demo", "--bind", f"127.0.0.1:{self.port}", *arguments],
                cwd=ROOT,
                env=environment(directory / "own", TMPDIR=str(directory / "tmp"), OPENAI_API_KEY="sk-proj-" + "e" * 40)
                | {"DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"]}
                | more,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in [self.process.pid, *self.pids()]:
            with contextlib.suppress(ProcessLookupError):  # it ended since it was listed
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def wait_until_up(self) -> Demo:
        def has_begun() -> bool:
            return "Password:" in self.out.read_text() or self.process.poll() is not None

        wait_for(has_begun, seconds=START_SECONDS, what="it says so")
        assert self.process.poll() is None, self.err.read_text()
        return self

    def told(self, what: str) -> str:
        return next(line.split()[1] for line in self.out.read_text().splitlines() if line.startswith(f"{what}:"))

    @property
    def data_dir(self) -> Path:
        (found,) = (self.directory / "tmp").glob("refactai-demo-*")
        return found

    def rows(self, query: str) -> list[tuple]:
        database = sqlite3.connect(f"file:{self.data_dir / 'llmkeys.sqlite3'}?mode=ro", uri=True)
        try:
            return database.execute(query).fetchall()
        finally:
            database.close()

    def pids(self) -> list[int]:
        """All living processes of the demo's server: its directory is in their environment."""
        mark = f"REFACTAI_DATA_DIR={self.directory / 'tmp'}".encode()
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                mine = mark in (directory / "environ").read_bytes()
            except OSError:
                continue
            if mine and state_of(int(directory.name)) not in ("Z", ""):
                found.append(int(directory.name))
        return found

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)

    def has_left_nothing(self) -> bool:
        return self.pids() == [] and list((self.directory / "tmp").iterdir()) == []


def dashboard(demo: Demo) -> str:
    """Log in as the demo says, and return the page."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar := CookieJar()))
    browser.open(f"http://127.0.0.1:{demo.port}/login").read()
    token = next(cookie.value for cookie in jar if cookie.name == "refactai_csrf")
    form = {"username": demo.told("User"), "password": demo.told("Password"), "csrfmiddlewaretoken": token}
    browser.open(f"http://127.0.0.1:{demo.port}/login", urllib.parse.urlencode(form).encode()).read()
    return browser.open(demo.told("Dashboard")).read().decode()


ROTATED = "SELECT message FROM llmkeys_keyevent WHERE kind = 'rotated' AND message LIKE 'Rotated from “Production%'"


@pytest.mark.alone
def test_it_shows_rotation_within_a_minute_and_ctrl_c_leaves_nothing(tmp_path):
    with Demo(tmp_path, "--history", "0").wait_until_up() as demo:
        page = dashboard(demo)
        assert "Total Cost" in page and "Production (simulated)" in page
        assert "Default OpenAI Key" not in page, "the user's own keys have no business here"
        wait_for(lambda: demo.rows(ROTATED), seconds=WITHIN_SECONDS, what="rotation")
        audited = manage(demo.data_dir, "audit")
        assert audited.returncode == 0, audited.stdout + audited.stderr
        with urllib.request.urlopen(demo.told("Simulator")) as answer:
            assert json.load(answer)
        assert demo.stop(signal.SIGINT) == 0, demo.err.read_text()
        assert demo.has_left_nothing()
        assert demo.err.read_text() == "" and "its directory was removed" in demo.out.read_text()


def test_it_fills_the_past_and_sigterm_leaves_nothing(tmp_path):
    before = datetime.now(UTC).date()
    with Demo(tmp_path, "--history", "5").wait_until_up() as demo:
        after = datetime.now(UTC).date()  # another one where midnight passes: on one of the two it was filled
        days = [day for (day,) in demo.rows("SELECT DISTINCT day FROM llmkeys_dailyusage")]
        assert 5 in [sum(day < today.isoformat() for day in days) for today in (before, after)], days
        assert demo.stop(signal.SIGTERM) == 0 and demo.has_left_nothing()


def test_it_sends_nothing_through_the_users_proxy(tmp_path):
    closed = f"http://127.0.0.1:{free_port()}"
    proxy = {"http_proxy": closed, "HTTP_PROXY": closed, "no_proxy": "", "NO_PROXY": ""}
    with Demo(tmp_path, "--history", "0", **proxy).wait_until_up() as demo:
        wait_for(lambda: demo.rows("SELECT 1 FROM llmkeys_usagerecord WHERE success"), what="an answer")
        assert demo.stop(signal.SIGTERM) == 0 and demo.has_left_nothing()


def test_it_is_reached_on_this_machine_whatever_hosts_the_user_allows(tmp_path):
    with Demo(tmp_path, "--history", "0", REFACTAI_ALLOWED_HOSTS="keys.example.com").wait_until_up() as demo:
        assert "Production (simulated)" in dashboard(demo)
        page = urllib.request.Request(f"http://127.0.0.1:{demo.port}/login", headers={"Host": "keys.example.com"})
        assert urllib.request.urlopen(page).status == 200
        assert demo.stop(signal.SIGTERM) == 0 and demo.has_left_nothing()


def test_it_stops_by_itself_after_the_seconds_given(tmp_path):
    with Demo(tmp_path, "--history", "0", "--seconds", "1") as demo:
        assert demo.process.wait(START_SECONDS) == 0, demo.err.read_text()
        assert demo.has_left_nothing()


def test_a_port_in_use_is_one_sentence_and_leaves_nothing(tmp_path):
    (tmp_path / "tmp").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = subprocess.run(
            [sys.executable, "manage.py", "demo", "--history", "0", "--bind", f"127.0.0.1:{port}"],
            cwd=ROOT,
            env=environment(tmp_path / "own", TMPDIR=str(tmp_path / "tmp")),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran.stderr
    assert f"The port 127.0.0.1:{port} is in use" in ran.stderr
    assert list((tmp_path / "tmp").glob("refactai-demo-*")) == []
