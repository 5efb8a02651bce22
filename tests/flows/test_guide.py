"""Every guide says what really happens (`tests/guide.py` tells how they are marked)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests import guide


@pytest.mark.parametrize("path", guide.guides(), ids=lambda path: path.name)
def test_it_runs_as_written(path: Path) -> None:
    guide.check(path)


# The short form takes the README alone; the others say nothing that depends on the database.
@pytest.mark.parametrize("path", guide.guides()[: None if os.environ.get("PROOF") else 1], ids=lambda path: path.name)
def test_it_runs_as_written_on_postgresql(path: Path, postgres_url: str) -> None:
    guide.check(path, DATABASE_URL=postgres_url)


def test_it_notices_a_wrong_answer() -> None:
    text = '<!-- run -->\n```sh\ncurl -s http://127.0.0.1:8080/healthz\n```\n<!-- answer -->\n```json\n{"no": 1}\n```\n'
    ((block, printed),) = guide.outputs(text)
    assert '"no": 1' in guide.difference(block, printed)
    assert not guide.difference(replace(block, text=guide.presentable(block, printed)), printed)


@pytest.mark.parametrize("line", ["false", "exit_code_of_nothing", "false\ntrue"])
def test_it_notices_a_line_that_fails(line: str) -> None:
    with pytest.raises(guide.GuideFailed, match="line 2 ended with"):
        list(guide.outputs(f"<!-- run -->\n```sh\n{line}\n```\n"))
