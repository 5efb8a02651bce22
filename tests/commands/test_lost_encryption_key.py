"""The master key is lost: the way back by a backup, and the way on without one, both from the message itself."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.commands.backups import Place, archive, made, place
from tests.helpers import new_secret
from tests.postgres import postgres_server, postgres_url
from tests.serving import DEADLINE_SECONDS, ROOT, Served, environment, free_port

__all__ = ["archive", "made", "place", "postgres_server", "postgres_url"]
pytestmark = pytest.mark.slow


@pytest.fixture(params=["missing", "empty", "garbage"])
def sealed(place: Place, request: pytest.FixtureRequest) -> Place:
    place.change("UPDATE llmkeys_apikey SET daily_limit_nano = 7000000000")
    file = place.data / "encryption.key"
    file.unlink()
    if request.param != "missing":
        file.write_bytes(b"\xff\x00" * 16 if request.param == "garbage" else b"\n")
    return place


def test_the_message_names_both_ways(sealed):
    ran = sealed.run("serve", "--bind", f"127.0.0.1:{free_port()}")
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert "./manage.py restore FILE" in ran.stderr and "--discard-unreadable" in ran.stderr


def test_a_backup_brings_the_key_back(sealed, archive):
    sealed.done("restore", str(archive))
    assert "1 stored secret can be decrypted" in sealed.done("doctor", "--offline", "--quick")


def test_without_a_backup_the_secrets_alone_are_given_up(sealed):
    said = sealed.done("reencrypt", "--discard-unreadable", "--yes")
    assert said == "“Production” needs a new secret: ./manage.py keys edit Production --new-secret\n"
    card = sealed.done("keys", "show", "Production")
    assert "DISABLED" in card and "lost together with the encryption key" in card and "of $7.00" in card
    edited = subprocess.run(
        [sys.executable, "manage.py", "keys", "edit", "Production", "--new-secret"],
        cwd=ROOT, env=environment(sealed.data), input=new_secret(), capture_output=True, text=True,
        timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert edited.returncode == 0, edited.stderr
    assert "ACTIVE" in sealed.done("keys", "show", "Production")
    sealed.done("audit")
    with Served(sealed.data, "--no-scheduler") as served:
        served.wait_until_up()


def test_nothing_is_given_up_unasked(sealed):
    ran = sealed.run("reencrypt", "--discard-unreadable")
    assert ran.returncode == 1 and "repeat with --yes" in ran.stderr
    assert sealed.rows("SELECT COUNT(*) FROM llmkeys_apikey WHERE length(secret) > 0") == [1]


def test_nothing_is_given_up_while_a_server_runs(place):
    """It may know the key that the command does not know."""
    with Served(place.data, "--no-scheduler") as served:
        served.wait_until_up()
        ran = place.run("reencrypt", "--discard-unreadable", "--yes", REFACTAI_ENCRYPTION_KEYS="another key " * 4)
    assert ran.returncode == 1 and "A server is running on" in ran.stderr
    assert "run this again" in ran.stderr and "restore" not in ran.stderr
    assert place.rows("SELECT COUNT(*) FROM llmkeys_apikey WHERE length(secret) > 0") == [1]


def test_nothing_is_given_up_while_another_machine_serves(tmp_path, postgres_url):
    first, second = Place(tmp_path / "first"), Place(tmp_path / "second")
    shared = {"DATABASE_URL": postgres_url, "DJANGO_SETTINGS_MODULE": "refactai_site.settings"}
    own = shared | {"REFACTAI_ENCRYPTION_KEYS": "the servers' key " * 3}
    with Served(first.data, "--no-scheduler", **own) as served:
        served.wait_until_up()
        first.add_key("Production", **own)
        discard = ("reencrypt", "--discard-unreadable", "--yes")
        ran = second.run(*discard, **shared, REFACTAI_ENCRYPTION_KEYS="another key " * 4)
        assert ran.returncode == 1 and re.search(r"connections? uses? the database\. Stop every `serve`", ran.stderr)
        assert "1 already under the first key" in first.done("reencrypt", **own)
        served.stop()
    assert "needs a new secret" in second.done(*discard, **shared, REFACTAI_ENCRYPTION_KEYS="another key " * 4)


def test_what_can_be_read_is_never_given_up(place):
    assert "nothing was changed" in place.done("reencrypt", "--discard-unreadable", "--yes")
    assert place.rows("SELECT COUNT(*) FROM llmkeys_apikey WHERE length(secret) > 0") == [1]
