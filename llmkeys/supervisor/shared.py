"""A few numbers in memory that `serve` and its workers share."""

from __future__ import annotations

import multiprocessing
from collections.abc import MutableSequence


class Shared:
    """The requests in progress of each worker, and whether `serve` is stopping. Each number has only one writer."""

    def __init__(self, workers: int) -> None:
        self._stopping: MutableSequence[int] = multiprocessing.RawArray("b", 1)
        self.in_progress: MutableSequence[int] = multiprocessing.RawArray("l", workers)

    @property
    def requests_in_progress(self) -> int:
        return sum(self.in_progress)

    @property
    def is_stopping(self) -> bool:
        return bool(self._stopping[0])

    def stop(self) -> None:
        self._stopping[0] = 1
