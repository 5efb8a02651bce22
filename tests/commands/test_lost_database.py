"""A database that was here and is gone: nothing begins anew unless somebody says so, and the way back is named."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.commands.backups import Place, archive, made, place
from tests.serving import Served, free_port, prepare
from tests.tables import digest_of_files

__all__ = ["archive", "made", "place"]
pytestmark = pytest.mark.slow


def refused(place: Place, *arguments: str) -> str:
    """Run a command that must refuse in one line and leave every file alone; return the line."""
    before = digest_of_files(place.data)
    ran = place.run(*arguments)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr, ran.stderr
    assert digest_of_files(place.data) == before
    return ran.stderr


def serve(place: Place, *more: str) -> str:
    return refused(place, "serve", "--bind", f"127.0.0.1:{free_port()}", *more)


def lose(place: Place, how: str) -> None:
    for ending in ("-wal", "-shm"):
        Path(f"{place.database}{ending}").unlink(missing_ok=True)
    place.database.unlink()
    if how == "zero bytes":
        place.database.touch(0o600)
    elif how == "no tables":  # what a program leaves that only opened it
        place.done("shell", "-c", "from django.db import connection; connection.ensure_connection()")


@pytest.fixture
def kept(place: Place, archive: Path) -> Path:
    """A good backup under a name of its owner's own, beside a newer one of an empty database and a broken one."""
    backups = place.data / "backups"
    backups.mkdir(0o700)
    shutil.copy2(archive, backups / "monday.tar")
    (backups / "llmkeys-20991231-000000-daily.tar.gz").write_bytes(archive.read_bytes()[:-200])
    empty = Place(place.data.parent / "empty")
    prepare(empty.data)
    empty.done("backup", str(backups / "llmkeys-20991230-000000-daily.tar.gz"))
    return backups / "monday.tar"


@pytest.mark.parametrize("rows", [0, 50_000])
def test_the_database_of_another_program_is_not_taken_over(place, kept, rows):
    lose(place, "missing")
    with closing(sqlite3.connect(place.database)) as other:
        other.execute("CREATE TABLE notes (words TEXT)")
        other.executemany("INSERT INTO notes VALUES (?)", [("a note",)] * rows)
        other.commit()
    said = serve(place)
    assert "has no tables of this product, but" in said and said.strip().endswith(f"./manage.py restore {kept}")
    place.done("restore", str(kept))
    assert "Production" in place.done("keys", "list")


@pytest.mark.parametrize("how", ["missing", "zero bytes", "no tables"])
def test_serve_names_the_newest_good_backup_and_both_ways_out(place, kept, how):
    lose(place, how)
    said = serve(place)
    assert said.count("\n") == 1 and "shows that there was one" in said and "--new-database" in said
    assert "is missing or empty, but" in said
    assert said.strip().endswith(f"./manage.py restore {kept}")


def test_the_named_command_brings_it_back(place, kept):
    lose(place, "missing")
    command = serve(place).strip().rpartition("./manage.py ")[2].split()
    place.done(*command)
    assert place.names() == ["Production"]


def test_no_command_begins_anew_either(place, kept):
    lose(place, "missing")
    for command in (["keys", "list"], ["stats"], ["doctor", "--offline"], ["backup", "new.tar.gz"]):
        assert "shows that there was one" in refused(place, *command), command
    migrated = place.run("migrate")
    assert migrated.returncode == 1 and "shows that there was one" in migrated.stderr
    assert place.rows("SELECT name FROM sqlite_master") == []


def test_the_encryption_key_alone_shows_that_there_was_a_database(place):
    lose(place, "missing")
    said = serve(place)
    assert "encryption.key shows that there was one" in said and "There is no good backup" in said


def test_whoever_means_it_begins_anew(place, kept):
    lose(place, "missing")
    with Served(place.data, "--new-database", "--no-scheduler") as served:
        served.wait_until_up()
    assert place.names() == []
    assert f"the backup {kept} contains 1 key" in place.run("doctor", "--offline").stdout


def test_a_first_start_is_not_taken_for_a_loss(tmp_path):
    with Served(tmp_path / "data", "--no-scheduler") as served:
        served.wait_until_up()


@pytest.mark.parametrize("last", ["contenttypes", "auth"])
def test_a_first_start_that_was_killed_among_the_migrations_goes_on(tmp_path, last):
    """Nothing of ours is in the database yet, and what a first start makes beside it is there already."""
    begun = Place(tmp_path / "begun")
    begun.done("migrate", last)
    begun.data.joinpath("encryption.key").write_text("0123456789abcdef0123456789abcdef\n")
    begun.done("migrate")
    assert "No key found" in begun.done("keys", "list")


@pytest.mark.parametrize("has_key", [True, False], ids=["with encryption.key", "without"])
def test_a_shell_that_lacks_the_servers_database_url_is_told_so_and_not_that_the_database_is_lost(place, has_key):
    elsewhere = place.data.parent / "elsewhere.sqlite3"
    place.database.rename(elsewhere)
    if not has_key:
        place.data.joinpath("encryption.key").rename(elsewhere.with_name("encryption.key"))
    more = {} if has_key else {"REFACTAI_ENCRYPTION_KEYS": elsewhere.with_name("encryption.key").read_text().strip()}
    with Served(place.data, "--no-scheduler", DATABASE_URL=f"sqlite:///{elsewhere}", **more) as served:
        served.wait_until_up()
        commands = [["keys", "list"], ["doctor", "--offline"], ["changepassword", "admin"]]
        if has_key:  # otherwise nothing shows that it is not a new installation
            commands += [["migrate"], ["serve", "--bind", f"127.0.0.1:{free_port()}", "--no-scheduler"]]
        for command in commands:
            ran = place.run(*command, **more)
            assert ran.returncode == 1 and "Traceback" not in ran.stderr, (command, ran.stderr)
            assert "DATABASE_URL" in ran.stderr, command
            assert "--new-database" not in ran.stderr and "make run" not in ran.stderr, command
