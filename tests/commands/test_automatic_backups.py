"""The backups that nobody asks for, one a day and one before a migration: which stay, and what a failure leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from llmkeys.backup.archive import private_directory
from llmkeys.backup.running import announce_serving
from llmkeys.simulator.thread import SimulatorThread
from tests.commands.backups import Place, archive, made, manifest_of, place
from tests.serving import Served, free_port

__all__ = ["archive", "made", "place"]
pytestmark = pytest.mark.slow

TAKE = """
from datetime import UTC, datetime, timedelta
from llmkeys import backup
for day in range({first}, {end}):
    backup.automatic_backup(at=datetime(2026, 11, 1, 2, 10, tzinfo=UTC) + timedelta(days=day))
"""
KILLED = """
import os, signal
from datetime import UTC, datetime
from llmkeys import backup
from llmkeys.backup import sqlite
sqlite.integrity_problem = lambda copy: os.kill(os.getpid(), signal.SIGKILL)
backup.automatic_backup(at=datetime(2026, 11, 1, 2, 10, tzinfo=UTC))
"""
TIMED_OUT = """
from django_q.exceptions import TimeoutException
from llmkeys import backup, tasks
from llmkeys.models import Alert
def make_backup(**_):
    raise TimeoutException("Task exceeded maximum timeout value (3600 seconds)")
backup.automatic_backup = make_backup
try:
    tasks.backup_database()
except TimeoutException as error:
    print(error)
print(Alert.objects.get(kind="backup_failed").message)
"""
RUN_TASK = """
from llmkeys.models import Alert
from llmkeys.tasks import backup_database
said = []
for _ in range(2):
    try:
        said.append(backup_database())
    except Exception as error:
        said.append(str(error))
import json
print(json.dumps([said, list(Alert.objects.values_list("kind", "message"))]))
"""
BEFORE_MIGRATION = """
from datetime import UTC, datetime
from llmkeys import backup
for _ in range(2):
    taken = backup.backup_before_migration(at=datetime(2026, 11, 24, tzinfo=UTC))
    print(taken and taken.path.name)
"""

RESTARTS = """
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from django.db import DatabaseError
from llmkeys.supervisor import prepare
def fail(*_, **__):
    raise DatabaseError("disk I/O error")
prepare.call_command = fail
for minute in range(1, 10):
    at = datetime(2026, 11, 24, tzinfo=UTC) + timedelta(minutes=minute)
    prepare.timezone = SimpleNamespace(now=lambda: at)
    try:
        prepare.migrate()
    except prepare.CannotServe as error:
        print(error)
"""


def take(place: Place, first: int, end: int) -> None:
    place.done("shell", "-c", TAKE.format(first=first, end=end))


def names(place: Place) -> list[str]:
    return sorted(file.name for file in (place.data / "backups").iterdir())


def daily(*days: int) -> list[str]:
    return [f"llmkeys-202611{1 + day:02d}-021000-daily.tar.gz" for day in days]


def before_migration(*times: str) -> list[str]:
    return [f"llmkeys-20261124-{time}-before-migration.tar.gz" for time in times]


def test_the_newest_seven_stay(place):
    take(place, 0, 9)
    assert names(place) == daily(*range(2, 9))
    assert (place.data / "backups").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (place.data / "backups").iterdir()} == {0o600}
    newest = place.data / "backups" / names(place)[-1]
    place.add_key("Later")
    place.done("restore", str(newest))
    assert place.names() == ["Production"]


def test_the_newest_good_one_stays_however_old(place):
    take(place, 0, 2)
    place.change("UPDATE llmkeys_apikey SET spent_total_nano = 5, total_requests = 1")
    take(place, 2, 11)
    assert names(place) == daily(1, *range(4, 11))
    assert manifest_of(place.data / "backups" / daily(1)[0])["differences"] == 0
    assert manifest_of(place.data / "backups" / daily(10)[0])["differences"] > 0


def test_a_cut_one_is_no_good_one(place):
    take(place, 0, 2)
    newest = place.data / "backups" / daily(1)[0]
    newest.write_bytes(newest.read_bytes()[:-200])
    place.change("UPDATE llmkeys_apikey SET spent_total_nano = 5, total_requests = 1")
    take(place, 2, 9)
    assert names(place) == daily(0, *range(2, 9))


def test_restarts_while_a_migration_fails_push_out_no_daily_one(place):
    take(place, 0, 7)
    place.change("DELETE FROM django_migrations WHERE name = '0016_estimated_rows_with_their_filters'")
    assert place.done("shell", "-c", RESTARTS).count("its disk is failing") == 9
    assert names(place) == [*daily(*range(0, 7)), *before_migration("000800", "000900")]


def test_the_one_from_before_the_first_step_of_a_failing_migration_stays(place):
    place.change("DELETE FROM django_migrations WHERE app = 'llmkeys' AND name >= '0014'")
    place.done("shell", "-c", BEFORE_MIGRATION)
    first = names(place)
    place.change(
        "INSERT INTO django_migrations (app, name, applied) "
        "VALUES ('llmkeys', '0014_estimated_and_lost_of_each_day', '2026-11-24')"
    )
    place.done("shell", "-c", RESTARTS)
    assert names(place) == [*first, *before_migration("000800", "000900")]


def test_those_of_an_empty_database_push_out_no_other(place):
    take(place, 0, 7)
    wiped = "secret = x'', fingerprint = NULL, enabled = 0, is_default = 0"
    place.change(f"UPDATE llmkeys_apikey SET deleted_at = '2026-11-08', {wiped}")
    take(place, 7, 16)
    assert names(place) == daily(*range(0, 7), *range(9, 16))


def test_those_of_a_database_with_an_environment_key_alone_push_out_none_with_keys(place):
    take(place, 0, 1)
    place.database.unlink()
    with SimulatorThread() as simulator:
        settings = {"OPENAI_BASE_URL": simulator.urls["openai"], "OPENAI_API_KEY": "sk-proj-" + "e" * 40}
        with Served(place.data, "--new-database", "--no-scheduler", **settings) as served:
            served.wait_until_up()
            place.done("chat", "hi", **settings)
            served.stop()
    take(place, 1, 10)
    assert names(place) == daily(0, *range(3, 10))
    newest = manifest_of(place.data / "backups" / daily(9)[0])
    assert (newest["keys"], newest["rows"]) == (0, 1)
    place.database.unlink()
    said = place.run("serve", "--bind", f"127.0.0.1:{free_port()}").stderr
    newest, with_keys = (place.data / "backups" / daily(day)[0] for day in (9, 0))
    assert f"run: ./manage.py restore {newest} (it contains no stored keys); or the newest that has some, of" in said
    assert said.strip().endswith(f"with 1 stored key: ./manage.py restore {with_keys}")


def test_what_a_person_named_is_never_let_go(place, archive):
    (place.data / "backups").mkdir(0o700)
    shutil.copy2(archive, place.data / "backups" / "monday.tar")
    take(place, 0, 9)
    assert names(place) == [*daily(*range(2, 9)), "monday.tar"]


def test_the_task_tells_of_a_failure_once_a_day(place):
    (place.data / "backups").write_text("in the way")
    said, alerts = json.loads(place.done("shell", "-c", RUN_TASK).splitlines()[-1])
    assert len(said) == 2 and all("backups" in words for words in said)
    assert [kind for kind, _ in alerts] == ["backup_failed"]


def test_the_task_tells_of_a_backup_that_took_too_long_and_lets_the_scheduler_know(place):
    ended, told = place.done("shell", "-c", TIMED_OUT).splitlines()[-2:]
    assert ended == "Task exceeded maximum timeout value (3600 seconds)"
    assert told.startswith("The backup of the database failed: it was ended because it was not finished after 60 min")


def killed(place: Place) -> list[Path]:
    """Kill a backup between its copy and its archive; return what it leaves."""
    assert place.run("shell", "-c", KILLED).returncode == -signal.SIGKILL
    left = list((place.data / "backups").glob(".llmkeys-*/llmkeys.sqlite3"))
    assert left
    return left


def test_what_a_killed_one_left_goes_with_the_next(place):
    killed(place)
    take(place, 1, 2)
    assert names(place) == daily(1)


def test_what_a_killed_one_left_goes_when_the_server_starts(place):
    killed(place)
    os.close(announce_serving(place.data))
    assert names(place) == []


def test_one_in_progress_is_left_alone(place):
    left = killed(place)
    with private_directory(place.data / "backups" / daily(0)[0]) as directory:
        take(place, 1, 2)
        os.close(announce_serving(place.data))
        assert directory.is_dir()
    take(place, 2, 3)
    assert names(place) == daily(1, 2) and not left[0].exists()


def test_the_task_tells_of_books_that_differ(place):
    place.change("UPDATE llmkeys_apikey SET spent_total_nano = 5, total_requests = 1")
    said, alerts = json.loads(place.done("shell", "-c", RUN_TASK).splitlines()[-1])
    assert "was taken, but its audit found 2 differences" in said[0] and len(names(place)) == 2
    assert [kind for kind, _ in alerts] == ["backup_failed"]


def test_one_is_taken_before_a_migration_and_only_then(place, tmp_path):
    assert place.done("shell", "-c", BEFORE_MIGRATION).splitlines()[-2:] == ["None", "None"]
    older, empty = Place(tmp_path / "older"), Place(tmp_path / "empty")
    older.done("migrate", "llmkeys", "0001", "-v", "0")
    taken = older.done("shell", "-c", BEFORE_MIGRATION).splitlines()[-2:]
    assert taken == [f"llmkeys-20261124-000000-before-migration{number}.tar.gz" for number in ("", "-2")]
    assert manifest_of(older.data / "backups" / taken[0])["differences"] is None
    assert empty.done("shell", "-c", BEFORE_MIGRATION).splitlines()[-2:] == ["None", "None"]
