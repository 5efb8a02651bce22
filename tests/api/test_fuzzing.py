"""schemathesis against the running product: no 500, and every answer as the schema says."""

from __future__ import annotations

import pytest

from tests.api.fuzzing import fuzz
from tests.postgres import postgres_server, postgres_url  # noqa: F401  (fixtures)


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path):
    done = fuzz(tmp_path / "sqlite", examples=3, seconds=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert "Tested: 33" in done.stdout, done.stdout


@pytest.mark.slow
def test_schemathesis_finds_nothing_on_postgresql(tmp_path, postgres_url):  # noqa: F811
    done = fuzz(tmp_path / "postgresql", examples=1, seconds=600, DATABASE_URL=postgres_url)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
