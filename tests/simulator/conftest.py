from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmkeys.simulator import SimulatorThread


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatorThread]:
    with SimulatorThread() as simulator:
        yield simulator


@pytest.fixture
def simulator(running: SimulatorThread) -> SimulatorThread:
    running.reset()
    return running
