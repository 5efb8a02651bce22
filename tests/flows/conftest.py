"""What every flow needs: a data directory of its own and a simulated provider."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmkeys.simulator.thread import SimulatorThread
from tests.postgres import postgres_server, postgres_url

__all__ = ["data_dir", "database", "postgres_server", "postgres_url", "simulator"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def simulator() -> Iterator[SimulatorThread]:
    with SimulatorThread() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment that chooses the database: both, one after the other."""
    return {"DATABASE_URL": request.getfixturevalue("postgres_url")} if request.param == "postgres" else {}
