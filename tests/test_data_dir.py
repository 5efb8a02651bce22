"""The data directory: for its owner alone, and never at the cost of a directory that is shared on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from refactai_site.data_dir import ensure_data_dir


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
