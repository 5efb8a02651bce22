"""The data directory: for its owner alone, and never at the cost of a directory that is shared on purpose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.db import OperationalError

from llmkeys.database import outages
from refactai_site.data_dir import ensure_data_dir, remedy


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_it_is_made_for_its_owner_alone(tmp_path):
    assert ensure_data_dir(tmp_path / "deep" / "data") == ""
    assert mode(tmp_path / "deep" / "data") == 0o700


@pytest.mark.parametrize("content", [[], ["llmkeys.sqlite3", "llmkeys.sqlite3-wal", "encryption.key", "backups"]])
def test_one_that_others_may_read_is_tightened(tmp_path, content):
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)
    for name in content:
        (tmp_path / "data" / name).touch()
    assert ensure_data_dir(tmp_path / "data") == ""
    assert mode(tmp_path / "data") == 0o700


def test_one_that_holds_other_things_is_left_alone(tmp_path):
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv").chmod(0o755)
    (tmp_path / "srv" / "website").mkdir()
    assert ensure_data_dir(tmp_path / "srv") == ""
    assert mode(tmp_path / "srv") == 0o755


def test_one_that_is_a_file_is_called_one(tmp_path):
    (tmp_path / "data").touch()
    assert ensure_data_dir(tmp_path / "data") == f"The data directory {tmp_path / 'data'} is a file, not a directory."


@pytest.mark.parametrize("name", ["secret_key", "serving.lock", "scheduler.lock"])
def test_a_file_that_another_user_left_is_named(tmp_path, monkeypatch, name):
    """A secret key that cannot be read was replaced by a random one in silence."""
    (tmp_path / name).touch()
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).name != name)  # root may read everything
    owner = (tmp_path / name).owner()
    said = ensure_data_dir(tmp_path)
    assert said == f"The file {tmp_path / name} cannot be read and written by this user: it belongs to {owner}."
    assert remedy(said).startswith("Make the user that runs `serve` its owner")


@pytest.mark.parametrize("ending", ["", "-wal", "-prepare"])
def test_the_file_of_the_database_that_another_user_left_is_named(tmp_path, monkeypatch, ending):
    database = tmp_path / "llmkeys.sqlite3"
    file = Path(f"{database}{ending}")
    file.touch()
    monkeypatch.setattr(outages, "is_sqlite", lambda: True)
    monkeypatch.setattr(outages, "database_name", lambda: str(database))
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != file)
    said = outages.explain(OperationalError("attempt to write a readonly database"))
    assert f"cannot be opened or written by this user because of {file}: it belongs to {file.owner()}. The" in said
