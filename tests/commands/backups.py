"""A data directory with one key and one proven archive of it, made once; each test gets a copy of its own."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import new_secret
from tests.serving import DEADLINE_SECONDS, ROOT, environment, manage, prepare


@dataclass(frozen=True)
class Place:
    """A data directory and what `manage.py` does in it."""

    data: Path

    @property
    def database(self) -> Path:
        return self.data / "llmkeys.sqlite3"

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return manage(self.data, *arguments, **more)

    def done(self, *arguments: str, **more: str) -> str:
        ran = self.run(*arguments, **more)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def add_key(self, name: str, **more: str) -> None:
        added = subprocess.run(
            [sys.executable, "manage.py", "keys", "add", "--provider", "openrouter", "--name", name],
            cwd=ROOT,
            env=environment(self.data, **more),
            input=new_secret(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )
        assert added.returncode == 0, added.stdout + added.stderr

    def names(self) -> list[str]:
        return sorted(self.rows("SELECT name FROM llmkeys_apikey WHERE deleted_at IS NULL"))

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.database)) as books:
            return [row[0] for row in books.execute(query)]

    def change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.database)) as books, books:
            assert books.execute(statement).rowcount > 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("backups")
    place, archive = Place(home / "data"), home / "backup.tar.gz"
    prepare(place.data)
    place.add_key("Production")
    place.done("backup", str(archive))
    return place.data, archive


@pytest.fixture
def place(made: tuple[Path, Path], tmp_path: Path) -> Place:
    shutil.copytree(made[0], tmp_path / "data")
    return Place(tmp_path / "data")


@pytest.fixture
def archive(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy2(made[1], tmp_path / "backup.tar.gz"))


def manifest_of(archive: Path) -> dict[str, Any]:
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile("manifest.json"))


def forge(
    archive: Path,
    *,
    manifest: dict[str, Any] | None = None,
    more: tarfile.TarInfo | None = None,
    names: dict[str, str] | None = None,
) -> Path:
    """Write the archive anew with other words in its manifest, one member more, or members under other names."""
    forged = archive.with_name("forged.tar.gz")
    with tarfile.open(archive) as old, tarfile.open(forged, "w:gz") as new:
        for info in old.getmembers():
            data = old.extractfile(info).read()
            if info.name == "manifest.json":
                data = json.dumps(json.loads(data) | (manifest or {})).encode()
            info.name, info.size = (names or {}).get(info.name, info.name), len(data)
            new.addfile(info, io.BytesIO(data))
        if more is not None:
            new.addfile(more, io.BytesIO(b"x" * more.size))
    return forged
