"""`manage.py serve`: starting, stopping, being killed, and every refusal in one sentence."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import sqlite3
import stat
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from llmkeys.checks import leads_back_here
from tests.serving import (
    DEADLINE_SECONDS,
    FAST_WATCHDOG,
    ROOT,
    START_SECONDS,
    WHOLE_TREE,
    Served,
    free_port,
    manage,
    prepare,
    wait_for,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return prepare(tmp_path / "data")


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    """Where a data directory may come to be."""
    return tmp_path / "data"


def rows(data_dir: Path, sql: str, *parameters: object) -> list[tuple]:
    with closing(sqlite3.connect(data_dir / "llmkeys.sqlite3", timeout=10)) as database, database:
        return database.execute(sql, parameters).fetchall()


def refused(data_dir: Path, *arguments: str, **more: str) -> str:
    """Run a `serve` that must not start; return its one sentence."""
    done = manage(data_dir, "serve", "--bind", f"127.0.0.1:{free_port()}", *arguments, **more)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


# --- Starting ------------------------------------------------------------------------------------------------------


def test_it_starts_from_nothing_and_stops_with_nothing_left(nothing):
    with Served(nothing) as served:
        served.wait_until_complete()
        assert f"http://127.0.0.1:{served.port}/llm-settings" in served.out.read_text()
        assert f"http://127.0.0.1:{served.port}/v1" in served.out.read_text()
        assert served.stop(signal.SIGTERM) == 0
        assert served.pids() == []
        assert "Traceback" not in served.log.read_text()


def test_it_stops_on_ctrl_c(data_dir):
    with Served(data_dir) as served:
        served.wait_until_complete()
        assert served.stop(signal.SIGINT) == 0
        assert served.pids() == []


def test_it_ends_with_0_when_it_is_stopped_while_it_starts(nothing):
    with Served(nothing) as served:
        wait_for((nothing / "llmkeys.sqlite3").exists, what="migrations begin")
        assert served.stop(signal.SIGTERM) == 0
        assert served.pids() == []


SLOW_PAGE = """
django.setup()
import os, pathlib, time
import refactai_site.pages as pages
from django.http import HttpResponse
answer = pages.Handler.answer
def slow(self, scope, body):
    if scope["path"] != "/slow":
        return answer(self, scope, body)
    here = pathlib.Path(os.environ["REFACTAI_DATA_DIR"])
    (here / "in-flight").touch()
    while not (here / "let-go").exists():
        time.sleep(0.05)
    return HttpResponse(b"done")
pages.Handler.answer = slow
"""


def start_slow_request(served: Served) -> Future[tuple[int, str]]:
    """Send a request that goes on until it is let go."""
    answer = ThreadPoolExecutor(1).submit(served.get, "/slow", 2 * DEADLINE_SECONDS)
    wait_for((served.data_dir / "in-flight").exists, what="the request is in flight")
    return answer


def let_go(served: Served) -> None:
    (served.data_dir / "let-go").touch()


def refuses_connections(served: Served) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", served.port)) == errno.ECONNREFUSED


def test_it_lets_requests_under_way_finish_and_says_so(data_dir):
    with Served(data_dir, prelude=SLOW_PAGE) as served:
        served.wait_until_complete()
        answer = start_slow_request(served)
        served.process.send_signal(signal.SIGTERM)
        words = "1 request in progress; waiting up to 30 s. Ctrl-C again ends them now."
        wait_for(lambda: words in served.log.read_text(), seconds=25, what="it says what it waits for")
        let_go(served)
        assert served.process.wait(DEADLINE_SECONDS) == 0
        assert answer.result() == (200, "done")


def test_it_says_nothing_of_requests_when_none_is_under_way(data_dir):
    with Served(data_dir, "--no-scheduler") as served:
        served.wait_until_complete(4)
        assert served.get("/login")[0] == 200
        assert served.stop() == 0
        assert served.log.read_text() == ""


def test_it_refuses_new_connections_while_it_stops(data_dir):
    with Served(data_dir, prelude=SLOW_PAGE) as served:
        served.wait_until_complete()
        answer = start_slow_request(served)
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses_connections(served), seconds=25, what="new connections are refused")
        let_go(served)
        assert served.process.wait(DEADLINE_SECONDS) == 0
        assert answer.result() == (200, "done")


def test_it_cuts_a_request_that_outlasts_the_stop(data_dir):
    with Served(data_dir, prelude=SLOW_PAGE, REFACTAI_STOP_SECONDS="1") as served:
        served.wait_until_complete()
        answer = start_slow_request(served)
        assert served.stop() == 0
        assert answer.result() == (0, "")
        assert "waiting up to 1 s" in served.log.read_text()
        assert "1 request did not finish in time." in served.log.read_text()
        assert served.pids() == []


def test_it_stops_at_once_on_the_second_signal(data_dir):
    with Served(data_dir, prelude=SLOW_PAGE, REFACTAI_STOP_SECONDS="600") as served:
        served.wait_until_complete()
        start_slow_request(served)
        served.process.send_signal(signal.SIGINT)
        wait_for(lambda: "Ctrl-C again" in served.log.read_text(), what="it says what it waits for")
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(DEADLINE_SECONDS) == 0
        assert served.pids() == []


def test_it_serves_and_stops_with_spawned_workers(data_dir):
    """As on macOS, where processes are not forked."""
    prelude = "import multiprocessing; multiprocessing.set_start_method('spawn')"
    with Served(data_dir, prelude=prelude) as served:
        served.wait_until_complete()
        assert all(served.get("/login")[0] == 200 for _ in range(10))
        assert served.get("/readyz")[0] == 200
        assert served.stop() == 0
        assert "Traceback" not in served.log.read_text()


def test_it_runs_without_the_scheduler(data_dir):
    with Served(data_dir, "--no-scheduler") as served:
        served.wait_until_up()
        wait_for(lambda: len(served.pids()) == 4, what="serve, web main, two workers")
        assert served.stop() == 0


def test_it_runs_one_scheduler_for_one_data_directory(data_dir):
    with Served(data_dir) as first:
        first.wait_until_complete()
        with Served(data_dir) as second:
            second.wait_until_up()
            assert "already runs the scheduler" in second.log.read_text()
            assert len(second.children_of(second.process.pid)) == 1
            assert second.stop() == 0
            assert first.stop() == 0


def test_it_keeps_its_memory_below_300_mb(data_dir):
    with Served(data_dir) as served:
        served.wait_until_complete()
        total_kb = 0
        for pid in served.pids():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total_kb += int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1])
        assert total_kb < 300 * 1024


def test_it_shows_no_secret_in_any_command_line(data_dir):
    secret = "sk-or-v1-" + "5" * 48
    with Served(data_dir, OPENROUTER_API_KEY=secret, DJANGO_SUPERUSER_PASSWORD="correct horse battery") as served:
        served.wait_until_complete()
        argv = b" ".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in served.pids())
        assert secret.encode() not in argv and b"battery" not in argv
        assert "battery" not in served.out.read_text() + served.log.read_text()


def test_it_keeps_the_files_of_the_data_directory_private(nothing):
    with Served(nothing) as served:
        served.wait_until_complete()
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in nothing.iterdir() if file.is_file()}
        assert set(modes.values()) == {0o600}, modes


def test_it_says_at_the_start_which_hosts_are_allowed(data_dir):
    with Served(data_dir, "--no-scheduler", "--bind", f"0.0.0.0:{free_port()}") as served:
        wait_for(lambda: "Stop with Ctrl-C" in served.out.read_text(), what="it has started")
        assert "localhost, 127.0.0.1, [::1]" in served.out.read_text()
        assert "REFACTAI_ALLOWED_HOSTS" in served.out.read_text()


def test_it_does_not_speak_of_hosts_on_loopback(data_dir):
    with Served(data_dir, "--no-scheduler") as served:
        served.wait_until_up()
        assert "REFACTAI_ALLOWED_HOSTS" not in served.out.read_text()


# --- The first administrator ---------------------------------------------------------------------------------------


LOG_IN = """
import os
from django.contrib.auth.models import User
user = User.objects.get(username=os.environ["WHO"])
print("OPEN" if user.check_password(os.environ["WORD"]) and user.is_superuser else "SHUT")
"""


def log_in(data_dir: Path, name: str, password: str) -> bool:
    return "OPEN" in manage(data_dir, "shell", "-c", LOG_IN, WHO=name, WORD=password).stdout


def test_it_writes_the_first_login_and_its_password_opens(data_dir):
    with Served(data_dir) as served:
        served.wait_until_up()
        file = data_dir / "first-login"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        told = dict(line.split(": ", 1) for line in file.read_text().splitlines())
        assert told["User"] == "admin"
        assert told["Password"] not in served.out.read_text() + served.log.read_text()
        assert served.stop() == 0
    assert log_in(data_dir, told["User"], told["Password"])


def test_it_shows_the_password_once_on_a_terminal(data_dir):
    control, terminal = os.openpty()
    os.set_blocking(control, False)
    seen = b""

    def shown() -> bool:
        nonlocal seen
        try:
            seen += os.read(control, 65_536)
        except BlockingIOError:
            return False
        return b"Stop with Ctrl-C" in seen

    prelude = f"import os; os.dup2({terminal}, 1)"
    os.set_inheritable(terminal, True)
    with Served(data_dir, "--no-scheduler", prelude=prelude, pass_fds=(terminal,)) as served:
        wait_for(shown, what="the terminal shows the start")
        assert re.search(rb"Password: \S{16,}", seen)
        assert not (data_dir / "first-login").exists()
        assert served.stop() == 0
    os.close(control)
    os.close(terminal)


def test_it_takes_the_administrator_from_the_environment(data_dir):
    given = {"DJANGO_SUPERUSER_USERNAME": "root-of-all", "DJANGO_SUPERUSER_PASSWORD": "correct horse battery"}
    with Served(data_dir, "--no-scheduler", **given) as served:
        served.wait_until_up()
        assert not (data_dir / "first-login").exists()
        assert served.stop() == 0
    assert log_in(data_dir, "root-of-all", "correct horse battery")


def test_it_makes_no_second_administrator(data_dir):
    for name in ("first", "second"):
        given = {"DJANGO_SUPERUSER_USERNAME": name, "DJANGO_SUPERUSER_PASSWORD": "correct horse battery"}
        with Served(data_dir, "--no-scheduler", **given) as served:
            served.wait_until_up()
            assert served.stop() == 0
    assert rows(data_dir, "SELECT username FROM auth_user") == [("first",)]


# --- Being killed --------------------------------------------------------------------------------------------------


def test_it_leaves_no_orphan_when_it_is_killed(data_dir):
    with Served(data_dir) as served:
        served.wait_until_complete()
        served.process.kill()
        wait_for(lambda: not served.pids(), what="the tree is gone")


def test_it_replaces_a_killed_web_worker(data_dir):
    with Served(data_dir) as served:
        served.wait_until_complete()
        web, _ = served.mains()
        before = set(served.children_of(web))
        os.kill(min(before), signal.SIGKILL)
        wait_for(lambda: len(set(served.children_of(web)) - before) == 1, what="a new worker")
        assert all(served.get("/healthz", 30)[0] == 200 for _ in range(20))
        (line,) = served.log.read_text().splitlines()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ERROR \S+: Unexpected exit from worker-[12]", line)
        assert served.stop() == 0


def test_it_replaces_a_worker_that_was_asked_to_end_and_both_go_on_listening(data_dir):
    with Served(data_dir, "--no-scheduler", "--workers", "1") as served:
        served.wait_until_complete(3)
        (web,) = served.children_of(served.process.pid)
        (worker,) = served.children_of(web)
        os.kill(worker, signal.SIGTERM)
        wait_for(lambda: served.children_of(web) not in ([], [worker]), what="a new worker")
        assert wait_for(lambda: served.get("/healthz")[0] == 200, what="it listens where the old one did")
        assert served.stop() == 0


@pytest.mark.parametrize("which", ["web", "scheduler"])
def test_it_restarts_a_killed_main_process(data_dir, which):
    with Served(data_dir) as served:
        served.wait_until_complete()
        victim = served.mains()[which == "scheduler"]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in served.pids() and len(served.pids()) == WHOLE_TREE, what="a whole tree again")
        served.wait_until_up()
        assert "ended unexpectedly (killed by signal 9)" in served.log.read_text()
        assert served.stop() == 0
        assert served.pids() == []


def test_it_gives_up_when_the_web_server_cannot_start(data_dir):
    prelude = "django.setup()\nimport llmkeys.supervisor.web as web\nweb.run = lambda *a, **k: 3"
    with Served(data_dir, "--no-scheduler", prelude=prelude) as served:
        assert served.process.wait(START_SECONDS) == 1
        assert "could not be started 3 times in a row" in served.log.read_text()


# --- The scheduler's watchdog --------------------------------------------------------------------------------------


def make_overdue(data_dir: Path) -> None:
    rows(data_dir, "UPDATE django_q_schedule SET next_run = '2020-01-01 00:00:00'")


def schedules_ran(data_dir: Path) -> bool:
    late, done, left = (
        rows(data_dir, "SELECT count(*) FROM django_q_schedule WHERE next_run < '2021-01-01' AND repeats <> 0"),
        rows(data_dir, "SELECT count(*) FROM django_q_task"),
        rows(data_dir, "SELECT count(*) FROM django_q_ormq"),
    )
    return late == [(0,)] and done != [(0,)] and left == [(0,)]


def guard_and_workers(served: Served) -> tuple[int, list[int]]:
    _, cluster = served.mains()
    (guard,) = served.children_of(cluster)
    return guard, served.children_of(guard)


@pytest.mark.long_wait
def test_it_runs_schedules_again_after_an_idle_scheduler_worker_was_killed(data_dir):
    with Served(data_dir) as served:
        served.wait_until_complete()
        guard, workers = guard_and_workers(served)
        os.kill(min(workers), signal.SIGKILL)  # the first one forked is a worker; it waits at the queue
        wait_for(lambda: guard not in served.pids(), what="the wedged cluster is gone")
        served.wait_until_complete()
        make_overdue(data_dir)
        wait_for(lambda: schedules_ran(data_dir), seconds=100, what="schedules run")
        assert served.stop() == 0


@pytest.mark.parametrize("position", [1, 2, 3], ids=["second worker", "monitor", "pusher"])
def test_it_replaces_the_whole_scheduler_when_one_of_its_processes_was_killed(data_dir, position):
    with Served(data_dir) as served:
        served.wait_until_complete()
        guard, workers = guard_and_workers(served)
        os.kill(sorted(workers)[position], signal.SIGKILL)
        wait_for(lambda: guard not in served.pids(), what="the old cluster is gone")
        served.wait_until_complete()
        assert served.stop() == 0


def test_it_restarts_a_scheduler_that_stands_still(data_dir):
    with Served(data_dir, prelude=FAST_WATCHDOG) as served:
        served.wait_until_complete()
        guard, _ = guard_and_workers(served)
        os.kill(guard, signal.SIGSTOP)
        make_overdue(data_dir)
        wait_for(lambda: guard not in served.pids(), what="the stopped guard is gone")
        assert "The scheduler is making no progress" in served.log.read_text()
        wait_for(lambda: len(served.pids()) == WHOLE_TREE, what="a new cluster")
        assert served.stop() == 0


def test_its_watchdog_survives_a_locked_database(data_dir):
    with Served(data_dir, prelude=FAST_WATCHDOG) as served:
        served.wait_until_complete()
        with closing(sqlite3.connect(data_dir / "llmkeys.sqlite3")) as database:
            database.execute("BEGIN EXCLUSIVE")
            threading.Event().wait(7)  # longer than the busy timeout of one look
            database.rollback()
        assert served.process.poll() is None
        assert served.stop() == 0


# --- Refusals ------------------------------------------------------------------------------------------------------


def test_it_refuses_a_port_in_use(nothing):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = manage(nothing, "serve", "--bind", address)
    assert done.returncode == 1
    assert done.stderr.startswith(f"The port {address} is in use by another program; stop it")
    assert (nothing / "llmkeys.sqlite3").stat().st_size == 0  # made private beforehand, and nothing was written


@pytest.mark.parametrize(
    "bind", ["nonsense", "127.0.0.1:0", "127.0.0.1:70000", "127.0.0.1:８０８０", "no.such.host.invalid:8080"]
)
def test_it_refuses_a_bad_address(data_dir, bind):
    done = manage(data_dir, "serve", "--bind", bind)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


def test_it_refuses_a_file_that_is_no_database(nothing):
    nothing.mkdir(mode=0o700)
    (nothing / "llmkeys.sqlite3").write_bytes(b"garbage " * 1000)
    assert "is not a readable database" in refused(nothing)


def test_it_names_the_newest_good_backup(data_dir):
    backups = data_dir / "backups"
    backups.mkdir(parents=True, mode=0o700)
    good = backups / "llmkeys-20261121-000000-daily.tar.gz"
    for name in ("llmkeys-20261120-000000-daily.tar.gz", good.name):
        made = manage(data_dir, "backup", str(backups / name))
        assert made.returncode == 0, made.stderr
    (backups / "llmkeys-20261122-000000-daily.tar.gz").write_bytes(good.read_bytes()[:100])
    (data_dir / "llmkeys.sqlite3").write_bytes(b"garbage " * 1000)
    assert refused(data_dir).strip().endswith(f"manage.py restore {good}")
    restored = manage(data_dir, "restore", str(good))
    assert restored.returncode == 0, restored.stderr
    assert manage(data_dir, "audit").returncode == 0


def test_it_refuses_a_data_directory_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("")
    assert str(tmp_path / "data") in refused(tmp_path / "data")


def test_it_refuses_a_locked_database(nothing):
    nothing.mkdir(mode=0o700)
    with closing(sqlite3.connect(nothing / "llmkeys.sqlite3")) as database:
        database.execute("CREATE TABLE t (n)")
        database.execute("BEGIN EXCLUSIVE")
        assert "is locked by another program" in refused(nothing)


def test_it_refuses_a_database_that_it_may_only_read(data_dir):
    read_only = """
from django.conf import settings
settings.DATABASES["default"]["OPTIONS"]["init_command"] += ";PRAGMA query_only=ON"
"""
    with Served(data_dir, prelude=read_only) as served:
        assert served.process.wait(START_SECONDS) == 1
        (sentence,) = served.log.read_text().splitlines()
        assert str(data_dir / "llmkeys.sqlite3") in sentence and "cannot be opened or written" in sentence


ADD_KEY = """
from django.utils import timezone
from llmkeys.keys import adding
adding.add_key(values={"provider": "openai", "name": "A", "apiKey": "sk-proj-" + "a1B2c3D4e5F6" * 5}, at=timezone.now())
"""


def test_it_refuses_a_wrong_encryption_key(data_dir):
    given = {"REFACTAI_ENCRYPTION_KEYS": "a" * 40}
    added = manage(data_dir, "shell", "-c", ADD_KEY, **given)
    assert added.returncode == 0, added.stderr
    assert "cannot be decrypted" in refused(data_dir, REFACTAI_ENCRYPTION_KEYS="b" * 40)


def test_it_names_every_setting_that_cannot_be_parsed(data_dir):
    done = manage(data_dir, "serve", REFACTAI_MAX_RETRIES="many", REFACTAI_TIME_ZONE="Mars/Olympus")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert "REFACTAI_MAX_RETRIES" in done.stderr and "REFACTAI_TIME_ZONE" in done.stderr


@pytest.mark.parametrize(
    ("bound", "asked"),
    [
        ("127.0.0.1", "localhost"),
        ("127.0.0.1", "LOCALHOST."),
        ("[::]", "127.0.0.1"),
        ("[::]", "[::1]"),
        ("0.0.0.0", "127.0.0.2"),
        ("127.0.0.2", "127.0.0.2"),
    ],
)
def test_it_refuses_a_provider_that_is_itself(data_dir, bound, asked):
    port = free_port()
    done = manage(data_dir, "serve", "--bind", f"{bound}:{port}", OPENAI_BASE_URL=f"http://{asked}:{port}/v1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "OPENAI_BASE_URL leads back" in done.stderr


def test_a_provider_may_have_its_port_on_another_address_of_this_machine():
    """What is bound to 127.0.0.1 is not reached by 127.0.0.2."""
    assert not leads_back_here("http://127.0.0.2:8080/v1", "127.0.0.1:8080")
    assert not leads_back_here("http://127.0.0.1:8081/v1", "[::]:8080")


def test_every_system_check_has_an_id_of_its_own():
    sources = "".join(file.read_text() for file in sorted((ROOT / "llmkeys").rglob("*.py")))
    ids = re.findall(r"id=\"(llmkeys\.[EW]\d+)\"", sources)
    assert "llmkeys.E001" in ids and len(ids) == len(set(ids)), sorted(ids)


def test_it_is_what_make_run_starts():
    assert "manage.py serve" in (ROOT / "Makefile").read_text()
