"""A scheduler that stands still sends no alerts: `serve` tells of it, and delivers what is due in its place."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.serving import FAST_WATCHDOG, Served, manage, prepare, wait_for
from tests.targets import SECRET, Target

pytestmark = pytest.mark.slow


def write(data_dir: Path, sql: str) -> None:
    with closing(sqlite3.connect(data_dir / "llmkeys.sqlite3", timeout=10)) as database, database:
        database.execute(sql)


WAITING = (
    "INSERT INTO llmkeys_alert (kind, message, created_at, tries, delivery_error) "
    "VALUES ('limit_reached', 'Waiting.', '2026-11-23 20:30:00', 0, '')"
)


def start_task(data_dir: Path, name: str) -> None:
    code = f"from django_q.tasks import async_task; async_task('llmkeys.tasks.{name}', group='{name}')"
    started = manage(data_dir, "shell", "-c", code)
    assert started.returncode == 0, started.stderr


def opened_for_writing(fifo: Path) -> int | None:
    """Return a descriptor of it once somebody reads from it."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def test_a_server_without_a_scheduler_is_told_of_by_the_doctor(tmp_path):
    with Served(tmp_path / "data", "--no-scheduler") as served:
        served.wait_until_up()
        write(served.data_dir, "UPDATE django_q_schedule SET next_run = '2020-01-01 00:00:00'")
        examined = manage(served.data_dir, "doctor", "--offline", "--quick")
    assert examined.returncode == 1 and "The scheduler is not running" in examined.stdout
    assert "Start it: ./manage.py serve (without --no-scheduler)" in examined.stdout


def test_a_stall_reaches_the_operator_once_without_the_scheduler(tmp_path):
    data_dir, target = tmp_path / "data", Target()
    with Served(data_dir, prelude=FAST_WATCHDOG, REFACTAI_ALERT_URLS=target.url) as served:
        served.wait_until_complete()
        _, cluster = served.mains()
        (guard,) = served.children_of(cluster)
        os.kill(guard, signal.SIGSTOP)
        write(data_dir, WAITING)
        write(data_dir, "UPDATE django_q_schedule SET next_run = '2020-01-01 00:00:00'")
        wait_for(lambda: len(target.lines) == 2, what="both alerts arrive")
        assert sorted(line[:26] for line in target.lines) == ["The scheduler is making no", "Waiting."]
        wait_for(lambda: guard not in served.pids(), what="the stopped guard is gone")
        assert served.stop() == 0
        assert SECRET not in served.log.read_text() + served.out.read_text()
    assert len(target.lines) == 2
    target.close()


def test_a_backup_that_takes_long_holds_up_no_alert(tmp_path):
    data_dir, target, fifo = prepare(tmp_path / "data"), Target(), tmp_path / "fifo"
    os.mkfifo(fifo)
    held_backup = (
        "django.setup()\nfrom llmkeys import backup\nmake = backup.automatic_backup\n"
        f"backup.automatic_backup = lambda *, at: open({str(fifo)!r}).read() or make(at=at)\n"
    )
    with Served(data_dir, prelude=held_backup, REFACTAI_ALERT_URLS=target.url) as served:
        served.wait_until_complete()
        start_task(data_dir, "backup_database")
        holding = wait_for(lambda: opened_for_writing(fifo), what="the backup has begun")
        write(data_dir, WAITING)
        start_task(data_dir, "send_alerts")
        wait_for(lambda: target.lines == ["Waiting."], what="the alert arrives")
        assert not (data_dir / "backups").exists()
        os.close(holding)
        wait_for(lambda: list((data_dir / "backups").glob("*-daily.tar.gz")), what="the backup is finished")
        assert served.stop() == 0
    target.close()
