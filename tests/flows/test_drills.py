"""Bad days: what holds the database, the disk or the master key fails while programs ask, and comes back.

In every one: nothing is sent that cannot be recorded, a program gets its 503 in time, the operator a sentence that
says what to do, and afterwards, without a restart, all goes on and nothing is missing in the books.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmkeys.simulator.thread import SimulatorThread
from tests.flows.crowd import BODY, Crowd, Said, ask
from tests.flows.product import Product
from tests.flows.scale import size
from tests.postgres import Server, Unavailable, new_database, private_server
from tests.serving import ROOT, environment, free_port, manage, prepare, wait_for

pytestmark = [pytest.mark.proof, pytest.mark.alone]
ANSWER_SECONDS = 10
PROGRAMS = size("PROGRAMS", short=8, long=64)
DISK = f"{32 + PROGRAMS}m"
NOBODY = 65_534


# --- What every drill asks for --------------------------------------------------------------------------------------


@contextmanager
def a_bad_time(product: Product, capsys: pytest.CaptureFixture, *, code: str) -> Iterator[Crowd]:
    """Programs ask all the while; the block breaks something, and mends it where it ends.

    Then they are served again, all answers were right, and the books are as complete as the provider's journal.
    """
    before, served_before = len(product.simulator.journal()), answered(product)
    with Crowd([product], count=PROGRAMS) as crowd:
        yield crowd
        crowd.is_served()
    refused = crowd.refused()
    assert_refusals(refused, code)
    assert max(said.seconds for said in crowd.said) < ANSWER_SECONDS  # what could be recorded only later too
    with capsys.disabled():
        longest = max(said.seconds for said in refused)
        print(f"\n{crowd.served()} served, {len(refused)} refused ({code}), the slowest after {longest:.1f} s")
    wait_for(lambda: product.states()["HELD"] == 0, what="no hold is left open")
    sent = len(product.simulator.journal()) - before
    assert sent == crowd.served() == answered(product) - served_before
    assert_the_books_are_complete(product)


def assert_refusals(refused: list[Said], code: str) -> None:
    assert refused
    assert not [said for said in refused if (said.status, said.code) != (503, code)]
    assert {said.retry_after for said in refused} == {"10"}
    assert max(said.seconds for said in refused) < ANSWER_SECONDS


def rows(product: Product, query: str) -> list[tuple]:
    with product.books as books:
        return books.rows(query)


def answered(product: Product) -> int:
    return product.states()["SETTLED"]


def assert_the_books_are_complete(product: Product) -> None:
    """Whatever the provider was asked is settled, what was not is released; every counter is the sum of its rows."""
    found = dict(rows(product, "SELECT request_id, state FROM llmkeys_usagerecord"))
    asked = {entry["requestId"] for entry in product.simulator.journal()}
    assert {request for request, state in found.items() if state == "SETTLED"} == asked
    assert set(found.values()) <= {"SETTLED", "RELEASED"}, product.states()
    assert "The books are right" in product.command("audit")


def told(product: Product, sentence: str, *, since: int) -> bool:
    return sentence in product.served.log.read_text()[since:]


def log_length(product: Product) -> int:
    return len(product.served.log.read_text())


# --- SQLite ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory on a small file system of its own where this user may mount one, else on the common one.

    The log lies beside it, so that it can still be written when that file system is full.
    """
    directory = tmp_path_factory.mktemp("disk") / "data"
    directory.mkdir(0o700)
    mounted = os.geteuid() == 0 and _run("mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", directory)
    try:
        yield directory
    finally:
        if mounted:
            _run("umount", "-l", directory)


def _run(*command: object) -> bool:
    try:
        return subprocess.run([str(word) for word in command], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="module")
def provider() -> Iterator[SimulatorThread]:
    with SimulatorThread() as running:
        yield running


@pytest.fixture(scope="module")
def product(disk: Path, provider: SimulatorThread) -> Iterator[Product]:
    """One product for all the drills that it survives: none of them is followed by a restart."""
    with Product(prepare(disk), provider, "--no-scheduler") as running:
        running.add_key("Production", dailyLimit=0, monthlyLimit=0, totalLimit=0)
        yield running


def test_a_database_that_another_program_holds(product, capsys):
    begin = log_length(product)
    other = sqlite3.connect(product.data_dir / "llmkeys.sqlite3", timeout=10)
    with closing(other), a_bad_time(product, capsys, code="database_unavailable") as crowd:
        other.execute("BEGIN EXCLUSIVE")
        crowd.is_refused()
        wait_for(lambda: told(product, "is locked by another program; stop that program", since=begin))
        crowd.is_refused()
        other.rollback()
    wait_for(lambda: told(product, "can be written again", since=begin))
    assert not told(product, "/v1/chat/completions", since=begin), "a line for each refusal drowns what is to be read"


@contextmanager
def full(product: Product) -> Iterator[None]:
    """Leave no room on the product's disk; where it shares ours, let no file of its processes grow."""
    if product.data_dir.is_mount():
        ballast = product.data_dir / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)) == 4096:
                    pass
            except OSError:
                pass
        try:
            yield
        finally:
            ballast.unlink()
        return
    pids = product.served.pids()
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


def test_a_full_disk(product, capsys):
    begin = log_length(product)
    with a_bad_time(product, capsys, code="database_unavailable") as crowd, full(product):
        crowd.is_refused()
        words = "the disk is full" if product.data_dir.is_mount() else "its disk is failing or full"
        wait_for(lambda: told(product, words, since=begin))
        crowd.is_refused()
    wait_for(lambda: told(product, "can be written again", since=begin))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("another-master-key-of-enough-length\n", "cannot be decrypted with the encryption keys given"),
        (None, "cannot be decrypted with the encryption keys given"),
        ("", "The encryption key file {file} is empty"),
        (b"\xff\xfe\x00garbage", "The encryption key file {file} is not a text file"),
    ],
    ids=["another", "none", "empty", "garbage"],
)
def test_another_master_key_or_none(product, capsys, key, words):
    """Sealed: nothing is written over, neither the secrets nor the file."""
    file = product.data_dir / "encryption.key"
    right, secrets = file.read_bytes(), rows(product, "SELECT id, secret, fingerprint FROM llmkeys_apikey")
    with a_bad_time(product, capsys, code="sealed") as crowd:
        aside = file.with_name("encryption.aside")
        file.rename(aside)
        if key is not None:
            file.write_bytes(key if isinstance(key, bytes) else key.encode())
        crowd.is_refused()
        assert product.served.get("/readyz")[0] == 503
        assert product.served.get("/healthz")[0] == 200
        examined = manage(product.data_dir, "doctor", "--quick", **product.environment)
        assert examined.returncode == 1 and "FAIL  Encryption key" in examined.stdout
        assert str(file) in examined.stdout
        refused = manage(product.data_dir, "serve", "--bind", f"127.0.0.1:{free_port()}", **product.environment)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
        assert str(file) in refused.stderr and words.format(file=file) in refused.stderr
        assert file.exists() == (key is not None)
        aside.replace(file)
    assert file.read_bytes() == right
    assert rows(product, "SELECT id, secret, fingerprint FROM llmkeys_apikey") == secrets
    assert product.served.get("/readyz")[0] == 200


def test_a_database_that_is_replaced_and_put_back(product, capsys):
    """The connections go on in the file that was taken away: what they wrote there would be lost with it."""
    file, aside = product.data_dir / "llmkeys.sqlite3", product.data_dir / "aside"
    begin = log_length(product)
    with a_bad_time(product, capsys, code="database_unavailable") as crowd:
        file.rename(aside)
        crowd.is_refused()
        file.write_bytes(b"garbage " * 4096)
        crowd.is_refused()
        wait_for(lambda: told(product, "was replaced or removed", since=begin))
        assert product.served.get("/readyz")[0] == 503
        aside.replace(file)


def test_a_database_that_is_overwritten(product, capsys):
    """The last drill of this product, for it needs a restart: the backup brings back all that was acknowledged."""
    file, archive = product.data_dir / "llmkeys.sqlite3", product.data_dir / "backup.tar.gz"
    begin, served, sent = log_length(product), answered(product), len(product.simulator.journal())
    product.command("backup", str(archive))
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as database:  # the same file, as `cp` writes
        database.truncate(0)
        database.write(b"garbage " * 4096)
    with closing(product.program()) as program:
        refused = [ask(program, BODY) for _ in range(20)]
    assert_refusals(refused, "database_unavailable")
    assert told(product, "is not a readable database. Stop the server, then restore a backup", since=begin)
    assert product.served.get("/readyz")[0] == 503
    examined = manage(product.data_dir, "doctor", "--quick", **product.environment)
    assert examined.returncode == 1 and "is not a readable database" in examined.stdout + examined.stderr
    assert len(product.simulator.journal()) == sent
    assert product.served.stop() == 0
    restored = manage(product.data_dir, "restore", str(archive), **product.environment)
    assert restored.returncode == 0, restored.stderr
    with Product(product.data_dir, product.simulator, "--no-scheduler") as again, closing(again.program()) as program:
        assert ask(program, BODY).status == 200
        assert answered(again) == served + 1
        assert_the_books_are_complete(again)


# --- Starts that must be refused --------------------------------------------------------------------------------------


def refused_start(data_dir: Path, **more: Any) -> str:
    """Run a `serve` that must not start; return its one sentence."""
    done = manage(data_dir, "serve", "--bind", f"127.0.0.1:{free_port()}", **more)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def without_the_powers_of_root() -> None:
    """Let the modes of files bind the program that is about to start, even where root runs these tests."""
    drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2  # linux/prctl.h, linux/capability.h
    if os.geteuid() == 0:
        for capability in (dac_override, dac_read_search):
            assert ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0) == 0


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    directory.chmod(0o500)
    try:
        yield
    finally:
        directory.chmod(0o700)


def test_a_data_directory_that_cannot_be_written(data_dir):
    assert manage(data_dir, "migrate", "-v", "0").returncode == 0
    before = {file.name: file.read_bytes() for file in data_dir.iterdir()}
    with read_only(data_dir):
        sentence = refused_start(data_dir, preexec_fn=without_the_powers_of_root)
    assert str(data_dir) in sentence and "REFACTAI_DATA_DIR" in sentence
    assert {file.name: file.read_bytes() for file in data_dir.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("secret_key", "cannot be read and written by this user: it belongs to "),
        ("llmkeys.sqlite3", "cannot be opened or written by this user because of {file}: it belongs to "),
    ],
)
def test_a_file_of_another_user(data_dir, name, words):
    """Only root can give a file away; anyone else takes all rights to it from himself."""
    file = prepare(data_dir) / name
    file.touch()
    file.chmod(0)
    if os.geteuid() == 0:
        os.chown(file, NOBODY, -1)
    sentence = refused_start(data_dir, preexec_fn=without_the_powers_of_root)
    assert str(file) in sentence and words.format(file=file) + file.owner() in sentence


WITHOUT_DRIVER = """
import sys
sys.modules["psycopg"] = None
sys.argv = ["manage.py", "serve"]
import manage
manage.main()
"""


def test_a_driver_that_is_not_installed(data_dir):
    given = environment(data_dir, DATABASE_URL="postgres://user:sesame@127.0.0.1:1/llmkeys")
    done = subprocess.run([sys.executable, "-c", WITHOUT_DRIVER], cwd=ROOT, env=given, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "the driver for PostgreSQL is not installed; run: make postgres" in done.stderr
    assert "sesame" not in done.stderr


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that a test may stop."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    try:
        with private_server() as running:
            yield running
    except Unavailable as reason:
        pytest.skip(f"no PostgreSQL: {reason}")


@pytest.mark.long_wait
def test_a_server_that_crashes_or_is_stopped_and_comes_again(data_dir, simulator, server, capsys):
    with new_database(server.url) as url, Product(data_dir, simulator, "--no-scheduler", DATABASE_URL=url) as product:
        product.add_key("Production", dailyLimit=0, monthlyLimit=0, totalLimit=0)
        with a_bad_time(product, capsys, code="database_unavailable") as crowd, without(server, signal.SIGQUIT):
            crowd.is_refused()
        begin = log_length(product)
        with a_bad_time(product, capsys, code="database_unavailable") as crowd, without(server, signal.SIGINT):
            crowd.is_refused()
            assert told(product, "The database that DATABASE_URL names cannot be used", since=begin)
            assert product.served.get("/readyz", ANSWER_SECONDS)[0] == 503
            with closing(product.program()) as browser:
                page = browser.call("GET", "/login")
            assert (page.status, page.headers["retry-after"]) == (503, "10")
            assert b"The database is not responding" in page.body
        wait_for(lambda: told(product, "can be written again", since=begin))
        assert product.served.get("/readyz", ANSWER_SECONDS)[0] == 200


@contextmanager
def without(server: Server, how: int) -> Iterator[None]:
    server.stop(how)
    try:
        yield
    finally:
        server.start()


@pytest.mark.long_wait
def test_a_table_that_another_program_holds(data_dir, simulator, postgres_url, capsys):
    import psycopg

    with Product(data_dir, simulator, "--no-scheduler", DATABASE_URL=postgres_url) as product:
        product.add_key("Production", dailyLimit=0, monthlyLimit=0, totalLimit=0)
        with a_bad_time(product, capsys, code="database_unavailable") as crowd, psycopg.connect(postgres_url) as other:
            other.execute("LOCK TABLE llmkeys_usagerecord IN ACCESS EXCLUSIVE MODE")
            crowd.is_refused()
            other.rollback()
