"""`manage.py restore`: everything is proven before anything is replaced, and the old data stays beside."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from llmkeys.backup.running import announce_serving
from tests.commands.backups import Place, archive, forge, made, manifest_of, place
from tests.flows.scale import size
from tests.postgres import postgres_server, postgres_url
from tests.serving import ROOT, environment, prepare

__all__ = ["archive", "made", "place", "postgres_server", "postgres_url"]
pytestmark = pytest.mark.slow


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(place: Place, archive) -> str:
    """Restore, which must fail in words and change nothing; return the words."""
    before = digest(place.database), digest(place.data / "encryption.key")
    ran = place.run("restore", str(archive))
    assert ran.returncode == 1 and "Traceback" not in ran.stderr, ran.stderr
    assert (digest(place.database), digest(place.data / "encryption.key")) == before
    assert not list(place.data.glob("before-restore-*")) and not list(place.data.glob(".restore.*"))
    return ran.stderr


def test_it_brings_the_state_back_and_keeps_the_newer_one_beside(place, archive):
    place.add_key("Later")
    said = place.done("restore", str(archive))
    assert "audit passed" in said
    assert place.names() == ["Production"]
    place.done("audit")
    (kept,) = place.data.glob("before-restore-*")
    assert str(kept) in said
    assert (kept / "encryption.key").exists()
    assert Place(kept).names() == ["Later", "Production"]


def test_it_fills_an_empty_directory(archive, tmp_path):
    fresh = Place(tmp_path / "fresh")
    told = json.loads(fresh.done("restore", str(archive), "--json"))
    assert told["keys"] == 1 and told["differences"] == 0 and told["unreadableSecrets"] == []
    assert fresh.names() == ["Production"]
    assert (fresh.data / "encryption.key").stat().st_mode & 0o777 == 0o600
    fresh.done("audit")


def test_it_refuses_while_a_server_runs(place, archive):
    descriptor = announce_serving(place.data)
    try:
        assert "A server is running on" in refused(place, archive)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_it_refuses_an_archive_that_was_cut_short(place, archive, share):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * share)])
    assert "Take another" in refused(place, archive)


def test_it_refuses_what_is_no_archive(place, archive, tmp_path):
    archive.write_bytes(b"no archive at all " * 100)
    assert str(archive) in refused(place, archive)
    assert "cannot be read" in refused(place, tmp_path / "missing.tar.gz")


def strange(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    "member",
    [
        strange("../outside", size=3),
        strange("/tmp/llmkeys-outside", size=3),
        strange("encryption.key", tarfile.SYMTYPE, "../../outside"),
        strange("llmkeys.dump", tarfile.LNKTYPE, "manifest.json"),
        strange("llmkeys.dump", tarfile.FIFOTYPE),
        strange("notes.txt", size=3),
    ],
    ids=["above", "absolute", "link", "hard link", "pipe", "foreign file"],
)
def test_it_refuses_members_that_no_backup_has(place, archive, member):
    assert "which does not belong in a backup of this product" in refused(place, forge(archive, more=member))


def test_it_refuses_a_part_that_is_not_what_was_written(place, archive):
    parts = manifest_of(archive)["members"]
    parts["llmkeys.sqlite3"]["sha256"] = "0" * 64
    said = refused(place, forge(archive, manifest={"members": parts}))
    assert "is damaged: its part “llmkeys.sqlite3” is not what was written. Take another backup." in said


def test_it_refuses_a_newer_version(place, archive):
    newer = [*manifest_of(archive)["migrations"], "9999_from_the_future"]
    assert "newer version" in refused(place, forge(archive, manifest={"migrations": newer}))


def test_it_refuses_a_backup_of_another_database(place, archive):
    parts = manifest_of(archive)["members"]
    parts["llmkeys.dump"] = parts.pop("llmkeys.sqlite3")
    dumped = forge(
        archive,
        manifest={"database": "postgresql", "members": parts},
        names={"llmkeys.sqlite3": "llmkeys.dump"},
    )
    assert "is a backup of postgresql" in refused(place, dumped)


def test_it_refuses_secrets_that_would_not_open(place, tmp_path):
    without = tmp_path / "without.tar.gz"
    place.done("backup", str(without), "--without-key")
    other = Place(tmp_path / "other")
    prepare(other.data)
    other.add_key("Other")
    assert "does not decrypt the secrets" in refused(other, without)
    assert other.names() == ["Other"]


ON_TWO_DISKS = """
import errno, os, sys
_, elsewhere, full, *command = sys.argv
def is_elsewhere(path):
    return str(path).startswith(elsewhere)
def on_one_disk(change):
    def changed(source, target, **options):
        if is_elsewhere(source) != is_elsewhere(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source, None, target)
        return change(source, target, **options)
    return changed
for name in ("link", "rename", "replace"):
    setattr(os, name, on_one_disk(getattr(os, name)))
def fill(event, arguments):
    if event == "open" and full and full in str(arguments[0]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
sys.addaudithook(fill)
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", *command])
"""


@pytest.fixture
def apart(place: Place, tmp_path: Path) -> Path:
    """The place with its database on a disk of its own."""
    (tmp_path / "elsewhere").mkdir()
    return Path(shutil.move(place.database, tmp_path / "elsewhere" / "keys.sqlite3"))


def run_on_two_disks(place: Place, database: Path, *command: str, full: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command; files whose paths contain `full` are on a full disk."""
    return subprocess.run(
        [sys.executable, "-c", ON_TWO_DISKS, str(database.parent), full, *command],
        cwd=ROOT, env=environment(place.data, DATABASE_URL=f"sqlite:///{database}"), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


def names_in(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as opened:
        return [name for (name,) in opened.execute("SELECT name FROM llmkeys_apikey ORDER BY name")]


def test_it_restores_a_database_on_another_disk_than_the_data_directory(place, apart, archive):
    place.add_key("Later", DATABASE_URL=f"sqlite:///{apart}")
    ran = run_on_two_disks(place, apart, "restore", str(archive), "--json")
    assert ran.returncode == 0, ran.stderr
    kept = Path(json.loads(ran.stdout)["kept"]) / apart.name
    assert (names_in(apart), names_in(kept)) == (["Production"], ["Later", "Production"])
    assert {file.stat().st_mode & 0o777 for file in (apart, kept)} == {0o600}
    assert list(apart.parent.iterdir()) == [apart]


@pytest.mark.parametrize("full", ["before-restore-", ".keys.sqlite3.restoring"])
def test_it_changes_nothing_when_one_of_the_two_disks_is_full(place, apart, archive, full):
    before = digest(apart)
    ran = run_on_two_disks(place, apart, "restore", str(archive), full=full)
    assert ran.stderr.startswith(f"{apart} could not be replaced: No space left on device, copying ")
    assert ran.stderr.endswith(". Nothing was changed.\n")
    assert digest(apart) == before and list(apart.parent.iterdir()) == [apart]
    assert not list(place.data.glob("before-restore-*")) and not list(place.data.glob(".restore.*"))


def test_the_server_removes_the_draft_of_a_killed_one_from_the_databases_disk(place, apart):
    draft = apart.with_name(".keys.sqlite3.restoring")
    draft.write_bytes(b"half a database")
    start = "from django.conf import settings; from llmkeys.backup import running; "
    start += "running.announce_serving(settings.DATA_DIR)"
    place.done("shell", "-c", start, DATABASE_URL=f"sqlite:///{apart}")
    assert not draft.exists()


BEFORE_THE_SWAP = """
import sys
import django
django.setup()
import psycopg
from llmkeys.backup import postgresql
_, happens, url, *command = sys.argv
swap_in, others = postgresql.swap_in, []
def swap_in_after_that(new, keep):
    if happens == "someone connects":
        others.append(psycopg.connect(url))
    else:
        postgresql.drop(new)
    swap_in(new, keep)
postgresql.swap_in = swap_in_after_that
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", *command])
"""


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        ("someone connects", r"1 connection uses the database\. Stop every `serve` .* Nothing was changed\."),
        ("the new one is gone", r"The database could not be replaced: .* does not exist\. Nothing was changed\."),
    ],
    ids=["someone connects", "half done"],
)
def test_on_postgresql_it_changes_nothing_if_the_databases_cannot_be_swapped(tmp_path, postgres_url, happens, words):
    import psycopg

    place, archive = Place(tmp_path / "data"), tmp_path / "backup.tar.gz"
    here = {"DATABASE_URL": postgres_url, "DJANGO_SETTINGS_MODULE": "refactai_site.settings"}
    place.done("migrate", "-v", "0", **here)
    place.add_key("Production", **here)
    place.done("backup", str(archive), **here)
    place.add_key("Later", **here)
    before = digest(place.data / "encryption.key")
    ran = subprocess.run(
        [sys.executable, "-c", BEFORE_THE_SWAP, happens, postgres_url, "restore", str(archive)],
        cwd=ROOT, env=environment(place.data, **here), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1 and re.fullmatch(words, ran.stderr.strip()), ran.stderr
    with psycopg.connect(postgres_url) as server:
        names = [name for (name,) in server.execute("SELECT name FROM llmkeys_apikey ORDER BY name")]
        own = postgres_url.rpartition("/")[2]
        databases = [name for (name,) in server.execute("SELECT datname FROM pg_database") if name.startswith(own)]
    assert (names, databases) == (["Later", "Production"], [own])
    assert digest(place.data / "encryption.key") == before
    assert not list(place.data.glob("before-restore-*")) and not list(place.data.glob(".restore.*"))


EVERY_STEP = size("EVERY_STEP", short=4, long=1)  # 1: a kill before each of them
AGAIN = 4  # after so many kills a restore is tried again
KILLED_AT_STEP = """
import os, signal, sys
steps = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}
_, directory, left, *command = sys.argv
left = int(left)
def count(event, arguments):
    global left
    if event in steps and any(str(one).startswith(directory) for one in arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", *command])
"""


def restored_but_killed_before(place: Place, archive, step: int) -> int:
    """Restore, killed right before the n-th change among the files; return how it ended: 0 where there are fewer."""
    ran = subprocess.run(
        [sys.executable, "-c", KILLED_AT_STEP, str(place.data), str(step), "restore", str(archive)],
        cwd=ROOT, env=environment(place.data), capture_output=True, timeout=60,
    )  # fmt: skip
    return ran.returncode


@pytest.mark.proof
def test_a_kill_between_two_steps_leaves_one_state_or_the_other(archive, tmp_path):
    """The place has an encryption key of its own, so that the files have to change together."""
    own = Place(tmp_path / "own")
    prepare(own.data)
    own.add_key("Mine")
    states, step, ended = [], 1 - EVERY_STEP, -signal.SIGKILL
    while ended:
        step += EVERY_STEP
        here = Place(Path(shutil.copytree(own.data, tmp_path / f"killed-{step}")))
        ended = restored_but_killed_before(here, archive, step)
        assert ended in (0, -signal.SIGKILL)
        told = json.loads(here.run("doctor", "--offline", "--quick", "--json").stdout)
        (opened,) = (finding for finding in told["findings"] if finding["title"] == "Encryption key")
        assert opened["level"] != "FAIL", (step, opened)
        states.append(here.names())
        if len(states) % AGAIN and ended:
            continue
        here.done("restore", str(archive))
        assert here.names() == ["Production"]
        assert not list(here.data.glob(".*")), "what a killed restore left lies about"
    changed = states.index(["Production"])
    assert 1 < changed < len(states)
    assert states == [["Mine"]] * changed + [["Production"]] * (len(states) - changed)
