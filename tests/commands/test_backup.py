"""`manage.py backup`: one private archive that was proven before it is called good."""

from __future__ import annotations

import json
import sqlite3
import tarfile

import pytest

from llmkeys.backup import sqlite as copying
from llmkeys.backup.errors import BackupFailed
from tests.commands.backups import Place, archive, made, manifest_of, place

__all__ = ["archive", "made", "place"]
pytestmark = pytest.mark.slow
MASTER_KEY = "a" * 40


def members(path):
    with tarfile.open(path) as tar:
        return sorted(tar.getnames())


def test_it_writes_one_private_archive_of_database_and_key(place, tmp_path):
    target = tmp_path / "new.tar.gz"
    said = place.done("backup", str(target))
    assert "1 stored key," in said and "audit passed" in said and "It contains the encryption key" in said
    assert target.stat().st_mode & 0o777 == 0o600
    assert members(target) == ["encryption.key", "llmkeys.sqlite3", "manifest.json"]
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".")], "nothing is left beside it"


def test_it_tells_programs_its_figures(place, tmp_path):
    told = json.loads(place.done("backup", str(tmp_path / "new.tar.gz"), "--json"))
    assert told["keys"] == 1 and told["differences"] == 0 and told["hasEncryptionKey"] is True
    assert told["bytes"] == (tmp_path / "new.tar.gz").stat().st_size and told["database"] == "sqlite"


def test_it_leaves_the_key_out_where_told(place, tmp_path):
    target = tmp_path / "new.tar.gz"
    assert "cannot be read" in place.done("backup", str(target), "--without-key")
    assert members(target) == ["llmkeys.sqlite3", "manifest.json"]


def test_it_says_that_a_key_of_the_environment_is_not_in_it(tmp_path):
    given = {"REFACTAI_ENCRYPTION_KEYS": MASTER_KEY}
    own = Place(tmp_path / "data")
    own.done("migrate", "-v", "0", **given)
    own.add_key("Production", **given)
    (own.data / "encryption.key").write_text("b" * 40)  # of an earlier time; not in force
    target = tmp_path / "new.tar.gz"
    assert "REFACTAI_ENCRYPTION_KEYS and is not in it" in own.done("backup", str(target), **given)
    assert members(target) == ["llmkeys.sqlite3", "manifest.json"]


def test_it_never_overwrites(place, archive):
    before = archive.read_bytes()
    refused = place.run("backup", str(archive))
    assert refused.returncode == 1 and "already exists" in refused.stderr
    assert archive.read_bytes() == before


def test_it_names_a_directory_that_does_not_exist(place, tmp_path):
    refused = place.run("backup", str(tmp_path / "no" / "new.tar.gz"))
    assert refused.returncode == 1 and "does not exist" in refused.stderr


@pytest.mark.django_db(transaction=True)
@pytest.mark.only_on("sqlite")
def test_it_says_whose_disk_is_full(tmp_path, monkeypatch):
    def small(*arguments, **options):
        opened = connect(*arguments, **options)
        opened.execute("PRAGMA max_page_count = 1")
        return opened

    connect = sqlite3.connect
    monkeypatch.setattr(copying.sqlite3, "connect", small)
    with pytest.raises(BackupFailed, match=f"the disk of {tmp_path} is full. Free some space, or name a directory on"):
        copying.copy_out(tmp_path / "copy")


def test_it_says_that_the_database_is_away(place, tmp_path):
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    away = "postgres://postgres@127.0.0.1:1/keys"
    refused = place.run("backup", str(tmp_path / "new.tar.gz"), DATABASE_URL=away)
    assert refused.returncode == 1 and refused.stderr.startswith("No backup was made. The database that DATABASE_URL")
    assert refused.stderr.endswith("Check that it is running and accepts connections.\n")


def test_it_tells_that_the_books_differ(place, tmp_path):
    place.change("UPDATE llmkeys_apikey SET spent_total_nano = spent_total_nano + 5")
    told = place.run("backup", str(tmp_path / "new.tar.gz"))
    assert told.returncode == 1 and "manage.py audit" in told.stderr
    assert manifest_of(tmp_path / "new.tar.gz")["differences"] > 0


def test_it_takes_no_backup_of_garbage(place, tmp_path):
    data = bytearray(place.database.read_bytes())
    data[8192:] = b"garbage!" * ((len(data) - 8192) // 8)
    place.database.write_bytes(data)
    refused = place.run("backup", str(tmp_path / "new.tar.gz"))
    assert refused.returncode == 1 and refused.stderr.strip() and "Traceback" not in refused.stderr
    assert not (tmp_path / "new.tar.gz").exists()
